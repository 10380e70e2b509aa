/**
 * @file fp8.h
 * Operands of the cpu device's products in 8-bit floats (kernels/fp8.h), rounded anew for every product: exact, not fast.
 */
#ifndef QST_KERNELS_CPU_FP8_H
#define QST_KERNELS_CPU_FP8_H

#include "kernels/device.h"

struct fp8 {
  void *weights, *inputs; /**< act; NULL when the limits do not ask for fp8 */
  size_t weight_count, input_count;
};

size_t fp8_bytes(const struct device_limits *limits);
int fp8_open(struct fp8 *fp8, struct device *device, const struct device_limits *limits);
void fp8_close(struct fp8 *fp8, struct device *device);

/** weights: act [n, k], the parts one below the other; inputs: act [rows, k]. */
int fp8_operands(struct fp8 *fp8, struct device *device, const struct frozen_linear_args *arguments, int n, int k);

#endif
