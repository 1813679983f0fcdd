// Attention without a T × S matrix: y = drop(softmax(s q kᵀ + bias)) v for a tile of queries, keys coming by tile after
// tile. FlashAttention-2: Dao 2023, arXiv:2307.08691; online softmax: Milakov & Gimelshein 2018, arXiv:1805.02867.
//
//   x = s q kᵀ of one tile,  top' = max(top, max x),  p = exp(x − top'),  c = exp(top − top')
//   total' = c total + Σ p,  y' = c y + p v;   in the end y / total,  ℓ = top + ln total
//
// Scores stay unscaled, and s log₂ e is multiplied in within the exponent of 2: one fused multiply-add an element.
#include "attention_tiles.h"

// For each of the 2 · M rows that a lane has a share of: the greatest score yet, and the lane's own share of the sum.
template <int M>
struct Softmax {
  float top[M][2], total[M][2];
};

// x: scores → weights exp(x − top); what was summed under an earlier top is brought to the new one.
template <int M, int N, int COLUMNS>
NK_DEV void next_weights(Softmax<M>& softmax, float (&x)[M][N / 8][4], float (&sums)[M][COLUMNS / 8][4], float scale) {
#pragma unroll
  for (int m = 0; m < M; m++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float top = softmax.top[m][half];
#pragma unroll
      for (int n = 0; n < N / 8; n++) top = fmaxf(top, fmaxf(x[m][n][half * 2], x[m][n][half * 2 + 1]));
      top = fmaxf(top, __shfl_xor_sync(ALL_LANES, top, 1));  // the four lanes that share a row
      top = fmaxf(top, __shfl_xor_sync(ALL_LANES, top, 2));
      float base = top == -infinity() ? 0.f : top * scale;  // −∞: nothing seen yet, and −∞ − (−∞) is no number
      float correction = fast_exp2(softmax.top[m][half] * scale - base), total = 0.f;
#pragma unroll
      for (int n = 0; n < N / 8; n++)
#pragma unroll
        for (int e = half * 2; e < half * 2 + 2; e++) {
          x[m][n][e] = fast_exp2(x[m][n][e] * scale - base);
          total += x[m][n][e];
        }
      softmax.top[m][half] = top;
      softmax.total[m][half] = softmax.total[m][half] * correction + total;
#pragma unroll
      for (int n = 0; n < COLUMNS / 8; n++) sums[m][n][half * 2] *= correction, sums[m][n][half * 2 + 1] *= correction;
    }
}

// sums → y, and ℓ for backward. A query that saw nothing: zeros, and ℓ = ∞, by which all its weights are 0 again.
template <int M, int COLUMNS>
NK_DEV void finish(Softmax<M>& softmax, float (&sums)[M][COLUMNS / 8][4], float* log_sum, int t, const Attention& a) {
#pragma unroll
  for (int m = 0; m < M; m++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float total = softmax.total[m][half];
      total += __shfl_xor_sync(ALL_LANES, total, 1);
      total += __shfl_xor_sync(ALL_LANES, total, 2);
      float factor = total > 0.f ? a.keep_scale / total : 0.f;
#pragma unroll
      for (int n = 0; n < COLUMNS / 8; n++) sums[m][n][half * 2] *= factor, sums[m][n][half * 2 + 1] *= factor;
      int row = t + (warp_id() * M + m) * 16 + half * 8 + lane_id() / 4;
      if (lane_id() % 4 == 0 && row < a.T)
        log_sum[row] = total > 0.f ? softmax.top[m][half] * a.scale + logf(total) : infinity();
    }
}

// One block: 64 · M queries of one head, N keys at a time. While a tile is worked on, the next one is on its way.
template <class T, int COLUMNS, int M, int N>
NK_DEV void forward(T* y, float* log_sum, const T* q, const T* k, const T* v, const bool* mask, const int* starts,
                    const float* slopes, const u64* call_there,
                    const Attention& a) {
  constexpr int QUERIES = WARPS * 16 * M, TILE = N * COLUMNS;
  NK_DYNAMIC_SHARED(T, q_tile);
  T *k_tiles = q_tile + QUERIES * COLUMNS, *v_tiles = k_tiles + 2 * TILE;  // two of each

  int t0 = (gridDim.x - 1 - blockIdx.x) * QUERIES;  // later queries see more: their blocks begin first
  int h = blockIdx.y, b = blockIdx.z;
  q += a.q.at(b, h), y += a.y.at(b, h), log_sum += (i64(b) * gridDim.y + h) * a.T;
  k += a.k.at(b, h / a.heads_per_key), v += a.v.at(b, h / a.heads_per_key);
  Rules rules(a, mask, starts, slopes, call_there, b, h, gridDim.y);
  Reach reach = rules.reach(t0, QUERIES), own = rules.reach(t0 + warp_id() * 16 * M, 16 * M);

  auto load = [&](int tile) {
    load_tile<T, N, COLUMNS>(k_tiles + tile % 2 * TILE, k, a.k.row, tile * N, a.S, a.D);
    load_tile<T, N, COLUMNS>(v_tiles + tile % 2 * TILE, v, a.v.row, tile * N, a.S, a.D);
  };
  int tile = reach.first / N, end = reach.last / N + 1;
  load_tile<T, QUERIES, COLUMNS>(q_tile, q, a.q.row, t0, a.T, a.D);
  load(tile);
  copy_commit();

  float x[M][N / 8][4], sums[M][COLUMNS / 8][4];
  Softmax<M> softmax;
  for (int m = 0; m < M; m++)
    for (int half = 0; half < 2; half++) softmax.top[m][half] = -infinity(), softmax.total[m][half] = 0.f;
  set_zero<M, COLUMNS>(sums);

  for (; tile < end; tile++) {
    copy_wait<0>();
    __syncthreads();  // this tile is there for all, and nobody reads the one before any more
    if (tile + 1 < end) load(tile + 1);
    copy_commit();
    int s0 = tile * N;
    if (!own.meets(s0, N)) continue;
    rows_times_rows<T, M, N, COLUMNS>(x, q_tile, k_tiles + tile % 2 * TILE);
    if (rules.slope)
      for_each_element<M, N>(
          [&](int m, int n, int e, int t, int s) { x[m][n][e] -= rules.distance_cost(t0 + t, s0 + s); });
    if (!own.covers(s0, N))
      hide(x, Bits<M, N>([&](int t, int s) { return rules.sees(t0 + t, s0 + s); }));
    next_weights<M, N, COLUMNS>(softmax, x, sums, a.scale * LOG2_E);
    if (a.threshold) {
      Bits<M, N> kept([&](int t, int s) { return rules.keeps(t0 + t, s0 + s); });
      for_each_element<M, N>([&](int m, int n, int e, int, int) { x[m][n][e] = kept.at(m, n, e) ? x[m][n][e] : 0.f; });
    }
    add_weights_times_rows<T, M, N, COLUMNS>(sums, x, v_tiles + tile % 2 * TILE);
  }
  copy_wait<0>();
  __syncthreads();  // where there was no tile, the queries may still be on their way into the place of y
  finish<M, COLUMNS>(softmax, sums, log_sum, t0, a);
  store_tile<T, COLUMNS, M>(y, a.y.row, t0, a.T, a.D, q_tile, sums);
}

#define FORWARD_PARAMETERS                                                                                 \
  (T * y, float* log_sum, const T* q, const T* k, const T* v, const bool* mask, const int* starts, \
   const float* slopes, const u64* call_there, Attention a)
#define FORWARD_ARGUMENTS (y, log_sum, q, k, v, mask, starts, slopes, call_there, a)

template <class T>
NK_DEV void attention_forward_64 FORWARD_PARAMETERS {
  forward<T, 64, 2, 64> FORWARD_ARGUMENTS;
}
NK_HALVES(attention_forward_64, 128, FORWARD_PARAMETERS, FORWARD_ARGUMENTS)

template <class T>
NK_DEV void attention_forward_128 FORWARD_PARAMETERS {
  forward<T, 128, 2, 32> FORWARD_ARGUMENTS;
}
NK_HALVES(attention_forward_128, 128, FORWARD_PARAMETERS, FORWARD_ARGUMENTS)
