/**
 * @file workspace.h
 * How much memory the cuda device lays out for itself, from its limits alone: no CUDA header is needed to plan with it.
 */
#ifndef QST_KERNELS_CUDA_WORKSPACE_H
#define QST_KERNELS_CUDA_WORKSPACE_H

#include "kernels/device.h"

enum {
  CUDA_ALIGNMENT = 256, /**< of pieces of the workspace, as of allocations of CUDA */

  MAPS_NF4 = 0,
  MAPS_FP4 = 16,
  MAPS_DYNAMIC = 32,
  MAPS_SIZE = 32 + 256, /**< floats of the code books (base/types.h) in device memory */

  SUM_BLOCKS = 128,   /**< partial sums of a sum over rows */
  SUM_COLUMNS = 4096, /**< columns that are summed at once */
  SUM_SIZE = (SUM_BLOCKS + 1) * SUM_COLUMNS,
  SQUARE_BLOCKS = 256,
};

/** Rows of logits at a time. The head's input gradient is as narrow as the model: at a hidden size of 4096 so many rows are 128
 *  tiles of 128 x 256, and large GPUs have 100 to 150 multiprocessors. */
enum { CUDA_LOGIT_ROWS = 1024 };

/** Elements of a lane's dequantized weights and of the fp32 sums of a product with a bias: the limits say how large products
 *  get; a workspace for less than all of one makes it a few smaller ones. */
static inline size_t cuda_weight_count(const struct device_limits *limits) {
  const size_t fewest = (size_t)1 << 20, most = (size_t)1 << 26, all = (size_t)limits->widest_product;
  return all < fewest ? fewest : all > most ? most : all;
}
static inline size_t cuda_sum_count(const struct device_limits *limits) {
  const size_t fewest = (size_t)1 << 20, most = (size_t)1 << 24, all = (size_t)limits->rows * (size_t)limits->hidden;
  return all < fewest ? fewest : all > most ? most : all;
}
#define CUDA_BLAS_BYTES ((size_t)32 << 20)

enum { CUDA_FP8_WEIGHT_ROWS = 65536 }; /**< whose scales a lane holds: so many are multiplied at a time */

static inline size_t cuda_piece(size_t bytes) {
  return (bytes + CUDA_ALIGNMENT - 1) / CUDA_ALIGNMENT * CUDA_ALIGNMENT;
}

/** Pieces of a lane's workspace for products in 8-bit floats. */
static inline size_t cuda_fp8_input_bytes(const struct device_limits *limits) {
  return cuda_piece((size_t)limits->rows * (size_t)limits->widest_input);
}
static inline size_t cuda_fp8_bytes(const struct device_limits *limits) {
  if (!limits->fp8) return 0;
  return cuda_fp8_input_bytes(limits) + cuda_piece((size_t)limits->rows * sizeof(float)) +
         CUDA_FP8_WEIGHT_ROWS * sizeof(float);
}

/** All of it: the code books once; of each lane a fault, partial sums, attention's deltas, and what products use. */
static inline size_t cuda_workspace_bytes(const struct device_limits *limits, enum dtype act) {
  size_t deltas = (size_t)limits->rows * (size_t)limits->side_hidden;
  size_t kernels = cuda_piece(4 * sizeof(int32_t)) + cuda_piece(SUM_SIZE * sizeof(float)) +
                   cuda_piece(SQUARE_BLOCKS * sizeof(double)) + cuda_piece(deltas * sizeof(float));
  size_t products = cuda_weight_count(limits) * dtype_size(act) + cuda_sum_count(limits) * sizeof(float) +
                    CUDA_BLAS_BYTES + cuda_fp8_bytes(limits);
  return cuda_piece(MAPS_SIZE * sizeof(float)) + LANE_COUNT * (kernels + products);
}

#endif
