// Gradients of attention without a T × S matrix and without atomics, so that equal inputs give equal bits.
// FlashAttention-2: Dao 2023, arXiv:2307.08691, algorithm 2, in two passes: one per tile of queries for dq, one per tile
// of keys for dk and dv. Weights are computed again from the scores and from ℓ, which the forward pass has left.
//
//   p = exp(s q kᵀ + bias − ℓ)          δ = Σ dy ⊙ y over the width of the head, which is Σ dp ⊙ p over the keys
//   dv = drop(p)ᵀ dy    dp = drop(dy vᵀ)    dx = p ⊙ (dp − δ)    dq = s dx k    dk = s dxᵀ q
#include "attention_tiles.h"

// δ of the rows that a lane has a share of: delta[m][half], on the four lanes of the row alike. Also left in memory, for
// the pass over the keys.
template <class T, int M>
NK_DEV void find_delta(float (&delta)[M][2], float* kept, const T* dy, const T* y, int t0, const Attention& a) {
#pragma unroll
  for (int m = 0; m < M; m++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      int t = t0 + (warp_id() * M + m) * 16 + half * 8 + lane_id() / 4;
      float sum = 0.f;
      if (t < a.T)
        for (int d = lane_id() % 4 * 8; d < a.D; d += 32) {
          pack<T> left = load_pack(dy + t * a.dy.row + d), right = load_pack(y + t * a.y.row + d);
#pragma unroll
          for (int i = 0; i < 8; i++) sum += to_float(left.v[i]) * to_float(right.v[i]);
        }
      sum += __shfl_xor_sync(ALL_LANES, sum, 1);
      sum += __shfl_xor_sync(ALL_LANES, sum, 2);
      delta[m][half] = sum;
      if (lane_id() % 4 == 0 && t < a.T) kept[t] = sum;
    }
}

// dq of 64 · M queries, N keys at a time; the same loop as forward's.
template <class T, int COLUMNS, int M, int N>
NK_DEV void backward_queries(T* dq, float* kept_delta, const T* dy, const T* q, const T* k, const T* v, const T* y,
                             const float* log_sum, const bool* mask, const int* starts, const float* slopes,
                             const u64* call_there, const Attention& a) {
  constexpr int QUERIES = WARPS * 16 * M, TILE = N * COLUMNS;
  NK_DYNAMIC_SHARED(T, q_tile);
  T *dy_tile = q_tile + QUERIES * COLUMNS, *k_tiles = dy_tile + QUERIES * COLUMNS, *v_tiles = k_tiles + 2 * TILE;

  int t0 = (gridDim.x - 1 - blockIdx.x) * QUERIES;
  int h = blockIdx.y, b = blockIdx.z;
  i64 statistics = (i64(b) * gridDim.y + h) * a.T;
  q += a.q.at(b, h), dq += a.dq.at(b, h), y += a.y.at(b, h), dy += a.dy.at(b, h);
  k += a.k.at(b, h / a.heads_per_key), v += a.v.at(b, h / a.heads_per_key);
  log_sum += statistics, kept_delta += statistics;
  Rules rules(a, mask, starts, slopes, call_there, b, h, gridDim.y);
  Reach reach = rules.reach(t0, QUERIES), own = rules.reach(t0 + warp_id() * 16 * M, 16 * M);

  auto load = [&](int tile) {
    load_tile<T, N, COLUMNS>(k_tiles + tile % 2 * TILE, k, a.k.row, tile * N, a.S, a.D);
    load_tile<T, N, COLUMNS>(v_tiles + tile % 2 * TILE, v, a.v.row, tile * N, a.S, a.D);
  };
  int tile = reach.first / N, end = reach.last / N + 1;
  load_tile<T, QUERIES, COLUMNS>(q_tile, q, a.q.row, t0, a.T, a.D);
  load_tile<T, QUERIES, COLUMNS>(dy_tile, dy, a.dy.row, t0, a.T, a.D);
  load(tile);
  copy_commit();

  float sums[M][COLUMNS / 8][4], delta[M][2], logs[M][2];
  set_zero<M, COLUMNS>(sums);
  find_delta<T, M>(delta, kept_delta, dy, y, t0, a);
#pragma unroll
  for (int m = 0; m < M; m++)
#pragma unroll
    for (int half = 0; half < 2; half++)
      logs[m][half] = log_sum[min(t0 + (warp_id() * M + m) * 16 + half * 8 + lane_id() / 4, a.T - 1)] * LOG2_E;

  for (; tile < end; tile++) {
    copy_wait<0>();
    __syncthreads();  // this tile is there for all, and nobody reads the one before any more
    if (tile + 1 < end) load(tile + 1);
    copy_commit();
    int s0 = tile * N;
    if (!own.meets(s0, N)) continue;
    float p[M][N / 8][4], dp[M][N / 8][4];
    rows_times_rows<T, M, N, COLUMNS>(p, q_tile, k_tiles + tile % 2 * TILE);
    rows_times_rows<T, M, N, COLUMNS>(dp, dy_tile, v_tiles + tile % 2 * TILE);
    if (rules.slope)
      for_each_element<M, N>(
          [&](int m, int n, int e, int t, int s) { p[m][n][e] -= rules.distance_cost(t0 + t, s0 + s); });
    if (!own.covers(s0, N))
      hide(p, Bits<M, N>([&](int t, int s) { return rules.sees(t0 + t, s0 + s); }));
    Bits<M, N> kept([&](int t, int s) { return rules.keeps(t0 + t, s0 + s); }, a.threshold);
    for_each_element<M, N>([&](int m, int n, int e, int, int) {
      float weight = fast_exp2(p[m][n][e] * (a.scale * LOG2_E) - logs[m][e / 2]);
      p[m][n][e] = weight * ((kept.at(m, n, e) ? dp[m][n][e] * a.keep_scale : 0.f) - delta[m][e / 2]);  // dx
    });
    add_weights_times_rows<T, M, N, COLUMNS>(sums, p, k_tiles + tile % 2 * TILE);
  }
  copy_wait<0>();
  __syncthreads();  // where there was no tile, the queries may still be on their way into the place of dq
  multiply<M, COLUMNS>(sums, a.scale);
  store_tile<T, COLUMNS, M>(dq, a.dq.row, t0, a.T, a.D, q_tile, sums);
}

// dk and dv of 64 · M keys of one head of keys, N queries at a time, of all heads of queries that share them. All
// products stand on their side: rows are keys and columns are queries, so that weights become factors of dv and dk
// within their lanes.
template <class T, int COLUMNS, int M, int N>
NK_DEV void backward_keys(T* dk, T* dv, const T* dy, const T* q, const T* k, const T* v, const float* log_sum,
                          const float* delta, const bool* mask, const int* starts, const float* slopes,
                          const u64* call_there, const Attention& a) {
  constexpr int KEYS = WARPS * 16 * M, TILE = N * COLUMNS;
  NK_DYNAMIC_SHARED(T, k_tile);
  T *v_tile = k_tile + KEYS * COLUMNS, *q_tiles = v_tile + KEYS * COLUMNS, *dy_tiles = q_tiles + 2 * TILE;
  float *logs = reinterpret_cast<float*>(dy_tiles + 2 * TILE), *deltas = logs + 2 * N;

  int s0 = blockIdx.x * KEYS, h_keys = blockIdx.y, b = blockIdx.z, heads = gridDim.y * a.heads_per_key;
  k += a.k.at(b, h_keys), v += a.v.at(b, h_keys), dk += a.dk.at(b, h_keys), dv += a.dv.at(b, h_keys);
  load_tile<T, KEYS, COLUMNS>(k_tile, k, a.k.row, s0, a.S, a.D);
  load_tile<T, KEYS, COLUMNS>(v_tile, v, a.v.row, s0, a.S, a.D);

  // Queries t_first … t_last see something of these keys, as far as causality and the window say; tiles of all heads in
  // a row, in a fixed order
  int ahead = a.S - a.T, s_last = min(s0 + KEYS, a.S) - 1;
  int t_first = a.causal ? max(0, s0 - ahead) : 0;
  int t_last = a.window ? int(min(i64(a.T), i64(s_last) - ahead + a.window)) - 1 : a.T - 1;
  int first = t_first / N, per_head = t_last / N + 1 - first, end = per_head * a.heads_per_key;

  auto load = [&](int step) {
    int h = h_keys * a.heads_per_key + step / per_head, t0 = (first + step % per_head) * N, buffer = step % 2;
    load_tile<T, N, COLUMNS>(q_tiles + buffer * TILE, q + a.q.at(b, h), a.q.row, t0, a.T, a.D);
    load_tile<T, N, COLUMNS>(dy_tiles + buffer * TILE, dy + a.dy.at(b, h), a.dy.row, t0, a.T, a.D);
    for (int i = threadIdx.x; i < N; i += THREADS) {
      i64 from = (i64(b) * heads + h) * a.T + min(t0 + i, a.T - 1);
      copy_async_word(logs + buffer * N + i, log_sum + from);
      copy_async_word(deltas + buffer * N + i, delta + from);
    }
  };

  float sums_k[M][COLUMNS / 8][4], sums_v[M][COLUMNS / 8][4];
  set_zero<M, COLUMNS>(sums_k);
  set_zero<M, COLUMNS>(sums_v);
  if (end > 0) load(0);
  copy_commit();

  for (int step = 0; step < end; step++) {
    copy_wait<0>();
    __syncthreads();  // this tile is there for all, and nobody reads the one before any more
    if (step + 1 < end) load(step + 1);
    copy_commit();
    int h = h_keys * a.heads_per_key + step / per_head, t0 = (first + step % per_head) * N, buffer = step % 2;
    Rules rules(a, mask, starts, slopes, call_there, b, h, heads);
    Reach reach = rules.reach(t0, N);
    int own = s0 + warp_id() * 16 * M;
    if (!reach.meets(own, 16 * M)) continue;
    float p[M][N / 8][4], dp[M][N / 8][4];
    rows_times_rows<T, M, N, COLUMNS>(p, k_tile, q_tiles + buffer * TILE);
    rows_times_rows<T, M, N, COLUMNS>(dp, v_tile, dy_tiles + buffer * TILE);
    if (rules.slope)
      for_each_element<M, N>(
          [&](int m, int n, int e, int s, int t) { p[m][n][e] -= rules.distance_cost(t0 + t, s0 + s); });
    if (!reach.covers(own, 16 * M))
      hide(p, Bits<M, N>([&](int s, int t) { return rules.sees(t0 + t, s0 + s); }));
    Bits<M, N> kept([&](int s, int t) { return rules.keeps(t0 + t, s0 + s); }, a.threshold);
    for_each_element<M, N>([&](int m, int n, int e, int, int t) {
      float weight = fast_exp2(p[m][n][e] * (a.scale * LOG2_E) - logs[buffer * N + t] * LOG2_E);
      bool keep = kept.at(m, n, e);
      p[m][n][e] = keep ? weight : 0.f;
      dp[m][n][e] = weight * ((keep ? dp[m][n][e] * a.keep_scale : 0.f) - deltas[buffer * N + t]);  // dx
    });
    add_weights_times_rows<T, M, N, COLUMNS>(sums_v, p, dy_tiles + buffer * TILE);
    add_weights_times_rows<T, M, N, COLUMNS>(sums_k, dp, q_tiles + buffer * TILE);
  }
  copy_wait<0>();
  __syncthreads();  // where there was no tile, the keys may still be on their way into the place of dk
  multiply<M, COLUMNS>(sums_k, a.scale);
  multiply<M, COLUMNS>(sums_v, a.keep_scale);
  store_tile<T, COLUMNS, M>(dk, a.dk.row, s0, a.S, a.D, k_tile, sums_k);
  store_tile<T, COLUMNS, M>(dv, a.dv.row, s0, a.S, a.D, v_tile, sums_v);
}

#define QUERIES_PARAMETERS                                                                                     \
  (T * dq, float* delta, const T* dy, const T* q, const T* k, const T* v, const T* y, const float* log_sum,    \
   const bool* mask, const int* starts, const float* slopes, const u64* call_there, Attention a)
#define QUERIES_ARGUMENTS (dq, delta, dy, q, k, v, y, log_sum, mask, starts, slopes, call_there, a)

template <class T>
NK_DEV void attention_backward_queries_64 QUERIES_PARAMETERS {
  backward_queries<T, 64, 2, 32> QUERIES_ARGUMENTS;
}
NK_HALVES(attention_backward_queries_64, 128, QUERIES_PARAMETERS, QUERIES_ARGUMENTS)

template <class T>
NK_DEV void attention_backward_queries_128 QUERIES_PARAMETERS {
  backward_queries<T, 128, 1, 64> QUERIES_ARGUMENTS;
}
NK_HALVES(attention_backward_queries_128, 128, QUERIES_PARAMETERS, QUERIES_ARGUMENTS)

#define KEYS_PARAMETERS                                                                                        \
  (T * dk, T * dv, const T* dy, const T* q, const T* k, const T* v, const float* log_sum, const float* delta,  \
   const bool* mask, const int* starts, const float* slopes, const u64* call_there, Attention a)
#define KEYS_ARGUMENTS (dk, dv, dy, q, k, v, log_sum, delta, mask, starts, slopes, call_there, a)

template <class T>
NK_DEV void attention_backward_keys_64 KEYS_PARAMETERS {
  backward_keys<T, 64, 2, 32> KEYS_ARGUMENTS;
}
NK_HALVES(attention_backward_keys_64, 128, KEYS_PARAMETERS, KEYS_ARGUMENTS)

template <class T>
NK_DEV void attention_backward_keys_128 KEYS_PARAMETERS {
  backward_keys<T, 128, 1, 64> KEYS_ARGUMENTS;
}
NK_HALVES(attention_backward_keys_128, 128, KEYS_PARAMETERS, KEYS_ARGUMENTS)
