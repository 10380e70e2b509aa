/**
 * @file types.h
 * Number formats and the 4-bit block layout: what kernels and files must agree on.
 *
 * NF4 and FP4 are laid out as bitsandbytes does (Dettmers et al., QLoRA, 2023; bitsandbytes `quantize_4bit`):
 * blocks of 64 elements along the flattened row-major matrix, each scaled by its largest magnitude; two codes
 * a byte, the first element in the high nibble. Double quantization: mean = average of the fp32 scales; the
 * scales minus the mean are quantized in blocks of 256 to 8-bit codes of the signed dynamic map, each block
 * scaled by its own largest magnitude.
 *
 *   value(i)  = code_map[codes(i)] * scale(i / 64)
 *   scale(b)  = double_quantized ? dynamic_map[scale_codes[b]] * scale_scales[b / 256] + scale_mean : scales[b]
 */
#ifndef QST_BASE_TYPES_H
#define QST_BASE_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum dtype { DTYPE_F32, DTYPE_BF16 };

static inline size_t dtype_size(enum dtype type) {
  return type == DTYPE_F32 ? 4 : 2;
}

typedef uint16_t bf16; /**< the upper half of an IEEE binary32 */

static inline float bf16_to_float(bf16 value) {
  union {
    uint32_t bits;
    float number;
  } u = {.bits = (uint32_t)value << 16};
  return u.number;
}

/** Rounds to nearest, ties to even; a NaN stays a NaN. */
static inline bf16 float_to_bf16(float value) {
  union {
    float number;
    uint32_t bits;
  } u = {.number = value};
  if ((u.bits & 0x7fffffffu) > 0x7f800000u) return (bf16)((u.bits >> 16) | 0x40);
  return (bf16)((u.bits + 0x7fffu + ((u.bits >> 16) & 1u)) >> 16);
}

enum weight_format { WEIGHT_NF4, WEIGHT_FP4, WEIGHT_BF16 };

enum { QUANT_BLOCK = 64, QUANT_SCALE_BLOCK = 256 };

/** A frozen weight matrix W[rows, cols], row-major: y = x · Wᵀ maps cols to rows. Pointers are host or device
 *  memory as the context says; the struct does not own them. */
struct matrix {
  enum weight_format format;
  bool double_quantized;
  int rows, cols;
  void *codes;          /**< bf16[rows * cols], or uint8[matrix_code_bytes()] */
  float *scales;        /**< 4-bit, not double-quantized: [matrix_blocks()] */
  uint8_t *scale_codes; /**< 4-bit, double-quantized: [matrix_blocks()] */
  float *scale_scales;  /**< 4-bit, double-quantized: [matrix_scale_blocks()] */
  float scale_mean;     /**< 4-bit, double-quantized */
};

static inline size_t matrix_elements(const struct matrix *m) {
  return (size_t)m->rows * (size_t)m->cols;
}
static inline size_t matrix_code_bytes(const struct matrix *m) {
  return m->format == WEIGHT_BF16 ? 2 * matrix_elements(m) : (matrix_elements(m) + 1) / 2;
}
static inline size_t matrix_blocks(const struct matrix *m) {
  return m->format == WEIGHT_BF16 ? 0 : (matrix_elements(m) + QUANT_BLOCK - 1) / QUANT_BLOCK;
}
static inline size_t matrix_scale_blocks(const struct matrix *m) {
  return m->double_quantized ? (matrix_blocks(m) + QUANT_SCALE_BLOCK - 1) / QUANT_SCALE_BLOCK : 0;
}

/** The 16 values of a 4-bit code (NF4: QLoRA appendix E; FP4: bitsandbytes) and the 256 of the signed dynamic
 *  map (Dettmers, 8-bit Optimizers, 2022). kernels/quantize.c. */
extern const float nf4_map[16], fp4_map[16], dynamic_map[256];

#endif
