// The gradient of a bias: db = Σ over the rows of dy (N, C), where no product's epilogue makes it on the way.
// dy is read once, 16 bytes at a time: N C numbers move, and a few sums. Each block adds up its rows in float32; what
// the blocks have is then added in their order, so the result is always the same.
#include "nk.h"

constexpr int WARPS = 8;  // of a block: each takes every eighth of its rows

// sums[columns of this block] = Σ of rows first … last − 1, W neighbours to a thread
template <int W, class T>
NK_DEV void sum_block(const T* dy, float* sums, int C, int first, int last) {
  NK_SHARED(float, of_warps, [WARPS][32 * W]);
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int column = (blockIdx.x * 32 + lane) * W;
  float total[W] = {};
  if (column < C)
    for (int row = first + warp; row < last; row += WARPS) {
      pack<T, W> numbers = load_pack<W>(dy + size_t(row) * C + column);
      for (int k = 0; k < W; k++) total[k] += to_float(numbers.v[k]);
    }
  for (int k = 0; k < W; k++) of_warps[warp][lane * W + k] = total[k];
  __syncthreads();
  for (int i = threadIdx.x; i < 32 * W; i += blockDim.x) {
    float sum = 0.f;
    for (int w = 0; w < WARPS; w++) sum += of_warps[w][i];
    if (blockIdx.x * 32 * W + i < C) sums[blockIdx.x * 32 * W + i] = sum;
  }
}

// partial (blocks in y, C): block y adds up its share of the rows.   256 threads, each W neighbouring columns
template <class T>
NK_DEV void column_sums(const T* dy, float* partial, int N, int C) {
  int share = (N + gridDim.y - 1) / gridDim.y, first = blockIdx.y * share;
  int last = first + share < N ? first + share : N;
  float* sums = partial + size_t(blockIdx.y) * C;
  in_packs(dy, C) ? sum_block<widest<T>>(dy, sums, C, first, last) : sum_block<1>(dy, sums, C, first, last);
}
NK_FLOATS(column_sums, 256, (const T* dy, float* partial, int N, int C), (dy, partial, N, C))

// db[c] += Σ partial[·][c] if `accumulate`, else = ;  partial (blocks, C)
template <class T>
NK_DEV void add_partial_sums(const float* partial, T* db, int blocks, int C, int accumulate) {
  int c = blockIdx.x * blockDim.x + threadIdx.x;
  if (c >= C) return;
  float sum = 0.f;
  for (int b = 0; b < blocks; b++) sum += partial[size_t(b) * C + c];
  db[c] = from_float<T>(accumulate ? to_float(db[c]) + sum : sum);
}
NK_FLOATS(add_partial_sums, 256, (const float* partial, T* db, int blocks, int C, int accumulate),
          (partial, db, blocks, C, accumulate))
