/**
 * @file fp8.h
 * Products in 8-bit floats: E4M3 (4 bits of exponent, 3 of fraction, largest 448; OCP 8-bit Floating Point
 * Specification, 2023).
 *
 * y = x · Wᵀ with device_limits.fp8: each row of x and each row of W has a scale, the smallest power of two (at least
 * 2^-100) with which its largest magnitude is at most 448 · scale. An element becomes scale · e4m3(element / scale), rounded to
 * nearest, ties to even. 4-bit weights are rounded from their fp32 values. Sums are fp32; bias and residual are added before
 * the result is rounded to activations. Because scales are powers of two they round nothing, and what an element becomes is
 * a bf16 number: the cpu device computes in 8 bits by rounding its operands.
 */
#ifndef QST_KERNELS_FP8_H
#define QST_KERNELS_FP8_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>

union fp8_bits {
  float number;
  uint32_t bits;
};

/** The scale of a row whose largest magnitude is `highest`. */
static inline float fp8_scale(float highest) {
  union fp8_bits u = {.number = highest};
  int exponent = (int)(u.bits >> 23 & 255) - 8 + ((u.bits & 0x7fffff) > 0x600000); /* 448 = 1.75 · 2^8 */
  u.bits = (uint32_t)(exponent < 27 ? 27 : exponent) << 23;
  return u.number;
}

/** scale · e4m3(x / scale) */
static inline float fp8_round(float x, float scale) {
  float value = x / scale;
  union fp8_bits u = {.number = fabsf(value)};
  float low = (u.number + 0x1.8p14f) - 0x1.8p14f; /* a multiple of 2^-9, what numbers below 2^-6 are */
  bool normal = !(u.number < 0x1p-6f);
  u.bits = (u.bits + 0x7ffff + (u.bits >> 20 & 1)) & 0xfff00000u;
  float rounded = normal ? u.number : low;
  return copysignf(rounded > 448 ? 448 : rounded, value) * scale;
}

#endif
