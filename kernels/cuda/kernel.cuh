/**
 * @file kernel.cuh
 * What the kernels share: numbers in packs of 16 bytes, sums over threads, element-wise kernels, and the launch.
 *
 * The same text is compiled by nvcc and, against the headers of tests/host, by a host compiler: no chevrons, and all
 * shared memory is dynamic (shared_memory, its size given at the launch).
 */
#ifndef QST_KERNELS_CUDA_KERNEL_CUH
#define QST_KERNELS_CUDA_KERNEL_CUH

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include "kernels/cuda/launch.h"

extern __shared__ __align__(16) unsigned char shared_memory[];

constexpr int WARP = 32, BLOCK = 256;
#define ALL_LANES 0xffffffffu

/* ---- numbers --------------------------------------------------------------------------------------------- */

__device__ inline float to_float(float x) {
  return x;
}
__device__ inline float to_float(__nv_bfloat16 x) {
  return __bfloat162float(x);
}
__device__ inline void from_float(float *out, float x) {
  *out = x;
}
__device__ inline void from_float(__nv_bfloat16 *out, float x) {
  *out = __float2bfloat16_rn(x);
}

template <typename T, int N>
struct alignas(sizeof(T) * N) pack {
  T values[N];
};

/** Elements of a 16-byte access. */
template <typename T>
constexpr int wide_of = 16 / sizeof(T);

/** Of N elements as many as an access takes. */
template <typename T, int N>
constexpr int part_of = N < wide_of<T> ? N : wide_of<T>;

/** out = x[at .. at + N) as fp32, in accesses of at most 16 bytes, which must be aligned to their size. */
template <int N, typename T>
__device__ inline void load(float (&out)[N], const T *x, size_t at) {
  constexpr int PART = part_of<T, N>;
#pragma unroll
  for (int i = 0; i < N; i += PART) {
    pack<T, PART> values = *reinterpret_cast<const pack<T, PART> *>(x + at + i);
#pragma unroll
    for (int k = 0; k < PART; k++) out[i + k] = to_float(values.values[k]);
  }
}

template <int N, typename T>
__device__ inline void store(T *y, size_t at, const float (&in)[N]) {
  constexpr int PART = part_of<T, N>;
#pragma unroll
  for (int i = 0; i < N; i += PART) {
    pack<T, PART> values;
#pragma unroll
    for (int k = 0; k < PART; k++) from_float(&values.values[k], in[i + k]);
    *reinterpret_cast<pack<T, PART> *>(y + at + i) = values;
  }
}

/** Within 2 units in the last place of the quotient: an exact division takes ten times as many instructions. */
__device__ inline float sigmoid(float x) {
  return __fdividef(1.0f, 1.0f + expf(-x));
}

/* ---- faults ---------------------------------------------------------------------------------------------- */

__device__ inline void report(cuda_fault *fault, int kind, int where, int value, int limit) {
  if (atomicCAS(&fault->kind, (int)FAULT_NONE, kind) != FAULT_NONE) return;
  fault->where = where;
  fault->value = value;
  fault->limit = limit;
}

/* ---- sums over threads: the order is fixed ------------------------------------------------------------------ */

template <typename T>
__device__ inline T warp_sum(T x) {
#pragma unroll
  for (int step = WARP / 2; step > 0; step /= 2) x += __shfl_xor_sync(ALL_LANES, x, step);
  return x;
}

/** Of all threads of the block, for every thread; uses the first 32 words of shared memory. */
template <typename T>
__device__ inline T block_sum(T x) {
  T *parts = reinterpret_cast<T *>(shared_memory), total = 0;
  x = warp_sum(x);
  __syncthreads();
  if (threadIdx.x % WARP == 0) parts[threadIdx.x / WARP] = x;
  __syncthreads();
  for (unsigned i = 0; i < blockDim.x / WARP; i++) total += parts[i];
  return total;
}
/** The largest of all threads of the block; uses the first 32 words of shared memory. */
__device__ inline float block_highest(float x) {
  float *parts = reinterpret_cast<float *>(shared_memory);
#pragma unroll
  for (int step = WARP / 2; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, step));
  __syncthreads();
  if (threadIdx.x % WARP == 0) parts[threadIdx.x / WARP] = x;
  __syncthreads();
  for (unsigned i = 0; i < blockDim.x / WARP; i++) x = fmaxf(x, parts[i]);
  return x;
}

constexpr int SHARED_FOR_SUMS = 32 * sizeof(double);

/* ---- the launch -------------------------------------------------------------------------------------------- */

constexpr int SHARED_WITHOUT_ASKING = 48 << 10;

template <typename... Parameters, typename... Arguments>
cudaError_t launch(const cuda_context *context, void (*kernel)(Parameters...), dim3 grid, int threads, size_t shared,
                   Arguments... arguments) {
  if (context->prepares || grid.x == 0 || grid.y == 0 || grid.z == 0) return cudaSuccess;
  if (shared > SHARED_WITHOUT_ASKING) {
    cudaError_t status = cudaFuncSetAttribute(reinterpret_cast<const void *>(kernel),
                                              cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared);
    if (status != cudaSuccess) return status;
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = dim3((unsigned)threads);
  config.dynamicSmemBytes = shared;
  config.stream = context->stream;
  return cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...);
}

#define TRY_CUDA(expression)                            \
  do {                                                  \
    cudaError_t try_status_ = (expression);             \
    if (try_status_ != cudaSuccess) return try_status_; \
  } while (0)

inline unsigned blocks_of(size_t count, size_t each) {
  return (unsigned)((count + each - 1) / each);
}

/** f(a value of the activation type). */
template <typename F>
cudaError_t by_act(const cuda_context *context, F f) {
  return context->act == DTYPE_BF16 ? f(__nv_bfloat16()) : f(float());
}

/* ---- element-wise kernels ----------------------------------------------------------------------------------- */

/** f.run<N>(i) for elements i .. i + N of an array. */
template <int N, typename F>
__global__ void __launch_bounds__(BLOCK) element_kernel(const F f, unsigned packs) {
  unsigned pack = blockIdx.x * blockDim.x + threadIdx.x;
  if (pack < packs) f.template run<N>(pack * N);
}

inline bool aligned(const void *pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
}

template <typename... Pointers>
bool all_aligned(Pointers... pointers) {
  return (aligned(pointers) && ...);
}

/** Runs f over `count` elements (below 2^32), WIDE at a time where `wide` allows. */
template <int WIDE, typename F>
cudaError_t each(const cuda_context *context, const F &f, size_t count, bool wide) {
  if (count >> 32) return cudaErrorInvalidValue;
  if (wide) return launch(context, element_kernel<WIDE, F>, blocks_of(count / WIDE, BLOCK), BLOCK, 0, f, count / WIDE);
  return launch(context, element_kernel<1, F>, blocks_of(count, BLOCK), BLOCK, 0, f, count);
}

#endif
