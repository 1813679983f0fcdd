// Cross-entropy of logits z (N, V) with targets t (N). Twins of nanograd/ops/loss.py; a block of threads for each row.
//
//   loss = ℓ − (1 − ε) zₜ − ε ⟨z⟩ + ζ ℓ²,  ℓ = ln Σ exp z
//   dz   = (1 + 2 ζ ℓ) softmax(z) − (1 − ε) onehot(t) − ε/V,  times a scale
//
// All exponents are differences from m = max z: exact for any offset. A row whose target is `ignore` has the loss 0 and
// the gradient 0. A target outside [0, V) is not read: the row's loss is NaN, and no step is taken.
#include "nk.h"

constexpr int THREADS = 512;
constexpr float LOWEST = -3.4e38f;  // and not −∞: in a row of −∞ alone, −∞ − (−∞) would be NaN where exp gives 0

struct settings {
  int V, ignore;
  float smoothing, z_loss;  // ε and ζ
};

// of a row: m, Σ exp(z − m), and ⟨z − m⟩, which only smoothed targets ask for
struct statistics {
  float m, total, mean;
};

// fn(column, numbers) for a row that may begin anywhere: single numbers up to a multiple of 16 bytes, then packs, then
// the numbers that are left. So a vocabulary of any size is read 16 bytes at a time.
template <class T, class Function>
NK_DEV void visit(const T* row, int V, Function fn) {
  int before = int((16 - reinterpret_cast<u64>(row) % 16) % 16 / sizeof(T));
  int head = before < V ? before : V, packs = (V - head) / widest<T>, tail = head + packs * widest<T>;
  int thread = threadIdx.x;
  if (thread < head) fn(thread, load_pack<1>(row + thread));
#pragma unroll 4
  for (int i = thread; i < packs; i += blockDim.x) {
    int column = head + i * widest<T>;
    fn(column, load_pack(row + column));
  }
  if (tail + thread < V) fn(tail + thread, load_pack<1>(row + tail + thread));
}

// Some more numbers for a thread's running maximum and sum, which is corrected where the maximum grows
template <class T, int W>
NK_DEV void include(statistics& mine, const pack<T, W>& z) {
  float m = mine.m;
#pragma unroll
  for (int k = 0; k < W; k++) m = fmaxf(m, to_float(z.v[k]));
  mine.total *= __expf(mine.m - m);
#pragma unroll
  for (int k = 0; k < W; k++) mine.total += __expf(to_float(z.v[k]) - m);
  mine.m = m;
}

template <class T, int W>
NK_DEV float sum(const pack<T, W>& z, float m) {
  float total = 0.f;
#pragma unroll
  for (int k = 0; k < W; k++) total += to_float(z.v[k]) - m;
  return total;
}

// The same in all threads. The row comes from memory once; where targets are smoothed, a second time from the cache.
template <class T>
NK_DEV statistics statistics_of(const T* z, const settings& s) {
  statistics mine = {LOWEST, 0.f, 0.f};
  visit(z, s.V, [&](int, const auto& some) { include(mine, some); });
  float m = block_max(mine.m), total = block_sum(mine.total * __expf(mine.m - m));
  if (s.smoothing == 0.f) return {m, total, 0.f};
  visit(z, s.V, [&](int, const auto& some) { mine.mean += sum(some, m); });
  return {m, total, block_sum(mine.mean) / s.V};
}

NK_DEV float loss_of(const statistics& row, float at_target, const settings& s) {
  float log_total = logf(row.total), log_sum = row.m + log_total;
  float loss = log_total - (1.f - s.smoothing) * (at_target - row.m) - s.smoothing * row.mean;
  return loss + s.z_loss * log_sum * log_sum;
}

// zₜ, or NaN where the target is no token
template <class T>
NK_DEV float logit_at(const T* z, int target, int V) {
  return target >= 0 && target < V ? to_float(z[target]) : __uint_as_float(0x7fc00000u);
}

// dz = scale (…) as above; dz may be z itself
template <class T>
NK_DEV void write_slopes(const T* z, T* dz, int target, float m, float total, float scale, const settings& s) {
  float factor = scale * (1.f + 2.f * s.z_loss * (m + logf(total))) / total;
  float even = scale * s.smoothing / s.V, at_target = scale * (1.f - s.smoothing);
  visit(z, s.V, [&](int column, auto some) {
    constexpr int W = sizeof(some) / sizeof(T);
#pragma unroll
    for (int k = 0; k < W; k++) {
      float slope = __expf(to_float(some.v[k]) - m) * factor - even;
      some.v[k] = from_float<T>(column + k == target ? slope - at_target : slope);
    }
    store_pack(dz + column, some);
  });
}

template <class T>
NK_DEV void write_zeros(const T* z, T* dz, int V) {
  visit(z, V, [&](int column, const auto& some) { store_pack(dz + column, pack<T, sizeof(some) / sizeof(T)>{}); });
}

// losses (N); m and total (N) for cross_entropy_backward. Reads N V numbers.
template <class T>
NK_DEV void cross_entropy(const T* z, const int* t, float* losses, float* m, float* total, int V, int ignore,
                          float smoothing, float z_loss) {
  int row = blockIdx.x, target = t[row];
  settings s = {V, ignore, smoothing, z_loss};
  z += size_t(row) * V;
  if (target == ignore) {
    if (threadIdx.x == 0) losses[row] = 0.f;
    return;
  }
  statistics of_row = statistics_of(z, s);
  if (threadIdx.x) return;
  losses[row] = loss_of(of_row, logit_at(z, target, V), s);
  m[row] = of_row.m;
  total[row] = of_row.total;
}
NK_FLOATS(cross_entropy, THREADS,
          (const T* z, const int* t, float* losses, float* m, float* total, int V, int ignore, float smoothing,
           float z_loss),
          (z, t, losses, m, total, V, ignore, smoothing, z_loss))

// dz = dy share (…). dy and share are numbers in device memory: nobody waits to read them. Moves 2 N V numbers.
template <class T>
NK_DEV void cross_entropy_backward(const T* z, const int* t, const float* m, const float* total, const float* dy,
                                   const float* share, T* dz, int V, int ignore, float smoothing, float z_loss) {
  int row = blockIdx.x, target = t[row];
  z += size_t(row) * V;
  dz += size_t(row) * V;
  if (target == ignore) return write_zeros(z, dz, V);
  write_slopes(z, dz, target, m[row], total[row], *dy * *share, {V, ignore, smoothing, z_loss});
}
NK_FLOATS(cross_entropy_backward, THREADS,
          (const T* z, const int* t, const float* m, const float* total, const float* dy, const float* share, T* dz,
           int V, int ignore, float smoothing, float z_loss),
          (z, t, m, total, dy, share, dz, V, ignore, smoothing, z_loss))

// losses (N), and scale times the gradient in the place of the logits. Moves 2 N V numbers: the rows of all running
// blocks together fit into the cache of the device, so the second reading costs no memory traffic.
template <class T>
NK_DEV void cross_entropy_in_place(T* z, const int* t, float* losses, int V, int ignore, float smoothing, float z_loss,
                                   float scale) {
  int row = blockIdx.x, target = t[row];
  settings s = {V, ignore, smoothing, z_loss};
  z += size_t(row) * V;
  if (target == ignore) {
    if (threadIdx.x == 0) losses[row] = 0.f;
    return write_zeros(z, z, V);
  }
  float at_target = logit_at(z, target, V);  // before the barriers of the statistics: later it is overwritten
  statistics of_row = statistics_of(z, s);
  if (threadIdx.x == 0) losses[row] = loss_of(of_row, at_target, s);
  write_slopes(z, z, target, of_row.m, of_row.total, scale, s);
}
NK_FLOATS(cross_entropy_in_place, THREADS,
          (T* z, const int* t, float* losses, int V, int ignore, float smoothing, float z_loss, float scale),
          (z, t, losses, V, ignore, smoothing, z_loss, scale))

// share = 1 / number of real targets, loss = share Σ losses; with no real target both are 0. One block.
NK_KERNEL __launch_bounds__(1024) mean_loss(const float* losses, const int* t, float* loss, float* share, int N,
                                            int ignore) {
  float total = 0.f, real = 0.f;  // up to 2²⁴ targets are counted exactly
  for (int i = threadIdx.x; i < N; i += blockDim.x) {
    total += losses[i];
    real += t[i] != ignore;
  }
  total = block_sum(total);
  real = block_sum(real);
  if (threadIdx.x) return;
  *share = real > 0.f ? 1.f / real : 0.f;
  *loss = total * *share;
}
NK_EXPORT(mean_loss)

// y [+]= dy share factor x;   x, y (n), and y may be x; dy and share as in cross_entropy_backward.
// Moves 2 n numbers, 3 n if it adds.
template <class T>
NK_DEV void scale_gradient(const T* x, T* y, const float* dy, const float* share, float factor, int add, i64 n) {
  float scale = *dy * *share * factor;
  i64 first = i64(blockIdx.x) * blockDim.x + threadIdx.x, step = i64(gridDim.x) * blockDim.x, packs = n / widest<T>;
  for (i64 i = first; i < packs; i += step) {
    pack<T> xs = load_pack(x + i * widest<T>), ys = {};
    if (add) ys = load_pack(y + i * widest<T>);
#pragma unroll
    for (int k = 0; k < widest<T>; k++) ys.v[k] = from_float<T>(to_float(ys.v[k]) + scale * to_float(xs.v[k]));
    store_pack(y + i * widest<T>, ys);
  }
  i64 i = packs * widest<T> + first;
  if (i < n) y[i] = from_float<T>((add ? to_float(y[i]) : 0.f) + scale * to_float(x[i]));
}
NK_FLOATS(scale_gradient, 256,
          (const T* x, T* y, const float* dy, const float* share, float factor, int add, i64 n),
          (x, y, dy, share, factor, add, n))
