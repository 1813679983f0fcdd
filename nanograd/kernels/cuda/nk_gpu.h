// What nk.h builds on, on the device: types, conversions, and PTX with names. nk_emu_ptx.h says the same for the CPU.
// Source of instructions and fragment layouts: PTX ISA 8.5, sections 9.7.9 (cp.async) and 9.7.13 (ldmatrix, mma).
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

#define NK_KERNEL extern "C" __global__ void
#define NK_EXPORT(name)
#define NK_DEV __device__ __forceinline__
#define NK_DEV_SPECIAL __device__ __forceinline__
#define NK_SHARED(type, name, dimensions) __shared__ type name dimensions
#define NK_DYNAMIC_SHARED(type, name)                                   \
  extern __shared__ __align__(128) unsigned char nk_dynamic_shared[];   \
  type* name = reinterpret_cast<type*>(nk_dynamic_shared)

struct bf16 {
  u16 bits;
};
struct f16 {
  u16 bits;
};

NK_DEV float to_float(bf16 x) { return __uint_as_float(u32(x.bits) << 16); }

NK_DEV float to_float(f16 x) {
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
  return y;
}

NK_DEV bf16 float_to_bf16(float x) {
  bf16 y;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
  return y;
}

NK_DEV f16 float_to_f16(float x) {
  f16 y;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
  return y;
}

// 2ˣ to 2 ulp in one instruction; results below 2⁻¹²⁶ are 0.
NK_DEV float fast_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

NK_DEV void check_aligned(const void*, int) {}

NK_DEV u32 shared_address(const void* p) { return static_cast<u32>(__cvta_generic_to_shared(p)); }

// Four 8 × 8 tiles of 16-bit numbers. Lanes 8 i … 8 i + 7 give the addresses of tile i's rows; r[i] of lane l receives
// from tile i, row l / 4, columns 2 (l % 4) and the next one. With `_transposed`: of the transposed tile.
NK_DEV void load_matrix_x4(u32 (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

NK_DEV void load_matrix_x4_transposed(u32 (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

// d += a b on the tensor cores: a (16, 16), b (16, 8), d (16, 8). Lane l = 4 g + t holds
//   d[i]        row g + 8 (i / 2), column 2 t + i % 2
//   a[i]        row g + 8 (i % 2), columns 2 t + 8 (i / 2) and the next one
//   b0, b1      rows 2 t and 2 t + 1, and 8 further; column g
template <class T>
NK_DEV void mma_m16n8k16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1);

#define NK_MMA(type, ptx)                                                                                     \
  template <>                                                                                                 \
  NK_DEV void mma_m16n8k16<type>(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {                          \
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." ptx "." ptx ".f32 "                                 \
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                            \
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                             \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));                             \
  }
NK_MMA(bf16, "bf16")
NK_MMA(f16, "f16")

// 16 bytes from global to shared memory while the thread goes on: the first `bytes` of them, zeros for the rest.
// They are there after copy_wait and a barrier, and only then.
NK_DEV void copy_async(void* to, const void* from, int bytes = 16) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(bytes)
               : "memory");
}

// The same for one aligned word of 4 bytes.
NK_DEV void copy_async_word(void* to, const void* from) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(shared_address(to)), "l"(from) : "memory");
}

NK_DEV void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Wait until at most N of this thread's groups of copies are still on their way.
template <int N>
NK_DEV void copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}
