// CUDA's names on the CPU: qualifiers, types, intrinsics, and the instructions of nk_gpu.h with their documented meaning.
#pragma once

// ---- Kernels, and how Python finds them

#define NK_KERNEL static void
#define NK_DEV static inline
#define NK_DEV_SPECIAL inline
#define __launch_bounds__(...)
#define __restrict__ __restrict
#define __shared__ static_assert(false, "shared memory is declared by NK_SHARED or NK_DYNAMIC_SHARED");

#define NK_SHARED(type, name, dimensions)     \
  typedef type name##_type dimensions;        \
  static const char name##_variable = 0;      \
  name##_type& name = *static_cast<name##_type*>(nk::static_shared(&name##_variable, sizeof(name##_type)))
#define NK_DYNAMIC_SHARED(type, name) type* name = reinterpret_cast<type*>(nk::block()->dynamic_shared)

struct bf16 {
  u16 bits;
};
struct f16 {
  u16 bits;
};
struct alignas(8) int2 {
  int x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};

namespace nk {

// A parameter's type in NumPy's words: "float32", and "bfloat16*" for a pointer.
template <class T>
struct Name {  // a struct, by value: NumPy names it by its bits
  static std::string get() { return "void" + std::to_string(8 * sizeof(T)); }
};
#define NK_NAME(type, name)                         \
  template <>                                       \
  struct Name<type> {                               \
    static std::string get() { return name; }       \
  };
NK_NAME(float, "float32")
NK_NAME(bf16, "bfloat16")
NK_NAME(f16, "float16")
NK_NAME(double, "float64")
NK_NAME(bool, "bool")
NK_NAME(u8, "uint8")
NK_NAME(u16, "uint16")
NK_NAME(u32, "uint32")
NK_NAME(u64, "uint64")
NK_NAME(int, "int32")
NK_NAME(i64, "int64")
template <class T>
struct Name<T*> {
  static std::string get() { return Name<std::remove_const_t<T>>::get() + "*"; }
};

template <class... A>
std::string signature(void (*)(A...)) {
  std::string all;
  ((all += (all.empty() ? "" : " ") + Name<std::remove_const_t<A>>::get()), ...);
  return all;
}

}  // namespace nk

#define NK_EXPORT(name)                                                                       \
  extern "C" const char* nk_signature_##name() {                                              \
    static const std::string text = nk::signature(name);                                      \
    return text.c_str();                                                                      \
  }                                                                                           \
  extern "C" const char* nk_launch_##name(const nk::Launch* how, void** arguments) {          \
    static thread_local std::string error;                                                    \
    error = nk::launch(name, *how, arguments);                                                \
    return error.c_str();                                                                     \
  }

// ---- Intrinsics

#define threadIdx (nk::thread()->index)
#define blockIdx (nk::block()->index)
#define blockDim (nk::block()->size)
#define gridDim (nk::block()->grid)

#define __syncthreads() nk::barrier(__LINE__)
#define __syncwarp(...) nk::SyncWarp{__LINE__}(__VA_ARGS__)
#define __shfl_sync(mask, value, from) nk::shuffle(mask, value, from, __LINE__)
#define __shfl_xor_sync(mask, value, bits) nk::shuffle(mask, value, nk::lane() ^ (bits), __LINE__)
#define __shfl_down_sync(mask, value, by) nk::shuffle(mask, value, nk::neighbour(by), __LINE__)
#define __shfl_up_sync(mask, value, by) nk::shuffle(mask, value, nk::neighbour(-int(by)), __LINE__)
#define __ballot_sync(mask, truth) nk::ballot(mask, (truth), __LINE__)
#define __any_sync(mask, truth) (nk::ballot(mask, (truth), __LINE__) != 0)
#define __all_sync(mask, truth) (nk::ballot(mask, !(truth), __LINE__) == 0)
#define __match_any_sync(mask, value) nk::match_any(mask, value, __LINE__)

namespace nk {

struct SyncWarp {
  int line;
  void operator()(u32 mask = 0xffffffffu) const { exchange(mask, nullptr, 0, line); }
};

inline unsigned neighbour(int by) {  // a lane without a neighbour that far away keeps its own value
  int there = int(lane()) + by;
  return there < 0 || there > 31 ? lane() : unsigned(there);
}

inline u32 ballot(u32 mask, bool truth, int line) {
  u64 word = truth;
  Exchange all = exchange(mask, &word, 1, line);
  u32 votes = 0;
  for (unsigned i = 0; i < 32; i++) votes |= u32(all.word(i, 0) == 1) << i;
  return votes;
}

// The lanes that bring the same value as this one.
inline u32 match_any(u32 mask, u32 value, int line) {
  u64 word = value;
  Exchange all = exchange(mask, &word, 1, line);
  u32 alike = 0;
  for (unsigned i = 0; i < 32; i++) alike |= u32(all.word(i, 0) == word) << i;
  return alike;
}

}  // namespace nk

inline float __uint_as_float(u32 bits) {
  float x;
  memcpy(&x, &bits, 4);
  return x;
}
inline u32 __float_as_uint(float x) {
  u32 bits;
  memcpy(&bits, &x, 4);
  return bits;
}
inline int __float_as_int(float x) { return int(__float_as_uint(x)); }
inline float __int_as_float(int bits) { return __uint_as_float(u32(bits)); }

inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline void sincospif(float x, float* sine, float* cosine) {  // of π x
  *sine = float(sin(x * 3.141592653589793)), *cosine = float(cos(x * 3.141592653589793));
}
inline float __fdividef(float x, float y) { return x / y; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float fast_exp2(float x) { return exp2f(x); }
inline u32 __umulhi(u32 a, u32 b) { return u32(u64(a) * b >> 32); }
inline int __popc(u32 x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x ? __builtin_clz(u32(x)) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }

// Threads run one at a time, so what happens between two waits is atomic.
template <class T>
T atomicAdd(T* p, T value) {
  T before = *p;
  *p = before + value;
  return before;
}
template <class T>
T atomicMax(T* p, T value) {
  T before = *p;
  *p = std::max(before, value);
  return before;
}
template <class T>
T atomicExch(T* p, T value) {
  return std::exchange(*p, value);
}
template <class T>
T atomicCAS(T* p, T expected, T value) {
  T before = *p;
  if (before == expected) *p = value;
  return before;
}
inline void __threadfence() {}
inline void __threadfence_block() {}

// min and max of CUDA take any two numbers of a type; so do these.
using std::max;
using std::min;

inline void check_aligned(const void* p, int bytes) {
  if (reinterpret_cast<uintptr_t>(p) % bytes) nk::fail("misaligned " + std::to_string(bytes) + "-byte access");
}

template <class T>
T __ldg(const T* p) {
  check_aligned(p, sizeof(T));
  return *p;
}
template <class T>
T __ldcs(const T* p) {
  return __ldg(p);
}
template <class T>
T __ldcg(const T* p) {
  return __ldg(p);
}
template <class T>
void __stcs(T* p, T value) {
  check_aligned(p, sizeof(T));
  *p = value;
}
template <class T>
void __stcg(T* p, T value) {
  __stcs(p, value);
}

// ---- 16-bit numbers

inline float to_float(bf16 x) { return __uint_as_float(u32(x.bits) << 16); }

inline bf16 float_to_bf16(float x) {
  u32 bits = __float_as_uint(x);
  if (x != x) return {0x7fff};
  return {u16((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};  // to nearest, ties to even
}

inline float to_float(f16 x) {
  u32 sign = u32(x.bits & 0x8000) << 16, exponent = x.bits >> 10 & 31, mantissa = x.bits & 1023;
  if (exponent == 31) return __uint_as_float(sign | 0x7f800000 | mantissa << 13);
  if (exponent == 0) return (sign ? -1.f : 1.f) * ldexpf(float(mantissa), -24);
  return __uint_as_float(sign | (exponent + 112) << 23 | mantissa << 13);
}

inline f16 float_to_f16(float x) {
  u16 sign = u16(__float_as_uint(x) >> 16 & 0x8000);
  float size = fabsf(x);
  if (x != x) return {0x7fff};
  if (size >= 65520.f) return {u16(sign | 0x7c00)};  // lies nearer to 2¹⁶ than to the largest number, 65504
  int exponent = std::max(size > 0 ? ilogbf(size) : -15, -15);
  // In units of the last place, which below 2⁻¹⁴ does not shrink any more; nearbyintf rounds ties to even.
  int last = std::max(exponent, -14) - 10;
  u32 units = u32(nearbyintf(ldexpf(size, -last)));
  return {u16(sign | (u32(last + 24) * 1024 + units))};
}

// ---- Tensor cores (the layouts stand in nk_gpu.h)

namespace nk {

template <class T>
float half_of(u64 word, int high) {
  return to_float(T{u16(high ? word >> 16 : word)});
}

inline void load_matrix(u32 (&r)[4], const void* row, bool transposed, int line) {
  check_aligned(row, 16);
  u64 mine = reinterpret_cast<u64>(row);
  Exchange rows = exchange(0xffffffffu, &mine, 1, line);
  int group = lane() / 4, pair = lane() % 4 * 2;
  for (int tile = 0; tile < 4; tile++) {
    auto at = [&](int i, int j) { return reinterpret_cast<const u16*>(rows.word(tile * 8 + i, 0))[j]; };
    u32 low = transposed ? at(pair, group) : at(group, pair);
    u32 high = transposed ? at(pair + 1, group) : at(group, pair + 1);
    r[tile] = low | high << 16;
  }
}

}  // namespace nk

#define load_matrix_x4(r, row) nk::load_matrix(r, row, false, __LINE__)
#define load_matrix_x4_transposed(r, row) nk::load_matrix(r, row, true, __LINE__)

template <class T>
inline void mma_m16n8k16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  u64 mine[nk::WORDS] = {a[0], a[1], a[2], a[3], b0, b1};
  nk::Exchange all = nk::exchange(0xffffffffu, mine, nk::WORDS, __LINE__);
  int g = nk::lane() / 4, t = nk::lane() % 4;
  for (int i = 0; i < 4; i++) {
    int row = g + 8 * (i / 2), column = 2 * t + i % 2;
    for (int k = 0; k < 16; k++) {
      u64 left = all.word(row % 8 * 4 + k % 8 / 2, row / 8 + 2 * (k / 8));
      u64 right = all.word(column * 4 + k % 8 / 2, 4 + k / 8);
      d[i] += nk::half_of<T>(left, k % 2) * nk::half_of<T>(right, k % 2);
    }
  }
}

// ---- Copies that nobody waits for yet. Landing late shows a forgotten wait, landing early a buffer still being read.

namespace nk {

inline void land(const Copy& c) {
  memcpy(c.to, c.from, c.bytes);
  memset(static_cast<char*>(c.to) + c.bytes, 0, c.width - c.bytes);
}

}  // namespace nk

namespace nk {

inline void send(const Copy& c) {
  check_aligned(c.to, c.width);
  check_aligned(c.from, c.width);
  if (block()->schedule.eager)
    land(c);
  else
    thread()->open.push_back(c);
}

}  // namespace nk

inline void copy_async(void* to, const void* from, int bytes = 16) { nk::send({to, from, bytes, 16}); }
inline void copy_async_word(void* to, const void* from) { nk::send({to, from, 4, 4}); }

inline void copy_commit() {
  nk::thread()->groups.push_back(std::move(nk::thread()->open));
  nk::thread()->open.clear();
}

template <int N>
inline void copy_wait() {
  auto& groups = nk::thread()->groups;
  for (; groups.size() > N; groups.pop_front())
    for (const nk::Copy& c : groups.front()) nk::land(c);
}
