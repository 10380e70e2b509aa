/** E4M3 for the host runtime. */
#ifndef QST_HOST_CUDA_FP8_H
#define QST_HOST_CUDA_FP8_H

#include <cmath>
#include <cstdint>

#include "cuda_runtime.h"

enum __nv_saturation_t { __NV_NOSAT, __NV_SATFINITE };
enum __nv_fp8_interpretation_t { __NV_E4M3, __NV_E5M2 };
typedef uint16_t __nv_fp8x2_storage_t;

/** The nearest of E4M3's numbers, ties to even patterns, at most 448; a NaN stays one. */
inline uint8_t host_to_e4m3(float x) {
  unsigned sign = std::signbit(x) ? 0x80 : 0;
  if (std::isnan(x)) return (uint8_t)(sign | 0x7f);
  float size = std::fmin(std::fabs(x), 448.0f);
  int exponent = size < 0x1p-6f ? -6 : std::ilogb(size);
  unsigned eighths = (unsigned)std::nearbyint(std::ldexp(size, 3 - exponent)); /* 8 and more when normal */
  return (uint8_t)(sign | ((unsigned)(exponent + 6) * 8 + eighths));
}

inline __nv_fp8x2_storage_t __nv_cvt_float2_to_fp8x2(float2 x, __nv_saturation_t, __nv_fp8_interpretation_t) {
  return (uint16_t)(host_to_e4m3(x.x) | host_to_e4m3(x.y) << 8);
}

#endif
