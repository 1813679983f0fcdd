// Small kernels, most of them with one fault: what the emulator has to see (test_emulator.py).
#include "nk.h"

NK_KERNEL divergent_barrier(float* y) {
  if (threadIdx.x < 32) {
    __syncthreads();  // LINE A
    y[0] = 1.f;
  }
  __syncthreads();  // LINE B
}
NK_EXPORT(divergent_barrier)

NK_KERNEL deadlock(float* y) {
  if (threadIdx.x == 0) y[0] = warp_sum(1.f);  // waits for lanes that wait for lane 0
  __syncthreads();
}
NK_EXPORT(deadlock)

NK_KERNEL divergent_shuffle(float* y) {
  float v = float(threadIdx.x);
  if (threadIdx.x % 2)
    v = __shfl_xor_sync(ALL_LANES, v, 1);  // LINE C
  else
    v = __shfl_xor_sync(ALL_LANES, v, 3);  // LINE D
  y[threadIdx.x] = v;
}
NK_EXPORT(divergent_shuffle)

NK_KERNEL not_in_its_mask(float* y) { y[threadIdx.x] = __shfl_sync(0xffffu, 1.f, 0); }
NK_EXPORT(not_in_its_mask)

// Half a warp each, with masks of their own, at different times: allowed.
NK_KERNEL halves_of_a_warp(float* y) {
  bool low = threadIdx.x < 16;
  float v = float(threadIdx.x);
  for (int i = low ? 0 : 2; i < 3; i++) v = __shfl_xor_sync(low ? 0xffffu : 0xffff0000u, v, 1);
  y[threadIdx.x] = v;
}
NK_EXPORT(halves_of_a_warp)

NK_KERNEL from_a_lane_that_returned(float* y) {
  if (threadIdx.x == 7) return;
  y[threadIdx.x] = __shfl_sync(ALL_LANES, float(threadIdx.x), 7);
}
NK_EXPORT(from_a_lane_that_returned)

NK_KERNEL misaligned_pack(const float* x, float* y) { store_pack(y, load_pack(x + 1)); }
NK_EXPORT(misaligned_pack)

NK_KERNEL never_written(float* y) {
  NK_SHARED(float, fixed, [4]);
  NK_DYNAMIC_SHARED(float, dynamic);
  if (blockIdx.x == 0) fixed[0] = dynamic[0] = 1.f;  // which the next block must not find
  if (blockIdx.x == 1) y[0] = fixed[0], y[1] = dynamic[0];
}
NK_EXPORT(never_written)

// y = x reversed, by way of shared memory
NK_KERNEL reverse(const float* x, float* y) {
  NK_SHARED(float, all, [128]);
  all[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  y[threadIdx.x] = all[127 - threadIdx.x];
}
NK_EXPORT(reverse)

NK_KERNEL reverse_without_a_barrier(const float* x, float* y) {
  NK_SHARED(float, all, [128]);
  all[threadIdx.x] = x[threadIdx.x];
  y[threadIdx.x] = all[127 - threadIdx.x];
}
NK_EXPORT(reverse_without_a_barrier)

NK_KERNEL copy_never_waited_for(const float* x, float* y) {
  NK_SHARED(float, all, [128]);
  copy_async(all + threadIdx.x * 4, x + threadIdx.x * 4);
  copy_commit();
  copy_wait<1>();  // one group may still be under way, and it is the only one
  y[threadIdx.x] = all[threadIdx.x * 4];
}
NK_EXPORT(copy_never_waited_for)

NK_KERNEL copied_into_what_is_read(const float* x, float* y) {
  NK_SHARED(float, all, [128]);
  for (int k = 0; k < 4; k++) all[threadIdx.x * 4 + k] = 1.f;
  copy_async(all + threadIdx.x * 4, x + threadIdx.x * 4);
  y[threadIdx.x] = all[threadIdx.x * 4];  // 1, or already x
  copy_commit();
  copy_wait<0>();
}
NK_EXPORT(copied_into_what_is_read)

// The first `bytes` of 16, zeros for the rest
NK_KERNEL copy_in_part(const float* x, float* y, int bytes) {
  NK_SHARED(float, all, [4]);
  copy_async(all, x, bytes);
  copy_commit();
  copy_wait<0>();
  for (int k = 0; k < 4; k++) y[k] = all[k];
}
NK_EXPORT(copy_in_part)

NK_KERNEL one_too_far(float* y, int n) { y[n] = 0.f; }
NK_EXPORT(one_too_far)

NK_KERNEL shared_one_too_short(float* y) {
  NK_SHARED(float, all, [127]);
  all[threadIdx.x] = 1.f;
  __syncthreads();
  y[threadIdx.x] = all[0];
}
NK_EXPORT(shared_one_too_short)

// Which block came last
NK_KERNEL last_block(int* y) { y[0] = blockIdx.x; }
NK_EXPORT(last_block)

NK_KERNEL more_stack_than_there_is(float* y) {
  volatile float mine[100000];
  for (int i = 0; i < 100000; i++) mine[i] = y[0];
  y[0] = mine[5];
}
NK_EXPORT(more_stack_than_there_is)

// The number types, chance, and the tensor cores

template <class T>
NK_DEV void convert(const float* x, T* y, float* back, int n) {
  for (int i = threadIdx.x; i < n; i += blockDim.x) {
    if (x) y[i] = from_float<T>(x[i]);
    back[i] = to_float(y[i]);
  }
}
NK_FLOATS(convert, 32, (const float* x, T* y, float* back, int n), (x, y, back, n))

NK_KERNEL draw(u32* y, i64 call, i64 seed, int n) {
  for (int i = threadIdx.x; i < n; i += blockDim.x) y[i] = philox(i / 4, call, seed).v[i % 4];
}
NK_EXPORT(draw)

NK_KERNEL round_by_chance(const float* x, const u32* random, bf16* y) {
  y[threadIdx.x] = stochastic_bf16(x[threadIdx.x], random[threadIdx.x]);
}
NK_EXPORT(round_by_chance)

// d (16, 8) = a (16, 16) b (16, 8) by one warp; b's columns are read as the transposed tiles of its rows
template <class T>
NK_DEV void product(const T* a, const T* b, float* d) {
  NK_SHARED(T, left, [256]);
  NK_SHARED(T, right, [256]);  // two copies of b side by side, since tiles come in fours
  int lane = threadIdx.x;
  for (int i = lane; i < 256; i += 32) left[i] = a[i], right[i] = b[i / 16 * 8 + i % 8];
  __syncwarp();
  u32 as[4], bs[4];
  float ds[4] = {0.f, 0.f, 0.f, 0.f};
  load_matrix_x4(as, left + lane % 16 * 16 + lane / 16 * 8);
  load_matrix_x4_transposed(bs, right + lane % 16 * 16 + lane / 16 * 8);
  mma_m16n8k16<T>(ds, as, bs[0], bs[1]);
  for (int i = 0; i < 4; i++) d[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = ds[i];
}
NK_HALVES(product, 32, (const T* a, const T* b, float* d), (a, b, d))

NK_KERNEL block_reductions(const float* x, float* y) {
  float v = x[threadIdx.x], total = block_sum(v), twice = block_sum(2.f * v);
  float largest = block_max(v), smallest = -block_max(-v);
  y += threadIdx.x * 4;
  y[0] = total, y[1] = twice, y[2] = largest, y[3] = smallest;
}
NK_EXPORT(block_reductions)

NK_KERNEL votes(const int* x, u32* y) {
  u32 all = __ballot_sync(ALL_LANES, x[threadIdx.x] > 0);
  y[threadIdx.x] = all + __any_sync(ALL_LANES, x[threadIdx.x] > 99) + 2 * __all_sync(ALL_LANES, x[threadIdx.x] < 99);
}
NK_EXPORT(votes)
