#include "kernels/cpu/isa/write_sums.h"

#include "kernels/cpu/isa/product_vector.h"

#if defined(__AVX512BF16__)

/** How the elements of C are made; constant in every copy of write_block(). */
struct ending {
  bool rounded, bias, residual;
};

/** Sixteen sums, those under the mask, with bias and residual. */
static inline __attribute__((always_inline)) __m512 finish(const struct multiply *task, struct ending ending,
                                                           const float *sums, size_t place, int column,
                                                           __mmask16 mask) {
  __m512 value = _mm512_loadu_ps(sums);
  if (ending.bias) value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(mask, task->bias + column));
  if (ending.residual && ending.rounded) {
    __m256i bits = _mm256_maskz_loadu_epi16(mask, (const bf16 *)task->residual + place);
    value = _mm512_add_ps(value, _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16)));
  } else if (ending.residual) {
    value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(mask, (const float *)task->residual + place));
  }
  return value;
}

/** The first `count` of sixteen. Masked stores of 16-bit elements are slow, of pairs of them not. */
static inline void write_some(bf16 *c, __m512 value, int count) {
  union {
    __m256i vector;
    bf16 elements[16];
  } rounded = {(__m256i)_mm512_cvtneps_pbh(value)};
  _mm256_mask_storeu_epi32(c, (__mmask8)((1 << (count / 2)) - 1), rounded.vector);
  if (count % 2) c[count - 1] = rounded.elements[count - 1];
}

static inline __attribute__((always_inline)) void write_block(const struct multiply *task, struct ending ending,
                                                              const float *sums, int width, size_t place, int rows,
                                                              int column, int columns) {
  int whole = columns / LANES * LANES, rest = columns - whole;
  __mmask16 mask = (__mmask16)((1 << rest) - 1);
  for (int r = 0; r < rows; r++, sums += width, place += task->n) {
    for (int j = 0; j < whole; j += LANES) {
      __m512 value = finish(task, ending, sums + j, place + j, column + j, 0xffff);
      if (ending.rounded)
        _mm256_storeu_si256((__m256i *)(void *)((bf16 *)task->c + place + j), (__m256i)_mm512_cvtneps_pbh(value));
      else
        _mm512_storeu_ps((float *)task->c + place + j, value);
    }
    if (!rest) continue;
    __m512 value = finish(task, ending, sums + whole, place + whole, column + whole, mask);
    if (ending.rounded)
      write_some((bf16 *)task->c + place + whole, value, rest);
    else
      _mm512_mask_storeu_ps((float *)task->c + place + whole, mask, value);
  }
}

void write_sums(const struct multiply *task, const float *sums, int width, int row, int rows, int column, int columns) {
  size_t place = (size_t)row * task->n + column;
  bool rounded = task->c_type == DTYPE_BF16, bias = task->bias, residual = task->residual;
#define ENDING(r, b, a)                                 \
  if (rounded == (r) && bias == (b) && residual == (a)) \
  write_block(task, (struct ending){r, b, a}, sums, width, place, rows, column, columns)
  ENDING(false, false, false);
  ENDING(false, false, true);
  ENDING(false, true, false);
  ENDING(false, true, true);
  ENDING(true, false, false);
  ENDING(true, false, true);
  ENDING(true, true, false);
  ENDING(true, true, true);
#undef ENDING
}

#else

static float read_act(const void *x, enum dtype type, size_t i) {
  return type == DTYPE_BF16 ? bf16_to_float(((const bf16 *)x)[i]) : ((const float *)x)[i];
}

void write_sums(const struct multiply *task, const float *sums, int width, int row, int rows, int column, int columns) {
  for (int r = 0; r < rows; r++, sums += width) {
    size_t place = (size_t)(row + r) * task->n + column;
    for (int j = 0; j < columns; j++) {
      float value = sums[j];
      if (task->bias) value += task->bias[column + j];
      if (task->residual) value += read_act(task->residual, task->c_type, place + j);
      if (task->c_type == DTYPE_BF16)
        ((bf16 *)task->c)[place + j] = float_to_bf16(value);
      else
        ((float *)task->c)[place + j] = value;
    }
  }
}

#endif
