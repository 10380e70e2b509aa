/**
 * @file multiply.h
 * C = A · Bᵀ + bias + residual: the one product behind all of product.h, and its implementations for each instruction
 * set (isa/multiply.c).
 *
 * The result is computed in panels of columns. A thread packs a panel of B — dequantizing, converting or transposing on
 * the way — into a buffer that stays in its cache, then runs over rows of A with a register tile (Goto and van de
 * Geijn, "Anatomy of high-performance matrix multiplication", 2008).
 */
#ifndef QST_KERNELS_CPU_MULTIPLY_H
#define QST_KERNELS_CPU_MULTIPLY_H

#include "base/types.h"

/** Element (i, k) is data[i * row_stride + k * step_stride]; one of the strides is 1. */
struct operand {
  const void *data;
  enum dtype type;
  size_t row_stride, step_stride;
};

struct multiply {
  int m, n, k;
  struct operand a;                  /**< [m, k], activations */
  struct operand b;                  /**< [n, k] when part_count = 0 */
  const struct matrix *const *parts; /**< else B is these frozen matrices, one below the other */
  int part_count;
  void *c; /**< [m, n] */
  enum dtype c_type;
  const float *bias;    /**< [n] or NULL */
  const void *residual; /**< [m, n] of c_type or NULL; may be c itself */
};

/** What one thread needs: allocated once, when the device opens. 64-byte aligned. */
struct multiply_scratch {
  uint32_t *panel; /**< [PANEL_WORDS + PANEL_SLACK] panels of B: [step][column] each; half a second-level cache */
  float *sums;     /**< [SUM_WORDS] of C, when the inner dimension is longer than a panel */
  uint32_t *tile;  /**< [TILE_WORDS] of A, where it can't be read in place */
  uint32_t *rows;  /**< [STAGE_WORDS] rows of B on their way into the panel */
};

/** A step is one fp32 element, or a pair of bf16 elements, of the inner dimension. */
enum {
  MOST_STEPS = 2048, /**< packed at once; longer inner dimensions are taken in parts */
  PANEL_WORDS = 96 << 10,
  PANEL_SLACK = 1 << 10, /**< transpositions write whole vectors, beyond the last step */
  SUM_WORDS = 96 << 10,
  TILE_ROWS = 16,
  TILE_WORDS = TILE_ROWS * MOST_STEPS,
  STAGE_STEPS = 256,
  STAGE_WORDS = 16 * STAGE_STEPS,
};

/** The unit in which work is shared out: some rows of a panel of columns. Any cut between units gives the same bits. */
#define MULTIPLY_DECLARE(isa)                                                                                \
  int64_t multiply_units_##isa(const struct multiply *task);                                                 \
  void multiply_run_##isa(const struct multiply *task, struct multiply_scratch *scratch, int64_t first_unit, \
                          int64_t last_unit);                                                                \
  void dequantize_##isa(void *out, enum dtype type, const struct matrix *matrix, size_t first, int count);
MULTIPLY_DECLARE(plain)
MULTIPLY_DECLARE(avx2)
MULTIPLY_DECLARE(avx512)

/** out[i] = scale of block first + i of 64 elements (base/types.h). */
void block_scales(float *out, const struct matrix *matrix, size_t first, int count);

#endif
