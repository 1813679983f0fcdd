// The embedding look-up and its gradient. Twins of nanograd/ops/indexing.py.
//
// Forward copies rows. Backward adds up the rows of dy whose ids are equal, always in the same order and without float
// atomics, in three launches:
//   1. sort_ids              the places 0 … N − 1 in the order of their ids (stable: equal ids keep their order)
//   2. embedding_chunk_sums  blocks take 32 places of that order each, whatever the ids: a frequent token costs no
//                            more than rare ones. A run of equal ids inside a chunk is added to dweight at once; what
//                            a chunk has of a run that crosses its border is kept as a partial sum
//   3. embedding_join_runs   the partial sums of each run that crosses borders, chunk after chunk
#include "nk.h"

constexpr int CHUNK = 32;  // places; indexing.py knows it too
constexpr int WARPS = 32, DIGIT = 8, DIGITS = 1 << DIGIT, COLUMN = WARPS + 1;  // 33: the digits then lie in all banks

// y[i] = weight[ids[i]].   weight (V, C), ids (N,), y (N, C); an id outside of the vocabulary gives a row of NaN, for
// the host would have to wait for an answer, and reading there would end the program
template <class T, int WIDE>
NK_DEV void copy_rows(T* y, const T* weight, const u8* ids, int id_bytes, int N, int C, int V) {
  pack<T, WIDE> unknown;
#pragma unroll
  for (int k = 0; k < WIDE; k++) unknown.v[k] = from_float<T>(__uint_as_float(0x7fc00000u));
  for (int row = blockIdx.x * blockDim.y + threadIdx.y; row < N; row += gridDim.x * blockDim.y) {
    i64 id = integer_at(ids, row, id_bytes);
    bool known = id >= 0 && id < V;
    for (int j = threadIdx.x * WIDE; j < C; j += blockDim.x * WIDE)
      store_pack(y + i64(row) * C + j, known ? load_pack<WIDE>(weight + id * C + j) : unknown);
  }
}

template <class T>
NK_DEV void embedding_forward(T* y, const T* weight, const u8* ids, int id_bytes, int N, int C, int V) {
  in_packs(weight, C) ? copy_rows<T, widest<T>>(y, weight, ids, id_bytes, N, C, V)
                      : copy_rows<T, 1>(y, weight, ids, id_bytes, N, C, V);
}
NK_FLOATS(embedding_forward, 256, (T* y, const T* weight, const u8* ids, int id_bytes, int N, int C, int V),
          (y, weight, ids, id_bytes, N, C, V))

// Exclusive sums of the counts of one digit after the other, and of each digit warp after warp: where each warp's
// numbers with this digit go. Each of the 1024 threads has eight counts, a quarter of a digit's.
NK_DEV void counts_to_places(int* counts) {
  NK_SHARED(int, of_warp, [WARPS]);
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32, *mine = counts + threadIdx.x / 4 * COLUMN + threadIdx.x % 4 * 8;
  int total = 0;
  for (int k = 0; k < 8; k++) total += mine[k];
  int before = total;  // with all lanes below
  for (int by = 1; by < 32; by *= 2) {
    int below = __shfl_up_sync(ALL_LANES, before, by);
    if (lane >= by) before += below;
  }
  if (lane == 31) of_warp[warp] = before;
  __syncthreads();
  before -= total;
  for (int w = 0; w < warp; w++) before += of_warp[w];
  for (int k = 0; k < 8; k++) {
    int count = mine[k];
    mine[k] = before;
    before += count;
  }
  __syncthreads();
}

struct Pairs {
  int *ids, *places;
};

NK_DEV void exchange(Pairs& a, Pairs& b) {
  Pairs was = a;
  a = b, b = was;
}

// One pass of a radix sort: by DIGIT bits from `shift` on, equal ones in their order. Each warp has a stretch of the
// numbers to itself and walks it from its beginning to its end, 32 at a time.
NK_DEV void sort_by_digit(Pairs from, Pairs to, int* counts, int N, int shift) {
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int stretch = (N + 32 * WARPS - 1) / (32 * WARPS) * 32, begin = warp * stretch, end = min(N, begin + stretch);
  for (int i = threadIdx.x; i < DIGITS * COLUMN; i += blockDim.x) counts[i] = 0;
  __syncthreads();
  for (int i = begin + lane; i < end; i += 32)
    atomicAdd(&counts[(from.ids[i] >> shift & (DIGITS - 1)) * COLUMN + warp], 1);  // counts of integers have no order
  __syncthreads();
  counts_to_places(counts);
  for (int i = begin + lane; i - lane < end; i += 32) {
    bool there = i < end;
    int id = there ? from.ids[i] : 0, digit = there ? id >> shift & (DIGITS - 1) : DIGITS;
    u32 alike = __match_any_sync(ALL_LANES, digit), below = alike & ((1u << lane) - 1);
    int* next = counts + digit * COLUMN + warp;
    int place = there ? *next + __popc(below) : 0;
    __syncwarp();  // all have read before the first of each kind counts on
    if (there && below == 0) *next += __popc(alike);
    __syncwarp();
    if (there) to.ids[place] = id, to.places[place] = from.places[i];
  }
  __syncthreads();
}

// The places 0 … N − 1 in the order of their ids, equal ids in their order, and those ids. Unknown ids become V, the
// last. One block of 1024 threads: 65,536 ids with V < 2¹⁶ are two passes.   spare  two more arrays (N,)
NK_KERNEL __launch_bounds__(1024) sort_ids(int* sorted, int* places, int* spare, const u8* ids, int id_bytes, int N,
                                           int V, int passes) {
  NK_SHARED(int, counts, [DIGITS * COLUMN]);
  Pairs from = {sorted, places}, to = {spare, spare + N};
  if (passes % 2) exchange(from, to);  // so that the last pass writes to `sorted` and `places`
  for (int i = threadIdx.x; i < N; i += blockDim.x) {
    i64 id = integer_at(ids, i, id_bytes);
    from.ids[i] = id >= 0 && id < V ? int(id) : V;
    from.places[i] = i;
  }
  __syncthreads();
  for (int pass = 0; pass < passes; pass++) {
    sort_by_digit(from, to, counts, N, pass * DIGIT);
    exchange(from, to);
  }
}
NK_EXPORT(sort_ids)

// Block (c, b): some columns of the places of chunk c.   dy (N, C), partial (chunks, 2, C): of chunk c's share in a run
// that begins in an earlier chunk, and in one that begins here and goes on in the next
template <class T, int WIDE>
NK_DEV void chunk_sums(float* dweight, float* partial, const T* dy, const int* sorted, const int* places, int N, int C,
                       int V) {
  int j = (blockIdx.y * blockDim.x + threadIdx.x) * WIDE, begin = blockIdx.x * CHUNK, end = min(N, begin + CHUNK);
  if (j >= C) return;
  partial += i64(blockIdx.x) * 2 * C + j;
  bool from_before = begin > 0 && sorted[begin - 1] == sorted[begin];
  float sum[WIDE] = {};
  for (int i = begin; i < end; i++) {
    pack<T, WIDE> row = load_pack<WIDE>(dy + i64(places[i]) * C + j);
#pragma unroll
    for (int k = 0; k < WIDE; k++) sum[k] += to_float(row.v[k]);
    int id = sorted[i];
    bool goes_on = i + 1 < N && sorted[i + 1] == id;
    if (goes_on && i + 1 < end) continue;
    bool inside = !from_before && !goes_on;
    float* to = inside ? dweight + i64(id) * C + j : from_before ? partial : partial + C;
#pragma unroll
    for (int k = 0; k < WIDE; k++) {
      if (!inside) to[k] = sum[k];
      else if (id < V) to[k] += sum[k];
      sum[k] = 0.f;
    }
    from_before = false;
  }
}

template <class T>
NK_DEV void embedding_chunk_sums(float* dweight, float* partial, const T* dy, const int* sorted, const int* places,
                                 int N, int C, int V) {
  in_packs(dy, C) ? chunk_sums<T, widest<T>>(dweight, partial, dy, sorted, places, N, C, V)
                  : chunk_sums<T, 1>(dweight, partial, dy, sorted, places, N, C, V);
}
NK_FLOATS(embedding_chunk_sums, 256,
          (float* dweight, float* partial, const T* dy, const int* sorted, const int* places, int N, int C, int V),
          (dweight, partial, dy, sorted, places, N, C, V))

// Block (c, b): the run that begins in chunk c and goes on, if there is one: its partial sums, chunk after chunk.
NK_KERNEL __launch_bounds__(256) embedding_join_runs(float* dweight, const float* partial, const int* sorted, int N,
                                                     int C, int V) {
  int j = blockIdx.y * blockDim.x + threadIdx.x, chunk = blockIdx.x, begin = chunk * CHUNK, next = begin + CHUNK;
  if (j >= C || next >= N) return;
  int id = sorted[next - 1];
  bool begins_here = begin == 0 || sorted[begin - 1] != id;
  if (!begins_here || sorted[next] != id || id >= V) return;
  float sum = partial[(i64(chunk) * 2 + 1) * C + j];
  for (chunk++; chunk * CHUNK < N && sorted[chunk * CHUNK] == id; chunk++) sum += partial[i64(chunk) * 2 * C + j];
  dweight[i64(id) * C + j] += sum;
}
NK_EXPORT(embedding_join_runs)
