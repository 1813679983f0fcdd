// Dropout with the mask made on the way. Twin of nanograd/ops/dropout.py, bit for bit the same mask as there.
#include "nk.h"

// y = x · (scale where the random word of the same place reaches the threshold, else 0).   x, y (n,)
// The key of the words is (seed, call); if call_there is not null, the call that lies there.
// Number i has word i mod 4 of counter i / 4. A thread takes 16 bytes: one counter for float32, two for 16-bit types.
template <class T>
NK_DEV void drop(T* y, const T* x, u64 seed, u64 call, const u64* call_there, u32 threshold, float scale, i64 n) {
  constexpr int WIDE = widest<T>;
  i64 start = (i64(blockIdx.x) * blockDim.x + threadIdx.x) * WIDE;
  if (start >= n) return;
  if (call_there) call = *call_there;
  float factor[WIDE];
#pragma unroll
  for (int k = 0; k < WIDE; k += 4) {
    random_words random = philox(u64(start + k) / 4, call, seed);
#pragma unroll
    for (int j = 0; j < 4; j++) factor[k + j] = random.v[j] >= threshold ? scale : 0.f;
  }
  if (start + WIDE <= n) {
    pack<T> out, in = load_pack(x + start);
#pragma unroll
    for (int k = 0; k < WIDE; k++) out.v[k] = from_float<T>(to_float(in.v[k]) * factor[k]);
    store_pack(y + start, out);
  } else {
#pragma unroll
    for (int k = 0; k < WIDE; k++)
      if (start + k < n) y[start + k] = from_float<T>(to_float(x[start + k]) * factor[k]);
  }
}
NK_FLOATS(drop, 256,
          (T* y, const T* x, u64 seed, u64 call, const u64* call_there, u32 threshold, float scale, i64 n),
          (y, x, seed, call, call_there, threshold, scale, n))
