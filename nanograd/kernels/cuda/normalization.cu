// Layer norm and RMS norm over the last axis of x (N, C). Twins of nanograd/ops/normalization.py.
//
// A team of whole warps takes a row and holds it in registers, so that memory is read once. A block has blockDim.y
// teams of blockDim.x threads. A thread takes up to ITEMS pieces of its row, blockDim.x pieces apart:
//
//     piece     0   1   …  31  | 32  33  …  63  | 64  …       a team of one warp: neighbours read neighbours
//     thread    0   1   …  31  |  0   1  …  31  |  0  …
//
// A piece is a pack of W numbers: of 16 bytes or, where C is no multiple of that, of one number.
#include "nk.h"

constexpr int MAX_WARPS = 16;  // of a block

template <class T>
struct single {
  static constexpr int size = 1;
  T v[1];
};

template <class T>
NK_DEV void load(pack<T>& piece, const T* p) { piece = load_pack(p); }
template <class T>
NK_DEV void load(single<T>& piece, const T* p) { piece.v[0] = *p; }
template <class T>
NK_DEV void store(const pack<T>& piece, T* p) { store_pack(p, piece); }
template <class T>
NK_DEV void store(const single<T>& piece, T* p) { *p = piece.v[0]; }

// As many as backward has registers for. normalization.py counts with them: 512 or 768 columns for each warp, or 256.
template <class T, int W>
constexpr int ITEMS = W == 1 ? 8 : W == 4 ? 4 : 3;

struct two {
  float a, b;
};

// Σa and Σb over the threads of a team. What was exchanged at one turn is overwritten two turns later; the barrier of
// the turn between says that everybody has read it. So one barrier a turn is enough.
NK_DEV two team_sum(float a, float b, two (*exchange)[MAX_WARPS], int turn) {
  a = warp_sum(a);
  b = warp_sum(b);
  int warps = blockDim.x / 32;
  if (warps == 1) return {a, b};
  two* team = exchange[turn % 2] + threadIdx.y * warps;
  if (threadIdx.x % 32 == 0) team[threadIdx.x / 32] = {a, b};
  __syncthreads();
  two total = {0.f, 0.f};
  for (int w = 0; w < warps; w++) {
    total.a += team[w].a;
    total.b += team[w].b;
  }
  return total;
}

// fn(i, c) for a thread's pieces of a row: its i-th begins at column c. None from column `end` on.
template <int W, int N, class Function>
NK_DEV void for_each_piece(int end, Function fn) {
#pragma unroll
  for (int i = 0; i < N; i++) {
    int c = (i * blockDim.x + threadIdx.x) * W;
    if (c < end) fn(i, c);
  }
}

// All pieces are on their way before the first is waited for.
template <int W, int N, class T>
NK_DEV void load_pieces(pack<T, W> (&pieces)[N], const T* row, int end) {
  for_each_piece<W, N>(end, [&](int i, int c) { pieces[i] = load_pack<W>(row + c); });
}

// ⟨x⟩ and then ⟨(x − ⟨x⟩)²⟩, since ⟨x²⟩ − ⟨x⟩² would lose all digits where the mean is large; (0, ⟨x²⟩) unless CENTERED
template <bool CENTERED, int W, int N, class T>
NK_DEV two mean_and_variance(const pack<T, W> (&x)[N], two (*exchange)[MAX_WARPS], int end, int C) {
  float total = 0.f, squares = 0.f;
  for_each_piece<W, N>(end, [&](int i, int) {
#pragma unroll
    for (int k = 0; k < W; k++) total += to_float(x[i].v[k]);
  });
  float mean = CENTERED ? team_sum(total, 0.f, exchange, 0).a / C : 0.f;
  for_each_piece<W, N>(end, [&](int i, int) {
#pragma unroll
    for (int k = 0; k < W; k++) {
      float d = to_float(x[i].v[k]) - mean;
      squares += d * d;
    }
  });
  return {mean, team_sum(squares, 0.f, exchange, 1).a / C};
}

// y = w n + b,  n = (x − μ) r,  r = 1/√(σ² + ε);   not CENTERED: μ = 0 and no b, which is RMS norm.
// Moves 2 N C numbers and 4 to 8 N bytes of statistics; w and b come from the cache.
template <int W, bool CENTERED, class T>
NK_DEV void normalize(const T* x, const T* weight, const T* bias, T* y, float* mean, float* r, int N, int C,
                      float eps) {
  NK_SHARED(two, exchange, [2][MAX_WARPS]);
  int row = blockIdx.x * blockDim.y + threadIdx.y;
  int end = row < N ? C : 0;  // a team without a row has no columns, but takes part in barriers
  pack<T, W> xs[ITEMS<T, W>];
  load_pieces(xs, x + size_t(row) * C, end);
  two of_row = mean_and_variance<CENTERED>(xs, exchange, end, C);
  float m = of_row.a, scale = rsqrtf(of_row.b + eps);
  for_each_piece<W, ITEMS<T, W>>(end, [&](int i, int c) {
    pack<T, W> w = load_pack<W>(weight + c), b = {};
    if (CENTERED && bias) b = load_pack<W>(bias + c);
#pragma unroll
    for (int k = 0; k < W; k++)
      xs[i].v[k] = from_float<T>((to_float(xs[i].v[k]) - m) * scale * to_float(w.v[k]) + to_float(b.v[k]));
    store_pack(y + size_t(row) * C + c, xs[i]);
  });
  if (threadIdx.x || row >= N) return;
  if (CENTERED) mean[row] = m;
  r[row] = scale;
}

// wide  rows, w and b begin at multiples of 16 bytes
template <class T>
NK_DEV void layer_norm(const T* x, const T* w, const T* b, T* y, float* mean, float* r, int N, int C, float eps,
                       int wide) {
  wide ? normalize<widest<T>, true>(x, w, b, y, mean, r, N, C, eps)
       : normalize<1, true>(x, w, b, y, mean, r, N, C, eps);
}
NK_FLOATS(layer_norm, 32 * MAX_WARPS,
          (const T* x, const T* w, const T* b, T* y, float* mean, float* r, int N, int C, float eps, int wide),
          (x, w, b, y, mean, r, N, C, eps, wide))

template <class T>
NK_DEV void rms_norm(const T* x, const T* w, T* y, float* r, int N, int C, float eps, int wide) {
  const T* no_bias = nullptr;
  wide ? normalize<widest<T>, false>(x, w, no_bias, y, nullptr, r, N, C, eps)
       : normalize<1, false>(x, w, no_bias, y, nullptr, r, N, C, eps);
}
NK_FLOATS(rms_norm, 32 * MAX_WARPS,
          (const T* x, const T* w, T* y, float* r, int N, int C, float eps, int wide),
          (x, w, y, r, N, C, eps, wide))

// What a thread adds up over the rows of its block: Σ dy n and Σ dy for each of its columns.
template <int N, int W>
struct column_sums {
  float dweight[N][W], dbias[N][W];
};

// to (C) = mine, on top of what the block's teams before this one left in sums (C)
template <int N, int W>
NK_DEV void pass_on(const float (&mine)[N][W], const float* sums, float* to, int C) {
#pragma unroll
  for (int i = 0; i < N; i++)
#pragma unroll
    for (int k = 0; k < W; k++) {
      int c = (i * blockDim.x + threadIdx.x) * W + k;
      if (c < C) to[c] = mine[i][k] + (threadIdx.y ? sums[c] : 0.f);
    }
}

// The row of partial (2, gridDim.x, C) that is the block's: its teams add up one after the other, always in one order.
template <bool CENTERED, int N, int W>
NK_DEV void write_partial(const column_sums<N, W>& mine, float* sums, float* partial, int C) {
  float *dweight = partial + size_t(blockIdx.x) * C, *dbias = dweight + size_t(gridDim.x) * C;
  for (int team = 0; team < int(blockDim.y); team++) {
    if (int(threadIdx.y) == team) {
      bool last = team + 1 == int(blockDim.y);
      pass_on(mine.dweight, sums, last ? dweight : sums, C);
      if (CENTERED) pass_on(mine.dbias, sums + C, last ? dbias : sums + C, C);
    }
    __syncthreads();
  }
}

// dx [+]= r (dn − ⟨dn⟩ − n ⟨dn n⟩),  dn = w dy;   not CENTERED: without ⟨dn⟩
// partial receives Σ dy n and Σ dy over the rows of each block: norm_sums adds these up.
// Moves 3 N C numbers; 4 N C if it adds to the dx that waits, as that of a residual stream does.
template <int W, bool CENTERED, class T>
NK_DEV void normalize_backward(const T* dy, const T* x, const T* weight, const float* mean, const float* r, T* dx,
                               float* partial, int add, int N, int C) {
  NK_SHARED(two, exchange, [2][MAX_WARPS]);
  NK_DYNAMIC_SHARED(float, sums);  // (2, C) where a block has several teams
  constexpr int items = ITEMS<T, W>;
  column_sums<items, W> mine = {};
  int turn = 0;
  for (int row0 = blockIdx.x * blockDim.y; row0 < N; row0 += gridDim.x * blockDim.y, turn++) {
    int row = row0 + threadIdx.y, end = row < N ? C : 0;
    size_t place = size_t(row) * C;
    float m = CENTERED && row < N ? mean[row] : 0.f, scale = row < N ? r[row] : 0.f, total = 0.f, along = 0.f;
    pack<T, W> xs[items], dys[items], out[items] = {};
    load_pieces(xs, x + place, end);
    load_pieces(dys, dy + place, end);
    for_each_piece<W, items>(end, [&](int i, int c) {
      pack<T, W> w = load_pack<W>(weight + c);
#pragma unroll
      for (int k = 0; k < W; k++) {
        float slope = to_float(dys[i].v[k]), n = (to_float(xs[i].v[k]) - m) * scale, dn = to_float(w.v[k]) * slope;
        total += dn;
        along += dn * n;
        mine.dweight[i][k] += slope * n;
        if (CENTERED) mine.dbias[i][k] += slope;
      }
    });
    two sum = team_sum(total, along, exchange, turn);
    float mean_dn = CENTERED ? sum.a / C : 0.f, mean_along = sum.b / C;
    if (add) load_pieces(out, dx + place, end);
    for_each_piece<W, items>(end, [&](int i, int c) {
      pack<T, W> w = load_pack<W>(weight + c);  // again, from the cache: registers are few
#pragma unroll
      for (int k = 0; k < W; k++) {
        float dn = to_float(w.v[k]) * to_float(dys[i].v[k]), n = (to_float(xs[i].v[k]) - m) * scale;
        out[i].v[k] = from_float<T>(to_float(out[i].v[k]) + scale * (dn - mean_dn - n * mean_along));
      }
      store_pack(dx + place + c, out[i]);
    });
  }
  write_partial<CENTERED>(mine, sums, partial, C);
}

template <class T>
NK_DEV void layer_norm_backward(const T* dy, const T* x, const T* w, const float* mean, const float* r, T* dx,
                                float* partial, int add, int N, int C, int wide) {
  wide ? normalize_backward<widest<T>, true>(dy, x, w, mean, r, dx, partial, add, N, C)
       : normalize_backward<1, true>(dy, x, w, mean, r, dx, partial, add, N, C);
}
NK_FLOATS(layer_norm_backward, 32 * MAX_WARPS,
          (const T* dy, const T* x, const T* w, const float* mean, const float* r, T* dx, float* partial, int add,
           int N, int C, int wide),
          (dy, x, w, mean, r, dx, partial, add, N, C, wide))

template <class T>
NK_DEV void rms_norm_backward(const T* dy, const T* x, const T* w, const float* r, T* dx, float* partial, int add,
                              int N, int C, int wide) {
  wide ? normalize_backward<widest<T>, false>(dy, x, w, nullptr, r, dx, partial, add, N, C)
       : normalize_backward<1, false>(dy, x, w, nullptr, r, dx, partial, add, N, C);
}
NK_FLOATS(rms_norm_backward, 32 * MAX_WARPS,
          (const T* dy, const T* x, const T* w, const float* r, T* dx, float* partial, int add, int N, int C,
           int wide),
          (dy, x, w, r, dx, partial, add, N, C, wide))

// dweight (C) [+]= Σ over blocks of partial[0],  dbias (C) [+]= Σ over blocks of partial[1];   partial (2, blocks, C)
// Row blockIdx.y of the grid makes dweight or dbias; a null pointer is one that nobody needs.
NK_KERNEL __launch_bounds__(1024) norm_sums(const float* partial, float* dweight, float* dbias, int add_weight,
                                            int add_bias, int blocks, int C) {
  NK_SHARED(float, strips, [32][32]);
  float* out = blockIdx.y ? dbias : dweight;
  if (!out) return;
  int c = blockIdx.x * 32 + threadIdx.x;
  float total = 0.f;
  for (int b = threadIdx.y; c < C && b < blocks; b += blockDim.y)
    total += partial[(size_t(blockIdx.y) * blocks + b) * C + c];
  strips[threadIdx.y][threadIdx.x] = total;
  __syncthreads();
  if (threadIdx.y || c >= C) return;
  for (int y = 1; y < int(blockDim.y); y++) total += strips[y][threadIdx.x];
  bool add = blockIdx.y ? add_bias : add_weight;
  out[c] = add ? out[c] + total : total;
}
NK_EXPORT(norm_sums)
