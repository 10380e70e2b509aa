/**
 * @file product.h
 * The matrix products of the cuda device, by cuBLASLt: activations in, fp32 sums. Frozen weights are dequantized into
 * the lane's workspace first, as many rows of the weight at a time as it holds.
 *
 * The algorithm of a product is what cuBLASLt's heuristics say for its shape, types and alignment, with the number of tokens
 * rounded up to one of a few (or for exactly that number, should the algorithm refuse it), among those whose sums have a
 * fixed order (no reduction in place). It is found when it is prepared for (device_prepare), else at the first use, and
 * kept; forgetting it changes nothing.
 */
#ifndef QST_KERNELS_CUDA_PRODUCT_H
#define QST_KERNELS_CUDA_PRODUCT_H

#include "kernels/device.h"

/** Loads cuBLASLt and lays out the workspace. */
int cuda_product_open(struct device *device, const struct device_options *options);
/** NULL-safe for a device whose product was never opened. */
void cuda_product_close(struct device *device);

/** The number of tokens whose algorithms are taken for `tokens`: the first from there on that has some of its own. */
int cuda_tokens_like(int tokens);

int cuda_frozen_linear(struct device *device, const struct frozen_linear_args *arguments);
/** The same in 8-bit floats (kernels/fp8.h). ERR_INPUT when the rows of all parts, or the columns, are no multiple of 16. */
int cuda_frozen_linear_fp8(struct device *device, const struct frozen_linear_args *arguments);
int cuda_frozen_logits(struct device *device, const struct frozen_logits_args *arguments);
int cuda_frozen_input_grad(struct device *device, const struct frozen_input_grad_args *arguments);
int cuda_linear(struct device *device, const struct linear_args *arguments);
int cuda_linear_input_grad(struct device *device, const struct linear_input_grad_args *arguments);
int cuda_linear_weight_grad(struct device *device, const struct linear_weight_grad_args *arguments);

#endif
