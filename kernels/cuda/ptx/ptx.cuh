/**
 * @file ptx.cuh
 * Every PTX instruction that the kernels name themselves, one wrapper each (PTX ISA, "Instruction Set"); those of Hopper alone
 * are in wgmma.cuh. The host runtime has the same wrappers in tests/host/include, found in the place of these;
 * tests/t20-ptx.cu compares their layouts with the definition.
 *
 * A wrapper of a whole warp must be reached by all 32 lanes.
 */
#ifndef QST_KERNELS_CUDA_PTX_CUH
#define QST_KERNELS_CUDA_PTX_CUH

#include <cuda_bf16.h>
#include <cuda_runtime.h>

namespace ptx {

__device__ inline unsigned shared_address(const void *pointer) {
  return (unsigned)__cvta_generic_to_shared(pointer);
}

/** Copies 16 bytes to shared memory, or writes 16 bytes of zeros when `there` is false (then nothing is read). Both
 *  addresses are 16-byte aligned. Done when its group is waited for. */
__device__ inline void copy_async_16(void *to_shared, const void *from_global, bool there) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to_shared)), "l"(from_global),
               "r"(there ? 16 : 0)
               : "memory");
}

/** The same of 4 bytes. */
__device__ inline void copy_async_4(void *to_shared, const void *from_global, bool there) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(to_shared)), "l"(from_global),
               "r"(there ? 4 : 0)
               : "memory");
}

/** Closes the group of this thread's copies since the last one. */
__device__ inline void copy_async_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

/** Waits until at most MOST of this thread's latest groups are under way. Others see the data after a barrier. */
template <int MOST>
__device__ inline void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(MOST) : "memory");
}

/** Four 8 × 8 matrices of 2-byte elements; lane i gives the address of row i % 8 of matrix i / 8. out[m] of lane i:
 *  elements 2 (i % 4) and the next of row i / 4 of matrix m. */
__device__ inline void load_matrices(unsigned (&out)[4], const void *row_in_shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(shared_address(row_in_shared))
               : "memory");
}

/** The same of the transposed matrices: elements in rows 2 (i % 4) and the next, column i / 4. */
__device__ inline void load_matrices_transposed(unsigned (&out)[4], const void *row_in_shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(shared_address(row_in_shared))
               : "memory");
}

/** c += a · b with bf16 factors a [16, 16], b [16, 8] and fp32 sums c [16, 8]. With g = lane / 4, t = lane % 4, pairs of
 *  columns (of a and c) or rows (of b):
 *  a: (row g, 2t), (g + 8, 2t), (g, 2t + 8), (g + 8, 2t + 8);  b: column g, rows 2t and 2t + 8;  c: (g, 2t), (g + 8, 2t). */
__device__ inline void multiply_bf16(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/** 2^x to 2 units in the last place; results below the smallest normal number are 0. */
__device__ inline float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/** Two bf16 in a register: `low` in the low half. */
__device__ inline unsigned pack_bf16(float low, float high) {
  unsigned out;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
  return out;
}

}  // namespace ptx

#endif
