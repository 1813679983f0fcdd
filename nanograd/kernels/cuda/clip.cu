// Σ g² of a whole gradient, g (n), in two kernels that always add in the same order. See nanograd/optim/clip.py.
#include "nk.h"

constexpr int THREADS = 256;

// partial[b] = Σ g² over the share of block b. A thread adds up a few hundred squares in float32.   Reads n numbers.
template <class T>
NK_DEV void squares(const T* g, float* partial, i64 n, int wide) {
  i64 first = i64(blockIdx.x) * blockDim.x + threadIdx.x, step = i64(gridDim.x) * blockDim.x;
  i64 packs = wide ? n / widest<T> : 0;
  float total = 0.f;
#pragma unroll 4
  for (i64 i = first; i < packs; i += step) {
    pack<T> some = load_pack(g + i * widest<T>);
#pragma unroll
    for (int k = 0; k < widest<T>; k++) total += to_float(some.v[k]) * to_float(some.v[k]);
  }
  for (i64 i = packs * widest<T> + first; i < n; i += step) total += to_float(g[i]) * to_float(g[i]);
  total = block_sum(total);
  if (threadIdx.x == 0) partial[blockIdx.x] = total;
}
NK_FLOATS(squares, THREADS, (const T* g, float* partial, i64 n, int wide), (g, partial, n, wide))

// total = Σ partial (blocks) in float64, by one block: thousands of sums that are long already.
NK_KERNEL __launch_bounds__(THREADS) sum_of_squares(const float* partial, double* total, int blocks) {
  NK_SHARED(double, sums, [THREADS]);
  double mine = 0.;
  for (int i = threadIdx.x; i < blocks; i += THREADS) mine += double(partial[i]);
  sums[threadIdx.x] = mine;
  for (int half = THREADS / 2; half; half /= 2) {
    __syncthreads();
    if (int(threadIdx.x) < half) sums[threadIdx.x] += sums[threadIdx.x + half];
  }
  if (threadIdx.x == 0) *total = sums[0];
}
NK_EXPORT(sum_of_squares)
