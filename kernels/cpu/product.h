/**
 * @file product.h
 * The matrix products of the cpu device. Frozen 4-bit weights stay 4-bit in memory: they are dequantized inside the
 * product, a panel of output columns at a time, into a small buffer of the thread that needs the panel.
 *
 * Every element of a result is one sum over the inner dimension in ascending order, whatever tile or thread computed
 * it: results depend neither on the number of threads nor on the number of rows computed together.
 */
#ifndef QST_KERNELS_CPU_PRODUCT_H
#define QST_KERNELS_CPU_PRODUCT_H

#include "kernels/device.h"

struct product;

/** Lays out the workspace of the products from `options->limits`; to be called when the device's instruction set, threads
 *  and activation type are known. ERR_MEMORY when it does not fit. */
int product_open(struct device *device, const struct device_options *options);
/** Bytes of that workspace. */
size_t product_bytes(const struct device_limits *limits, int threads);
/** NULL-safe for a device whose product was never opened. */
void product_close(struct device *device);

int cpu_embed(struct device *device, const struct embed_args *arguments);
int cpu_frozen_linear(struct device *device, const struct frozen_linear_args *arguments);
int cpu_frozen_logits(struct device *device, const struct frozen_logits_args *arguments);
int cpu_frozen_input_grad(struct device *device, const struct frozen_input_grad_args *arguments);
int cpu_linear(struct device *device, const struct linear_args *arguments);
int cpu_linear_input_grad(struct device *device, const struct linear_input_grad_args *arguments);
int cpu_linear_weight_grad(struct device *device, const struct linear_weight_grad_args *arguments);

#endif
