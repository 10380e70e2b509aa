/**
 * @file frozen.cuh
 * What kernels that read 4-bit weights (base/types.h) share.
 */
#ifndef QST_KERNELS_CUDA_FROZEN_CUH
#define QST_KERNELS_CUDA_FROZEN_CUH

#include "kernels/cuda/kernel.cuh"

struct quantized {
  const uint8_t *codes, *scale_codes;
  const float *map, *dynamic_map, *scales, *scale_scales;
  float scale_mean;
};

/** Rounds twice, as the oracle does (kernels/quantize.h). */
__device__ inline float block_scale(const quantized &q, size_t block) {
  if (!q.scale_codes) return q.scales[block];
  float scale = __fmul_rn(q.dynamic_map[q.scale_codes[block]], q.scale_scales[block / QUANT_SCALE_BLOCK]);
  return __fadd_rn(scale, q.scale_mean);
}

/** Code k of the 8 in a word of codes. */
__device__ inline int code_of(uint32_t word, int k) {
  return (int)(word >> (8 * (k / 2) + (k % 2 ? 0 : 4)) & 15);
}

inline quantized quantized_of(const cuda_context *context, const matrix *matrix) {
  quantized q = {};
  q.codes = (const uint8_t *)matrix->codes;
  q.map = context->maps + (matrix->format == WEIGHT_NF4 ? MAPS_NF4 : MAPS_FP4);
  q.dynamic_map = context->maps + MAPS_DYNAMIC;
  q.scales = matrix->scales;
  q.scale_codes = matrix->double_quantized ? matrix->scale_codes : nullptr;
  q.scale_scales = matrix->scale_scales;
  q.scale_mean = matrix->scale_mean;
  return q;
}

#endif
