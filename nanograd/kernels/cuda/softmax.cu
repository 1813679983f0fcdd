// softmax and its logarithm over rows of C numbers, one block to a row.   x, y, dy, dx (N, C);  s = 1/τ
// The first sweep over a row reads it from memory, the others find it in the cache: forward and backward move as many
// bytes as a copy of what they read and write.
#include "nk.h"

// fn(place, numbers) for the packs of a row that are this thread's, the same ones on every sweep
template <int W, class T, class Function>
NK_DEV void for_each_pack(const T* row, int C, Function fn) {
  for (int i = threadIdx.x * W; i < C; i += blockDim.x * W) fn(i, load_pack<W>(row + i));
}

// m = max x, or 0 where that is infinite: x − m is never ∞ − ∞, and a NaN reaches the sum in any case
template <int W, class T>
NK_DEV float finite_max(const T* x, int C) {
  float m = -infinity();
  for_each_pack<W>(x, C, [&](int, const pack<T, W>& xs) {
#pragma unroll
    for (int k = 0; k < W; k++) m = fmaxf(m, to_float(xs.v[k]));
  });
  m = block_max(m);
  return is_finite(m) ? m : 0.f;
}

// Σⱼ exp(s (xⱼ − m))
template <int W, class T>
NK_DEV float sum_exp(const T* x, int C, float m, float s) {
  float total = 0.f;
  for_each_pack<W>(x, C, [&](int, const pack<T, W>& xs) {
#pragma unroll
    for (int k = 0; k < W; k++) total += __expf((to_float(xs.v[k]) - m) * s);
  });
  return block_sum(total);
}

template <int W, class T>
NK_DEV void softmax_row(const T* x, T* y, int C, float s) {
  float m = finite_max<W>(x, C), total = sum_exp<W>(x, C, m, s);
  float share = total == 0.f ? 0.f : 1.f / total;
  for_each_pack<W>(x, C, [&](int i, pack<T, W> xs) {
#pragma unroll
    for (int k = 0; k < W; k++) xs.v[k] = from_float<T>(__expf((to_float(xs.v[k]) - m) * s) * share);
    store_pack(y + i, xs);
  });
}

// yᵢ = exp(s (xᵢ − m)) / Σⱼ exp(s (xⱼ − m));  zeros where every xⱼ is −∞
template <class T>
NK_DEV void softmax_forward(const T* x, T* y, int C, float s) {
  x += size_t(blockIdx.x) * C, y += size_t(blockIdx.x) * C;
  in_packs(x, C) && in_packs(y, C) ? softmax_row<widest<T>>(x, y, C, s) : softmax_row<1>(x, y, C, s);
}
NK_FLOATS(softmax_forward, 1024, (const T* x, T* y, int C, float s), (x, y, C, s))

template <int W, class T>
NK_DEV void softmax_slope_row(const T* dy, const T* y, T* dx, int C, float s) {
  float mean = 0.f;
  for_each_pack<W>(dy, C, [&](int i, const pack<T, W>& dys) {
    pack<T, W> ys = load_pack<W>(y + i);
#pragma unroll
    for (int k = 0; k < W; k++) mean += to_float(dys.v[k]) * to_float(ys.v[k]);
  });
  mean = block_sum(mean);
  for_each_pack<W>(dy, C, [&](int i, pack<T, W> dys) {
    pack<T, W> ys = load_pack<W>(y + i);
#pragma unroll
    for (int k = 0; k < W; k++) dys.v[k] = from_float<T>(s * to_float(ys.v[k]) * (to_float(dys.v[k]) - mean));
    store_pack(dx + i, dys);
  });
}

// dxᵢ = s yᵢ (dyᵢ − Σⱼ dyⱼ yⱼ)
template <class T>
NK_DEV void softmax_backward(const T* dy, const T* y, T* dx, int C, float s) {
  dy += size_t(blockIdx.x) * C, y += size_t(blockIdx.x) * C, dx += size_t(blockIdx.x) * C;
  bool packs = in_packs(dy, C) && in_packs(y, C) && in_packs(dx, C);
  packs ? softmax_slope_row<widest<T>>(dy, y, dx, C, s) : softmax_slope_row<1>(dy, y, dx, C, s);
}
NK_FLOATS(softmax_backward, 1024, (const T* dy, const T* y, T* dx, int C, float s), (dy, y, dx, C, s))

template <int W, class T>
NK_DEV void log_softmax_row(const T* x, T* y, int C, float s) {
  float m = finite_max<W>(x, C), total = sum_exp<W>(x, C, m, s);
  float log_total = total == 0.f ? 0.f : logf(total);
  for_each_pack<W>(x, C, [&](int i, pack<T, W> xs) {
#pragma unroll
    for (int k = 0; k < W; k++) xs.v[k] = from_float<T>((to_float(xs.v[k]) - m) * s - log_total);
    store_pack(y + i, xs);
  });
}

// yᵢ = s (xᵢ − m) − ln Σⱼ exp(s (xⱼ − m));  −∞ where every xⱼ is
template <class T>
NK_DEV void log_softmax_forward(const T* x, T* y, int C, float s) {
  x += size_t(blockIdx.x) * C, y += size_t(blockIdx.x) * C;
  in_packs(x, C) && in_packs(y, C) ? log_softmax_row<widest<T>>(x, y, C, s) : log_softmax_row<1>(x, y, C, s);
}
NK_FLOATS(log_softmax_forward, 1024, (const T* x, T* y, int C, float s), (x, y, C, s))

template <int W, class T>
NK_DEV void log_softmax_slope_row(const T* dy, const T* y, T* dx, int C, float s) {
  float total = 0.f;
  for_each_pack<W>(dy, C, [&](int, const pack<T, W>& dys) {
#pragma unroll
    for (int k = 0; k < W; k++) total += to_float(dys.v[k]);
  });
  total = block_sum(total);
  for_each_pack<W>(dy, C, [&](int i, pack<T, W> dys) {
    pack<T, W> ys = load_pack<W>(y + i);
#pragma unroll
    for (int k = 0; k < W; k++) dys.v[k] = from_float<T>(s * (to_float(dys.v[k]) - __expf(to_float(ys.v[k])) * total));
    store_pack(dx + i, dys);
  });
}

// dxᵢ = s (dyᵢ − exp(yᵢ) Σⱼ dyⱼ)
template <class T>
NK_DEV void log_softmax_backward(const T* dy, const T* y, T* dx, int C, float s) {
  dy += size_t(blockIdx.x) * C, y += size_t(blockIdx.x) * C, dx += size_t(blockIdx.x) * C;
  bool packs = in_packs(dy, C) && in_packs(y, C) && in_packs(dx, C);
  packs ? log_softmax_slope_row<widest<T>>(dy, y, dx, C, s) : log_softmax_slope_row<1>(dy, y, dx, C, s);
}
NK_FLOATS(log_softmax_backward, 1024, (const T* dy, const T* y, T* dx, int C, float s), (dy, y, dx, C, s))
