/**
 * @file vec.h
 * Vectors of fp32 as wide as the instruction set of this compilation, and rows of activations as fp32.
 * + - * / on `vec` are the compiler's; a * b + c becomes one fused operation where there is one.
 */
#ifndef QST_KERNELS_CPU_ISA_VEC_H
#define QST_KERNELS_CPU_ISA_VEC_H

#include <string.h>

#include "base/types.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
enum { LANES = 16 };
#elif defined(__AVX2__)
enum { LANES = 8 };
#else
enum { LANES = 4 };
#endif

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t vec_int __attribute__((vector_size(4 * LANES)));
typedef uint32_t vec_bits __attribute__((vector_size(4 * LANES))); /**< wraps around, also on a tail's leftovers */

static inline vec vec_load(const float *from) {
  vec v;
  memcpy(&v, from, sizeof v);
  return v;
}

static inline void vec_store(float *to, vec v) {
  memcpy(to, &v, sizeof v);
}

static inline vec vec_set(float x) {
  return x - (vec){0};
}

/** The larger of each pair; b where either is a NaN. */
static inline vec vec_max(vec a, vec b) {
#if defined(__AVX512F__)
  return _mm512_max_ps(a, b);
#elif defined(__AVX2__)
  return _mm256_max_ps(a, b);
#else
  vec_int larger = a > b;
  return (vec)((larger & (vec_int)a) | (~larger & (vec_int)b));
#endif
}

/* The sum and the highest of all lanes, halving the vector until four are left. */
typedef float vec4 __attribute__((vector_size(16)));

static inline vec4 vec4_max(vec4 a, vec4 b) {
#if defined(__AVX2__)
  return _mm_max_ps(a, b);
#else
  return vec_max(a, b);
#endif
}

/** The smaller of each pair; b where either is a NaN. */
static inline vec vec_min(vec a, vec b) {
#if defined(__AVX512F__)
  return _mm512_min_ps(a, b);
#elif defined(__AVX2__)
  return _mm256_min_ps(a, b);
#else
  vec_int smaller = a < b;
  return (vec)((smaller & (vec_int)a) | (~smaller & (vec_int)b));
#endif
}

static inline float vec_sum(vec v) {
#if defined(__AVX512F__)
  __m256 half = _mm512_castps512_ps256(v) + _mm512_extractf32x8_ps(v, 1);
  vec4 x = _mm256_castps256_ps128(half) + _mm256_extractf128_ps(half, 1);
#elif defined(__AVX2__)
  vec4 x = _mm256_castps256_ps128(v) + _mm256_extractf128_ps(v, 1);
#else
  vec4 x = v;
#endif
  return (x[0] + x[2]) + (x[1] + x[3]);
}

/** The sums of four vectors, in a third of the steps. */
static inline vec4 vec_sum4(vec a, vec b, vec c, vec d) {
#if defined(__AVX512F__)
  vec ab = _mm512_unpacklo_ps(a, b) + _mm512_unpackhi_ps(a, b),
      cd = _mm512_unpacklo_ps(c, d) + _mm512_unpackhi_ps(c, d);
  vec all = _mm512_shuffle_ps(ab, cd, 0x44) + _mm512_shuffle_ps(ab, cd, 0xee);
  __m256 half = _mm512_castps512_ps256(all) + _mm512_extractf32x8_ps(all, 1);
  return _mm256_castps256_ps128(half) + _mm256_extractf128_ps(half, 1);
#elif defined(__AVX2__)
  vec ab = _mm256_unpacklo_ps(a, b) + _mm256_unpackhi_ps(a, b),
      cd = _mm256_unpacklo_ps(c, d) + _mm256_unpackhi_ps(c, d);
  vec all = _mm256_shuffle_ps(ab, cd, 0x44) + _mm256_shuffle_ps(ab, cd, 0xee);
  return _mm256_castps256_ps128(all) + _mm256_extractf128_ps(all, 1);
#else
  return (vec4){vec_sum(a), vec_sum(b), vec_sum(c), vec_sum(d)};
#endif
}

static inline float vec_highest(vec v) {
#if defined(__AVX512F__)
  __m256 half = _mm256_max_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
  vec4 x = _mm_max_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
#elif defined(__AVX2__)
  vec4 x = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
#else
  vec4 x = v;
#endif
  x = vec4_max(x, (vec4){x[2], x[3], x[2], x[3]});
  return x[0] > x[1] ? x[0] : x[1];
}

/* exp(x) = 2^n · exp(r) with n = round(x / ln 2), r = x − n · ln 2 in two steps (Cody and Waite 1980), and exp(r) by the
 * minimax polynomial of degree 6 (Remez; relative error 1.9e-9). Under 2 ulp. x is kept in the range where the result is
 * a normal number, so that far below it exp is 1.2e-38 instead of 0; a NaN passes. Adding 1.5 · 2^23 rounds to an
 * integer, which is then in the low bits. */
#define EXP_LOWEST  (-87.336540f)
#define EXP_HIGHEST 88.0f
#define EXP_ROUND   0x1.8p23f
#define EXP_LOG2E   1.44269504f
#define EXP_LN2_A   0.693359375f
#define EXP_LN2_B   (-2.12194440e-4f)
#define EXP_TERMS(r)                                   \
  (1.0f + (r) * (1.0f + (r) * (0x1.fffffap-2f +        \
                               (r) * (0x1.55540ap-3f + \
                                      (r) * (0x1.55589ap-5f + (r) * (0x1.126d0cp-7f + (r)*0x1.6ab98p-10f))))))

static inline float row_exp(float x) {
  x = EXP_LOWEST > x ? EXP_LOWEST : x;
  x = EXP_HIGHEST < x ? EXP_HIGHEST : x;
  float shifted = x * EXP_LOG2E + EXP_ROUND, n = shifted - EXP_ROUND;
  float r = (x - n * EXP_LN2_A) - n * EXP_LN2_B, y = EXP_TERMS(r);
  uint32_t bits, power;
  memcpy(&bits, &y, sizeof bits);
  memcpy(&power, &shifted, sizeof power);
  bits += power << 23;
  memcpy(&y, &bits, sizeof y);
  return y;
}

/* The same for a vector: a compiler turns the two limits of a loop over row_exp() into branches and blends. */
static inline vec vec_exp(vec x) {
  x = vec_min(vec_set(EXP_HIGHEST), vec_max(vec_set(EXP_LOWEST), x));
  vec shifted = x * EXP_LOG2E + EXP_ROUND, n = shifted - EXP_ROUND;
  vec r = (x - n * EXP_LN2_A) - n * EXP_LN2_B, y = EXP_TERMS(r);
  return (vec)((vec_bits)y + ((vec_bits)shifted << 23));
}

static inline vec vec_sigmoid(vec x) {
  return 1.0f / (1.0f + vec_exp(-x));
}

/** 2^x for weights of a soft-max, x ≤ 0 or a little above: relative error 8e-8 + |x| · 6e-8, so that small weights are
 *  less exact than large ones, and 0 or 1.2e-38 far below. Minimax polynomial of degree 5 (Remez). */
static inline vec vec_exp2(vec x) {
#if defined(__AVX512F__)
  vec n = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), r = x - n;
#else
  x = vec_max(vec_set(-126.0f), x);
  vec shifted = x + EXP_ROUND, r = x - (shifted - EXP_ROUND);
#endif
  vec y = 0x1.5c08e6p-10f * r + 0x1.3d0c52p-7f;
  y = y * r + 0x1.c6b6e4p-5f;
  y = y * r + 0x1.ebf918p-3f;
  y = y * r + 0x1.62e428p-1f;
  y = y * r + 0x1.000002p+0f;
#if defined(__AVX512F__)
  return _mm512_scalef_ps(y, n);
#else
  return (vec)((vec_bits)y + ((vec_bits)shifted << 23));
#endif
}

/** σ(x) = 1 / (1 + exp(−x)). */
static inline float row_sigmoid(float x) {
  return 1.0f / (1.0f + row_exp(-x));
}

/* ---- rows of activations ----------------------------------------------------------------------------------- */

/** Columns that element-wise code works on at a time, as fp32 on the stack. */
enum { CHUNK = 512 };

static inline int chunk_length(int begin, int end) {
  return end - begin < CHUNK ? end - begin : CHUNK;
}

/** Loops over a chunk by vectors take it as longer, up to whole vectors: chunks have that room, and what the last lanes
 *  hold is nobody's. */
_Static_assert(CHUNK % LANES == 0, "chunks are whole vectors");

/** out[i] = x[from + i]. */
static inline void act_load(float *restrict out, const void *x, size_t from, int count, enum dtype act) {
  if (act == DTYPE_F32) {
    memcpy(out, (const float *)x + from, (size_t)count * sizeof(float));
    return;
  }
  const bf16 *restrict in = (const bf16 *)x + from;
#pragma omp simd
  for (int i = 0; i < count; i++) {
    uint32_t bits = (uint32_t)in[i] << 16;
    memcpy(&out[i], &bits, sizeof bits);
  }
}

/** y[from + i] = in[i], rounded. */
static inline void act_store(void *y, size_t from, const float *restrict in, int count, enum dtype act) {
  if (act == DTYPE_F32) {
    memcpy((float *)y + from, in, (size_t)count * sizeof(float));
    return;
  }
  bf16 *restrict out = (bf16 *)y + from;
#pragma omp simd
  for (int i = 0; i < count; i++) {
    uint32_t bits;
    memcpy(&bits, &in[i], sizeof bits);
    uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16, nan = (bits >> 16) | 0x40u;
    out[i] = (bf16)((bits & 0x7fffffffu) > 0x7f800000u ? nan : rounded);
  }
}

#endif
