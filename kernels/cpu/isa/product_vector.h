/**
 * @file product_vector.h
 * What the matrix products need of an instruction set: a vector of LANES floats, and the size of the register tile.
 */
#ifndef QST_KERNELS_CPU_ISA_PRODUCT_VECTOR_H
#define QST_KERNELS_CPU_ISA_PRODUCT_VECTOR_H

#include <stdint.h>
#include <string.h>

#include "base/types.h"
#include "kernels/cpu/isa/isa.h"

#if defined(__AVX512BF16__)
#include <immintrin.h>

enum { LANES = 16, VECTORS = 3, MOST_ROWS = 12, HAS_PAIRS = 1 };
typedef __m512 vector;

static inline vector load(const void *from) {
  return _mm512_loadu_ps(from);
}
static inline void store(void *to, vector x) {
  _mm512_storeu_ps(to, x);
}
static inline vector broadcast(const void *from) {
  float x;
  memcpy(&x, from, sizeof x);
  return _mm512_set1_ps(x);
}
static inline vector multiply_add(vector sum, vector a, vector b) {
  return _mm512_fmadd_ps(a, b, sum);
}
/** sum[i] + a[2i] b[2i] + a[2i + 1] b[2i + 1] of bf16 pairs. */
static inline vector multiply_add_pairs(vector sum, vector a, vector b) {
  return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
}

#elif defined(__AVX2__)
#include <immintrin.h>

enum { LANES = 8, VECTORS = 2, MOST_ROWS = 12, HAS_PAIRS = 0 };
typedef __m256 vector;

static inline vector load(const void *from) {
  return _mm256_loadu_ps(from);
}
static inline void store(void *to, vector x) {
  _mm256_storeu_ps(to, x);
}
static inline vector broadcast(const void *from) {
  float x;
  memcpy(&x, from, sizeof x);
  return _mm256_set1_ps(x);
}
static inline vector multiply_add(vector sum, vector a, vector b) {
  return _mm256_fmadd_ps(a, b, sum);
}

#else

enum { LANES = 4, VECTORS = 2, MOST_ROWS = 4, HAS_PAIRS = 0 };
typedef struct {
  float x[4];
} vector;

static inline vector load(const void *from) {
  vector v;
  memcpy(&v, from, sizeof v);
  return v;
}
static inline void store(void *to, vector v) {
  memcpy(to, &v, sizeof v);
}
static inline vector broadcast(const void *from) {
  float x;
  memcpy(&x, from, sizeof x);
  return (vector){{x, x, x, x}};
}
static inline vector multiply_add(vector sum, vector a, vector b) {
  for (int i = 0; i < 4; i++) sum.x[i] += a.x[i] * b.x[i];
  return sum;
}

#endif

#if !defined(__AVX512BF16__)
/** Never reached: without the instruction, bf16 operands are widened to fp32 as they are packed. */
static inline vector multiply_add_pairs(vector sum, vector a, vector b) {
  return multiply_add(sum, a, b);
}
#endif

#endif
