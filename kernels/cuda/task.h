/**
 * @file task.h
 * One product of cuBLASLt and the workspace of products: what product.c shares with product_fp8.c.
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

/** What products in progress use, for each lane. */
struct workspace {
  void *weights, *blas;
  float *sums;
  void *fp8; /**< rows of activations in E4M3, then their scales, then those of weights; NULL without fp8 */
};

struct workspace *cuda_workspace_of(const struct device *device);
/** Bytes of `weights`, elements of `sums`. */
size_t cuda_weight_bytes(const struct device *device);
size_t cuda_sums(const struct device *device);

int cuda_run_task(struct device *device, const struct task *task);
/** Whether cuBLASLt has an algorithm for it. */
bool cuda_can_run(struct device *device, const struct task *task);

#endif
