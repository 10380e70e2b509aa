#include "kernels/quantize.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"

/* What bitsandbytes 0.50 does on the CPU, step by step, because every rounding shows in the bytes:
 *   - a whole block is multiplied by the reciprocal of its scale (at least 1e-38); the last, shorter block is divided by
 *     its scale, and that scale is stored as at least 1e-38;
 *   - the code is the number of midpoints between neighbouring values that lie below the scaled weight, so a tie goes to
 *     the smaller value;
 *   - an odd last nibble holds the code of zero;
 *   - the mean of the scales is PyTorch's fp32 sum on one thread (cascade_sum below) divided by their number;
 *   - the 8-bit code of a scale is the nearest one to its place on a grid of 65536 steps over [-1, 1] (on a GPU
 *     bitsandbytes searches without that grid, so there single codes may differ by one step). */

enum { CODES = 16, MIDPOINTS = CODES - 1, DYNAMIC_CODES = 256 };
static const float SMALLEST_SCALE = 1e-38f;

struct code_book {
  float midpoints[MIDPOINTS]; /* ascending */
  uint8_t codes[CODES];       /* code of the k-th smallest value */
};

/* FP4 codes by value. Zero has two codes; bitsandbytes gives 0 to what is exactly zero or rounds up to it, 8 to the rest. */
static const uint8_t fp4_order[CODES] = {11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3};

static void code_book_fill(struct code_book *book, enum weight_format format) {
  const float *map = format == WEIGHT_NF4 ? nf4_map : fp4_map;
  for (int i = 0; i < CODES; i++) book->codes[i] = format == WEIGHT_NF4 ? (uint8_t)i : fp4_order[i];
  for (int i = 0; i < MIDPOINTS; i++) book->midpoints[i] = (map[book->codes[i]] + map[book->codes[i + 1]]) / 2;
}

/* Largest magnitude of a block. As bits, because magnitudes order like their bits and integers vectorize. */
static float largest_magnitude(const float *values, size_t count) {
  uint32_t largest = 0;
  for (size_t i = 0; i < count; i++) {
    uint32_t bits;
    memcpy(&bits, &values[i], sizeof bits);
    bits &= 0x7fffffffu;
    largest = bits > largest ? bits : largest;
  }
  float magnitude;
  memcpy(&magnitude, &largest, sizeof magnitude);
  return magnitude;
}

/* scaled[QUANT_BLOCK] -> QUANT_BLOCK / 2 bytes. */
static void encode_block(const struct code_book *book, const float *scaled, uint8_t *out) {
  int32_t above[QUANT_BLOCK] = {0};
  for (int k = 0; k < MIDPOINTS; k++)
    for (int i = 0; i < QUANT_BLOCK; i++) above[i] += scaled[i] > book->midpoints[k];
  for (int i = 0; i < QUANT_BLOCK / 2; i++)
    out[i] = (uint8_t)(book->codes[above[2 * i]] << 4 | book->codes[above[2 * i + 1]]);
}

static float quantize_whole_block(const struct code_book *book, const float *weights, uint8_t *out) {
  float scale = largest_magnitude(weights, QUANT_BLOCK);
  float inverse = 1.0f / (scale > SMALLEST_SCALE ? scale : SMALLEST_SCALE);
  float scaled[QUANT_BLOCK];
  for (int i = 0; i < QUANT_BLOCK; i++) scaled[i] = weights[i] * inverse;
  encode_block(book, scaled, out);
  return scale;
}

static float quantize_last_block(const struct code_book *book, const float *weights, size_t count, uint8_t *out) {
  float scale = largest_magnitude(weights, count);
  if (scale < SMALLEST_SCALE) scale = SMALLEST_SCALE;
  float scaled[QUANT_BLOCK] = {0};
  for (size_t i = 0; i < count; i++) scaled[i] = weights[i] / scale;
  uint8_t bytes[QUANT_BLOCK / 2];
  encode_block(book, scaled, bytes);
  memcpy(out, bytes, (count + 1) / 2);
  return scale;
}

static int not_finite(void) {
  return fail(ERR_INPUT, "the weights hold infinities or NaN; the model is damaged");
}

/* Codes of all blocks; scales[matrix_blocks()]. */
static int quantize_blocks(const struct matrix *out, const float *weights, float *scales) {
  struct code_book book;
  code_book_fill(&book, out->format);
  size_t whole = matrix_elements(out) / QUANT_BLOCK, rest = matrix_elements(out) % QUANT_BLOCK;
  uint8_t *codes = out->codes;
  int bad = 0;
#pragma omp parallel for schedule(static) reduction(| : bad) if (whole > 1024)
  for (size_t b = 0; b < whole; b++) {
    scales[b] = quantize_whole_block(&book, weights + b * QUANT_BLOCK, codes + b * (QUANT_BLOCK / 2));
    bad |= !isfinite(scales[b]);
  }
  if (rest) {
    scales[whole] = quantize_last_block(&book, weights + whole * QUANT_BLOCK, rest, codes + whole * (QUANT_BLOCK / 2));
    bad |= !isfinite(scales[whole]);
  }
  return bad ? not_finite() : OK;
}

/* PyTorch's fp32 sum of a contiguous array (ATen/native/cpu/SumKernel.cpp, cascade_sum) in 8 lanes (fewer
 * than 8 values: one) on one thread: four accumulators in turn, each a cascade of four levels of 2^power steps. */
enum { SUM_LANES = 8, SUM_ACCUMULATORS = 4, SUM_LEVELS = 4, SUM_WIDTH = SUM_LANES * SUM_ACCUMULATORS };

static int ceil_log2(size_t value) {
  int power = 0;
  while (((size_t)1 << power) < value) power++;
  return power;
}

static void add_into(float *sums, const float *values, int count) {
  for (int i = 0; i < count; i++) sums[i] += values[i];
}

/* After `step` rows: carries full levels upwards. */
static void carry_levels(float sums[SUM_LEVELS][SUM_WIDTH], size_t step, int power, int width) {
  for (int level = 1; level < SUM_LEVELS; level++) {
    add_into(sums[level], sums[level - 1], width);
    memset(sums[level - 1], 0, sizeof sums[level - 1]);
    size_t mask = (((size_t)1 << power) - 1) << (level * power);
    if (step & mask) return;
  }
}

/* total[lanes] = sums of values[i * lanes + lane] over i < count. */
static void sum_lanes(const float *values, size_t count, int lanes, float *total) {
  float sums[SUM_LEVELS][SUM_WIDTH] = {{0}};
  int width = SUM_ACCUMULATORS * lanes;
  size_t rows = count / SUM_ACCUMULATORS;
  int power = ceil_log2(rows) / SUM_LEVELS;
  if (power < 4) power = 4;
  size_t step = (size_t)1 << power, i = 0;
  while (i + step <= rows) {
    for (size_t end = i + step; i < end; i++) add_into(sums[0], values + i * width, width);
    carry_levels(sums, i, power, width);
  }
  for (; i < rows; i++) add_into(sums[0], values + i * width, width);
  for (int level = 1; level < SUM_LEVELS; level++) add_into(sums[0], sums[level], width);
  for (i = rows * SUM_ACCUMULATORS; i < count; i++) add_into(sums[0], values + i * lanes, lanes);
  for (int k = 1; k < SUM_ACCUMULATORS; k++) add_into(sums[0], sums[0] + k * lanes, lanes);
  memcpy(total, sums[0], lanes * sizeof *total);
}

static float cascade_sum(const float *values, size_t count) {
  float lanes[SUM_LANES];
  if (count < SUM_LANES) {
    sum_lanes(values, count, 1, lanes);
    return lanes[0];
  }
  sum_lanes(values, count / SUM_LANES, SUM_LANES, lanes);
  float total = 0;
  for (size_t i = count / SUM_LANES * SUM_LANES; i < count; i++) total += values[i];
  for (int i = 0; i < SUM_LANES; i++) total += lanes[i];
  return total;
}

/* Nearest code on the grid; `value` in [-1, 1]. */
static uint8_t dynamic_code(float value) {
  enum { GRID = 65536 };
  value = value < -1 ? -1 : value > 1 ? 1 : value;
  float half = (value + 1.0f) * 0.5f;
  int place = (int)fmaf(half, GRID - 1, 0.5f);
  float at = (float)(2 * place) / (GRID - 1) - 1.0f;
  int below = 0, end = DYNAMIC_CODES - 1; /* number of midpoints below `at` */
  while (below < end) {
    int middle = (below + end) / 2;
    if (0.5f * (dynamic_map[middle] + dynamic_map[middle + 1]) < at)
      below = middle + 1;
    else
      end = middle;
  }
  return (uint8_t)below;
}

/* Double quantization of scales[matrix_blocks()], which it shifts by their mean. */
static void quantize_scales(struct matrix *out, float *scales) {
  size_t blocks = matrix_blocks(out);
  out->scale_mean = cascade_sum(scales, blocks) / (float)blocks;
  for (size_t b = 0; b < blocks; b++) scales[b] -= out->scale_mean;
  for (size_t first = 0; first < blocks; first += QUANT_SCALE_BLOCK) {
    size_t count = blocks - first < QUANT_SCALE_BLOCK ? blocks - first : QUANT_SCALE_BLOCK;
    float scale = largest_magnitude(scales + first, count);
    out->scale_scales[first / QUANT_SCALE_BLOCK] = scale;
    if (scale == 0) {
      memset(out->scale_codes + first, 0, count);
      continue;
    }
    float inverse = 1.0f / scale;
    for (size_t i = first; i < first + count; i++) out->scale_codes[i] = dynamic_code(scales[i] * inverse);
  }
}

static int convert_to_bf16(bf16 *out, const float *weights, size_t count) {
  int bad = 0;
#pragma omp parallel for simd schedule(static) reduction(| : bad) if (count > 65536)
  for (size_t i = 0; i < count; i++) {
    out[i] = float_to_bf16(weights[i]);
    bad |= (out[i] & 0x7f80) == 0x7f80;
  }
  return bad ? not_finite() : OK;
}

static int check_shape(const struct matrix *matrix) {
  if (matrix->rows <= 0 || matrix->cols <= 0)
    return fail(ERR_INTERNAL, "a matrix of %d x %d cannot be quantized", matrix->rows, matrix->cols);
  return OK;
}

int quantize_matrix(struct matrix *out, const float *weights) {
  TRY(check_shape(out));
  if (out->format == WEIGHT_BF16) return convert_to_bf16(out->codes, weights, matrix_elements(out));
  if (!out->double_quantized) return quantize_blocks(out, weights, out->scales);
  float *scales;
  TRY(memory_array(&scales, matrix_blocks(out), sizeof *scales));
  int status = quantize_blocks(out, weights, scales);
  if (status == OK) quantize_scales(out, scales);
  free(scales);
  return status;
}

static float block_scale(const struct matrix *matrix, size_t block) {
  if (!matrix->double_quantized) return matrix->scales[block];
  /* Two statements: a fused multiply-add would round once, bitsandbytes rounds twice. */
  float scale = dynamic_map[matrix->scale_codes[block]] * matrix->scale_scales[block / QUANT_SCALE_BLOCK];
  scale += matrix->scale_mean;
  return scale;
}

int dequantize_matrix(float *out, const struct matrix *matrix) {
  TRY(check_shape(matrix));
  size_t count = matrix_elements(matrix);
  if (matrix->format == WEIGHT_BF16) {
    const bf16 *values = matrix->codes;
    for (size_t i = 0; i < count; i++) out[i] = bf16_to_float(values[i]);
    return OK;
  }
  const float *map = matrix->format == WEIGHT_NF4 ? nf4_map : fp4_map;
  const uint8_t *codes = matrix->codes;
  for (size_t b = 0; b < matrix_blocks(matrix); b++) {
    float scale = block_scale(matrix, b);
    size_t end = (b + 1) * QUANT_BLOCK < count ? (b + 1) * QUANT_BLOCK : count;
    for (size_t i = b * QUANT_BLOCK; i < end; i++) out[i] = map[codes[i / 2] >> (i % 2 ? 0 : 4) & 15] * scale;
  }
  return OK;
}
