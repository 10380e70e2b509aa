/**
 * @file product.h
 * The matrix products of the cuda device: activations in, fp32 sums. Frozen weights are dequantized into the lane's workspace
 * first, as many rows of the weight at a time as it holds; the products themselves are task.h's.
 */
#ifndef QST_KERNELS_CUDA_PRODUCT_H
#define QST_KERNELS_CUDA_PRODUCT_H

#include "kernels/cuda/cuda.h"

/** Lays out the workspace and gets cuBLASLt ready. */
int cuda_product_open(struct device *device);
/** For a device that was never opened, too. */
void cuda_product_close(struct device *device);

/** Of the current lane. */
struct cuda_products *cuda_products(const struct device *device);

/** What sums become before they are rounded: scaled by row and column, with a bias. Each may be NULL. */
struct product_end {
  const float *bias, *col_scales; /**< [n] */
  const float *row_scales;        /**< [m] */
};
struct task;
/** A task whose sums are left in fp32, as many rows at a time as the workspace holds, and ended from there; the task's residual
 *  is added as well. */
int cuda_run_through_sums(struct device *device, const struct task *whole, const struct product_end *end);

int cuda_frozen_linear(struct device *device, const struct frozen_linear_args *arguments);
/** The same in 8-bit floats (kernels/fp8.h). ERR_INPUT when the rows of all parts, or the columns, are no multiple of 16. */
int cuda_frozen_linear_fp8(struct device *device, const struct frozen_linear_args *arguments);
int cuda_frozen_logits(struct device *device, const struct frozen_logits_args *arguments);
int cuda_frozen_input_grad(struct device *device, const struct frozen_input_grad_args *arguments);
int cuda_linear(struct device *device, const struct linear_args *arguments);
int cuda_linear_input_grad(struct device *device, const struct linear_input_grad_args *arguments);
int cuda_linear_weight_grad(struct device *device, const struct linear_weight_grad_args *arguments);

#endif
