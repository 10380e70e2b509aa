/**
 * @file wgmma.cuh
 * The products of four warps together, "warpgroup-level matrix instructions" (PTX ISA, "Asynchronous Warpgroup Level Matrix
 * Instructions"): only GPUs of compute capability 9.0 have them, and only code that was compiled for sm_90a. Elsewhere
 * the same kernels compile, and trap. The rules of ptx.cuh hold; tests/host/include has a twin of this file too.
 *
 * The four warps are threads 128 g to 128 g + 127 of a block, and all of them must reach a wrapper. Products are asynchronous:
 * their sums, and factors in registers, must not be touched before products_wait(), nor factors in shared memory be written
 * before every thread that reads them has waited. Products see what was copied to shared memory only after
 * fence_async_shared() of the threads that copied, and a barrier.
 */
#ifndef QST_KERNELS_CUDA_WGMMA_CUH
#define QST_KERNELS_CUDA_WGMMA_CUH

#include <cstdint>
#include <ptx.cuh>

#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define QST_ONLY_SM90A(...) asm volatile(__VA_ARGS__)
#else
#define QST_ONLY_SM90A(...) __trap()
#endif

namespace ptx {

/** Panels of bf16 rows in shared memory, as the products read them: 64 elements (128 bytes) a row, row after row, the
 *  16-byte chunks of row r permuted by xor with r % 8; wider rows are several panels, `panel_bytes` apart. The address is a
 *  multiple of 1024 ("matrix descriptor": 128-byte swizzle, 1024 bytes from 8 rows to the next 8). */
__device__ inline uint64_t describe_panels(const void *shared, unsigned panel_bytes) {
  return (uint64_t)(shared_address(shared) >> 4) | (uint64_t)(panel_bytes >> 4) << 16 | (uint64_t)(1024 >> 4) << 32 |
         (uint64_t)1 << 62;
}

/** The same, further on by `bytes`: 32 are 16 columns, 2048 are 16 rows. */
__device__ inline uint64_t advance_panels(uint64_t panels, unsigned bytes) {
  return panels + (bytes >> 4);
}

/** What this thread copied to shared memory is seen by products after the next barrier. */
__device__ inline void fence_async_shared() {
  QST_ONLY_SM90A("fence.proxy.async.shared::cta;" ::: "memory");
}

/** Before products whose sums or factors in registers were written by other instructions. */
__device__ inline void products_begin() {
  QST_ONLY_SM90A("wgmma.fence.sync.aligned;" ::: "memory");
}

/** Closes the group of products since the last one. */
__device__ inline void products_commit() {
  QST_ONLY_SM90A("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/** The arithmetic that x comes from is done before the next wait: the assembler moves a wait ahead of arithmetic that does
 *  not need it, but not ahead of a store. `spare`: a word of this thread's own in shared memory. */
__device__ inline void compute_before_wait(float x, float *spare) {
  *(volatile float *)spare = x;
}

/** Waits until at most MOST of the latest groups are under way; `c`: the sums that may be read now. */
template <int MOST, int N>
__device__ inline void products_wait(float (&c)[N][4]) {
  QST_ONLY_SM90A("wgmma.wait_group.sync.aligned %0;" ::"n"(MOST) : "memory");
#pragma unroll
  for (int n = 0; n < N; n++)
#pragma unroll
    for (int e = 0; e < 4; e++) asm volatile("" : "+f"(c[n][e])::"memory"); /* not read earlier */
}

#define FOUR(n) "+f"(c[n][0]), "+f"(c[n][1]), "+f"(c[n][2]), "+f"(c[n][3])
#define EIGHT_FOURS(n) \
  FOUR(n), FOUR(n + 1), FOUR(n + 2), FOUR(n + 3), FOUR(n + 4), FOUR(n + 5), FOUR(n + 6), FOUR(n + 7)
#define SUMS_32                                                                                          \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, " \
  "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define SUMS_64                                                                                          \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, " \
  "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, " \
  "%42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, " \
  "%62, %63"

/** c = a · bᵀ, or c += with ADD: 64 rows of a, 128 rows of b, 16 columns of both, fp32 sums. c of lane i of the group's warp w:
 *  rows 16 w + i / 4 (elements 0 and 1) and 8 below (2 and 3), columns 8 n + 2 (i % 4) and the next. */
template <bool ADD>
__device__ inline void multiply_panels(float (&c)[16][4], uint64_t a, uint64_t b) {
  QST_ONLY_SM90A(
      "{.reg .pred add; setp.ne.b32 add, %66, 0;"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" SUMS_64 "}, %64, %65, add, 1, 1, 0, 0;}"
      : EIGHT_FOURS(0), EIGHT_FOURS(8)
      : "l"(a), "l"(b), "n"(ADD));
}

/** c += a · b: 16 columns of a in registers, as in multiply_bf16() of each warp, and 16 rows of b, as wide as c. */
__device__ inline void add_panels(float (&c)[16][4], const unsigned (&a)[4], uint64_t b) {
  QST_ONLY_SM90A("wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" SUMS_64
                 "}, {%64, %65, %66, %67}, %68, "
                 "1, 1, 1, 1;"
                 : EIGHT_FOURS(0), EIGHT_FOURS(8)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
__device__ inline void add_panels(float (&c)[8][4], const unsigned (&a)[4], uint64_t b) {
  QST_ONLY_SM90A("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" SUMS_32
                 "}, {%32, %33, %34, %35}, %36, "
                 "1, 1, 1, 1;"
                 : EIGHT_FOURS(0)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

#undef FOUR
#undef EIGHT_FOURS
#undef SUMS_32
#undef SUMS_64
#undef QST_ONLY_SM90A

}  // namespace ptx

#endif
