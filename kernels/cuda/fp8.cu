/** Operands of products in 8-bit floats (kernels/fp8.h): a block a row, which is read once for its largest magnitude and once
 *  more, from the caches, to be rounded. */
#include <cuda_fp8.h>

#include "kernels/cuda/frozen.cuh"

constexpr int EACH = 16; /* elements of a thread at a time: 16 bytes of E4M3; columns are a multiple */

/** The bits of kernels/fp8.h's fp8_scale(). */
__device__ static inline float scale_of(float highest) {
  unsigned bits = __float_as_uint(highest);
  int exponent = (int)(bits >> 23 & 255) - 8 + ((bits & 0x7fffff) > 0x600000);
  return __uint_as_float((unsigned)max(exponent, 27) << 23);
}

/** Elements at .. at + EACH of activations. */
template <typename T>
struct activations {
  const T *x;
  __device__ void load_each(float (&out)[EACH], size_t at) const {
    load<EACH>(out, x, at);
  }
};

/** Of 4-bit weights, whose code book `map` is in shared memory: EACH elements lie in one block of 64. */
struct four_bits {
  quantized q;
  const float *map;
  __device__ void load_each(float (&out)[EACH], size_t at) const {
    pack<uint32_t, 2> codes = *reinterpret_cast<const pack<uint32_t, 2> *>(q.codes + at / 2);
    float scale = block_scale(q, at / QUANT_BLOCK);
#pragma unroll
    for (int k = 0; k < EACH; k++) out[k] = __fmul_rn(map[code_of(codes.values[k / 8], k % 8)], scale);
  }
};

/** y[blockIdx.x] = the row first + blockIdx.x of `from` / scales[blockIdx.x]. */
template <typename F>
__device__ static inline void round_row(uint8_t *y, float *scales, const F &from, size_t first, int cols) {
  float v[EACH], highest = 0;
  size_t row = (first + blockIdx.x) * cols;
  for (int j = (int)threadIdx.x * EACH; j < cols; j += BLOCK * EACH) {
    from.load_each(v, row + j);
#pragma unroll
    for (int k = 0; k < EACH; k++) highest = fmaxf(highest, fabsf(v[k]));
  }
  float scale = scale_of(block_highest(highest)), inverse = 1.0f / scale;
  for (int j = (int)threadIdx.x * EACH; j < cols; j += BLOCK * EACH) {
    pack<uint16_t, EACH / 2> pairs;
    from.load_each(v, row + j);
#pragma unroll
    for (int k = 0; k < EACH / 2; k++)
      pairs.values[k] =
          __nv_cvt_float2_to_fp8x2({v[2 * k] * inverse, v[2 * k + 1] * inverse}, __NV_SATFINITE, __NV_E4M3);
    *reinterpret_cast<pack<uint16_t, EACH / 2> *>(y + (size_t)blockIdx.x * cols + j) = pairs;
  }
  if (threadIdx.x == 0) scales[blockIdx.x] = scale;
}

template <typename T>
__global__ void __launch_bounds__(BLOCK)
    activations_kernel(uint8_t *y, float *scales, const T *x, size_t first, int cols) {
  round_row(y, scales, activations<T>{x}, first, cols);
}

static __global__ void __launch_bounds__(BLOCK)
    four_bits_kernel(uint8_t *y, float *scales, const quantized q, size_t first, int cols) {
  float *map = reinterpret_cast<float *>(shared_memory + SHARED_FOR_SUMS);
  if (threadIdx.x < 16) map[threadIdx.x] = q.map[threadIdx.x];
  __syncthreads();
  round_row(y, scales, four_bits{q, map}, first, cols);
}

extern "C" cudaError_t cuda_launch_fp8_activations(const cuda_context *context, void *y, float *scales, const void *x,
                                                   int rows, int cols) {
  return by_act(context, [&]<typename T>(T) {
    return launch(context, activations_kernel<T>, dim3((unsigned)rows), BLOCK, SHARED_FOR_SUMS, (uint8_t *)y, scales,
                  (const T *)x, 0, cols);
  });
}

extern "C" cudaError_t cuda_launch_fp8_weights(const cuda_context *context, void *y, float *scales,
                                               const struct matrix *matrix, int first, int rows) {
  dim3 grid((unsigned)rows);
  if (matrix->format == WEIGHT_BF16)
    return launch(context, activations_kernel<__nv_bfloat16>, grid, BLOCK, SHARED_FOR_SUMS, (uint8_t *)y, scales,
                  (const __nv_bfloat16 *)matrix->codes, first, matrix->cols);
  return launch(context, four_bits_kernel, grid, BLOCK, SHARED_FOR_SUMS + 16 * sizeof(float), (uint8_t *)y, scales,
                quantized_of(context, matrix), first, matrix->cols);
}
