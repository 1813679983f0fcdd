// What the kernels of flash attention share: tiles in shared memory, products of tiles, and which key a query may see.
//
// Letters as in nanograd/ops/attention.py: T queries, S keys, D the width of a head. COLUMNS is D rounded up to what a
// kernel is compiled for; columns from D on are zeros. A block has 4 warps, of which each owns 16 · M rows of one tile.
#pragma once
#include "nk.h"

constexpr int THREADS = 128, WARPS = THREADS / 32;
constexpr float LOG2_E = 1.4426950408889634f;

NK_DEV int lane_id() { return threadIdx.x % 32; }
NK_DEV int warp_id() { return threadIdx.x / 32; }

// ---- What a kernel is told about its arrays. attention.py holds the same fields in the same order.

// Elements from one sequence, head and row to the next. The numbers of one row lie side by side.
struct Strides {
  i64 batch, head, row;
  NK_DEV_SPECIAL i64 at(int b, int h) const { return b * batch + h * head; }
};

struct Attention {
  Strides q, k, v, y, dy, dq, dk, dv, mask, starts;
  i64 mask_column;
  u64 seed, call;    // of the dropout mask; the call lies in device memory if a kernel is told where
  u32 threshold;    // a weight whose random word lies below it is dropped; 0: all are kept
  float keep_scale;  // 1 / (1 − p)
  float scale;       // of the scores, positive
  int T, S, D;
  int heads_per_key;  // query heads that share one head of keys and values
  int causal;         // query t sees keys up to t + S − T
  int window;         // and only so many of the last ones; 0: all
  int reserved;       // fills the last 8 bytes
};

// ---- Tiles

// Where 16-byte unit `unit` of row `row` lies in a tile. Units change places within their row, by an exclusive or with
// the row's number: eight rows of one column of units then lie in eight different groups of four banks, so that
// ldmatrix reads them at once. Without that all eight would lie in the same four banks.
template <int COLUMNS>
NK_DEV int swizzled(int row, int unit) {
  return row * COLUMNS + (unit ^ (row % 8)) * 8;
}

// Start to copy rows `first` … `first` + ROWS − 1 of x into a tile; rows from `end` on are zeros there.
template <class T, int ROWS, int COLUMNS>
NK_DEV void load_tile(T* tile, const T* x, i64 stride, int first, int end, int D) {
  constexpr int UNITS = COLUMNS / 8;
#pragma unroll 1  // addresses worked out ahead would only take registers
  for (int i = threadIdx.x; i < ROWS * UNITS; i += THREADS) {
    int row = i / UNITS, unit = i % UNITS;
    bool exists = first + row < end && unit * 8 < D;
    const T* from = exists ? x + (first + row) * stride + unit * 8 : x;
    copy_async(tile + swizzled<COLUMNS>(row, unit), from, exists ? 16 : 0);
  }
}

// The sums of this warp's rows, rounded, to rows `first` … of y, as far as they lie before `end`: by way of the warp's
// own rows of a tile that nobody needs any more, so that memory is written in units of 16 bytes.
template <class T, int COLUMNS, int M>
NK_DEV void store_tile(T* y, i64 stride, int first, int end, int D, T* tile, const float (&sums)[M][COLUMNS / 8][4]) {
  constexpr int UNITS = COLUMNS / 8;
  int own = warp_id() * 16 * M, lane = lane_id();
#pragma unroll
  for (int m = 0; m < M; m++)
#pragma unroll
    for (int n = 0; n < UNITS; n++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        T* to = tile + swizzled<COLUMNS>(own + m * 16 + half * 8 + lane / 4, n) + lane % 4 * 2;
        to[0] = from_float<T>(sums[m][n][half * 2]);
        to[1] = from_float<T>(sums[m][n][half * 2 + 1]);
      }
  __syncwarp();
  for (int i = lane; i < 16 * M * UNITS; i += 32) {
    int row = own + i / UNITS, unit = i % UNITS;
    if (first + row < end && unit * 8 < D)
      store_pack(y + (first + row) * stride + unit * 8, load_pack(tile + swizzled<COLUMNS>(row, unit)));
  }
}

// ---- Products. A product's element x[m][n][e] lies in row 16 m + 8 (e / 2) + lane / 4 of the warp's rows and in
// column 8 n + 2 (lane % 4) + e % 2: that is where mma leaves it.

// action(m, n, e, row, column) for all elements that the lane holds; rows are counted from the block's first.
template <int M, int N, class Action>
NK_DEV void for_each_element(Action action) {
  int lane = lane_id();
#pragma unroll
  for (int m = 0; m < M; m++)
#pragma unroll
    for (int n = 0; n < N / 8; n++)
#pragma unroll
      for (int e = 0; e < 4; e++)
        action(m, n, e, (warp_id() * M + m) * 16 + e / 2 * 8 + lane / 4, n * 8 + lane % 4 * 2 + e % 2);
}

// One bit for each element that the lane holds, bit 4 n + e of word m: what `test(row, column)` says, or 1 if nobody
// asked. The loop stays a loop: unrolled, a test of some length would fill the registers of kernels that seldom ask.
template <int M, int N>
struct Bits {
  u32 word[M];

  template <class Test>
  NK_DEV_SPECIAL explicit Bits(Test test, bool asked = true) {
    int lane = lane_id();
#pragma unroll
    for (int m = 0; m < M; m++) {
      word[m] = asked ? 0 : ~0u;
#pragma unroll 1
      for (int i = asked ? 0 : N / 2; i < N / 2; i++) {
        int row = (warp_id() * M + m) * 16 + i / 2 % 2 * 8 + lane / 4, column = i / 4 * 8 + lane % 4 * 2 + i % 2;
        word[m] |= u32(test(row, column)) << i;
      }
    }
  }
  NK_DEV_SPECIAL bool at(int m, int n, int e) const { return word[m] >> (n * 4 + e) & 1; }
};

// −∞ for the scores whose bit is not set
template <int M, int N>
NK_DEV void hide(float (&x)[M][N / 8][4], const Bits<M, N>& seen) {
  for_each_element<M, N>([&](int m, int n, int e, int, int) {
    if (!seen.at(m, n, e)) x[m][n][e] = -infinity();
  });
}

template <int M, int N>
NK_DEV void set_zero(float (&x)[M][N / 8][4]) {
  for_each_element<M, N>([&](int m, int n, int e, int, int) { x[m][n][e] = 0.f; });
}

template <int M, int N>
NK_DEV void multiply(float (&x)[M][N / 8][4], float factor) {
  for_each_element<M, N>([&](int m, int n, int e, int, int) { x[m][n][e] *= factor; });
}

// product = A Bᵀ: the warp's 16 · M rows of tile a times N rows of tile b
template <class T, int M, int N, int COLUMNS>
NK_DEV void rows_times_rows(float (&product)[M][N / 8][4], const T* a, const T* b) {
  int lane = lane_id(), own = warp_id() * 16 * M;
  set_zero<M, N>(product);
#pragma unroll
  for (int k = 0; k < COLUMNS / 16; k++) {
    u32 left[M][4];
#pragma unroll
    for (int m = 0; m < M; m++)
      load_matrix_x4(left[m], a + swizzled<COLUMNS>(own + m * 16 + lane % 16, k * 2 + lane / 16));
#pragma unroll
    for (int n = 0; n < N / 16; n++) {
      u32 right[4];
      load_matrix_x4(right, b + swizzled<COLUMNS>(n * 16 + lane / 16 * 8 + lane % 8, k * 2 + lane / 8 % 2));
#pragma unroll
      for (int m = 0; m < M; m++) {
        mma_m16n8k16<T>(product[m][n * 2], left[m], right[0], right[1]);
        mma_m16n8k16<T>(product[m][n * 2 + 1], left[m], right[2], right[3]);
      }
    }
  }
}

// sums += W B: a product W of 16 · M rows and N columns, rounded to T, times N rows of tile b. What mma leaves in a
// lane as two results side by side is what it wants there as two factors side by side, so W stays in registers.
template <class T, int M, int N, int COLUMNS>
NK_DEV void add_weights_times_rows(float (&sums)[M][COLUMNS / 8][4], const float (&w)[M][N / 8][4], const T* b) {
  int lane = lane_id();
#pragma unroll
  for (int k = 0; k < N / 16; k++) {
    u32 left[M][4];
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
      for (int i = 0; i < 4; i++)
        left[m][i] = pack_two<T>(w[m][k * 2 + i / 2][i % 2 * 2], w[m][k * 2 + i / 2][i % 2 * 2 + 1]);
#pragma unroll
    for (int n = 0; n < COLUMNS / 16; n++) {
      u32 right[4];
      load_matrix_x4_transposed(right, b + swizzled<COLUMNS>(k * 16 + lane % 16, n * 2 + lane / 16));
#pragma unroll
      for (int m = 0; m < M; m++) {
        mma_m16n8k16<T>(sums[m][n * 2], left[m], right[0], right[1]);
        mma_m16n8k16<T>(sums[m][n * 2 + 1], left[m], right[2], right[3]);
      }
    }
  }
}

// ---- Who sees whom

NK_DEV int warp_min(int x) {
  for (int offset = 16; offset; offset >>= 1) x = min(x, __shfl_xor_sync(ALL_LANES, x, offset));
  return x;
}

// Keys first … last are those that some of several queries may see, all_first … all_last those that all of them may.
struct Reach {
  int first, last, all_first, all_last;
  // Does any query see one of keys s … s + n − 1?
  NK_DEV_SPECIAL bool meets(int s, int n) const { return first < s + n && s <= last; }
  // Do all queries see all of these keys?
  NK_DEV_SPECIAL bool covers(int s, int n) const { return all_first <= s && s + n - 1 <= all_last; }
};

// The rules for one head of one sequence.
struct Rules {
  const Attention& a;
  const bool* mask;     // null: none
  const int* starts;  // null: none
  float slope;        // of scores before they are scaled; 0: none
  u64 call;           // of the dropout mask
  u64 weights_before;  // elements of the (B, H, T, S) weights that lie before this head's

  NK_DEV_SPECIAL Rules(const Attention& a, const bool* mask, const int* starts, const float* slopes,
                         const u64* call_there, int b, int h, int heads)
      : a(a),
        mask(mask ? mask + a.mask.at(b, h) : mask),
        starts(starts ? starts + a.starts.at(b, h) : starts),
        slope(slopes ? slopes[h] / a.scale : 0.f),
        call(call_there ? *call_there : a.call),
        weights_before((u64(b) * heads + h) * a.T * a.S) {}

  NK_DEV_SPECIAL int place(int t) const { return t + a.S - a.T; }  // the last key that a causal query sees
  NK_DEV_SPECIAL int first_key(int t) const { return a.window ? max(0, place(t) - a.window + 1) : 0; }
  NK_DEV_SPECIAL int last_key(int t) const { return a.causal ? place(t) : a.S - 1; }

  // Of queries t … t + n − 1, as far as there are so many. To be called by whole warps.
  NK_DEV_SPECIAL Reach reach(int t, int n) const {
    int last = min(t + n, a.T) - 1, earliest = 0, latest = 0;
    if (starts) {
      earliest = a.S, latest = 0;
      for (int i = t + lane_id(); i <= last; i += 32) {
        int start = starts[i * a.starts.row];
        earliest = min(earliest, start), latest = max(latest, start);
      }
      earliest = warp_min(earliest), latest = ~warp_min(~latest);
    }
    Reach r = {max(earliest, first_key(t)), last_key(last), max(latest, first_key(last)), last_key(t)};
    if (mask || t + n > a.T) r.all_last = -1;
    return r;
  }

  NK_DEV_SPECIAL bool sees(int t, int s) const {
    if (t >= a.T || s < first_key(t) || s > last_key(t)) return false;
    if (starts && s < starts[t * a.starts.row]) return false;
    return !mask || mask[t * a.mask.row + s * a.mask_column];
  }

  // The score that query t loses for key s lying behind it (ALiBi)
  NK_DEV_SPECIAL float distance_cost(int t, int s) const { return slope * float(place(t) - s); }

  // Does dropout leave this weight? The same bits as nanograd/ops/dropout.py's.
  NK_DEV_SPECIAL bool keeps(int t, int s) const {
    u64 element = weights_before + u64(t) * a.S + s;
    random_words words = philox(element / 4, call, a.seed);
    u32 i = u32(element) % 4;
    return (i < 2 ? (i == 0 ? words.v[0] : words.v[1]) : (i == 2 ? words.v[2] : words.v[3])) >= a.threshold;
  }
};
