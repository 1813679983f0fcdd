// relu, relu², silu, gelu and swiglu, number by number: one reading, one writing. Twins of nanograd/ops/activation.py.
//
// Bytes moved for n numbers of s bytes: forward 2 n s, backward 3 n s (swiglu: 3 and 5 for n outputs). A thread takes
// 16 bytes at once, the most that one access moves. Arithmetic is in float32; the slope is made from x again.
#include "nk.h"

struct Bend {
  float value, slope;  // f(x) and f′(x); what a kernel does not use, the compiler drops
};

// σ(x) = 1 / (1 + e⁻ˣ): for large −x it is 1/∞ = 0
NK_DEV float sigmoid_of(float x) { return __fdividef(1.f, 1.f + __expf(-x)); }

// max(x, 0), NaN for NaN
NK_DEV Bend relu_at(float x) { return {x < 0.f ? 0.f : x, x > 0.f ? 1.f : 0.f}; }

// max(x, 0)², and its slope 2 max(x, 0)
NK_DEV Bend relu_squared_at(float x) {
  float v = x < 0.f ? 0.f : x;
  return {v * v, v + v};
}

// x σ, and its slope σ (1 + x (1 − σ))
NK_DEV Bend silu_at(float x) {
  float s = sigmoid_of(x);
  return {x * s, s * (1.f + x * (1.f - s))};
}

// x Φ, and its slope Φ + x φ,  φ = exp(−x²/2) / √(2π).   Φ(−|x|) ≈ ½ (a₁ t + … + a₅ t⁵) exp(−x²/2),
// t = 1/(1 + 0.3275911 |x|/√2), to 0.8e-7: one exponential for both.   Abramowitz & Stegun 1964, formula 7.1.26
NK_DEV Bend gelu_at(float x) {
  float bell = __expf(-0.5f * x * x);
  float t = __fdividef(1.f, 1.f + 0.3275911f * 0.70710678f * fabsf(x));
  float series = t * (0.254829592f + t * (-0.284496736f + t * (1.421413741f + t * (-1.453152027f + t * 1.061405429f))));
  float tail = 0.5f * bell * series;
  float cdf = x < 0.f ? tail : 1.f - tail;
  return {x * cdf, cdf + x * bell * 0.3989422804f};
}

// x ½ (1 + tanh u) = x σ(2u),  u = √(2/π) (x + 0.044715 x³), and its slope σ (1 + x (1 − σ) 2u′).
// Beyond |x| = 10 it is x or 0 to the last bit, and x² may be infinite. 1 − σ = σ e⁻²ᵘ: a difference would cancel.
NK_DEV Bend gelu_tanh_at(float x) {
  float v = fminf(fmaxf(x, -10.f), 10.f);
  float e = __expf(-v * (1.5957691216f + 0.0713548163f * v * v));
  float s = __fdividef(1.f, 1.f + e);
  float slope = s * (1.f + v * s * e * (1.5957691216f + 3.f * 0.0713548163f * v * v));
  return {x * (x < -10.f ? 0.f : s), slope};
}

// y = f(x).   x, y (n,)
template <class T>
NK_DEV void value(T* y, const T* x, i64 n, Bend (*at)(float)) {
  i64 i = (i64(blockIdx.x) * blockDim.x + threadIdx.x) * widest<T>;
  if (i + widest<T> <= n) {
    pack<T> out, in = load_pack(x + i);
#pragma unroll
    for (int k = 0; k < widest<T>; k++) out.v[k] = from_float<T>(at(to_float(in.v[k])).value);
    store_pack(y + i, out);
  } else {
    for (; i < n; i++) y[i] = from_float<T>(at(to_float(x[i])).value);
  }
}

// dx = dy f′(x).   dx, dy, x (n,)
template <class T>
NK_DEV void slope(T* dx, const T* dy, const T* x, i64 n, Bend (*at)(float)) {
  i64 i = (i64(blockIdx.x) * blockDim.x + threadIdx.x) * widest<T>;
  if (i + widest<T> <= n) {
    pack<T> out, in = load_pack(x + i), d = load_pack(dy + i);
#pragma unroll
    for (int k = 0; k < widest<T>; k++) out.v[k] = from_float<T>(to_float(d.v[k]) * at(to_float(in.v[k])).slope);
    store_pack(dx + i, out);
  } else {
    for (; i < n; i++) dx[i] = from_float<T>(to_float(dy[i]) * at(to_float(x[i])).slope);
  }
}

template <class T>
NK_DEV void relu_forward(T* y, const T* x, i64 n) { value(y, x, n, relu_at); }
template <class T>
NK_DEV void relu_backward(T* dx, const T* dy, const T* x, i64 n) { slope(dx, dy, x, n, relu_at); }
NK_FLOATS(relu_forward, 256, (T* y, const T* x, i64 n), (y, x, n))
NK_FLOATS(relu_backward, 256, (T* dx, const T* dy, const T* x, i64 n), (dx, dy, x, n))

template <class T>
NK_DEV void relu_squared_forward(T* y, const T* x, i64 n) { value(y, x, n, relu_squared_at); }
template <class T>
NK_DEV void relu_squared_backward(T* dx, const T* dy, const T* x, i64 n) { slope(dx, dy, x, n, relu_squared_at); }
NK_FLOATS(relu_squared_forward, 256, (T* y, const T* x, i64 n), (y, x, n))
NK_FLOATS(relu_squared_backward, 256, (T* dx, const T* dy, const T* x, i64 n), (dx, dy, x, n))

template <class T>
NK_DEV void silu_forward(T* y, const T* x, i64 n) { value(y, x, n, silu_at); }
template <class T>
NK_DEV void silu_backward(T* dx, const T* dy, const T* x, i64 n) { slope(dx, dy, x, n, silu_at); }
NK_FLOATS(silu_forward, 256, (T* y, const T* x, i64 n), (y, x, n))
NK_FLOATS(silu_backward, 256, (T* dx, const T* dy, const T* x, i64 n), (dx, dy, x, n))

template <class T>
NK_DEV void gelu_forward(T* y, const T* x, i64 n) { value(y, x, n, gelu_at); }
template <class T>
NK_DEV void gelu_backward(T* dx, const T* dy, const T* x, i64 n) { slope(dx, dy, x, n, gelu_at); }
NK_FLOATS(gelu_forward, 256, (T* y, const T* x, i64 n), (y, x, n))
NK_FLOATS(gelu_backward, 256, (T* dx, const T* dy, const T* x, i64 n), (dx, dy, x, n))

template <class T>
NK_DEV void gelu_tanh_forward(T* y, const T* x, i64 n) { value(y, x, n, gelu_tanh_at); }
template <class T>
NK_DEV void gelu_tanh_backward(T* dx, const T* dy, const T* x, i64 n) { slope(dx, dy, x, n, gelu_tanh_at); }
NK_FLOATS(gelu_tanh_forward, 256, (T* y, const T* x, i64 n), (y, x, n))
NK_FLOATS(gelu_tanh_backward, 256, (T* dx, const T* dy, const T* x, i64 n), (dx, dy, x, n))

// y = silu(g) u,  x = [g | u].   x (N, 2F), y (N, F); block (a, b) takes some columns of rows b, b + gridDim.y, …
template <class T, int WIDE>
NK_DEV void swiglu_rows(T* y, const T* x, int N, int F) {
  int j = (blockIdx.x * blockDim.x + threadIdx.x) * WIDE;
  if (j >= F) return;
  for (int row = blockIdx.y; row < N; row += gridDim.y) {
    const T* gate = x + i64(row) * 2 * F + j;
    pack<T, WIDE> out, g = load_pack<WIDE>(gate), u = load_pack<WIDE>(gate + F);
#pragma unroll
    for (int k = 0; k < WIDE; k++) out.v[k] = from_float<T>(silu_at(to_float(g.v[k])).value * to_float(u.v[k]));
    store_pack(y + i64(row) * F + j, out);
  }
}

// dg = dy u silu′(g),  du = dy silu(g)
template <class T, int WIDE>
NK_DEV void swiglu_rows_backward(T* dx, const T* dy, const T* x, int N, int F) {
  int j = (blockIdx.x * blockDim.x + threadIdx.x) * WIDE;
  if (j >= F) return;
  for (int row = blockIdx.y; row < N; row += gridDim.y) {
    i64 at = i64(row) * 2 * F + j;
    pack<T, WIDE> g = load_pack<WIDE>(x + at), u = load_pack<WIDE>(x + at + F);
    pack<T, WIDE> dg, du, d = load_pack<WIDE>(dy + i64(row) * F + j);
#pragma unroll
    for (int k = 0; k < WIDE; k++) {
      Bend opened = silu_at(to_float(g.v[k]));
      dg.v[k] = from_float<T>(to_float(d.v[k]) * to_float(u.v[k]) * opened.slope);
      du.v[k] = from_float<T>(to_float(d.v[k]) * opened.value);
    }
    store_pack(dx + at, dg);
    store_pack(dx + at + F, du);
  }
}

template <class T>
NK_DEV void swiglu_forward(T* y, const T* x, int N, int F) {
  constexpr int WIDE = widest<T>;
  F % WIDE == 0 ? swiglu_rows<T, WIDE>(y, x, N, F) : swiglu_rows<T, 1>(y, x, N, F);
}
NK_FLOATS(swiglu_forward, 256, (T* y, const T* x, int N, int F), (y, x, N, F))

template <class T>
NK_DEV void swiglu_backward(T* dx, const T* dy, const T* x, int N, int F) {
  constexpr int WIDE = widest<T>;
  F % WIDE == 0 ? swiglu_rows_backward<T, WIDE>(dx, dy, x, N, F) : swiglu_rows_backward<T, 1>(dx, dy, x, N, F);
}
NK_FLOATS(swiglu_backward, 256, (T* dx, const T* dy, const T* x, int N, int F), (dx, dy, x, N, F))
