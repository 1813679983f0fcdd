// The vocabulary of our kernels, with two meanings.
//   NVRTC         thin names over CUDA's intrinsics and PTX; no CUDA header is needed
//   -DNK_EMU      nk_emu.h runs the same kernel source on the CPU, each CUDA thread as a fiber
// A family of kernels is written once, as templates over the type T in which numbers are stored:
//
//   template <class T>
//   NK_DEV void scale(const T* x, T* y, int n, float factor) { … }
//   NK_FLOATS(scale, 256, (const T* x, T* y, int n, float factor), (x, y, n, factor))
//
// makes the kernels scale_f32, scale_bf16 and scale_f16, for blocks of at most 256 threads. All arithmetic is float32.
// A loop over the numbers of a pack wants #pragma unroll: registers have no addresses, so numbers that are picked by a
// variable lie in memory. (threads, 1) below: without the 1, ptxas spills registers to fit blocks that nobody asked for.
#pragma once

#ifdef NK_EMU
#include "nk_emu.h"
#include "nk_emu_ptx.h"
#else
#include "nk_gpu.h"
#endif

// ---- Kernels by name. NK_EXPORT(name) belongs behind each NK_KERNEL; NK_FLOATS and NK_HALVES contain it.

#define NK_TYPED(name, suffix, type, threads, parameters, arguments)                            \
  namespace nk_##suffix {                                                                       \
  using T = type;                                                                               \
  NK_KERNEL __launch_bounds__(threads, 1) name##_##suffix parameters { name<T> arguments; }        \
  NK_EXPORT(name##_##suffix)                                                                    \
  }
#define NK_FLOATS(name, threads, parameters, arguments)             \
  NK_TYPED(name, f32, float, threads, parameters, arguments)        \
  NK_HALVES(name, threads, parameters, arguments)
#define NK_HALVES(name, threads, parameters, arguments)             \
  NK_TYPED(name, bf16, bf16, threads, parameters, arguments)        \
  NK_TYPED(name, f16, f16, threads, parameters, arguments)

// ---- Numbers: stored as T, computed with as float.

NK_DEV float to_float(float x) { return x; }
NK_DEV float infinity() { return __uint_as_float(0x7f800000u); }
NK_DEV bool is_finite(float x) { return (__float_as_uint(x) & 0x7f800000u) != 0x7f800000u; }

template <class T>
NK_DEV T from_float(float x);  // rounded to nearest, ties to even
template <>
NK_DEV_SPECIAL float from_float<float>(float x) { return x; }
template <>
NK_DEV_SPECIAL bf16 from_float<bf16>(float x) { return float_to_bf16(x); }
template <>
NK_DEV_SPECIAL f16 from_float<f16>(float x) { return float_to_f16(x); }

// Two neighbours in one register, `lo` at the lower address: how mma takes its operands.
template <class T>
NK_DEV u32 pack_two(float lo, float hi) {
  return u32(from_float<T>(lo).bits) | u32(from_float<T>(hi).bits) << 16;
}

// bf16 by chance: up with the probability by which x lies above the lower neighbour, so that the mean is x.
// Infinities and NaN stay what they are. `random` is 32 random bits, of which 16 count.
NK_DEV bf16 stochastic_bf16(float x, u32 random) {
  if (!is_finite(x)) return from_float<bf16>(x);
  return {u16((__float_as_uint(x) + (random & 0xffffu)) >> 16)};
}

// ---- Memory in packs of W neighbours. The widest, 16 bytes, is what one thread can read or write at once; a kernel
// takes it where `in_packs` says so, for all rows alike, and packs of one elsewhere:
//   in_packs(x, C) ? row<widest<T>>(x, C) : row<1>(x, C);

template <class T>
constexpr int widest = 16 / sizeof(T);

template <class T, int W = widest<T>>
struct alignas(W * sizeof(T)) pack {
  T v[W];
};

template <int W, class T>
NK_DEV pack<T, W> load_pack(const T* p) {
  check_aligned(p, sizeof(pack<T, W>));
  pack<T, W> r;
  if constexpr (sizeof(r) == 16)
    *reinterpret_cast<int4*>(&r) = *reinterpret_cast<const int4*>(p);
  else
    r = *reinterpret_cast<const pack<T, W>*>(p);
  return r;
}

template <class T>
NK_DEV pack<T> load_pack(const T* p) { return load_pack<widest<T>>(p); }

template <class T, int W>
NK_DEV void store_pack(T* p, const pack<T, W>& v) {
  check_aligned(p, sizeof(v));
  if constexpr (sizeof(v) == 16)
    *reinterpret_cast<int4*>(p) = *reinterpret_cast<const int4*>(&v);
  else
    *reinterpret_cast<pack<T, W>*>(p) = v;
}

// Can rows of C numbers, the first at p, be read in the widest packs?
template <class T>
NK_DEV bool in_packs(const T* p, int C) {
  return C % widest<T> == 0 && reinterpret_cast<u64>(p) % 16 == 0;
}

// Number i of an array of integers that are `bytes` wide: token ids and positions are uint16, int32 or int64.
NK_DEV i64 integer_at(const u8* integers, i64 i, int bytes) {
  if (bytes == 2) return reinterpret_cast<const u16*>(integers)[i];
  if (bytes == 4) return reinterpret_cast<const int*>(integers)[i];
  return reinterpret_cast<const i64*>(integers)[i];
}

// ---- Sums and maxima, the same on every lane, always added in the same order.

constexpr u32 ALL_LANES = 0xffffffffu;

NK_DEV float warp_sum(float v) {
  for (int offset = 16; offset; offset >>= 1) v += __shfl_xor_sync(ALL_LANES, v, offset);
  return v;
}

NK_DEV float warp_max(float v) {
  for (int offset = 16; offset; offset >>= 1) v = fmaxf(v, __shfl_xor_sync(ALL_LANES, v, offset));
  return v;
}

// Over a one-dimensional block of whole warps; to be called by all its threads.
NK_DEV float block_sum(float v) {
  NK_SHARED(float, sums, [32]);
  v = warp_sum(v);
  if (blockDim.x == 32) return v;
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  __syncthreads();  // what an earlier call left has been read by all
  if (lane == 0) sums[warp] = v;
  __syncthreads();
  return warp_sum(lane < warps ? sums[lane] : 0.f);
}

NK_DEV float block_max(float v) {
  NK_SHARED(float, maxima, [32]);
  v = warp_max(v);
  if (blockDim.x == 32) return v;
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  __syncthreads();  // as above
  if (lane == 0) maxima[warp] = v;
  __syncthreads();
  return warp_max(lane < warps ? maxima[lane] : -infinity());
}

// ---- Chance: Philox4x32-10 (Salmon et al., SC 2011), the same words as nanograd/random.py draws.

struct random_words {
  u32 v[4];
};

// Words 4 · block … 4 · block + 3 of the stream with key (seed, call).
NK_DEV random_words philox(u64 block, u64 call, u64 seed) {
  u32 c0 = u32(block), c1 = u32(block >> 32), c2 = u32(call), c3 = u32(call >> 32);
  u32 k0 = u32(seed), k1 = u32(seed >> 32);
  for (int i = 0; i < 10; i++) {
    u64 p0 = u64(0xD2511F53u) * c0, p1 = u64(0xCD9E8D57u) * c2;
    u32 next = u32(p1 >> 32) ^ c1 ^ k0;
    c1 = u32(p1), c2 = u32(p0 >> 32) ^ c3 ^ k1, c3 = u32(p0), c0 = next;
    k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}
