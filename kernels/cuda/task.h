/**
 * @file task.h
 * One product by cuBLASLt: what product.c and product_fp8.c make all of theirs of.
 *
 * Its algorithm is what cuBLASLt's heuristics say for its shape, types and alignment, with the number of tokens rounded up to
 * one of a few (or for exactly that number, should the algorithm refuse it), among those whose sums have a fixed order (no
 * reduction in place). It is found when it is prepared for (device_prepare), else at the first use, and kept; forgetting it
 * changes nothing.
 */
#ifndef QST_KERNELS_CUDA_TASK_H
#define QST_KERNELS_CUDA_TASK_H

#include "kernels/cuda/cuda.h"

/** C[m, n] = A[m, k] · B[n, k]ᵀ + residual. A matrix "by step" is stored [k, ...]: element (i, s) at s * ld + i. */
struct task {
  const void *a, *b, *residual; /**< residual: like C, NULL, or C itself */
  void *c;
  int m, n, k, lda, ldb, ldc;
  bool a_by_step, b_by_step;
  bool fp8; /**< A and B are E4M3, neither by step; else activations */
  const float *a_scales,
      *b_scales; /**< of E4M3's rows, or both NULL: 1. NVIDIA's Hopper only (compute capability 9.0) */
  enum dtype c_type;
};

/** Loads cuBLASLt and lays out its workspace. */
int cuda_blas_open(struct device *device);
/** For a device that was never opened, too. */
void cuda_blas_close(struct device *device);

int cuda_run_task(struct device *device, const struct task *task);
/** Whether cuBLASLt has an algorithm for it. */
bool cuda_can_run(struct device *device, const struct task *task);

/** The number of tokens whose algorithms are taken for `tokens`: the first from there on that has some of its own. */
int cuda_tokens_like(int tokens);

#endif
