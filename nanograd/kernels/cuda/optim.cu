// AdamW, SGD, Lion and the parts of Muon that are no matrix products, each in one pass. The formulas: nanograd/optim.
//
// Weights, moments and gradients are float32. Where the model computes in 16 bits, w is the master and `copy` what the
// model sees: the same number rounded, for bf16 by chance. bf16 has 8 bits of precision, so a step below 1/512 of a
// weight would be rounded away each time; by chance it arrives on the average. The chance of weight e in step t is the
// upper half of word e of the stream (seed, t), as in nanograd/precision.py, whatever the launch.
//
// Bytes moved for each parameter: AdamW 28 (reads w g m v, writes w m v), SGD and Lion 20, Muon 16 and 12; 2 more for a
// copy of 16 bits, 4 more for zeroing g. A thread takes four neighbours: 16 bytes of each array, one Philox counter.
#include "nk.h"

// What every kernel here is told. Of a number and a pointer, …_there, the pointer counts unless it is null: a CUDA graph
// repeats the numbers that it was recorded with, so what changes from step to step has to lie in memory then. `scale`
// shortens the gradient; if 0 or no number lies there, the step is not taken, and nothing but zeroing g happens.
struct Step {
  float lr;
  const float* lr_there;
  float decay, scale;
  const float* scale_there;
  int zero_grad;
  u64 seed, number;
  const u64* number_there;
  i64 first, n;  // the arrays begin at parameter `first` of the model, and are that long
};
#define STEP_PARAMETERS                                                                                      \
  float lr, const float *lr_there, float decay, float scale, const float *scale_there, int zero_grad, u64 seed, \
      u64 number, const u64 *number_there, i64 first, i64 n
#define STEP \
  Step { lr, lr_there, decay, scale, scale_there, zero_grad, seed, number, number_there, first, n }

template <class T>
NK_DEV T here_or(T number, const T* there) { return there ? *there : number; }

NK_DEV bool is_taken(const Step& step) {
  return !step.scale_there || (*step.scale_there != 0.f && is_finite(*step.scale_there));
}

NK_DEV float rate_of(const Step& step) { return here_or(step.lr, step.lr_there); }

constexpr int GROUP = 4;

// Four neighbours of the whole model, of which low … high − 1 belong to this launch.
struct Four {
  i64 begin;  // where the first of the four stands in the arrays of the launch; at the edges it may be outside
  int low, high;
  u64 counter;  // Philox's: which four they are
};

NK_DEV Four four_of_this_thread(const Step& step) {
  i64 group = step.first / GROUP + i64(blockIdx.x) * blockDim.x + threadIdx.x;
  i64 begin = group * GROUP - step.first, left = step.n - begin;
  return {begin, begin < 0 ? int(-begin) : 0, left < GROUP ? int(left) : GROUP, u64(group)};
}

template <class T>
NK_DEV bool whole(const Four& four, const T* x) {
  return four.low == 0 && four.high == GROUP && reinterpret_cast<u64>(x + four.begin) % (GROUP * sizeof(T)) == 0;
}

NK_DEV void read(float (&to)[GROUP], const float* x, const Four& four) {
  if (whole(four, x)) {
    pack<float> all = load_pack(x + four.begin);
#pragma unroll
    for (int k = 0; k < GROUP; k++) to[k] = all.v[k];
  } else {
#pragma unroll
    for (int k = 0; k < GROUP; k++) to[k] = k >= four.low && k < four.high ? x[four.begin + k] : 0.f;
  }
}

NK_DEV void write(float* x, const float (&from)[GROUP], const Four& four) {
  if (whole(four, x)) {
    store_pack(x + four.begin, pack<float>{{from[0], from[1], from[2], from[3]}});
  } else {
#pragma unroll
    for (int k = 0; k < GROUP; k++)
      if (k >= four.low && k < four.high) x[four.begin + k] = from[k];
  }
}

struct alignas(8) Bits {
  u16 of[GROUP];
};

NK_DEV void write_bits(u16* x, const Bits& from, const Four& four) {
  if (whole(four, x)) {
    *reinterpret_cast<Bits*>(x + four.begin) = from;
  } else {
#pragma unroll
    for (int k = 0; k < GROUP; k++)
      if (k >= four.low && k < four.high) x[four.begin + k] = from.of[k];
  }
}

// What the model computes with, from the master w. Of float32 there is no copy: the master is the parameter.
NK_DEV void write_copy(float*, const float (&)[GROUP], const Four&, const Step&) {}

NK_DEV void write_copy(f16* copy, const float (&w)[GROUP], const Four& four, const Step&) {
  Bits bits;
#pragma unroll
  for (int k = 0; k < GROUP; k++) bits.of[k] = from_float<f16>(w[k]).bits;
  write_bits(reinterpret_cast<u16*>(copy), bits, four);
}

NK_DEV void write_copy(bf16* copy, const float (&w)[GROUP], const Four& four, const Step& step) {
  random_words random = philox(four.counter, here_or(step.number, step.number_there), step.seed);
  Bits bits;
#pragma unroll
  for (int k = 0; k < GROUP; k++) bits.of[k] = stochastic_bf16(w[k], random.v[k] >> 16).bits;
  write_bits(reinterpret_cast<u16*>(copy), bits, four);
}

// The gradient, shortened. Leaves zeros behind if asked to.
NK_DEV void take_gradient(float (&to)[GROUP], float* g, const Four& four, const Step& step) {
  read(to, g, four);
  if (step.zero_grad) {
    float zeros[GROUP] = {};
    write(g, zeros, four);
  }
  float scale = here_or(step.scale, step.scale_there);
#pragma unroll
  for (int k = 0; k < GROUP; k++) to[k] *= scale;
}

// m ← β₁ m + (1 − β₁) g,  v ← β₂ v + (1 − β₂) g²,  w ← w − lr λ w − lr m̂ / (√v̂ + ε),   m̂ = m · rise₁,  v̂ = v · rise₂
// rises_there  both of them, 1 / (1 − βᵗ)
template <class T>
NK_DEV void adamw(T* copy, float* w, float* g, float* m, float* v, float beta_1, float rest_1, float beta_2,
                  float rest_2, float rise_1, float rise_2, const float* rises_there, float eps, const Step& step) {
  Four four = four_of_this_thread(step);
  if (four.low >= four.high) return;
  float wk[GROUP], gk[GROUP], mk[GROUP], vk[GROUP];
  take_gradient(gk, g, four, step);
  if (!is_taken(step)) return;
  read(wk, w, four), read(mk, m, four), read(vk, v, four);
  float lr = rate_of(step), keep = 1.f - lr * step.decay;
  if (rises_there) rise_1 = rises_there[0], rise_2 = rises_there[1];
#pragma unroll
  for (int k = 0; k < GROUP; k++) {
    mk[k] = beta_1 * mk[k] + rest_1 * gk[k];
    vk[k] = beta_2 * vk[k] + rest_2 * gk[k] * gk[k];
    wk[k] = keep * wk[k] - lr * (mk[k] * rise_1 / (sqrtf(vk[k] * rise_2) + eps));
  }
  write(m, mk, four), write(v, vk, four), write(w, wk, four);
  write_copy(copy, wk, four, step);
}
NK_FLOATS(adamw, 256,
          (T* copy, float* w, float* g, float* m, float* v, float beta_1, float rest_1, float beta_2, float rest_2,
           float rise_1, float rise_2, const float* rises_there, float eps, STEP_PARAMETERS),
          (copy, w, g, m, v, beta_1, rest_1, beta_2, rest_2, rise_1, rise_2, rises_there, eps, STEP))

// m ← μ m + g,  w ← w − lr λ w − lr m;  Nesterov's: − lr (g + μ m);  without momentum, where m is null: − lr g
template <class T>
NK_DEV void sgd(T* copy, float* w, float* g, float* m, float momentum, int nesterov, const Step& step) {
  Four four = four_of_this_thread(step);
  if (four.low >= four.high) return;
  float wk[GROUP], gk[GROUP], mk[GROUP];
  take_gradient(gk, g, four, step);
  if (!is_taken(step)) return;
  read(wk, w, four);
  if (m) {
    read(mk, m, four);
#pragma unroll
    for (int k = 0; k < GROUP; k++) {
      mk[k] = momentum * mk[k] + gk[k];
      gk[k] = nesterov ? gk[k] + momentum * mk[k] : mk[k];
    }
    write(m, mk, four);
  }
  float lr = rate_of(step), keep = 1.f - lr * step.decay;
#pragma unroll
  for (int k = 0; k < GROUP; k++) wk[k] = keep * wk[k] - lr * gk[k];
  write(w, wk, four);
  write_copy(copy, wk, four, step);
}
NK_FLOATS(sgd, 256, (T* copy, float* w, float* g, float* m, float momentum, int nesterov, STEP_PARAMETERS),
          (copy, w, g, m, momentum, nesterov, STEP))

// w ← w − lr λ w − lr sign(β₁ m + (1 − β₁) g),  m ← β₂ m + (1 − β₂) g
template <class T>
NK_DEV void lion(T* copy, float* w, float* g, float* m, float beta_1, float rest_1, float beta_2, float rest_2,
                 const Step& step) {
  Four four = four_of_this_thread(step);
  if (four.low >= four.high) return;
  float wk[GROUP], gk[GROUP], mk[GROUP];
  take_gradient(gk, g, four, step);
  if (!is_taken(step)) return;
  read(wk, w, four), read(mk, m, four);
  float lr = rate_of(step), keep = 1.f - lr * step.decay;
#pragma unroll
  for (int k = 0; k < GROUP; k++) {
    float between = beta_1 * mk[k] + rest_1 * gk[k];
    wk[k] = keep * wk[k] - (between > 0.f ? lr : between < 0.f ? -lr : 0.f);
    mk[k] = beta_2 * mk[k] + rest_2 * gk[k];
  }
  write(m, mk, four), write(w, wk, four);
  write_copy(copy, wk, four, step);
}
NK_FLOATS(lion, 256,
          (T* copy, float* w, float* g, float* m, float beta_1, float rest_1, float beta_2, float rest_2,
           STEP_PARAMETERS),
          (copy, w, g, m, beta_1, rest_1, beta_2, rest_2, STEP))

// m ← μ m + (1 − μ) g,  direction = m;  Nesterov's: μ m + (1 − μ) g with the new m
NK_DEV void momentum_of_four(float* direction, float* g, float* m, float momentum, float rest, int nesterov,
                             const Step& step) {
  Four four = four_of_this_thread(step);
  if (four.low >= four.high) return;
  float gk[GROUP], mk[GROUP];
  take_gradient(gk, g, four, step);
  read(mk, m, four);
#pragma unroll
  for (int k = 0; k < GROUP; k++) {
    float fresh = rest * gk[k], next = momentum * mk[k] + fresh;
    gk[k] = nesterov ? momentum * next + fresh : next;
    if (is_taken(step)) mk[k] = next;
  }
  write(m, mk, four), write(direction, gk, four);
}
NK_KERNEL __launch_bounds__(256) muon_momentum(float* direction, float* g, float* m, float momentum, float rest,
                                               int nesterov, STEP_PARAMETERS) {
  momentum_of_four(direction, g, m, momentum, rest, nesterov, STEP);
}
NK_EXPORT(muon_momentum)

// w ← w − lr λ w − lr · size · o,   o (n,) an orthogonal matrix
template <class T>
NK_DEV void muon_apply(T* copy, float* w, const float* o, float size, const Step& step) {
  Four four = four_of_this_thread(step);
  if (four.low >= four.high || !is_taken(step)) return;
  float wk[GROUP], ok[GROUP];
  read(wk, w, four), read(ok, o, four);
  float lr = rate_of(step), keep = 1.f - lr * step.decay;
#pragma unroll
  for (int k = 0; k < GROUP; k++) wk[k] = keep * wk[k] - lr * size * ok[k];
  write(w, wk, four);
  write_copy(copy, wk, four, step);
}
NK_FLOATS(muon_apply, 256, (T* copy, float* w, const float* o, float size, STEP_PARAMETERS),
          (copy, w, o, size, STEP))
