// Queries and keys of each head at one length. Twin of nanograd/ops/head_norm.py.
//
// qkv is (N, 3 H, D): in each row the heads of the queries, of the keys, of the values. `lanes` neighbours in a warp, a
// power of two, hold one head in registers: with D = 64 in bf16 that is 8 lanes of 16 bytes, so four heads a warp.
#include "nk.h"

constexpr int THREADS = 256;

template <int W>
constexpr int ITEMS = W == 1 ? 8 : 4;  // packs of W numbers for a lane: head_norm.py counts with them

// Sum over the lanes of a head. All lanes of the warp take part, those without a head too.
NK_DEV float head_sum(float v, int lanes) {
  for (int offset = lanes / 2; offset; offset /= 2) v += __shfl_xor_sync(ALL_LANES, v, offset);
  return v;
}

// y = x r,  r = 1/√(⟨x²⟩ + ε) for queries and keys; y = x for values.   r (N, 2 H)
// Moves 2 · 3 N H D numbers and 4 · 2 N H bytes.
template <int W, class T>
NK_DEV void normalize_heads(const T* x, T* y, float* r, int N, int H, int D, int lanes, float eps) {
  int number = blockIdx.x * (THREADS / lanes) + threadIdx.x / lanes, head = number % (3 * H), row = number / (3 * H);
  int first = threadIdx.x % lanes * W, step = lanes * W, end = row < N ? D : 0;
  size_t place = size_t(number) * D;
  pack<T, W> piece[ITEMS<W>];
  float squares = 0.f;
#pragma unroll
  for (int i = 0; i < ITEMS<W>; i++) {
    int c = first + i * step;
    if (c >= end) continue;
    piece[i] = load_pack<W>(x + place + c);
    for (int k = 0; k < W; k++) squares += to_float(piece[i].v[k]) * to_float(piece[i].v[k]);
  }
  float scale = rsqrtf(head_sum(squares, lanes) / D + eps);
  bool value = head >= 2 * H;
#pragma unroll
  for (int i = 0; i < ITEMS<W>; i++) {
    int c = first + i * step;
    if (c >= end) continue;
    for (int k = 0; k < W && !value; k++) piece[i].v[k] = from_float<T>(to_float(piece[i].v[k]) * scale);
    store_pack(y + place + c, piece[i]);
  }
  if (row < N && !value && first == 0) r[size_t(row) * 2 * H + head] = scale;
}

// wide  heads begin at multiples of 16 bytes
template <class T>
NK_DEV void head_norm(const T* x, T* y, float* r, int N, int H, int D, int lanes, float eps, int wide) {
  wide ? normalize_heads<widest<T>>(x, y, r, N, H, D, lanes, eps) : normalize_heads<1>(x, y, r, N, H, D, lanes, eps);
}
NK_FLOATS(head_norm, THREADS,
          (const T* x, T* y, float* r, int N, int H, int D, int lanes, float eps, int wide),
          (x, y, r, N, H, D, lanes, eps, wide))

// dx = r (dy − n ⟨dy n⟩),  n = x r;  dx = dy for values.   Moves 3 · 3 N H D numbers, of x's values none.
template <int W, class T>
NK_DEV void normalize_heads_backward(const T* dy, const T* x, const float* r, T* dx, int N, int H, int D, int lanes) {
  int number = blockIdx.x * (THREADS / lanes) + threadIdx.x / lanes, head = number % (3 * H), row = number / (3 * H);
  int first = threadIdx.x % lanes * W, step = lanes * W, end = row < N ? D : 0;
  size_t place = size_t(number) * D;
  bool value = head >= 2 * H;
  float scale = row < N && !value ? r[size_t(row) * 2 * H + head] : 0.f;
  pack<T, W> xs[ITEMS<W>], dys[ITEMS<W>];
  float along = 0.f;
#pragma unroll
  for (int i = 0; i < ITEMS<W>; i++) {
    int c = first + i * step;
    if (c >= end) continue;
    dys[i] = load_pack<W>(dy + place + c);
    if (value) continue;
    xs[i] = load_pack<W>(x + place + c);
    for (int k = 0; k < W; k++) along += to_float(dys[i].v[k]) * (to_float(xs[i].v[k]) * scale);
  }
  float mean = head_sum(along, lanes) / D;
#pragma unroll
  for (int i = 0; i < ITEMS<W>; i++) {
    int c = first + i * step;
    if (c >= end) continue;
    for (int k = 0; k < W && !value; k++) {
      float n = to_float(xs[i].v[k]) * scale;
      dys[i].v[k] = from_float<T>(scale * (to_float(dys[i].v[k]) - n * mean));
    }
    store_pack(dx + place + c, dys[i]);
  }
}

template <class T>
NK_DEV void head_norm_backward(const T* dy, const T* x, const float* r, T* dx, int N, int H, int D, int lanes,
                               int wide) {
  wide ? normalize_heads_backward<widest<T>>(dy, x, r, dx, N, H, D, lanes)
       : normalize_heads_backward<1>(dy, x, r, dx, N, H, D, lanes);
}
NK_FLOATS(head_norm_backward, THREADS,
          (const T* dy, const T* x, const float* r, T* dx, int N, int H, int D, int lanes, int wide),
          (dy, x, r, dx, N, H, D, lanes, wide))
