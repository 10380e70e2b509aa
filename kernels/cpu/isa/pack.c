/* Packing; see pack.h. Two ways in: operands contiguous along the inner dimension are transposed, a group of LANES
 * columns at a time; operands contiguous along the columns are interleaved, two rows at a time when they are bf16. */
#include "kernels/cpu/isa/pack.h"

#include "kernels/cpu/isa/product_vector.h"

#define dequantize ISA_NAME(dequantize)

_Static_assert((int)LANES *(int)STAGE_STEPS <= (int)STAGE_WORDS, "the scratch must hold the rows of a transposition");

#if defined(__AVX512BF16__)
/** out[s * stride + lane] = rows[lane][s] for 16 x 16 words. */
static void transpose(const uint32_t *const *rows, int first, uint32_t *out, int stride) {
  __m512i a[16], b[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    __m512i x = _mm512_loadu_si512(rows[i] + first), y = _mm512_loadu_si512(rows[i + 1] + first);
    a[i] = _mm512_unpacklo_epi32(x, y);
    a[i + 1] = _mm512_unpackhi_epi32(x, y);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    b[i] = _mm512_unpacklo_epi64(a[i], a[i + 2]);
    b[i + 1] = _mm512_unpackhi_epi64(a[i], a[i + 2]);
    b[i + 2] = _mm512_unpacklo_epi64(a[i + 1], a[i + 3]);
    b[i + 3] = _mm512_unpackhi_epi64(a[i + 1], a[i + 3]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) { /* b[i + 4 g]: steps i, i + 4, i + 8, i + 12 of rows 4 g .. 4 g + 3 */
    __m512i low = _mm512_shuffle_i32x4(b[i], b[i + 4], 0x88), high = _mm512_shuffle_i32x4(b[i], b[i + 4], 0xdd);
    __m512i low2 = _mm512_shuffle_i32x4(b[i + 8], b[i + 12], 0x88);
    __m512i high2 = _mm512_shuffle_i32x4(b[i + 8], b[i + 12], 0xdd);
    _mm512_storeu_si512(out + i * stride, _mm512_shuffle_i32x4(low, low2, 0x88));
    _mm512_storeu_si512(out + (i + 4) * stride, _mm512_shuffle_i32x4(high, high2, 0x88));
    _mm512_storeu_si512(out + (i + 8) * stride, _mm512_shuffle_i32x4(low, low2, 0xdd));
    _mm512_storeu_si512(out + (i + 12) * stride, _mm512_shuffle_i32x4(high, high2, 0xdd));
  }
}
#elif defined(__AVX2__)
/** out[s * stride + lane] = rows[lane][s] for 8 x 8 words. */
static void transpose(const uint32_t *const *rows, int first, uint32_t *out, int stride) {
  __m256 a[8], b[8];
  for (int i = 0; i < 8; i += 2) {
    __m256 x = load(rows[i] + first), y = load(rows[i + 1] + first);
    a[i] = _mm256_unpacklo_ps(x, y);
    a[i + 1] = _mm256_unpackhi_ps(x, y);
  }
  for (int i = 0; i < 8; i += 4) {
    b[i] = _mm256_shuffle_ps(a[i], a[i + 2], 0x44);
    b[i + 1] = _mm256_shuffle_ps(a[i], a[i + 2], 0xee);
    b[i + 2] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0x44);
    b[i + 3] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0xee);
  }
  for (int i = 0; i < 4; i++) {
    store(out + i * stride, _mm256_permute2f128_ps(b[i], b[i + 4], 0x20));
    store(out + (i + 4) * stride, _mm256_permute2f128_ps(b[i], b[i + 4], 0x31));
  }
}
#else
static void transpose(const uint32_t *const *rows, int first, uint32_t *out, int stride) {
  for (int s = 0; s < LANES; s++)
    for (int lane = 0; lane < LANES; lane++) out[s * stride + lane] = rows[lane][first + s];
}
#endif

static void pad_words(uint32_t *out, int words, bool pairs, int count) {
  size_t bytes = (pairs ? 2 : 4) * (size_t)count;
  memset((char *)out + bytes, 0, 4 * (size_t)words - bytes);
}

/** `count` elements as words of a panel: pairs of bf16 as they are, or each widened to fp32; zeros up to `words`. */
static void copy_words(uint32_t *out, int words, const void *from, enum dtype type, bool pairs, int count) {
  if (pairs || type == DTYPE_F32) {
    memcpy(out, from, count * dtype_size(type));
  } else {
    for (int i = 0; i < count; i++) out[i] = (uint32_t)((const bf16 *)from)[i] << 16;
  }
  pad_words(out, words, pairs, count);
}

/** Where a column of B comes from. */
struct source {
  const void *data; /**< its first element, or NULL when 4-bit or beyond the last column */
  enum dtype type;
  const struct matrix *matrix; /**< 4-bit */
  size_t element;              /**< of the matrix */
  size_t ahead;                /**< bytes from `data` to the column that the same lane packs next */
};

static struct source find_column(const struct multiply *task, int column) {
  if (column >= task->n) return (struct source){0};
  if (!task->part_count) {
    size_t stride = task->b.row_stride * dtype_size(task->b.type);
    const char *data = (const char *)task->b.data + column * stride;
    return (struct source){.data = data, .type = task->b.type, .ahead = LANES * stride};
  }
  int part = 0;
  while (column >= task->parts[part]->rows) column -= task->parts[part++]->rows;
  const struct matrix *matrix = task->parts[part];
  size_t element = (size_t)column * matrix->cols;
  if (matrix->format == WEIGHT_BF16)
    return (struct source){.data = (const bf16 *)matrix->codes + element,
                           .type = DTYPE_BF16,
                           .ahead = LANES * (size_t)matrix->cols * sizeof(bf16)};
  return (struct source){.matrix = matrix, .element = element};
}

/** 4-bit weights are rounded to the activation type, also where bf16 is then widened. */
static void dequantize_words(const struct multiply *task, const struct source *source, bool pairs, int first, int count,
                             int words, uint32_t *stage) {
  enum dtype type = task->a.type;
  if (type == DTYPE_F32 || pairs) {
    dequantize(stage, type, source->matrix, source->element + first, count);
    pad_words(stage, words, pairs, count);
    return;
  }
  bf16 rounded[STAGE_STEPS];
  dequantize(rounded, type, source->matrix, source->element + first, count);
  copy_words(stage, words, rounded, type, pairs, count);
}

/** The words of elements first .. first + count of a column, in place or staged at `stage`. */
static const uint32_t *column_words(const struct multiply *task, const struct source *source, bool pairs, int first,
                                    int count, int words, uint32_t *stage) {
  if (source->data) {
    const char *data = (const char *)source->data + first * dtype_size(source->type);
    bool same = (source->type == DTYPE_BF16) == pairs;
    if (same && steps_of(count, pairs) == words && (!pairs || count % 2 == 0))
      return (const uint32_t *)(const void *)data;
    copy_words(stage, words, data, source->type, pairs, count);
  } else if (source->matrix) {
    dequantize_words(task, source, pairs, first, count, words, stage);
  } else {
    memset(stage, 0, 4 * (size_t)words);
  }
  return stage;
}

static void transpose_columns(const struct multiply *task, const struct source *sources, uint32_t *stage, bool pairs,
                              int first, int count, uint32_t *out, int stride) {
  int depth = pairs ? 2 * STAGE_STEPS : STAGE_STEPS;
  for (int done = 0; done < count; done += depth) {
    int part = count - done < depth ? count - done : depth, steps = steps_of(part, pairs);
    int words = (steps + LANES - 1) / LANES * LANES;
    const uint32_t *rows[LANES];
    for (int lane = 0; lane < LANES; lane++)
      rows[lane] = column_words(task, &sources[lane], pairs, first + done, part, words, stage + lane * STAGE_STEPS);
    for (int s = 0; s < words; s += LANES) {
      for (int lane = 0; lane < LANES; lane++) __builtin_prefetch((const char *)(rows[lane] + s) + sources[lane].ahead);
      transpose(rows, s, out + (size_t)s * stride, stride);
    }
    out += (size_t)steps * stride;
  }
}

/** `width` words of a step: elements of one row widened, or pairs of two rows (`second` NULL: zero); zeros from `count`
 *  on. */
static void interleave(uint32_t *out, int width, const void *row, const void *second, enum dtype type, bool pairs,
                       int count) {
  if (type == DTYPE_F32) {
    memcpy(out, row, 4 * (size_t)count);
    for (int i = count; i < width; i++) out[i] = 0;
    return;
  }
  const bf16 *low = row, *high = second;
#if defined(__AVX512BF16__)
  for (int i = 0; i < width; i += LANES) {
    int left = count - i;
    __mmask16 mask = (__mmask16)(left >= LANES ? 0xffff : left > 0 ? (1 << left) - 1 : 0);
    __m512i words = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, low + i));
    if (!pairs) words = _mm512_slli_epi32(words, 16);
    if (high) {
      __m512i upper = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, high + i));
      words = _mm512_or_si512(words, _mm512_slli_epi32(upper, 16));
    }
    _mm512_storeu_si512(out + i, words);
  }
#else
  (void)high;
  (void)pairs;
  for (int i = 0; i < count; i++) out[i] = (uint32_t)low[i] << 16;
  for (int i = count; i < width; i++) out[i] = 0;
#endif
}

enum { AHEAD = 16, LINE = 64 }; /* rows, bytes */

/** Rows lie too far apart for the processor to see that they will be read. Addresses beyond the operand do no harm. */
static void prefetch_rows(const char *row, int rows, size_t stride, size_t bytes) {
  for (int i = 0; i < rows; i++, row += stride)
    for (size_t at = 0; at < bytes + LINE; at += LINE) __builtin_prefetch(row + at);
}

/** out[step][width], from rows of the inner dimension; zeros in the columns from `count` on. */
static void interleave_steps(const struct operand *operand, bool pairs, int column, int columns, int width, int first,
                             int count, uint32_t *out) {
  size_t size = dtype_size(operand->type), stride = operand->step_stride * size;
  const char *row = (const char *)operand->data + column * size + first * stride;
  int group = pairs ? 2 : 1;
  for (int i = 0; i < count; i += group, row += group * stride, out += width) {
    prefetch_rows(row + AHEAD * stride, group, stride, columns * size);
    interleave(out, width, row, pairs && i + 1 < count ? row + stride : NULL, operand->type, pairs, columns);
  }
}

void pack_panel(uint32_t *panel, const struct multiply *task, uint32_t *stage, bool pairs, int column, int width,
                int first, int count) {
  if (!task->part_count && task->b.step_stride != 1) {
    int columns = task->n - column < width ? task->n - column : width;
    interleave_steps(&task->b, pairs, column, columns, width, first, count, panel);
    return;
  }
  for (int group = 0; group < width; group += LANES) {
    struct source sources[LANES];
    for (int lane = 0; lane < LANES; lane++) sources[lane] = find_column(task, column + group + lane);
    transpose_columns(task, sources, stage, pairs, first, count, panel + group, width);
  }
}

void pack_tile(uint32_t *tile, const struct multiply *task, bool pairs, int row, int rows, int first, int count) {
  const struct operand *a = &task->a;
  if (a->step_stride != 1) {
    interleave_steps(a, pairs, row, rows, TILE_ROWS, first, count, tile);
    return;
  }
  int steps = steps_of(count, pairs);
  for (int r = 0; r < rows; r++) {
    const char *data = (const char *)a->data + ((row + r) * a->row_stride + first) * dtype_size(a->type);
    copy_words(tile + (size_t)r * steps, steps, data, a->type, pairs, count);
  }
}
