/** CUDA's language for a host compiler: what kernels/cuda's .cu files use (tests/host/README.md). */
#ifndef QST_HOST_CUDA_RUNTIME_H
#define QST_HOST_CUDA_RUNTIME_H

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <tuple>

#include "cuda_runtime_api.h"

#define __global__
#define __device__
#define __host__
#define __shared__
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))

struct float2 {
  float x, y;
};
struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {
  }
};

/** Of the thread that runs. */
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

/* ---- the launch -------------------------------------------------------------------------------------------- */

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
  void *attrs;
  unsigned numAttrs;
};

/** Puts a grid on the stream; `thread` is run once for each of its threads. */
cudaError_t host_launch(const cudaLaunchConfig_t &config, std::function<void()> thread);
/** Whether one of these words points to memory of the host alone; says so on stderr. */
bool host_words_point_to_host(const void *argument, size_t bytes);

template <typename T>
bool host_points_to_host(T argument) {
  __builtin_clear_padding(&argument);
  return host_words_point_to_host(&argument, sizeof argument);
}

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t *config, void (*kernel)(Parameters...),
                               Arguments &&...arguments) {
  std::tuple<std::remove_const_t<Parameters>...> kept(arguments...);
  if (std::apply([](auto... each) { return (host_points_to_host(each) || ...); }, kept)) return cudaErrorInvalidValue;
  return host_launch(*config, [kernel, kept] { std::apply(kernel, kept); });
}

/* ---- threads together -------------------------------------------------------------------------------------- */

void __syncthreads();
void __syncwarp(unsigned mask = 0xffffffffu);

/** Gives a value of this lane and takes that of lane `from` of the warp. */
uint64_t host_exchange(unsigned mask, uint64_t value, unsigned from);
unsigned host_lane();

template <typename T>
T __shfl_sync(unsigned mask, T value, int from) {
  uint64_t bits = 0;
  static_assert(sizeof value <= sizeof bits);
  memcpy(&bits, &value, sizeof value);
  bits = host_exchange(mask, bits, (unsigned)from % 32);
  memcpy(&value, &bits, sizeof value);
  return value;
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int with) {
  return __shfl_sync(mask, value, (int)(host_lane() ^ (unsigned)with));
}

inline int atomicCAS(int *at, int expected, int value) {
  __atomic_compare_exchange_n(at, &expected, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
  return expected;
}
inline unsigned long long atomicAdd(unsigned long long *at, unsigned long long value) {
  return __atomic_fetch_add(at, value, __ATOMIC_RELAXED);
}
inline int atomicMin(int *at, int value) {
  int old = __atomic_load_n(at, __ATOMIC_RELAXED);
  while (value < old && !__atomic_compare_exchange_n(at, &old, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return old;
}

/* ---- arithmetic -------------------------------------------------------------------------------------------- */

inline float __fmul_rn(float a, float b) {
  return a * b;
}
inline float __fadd_rn(float a, float b) {
  return a + b;
}
inline float __fdividef(float a, float b) {
  return a / b;
}
inline unsigned __float_as_uint(float x) {
  unsigned bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}
inline float __uint_as_float(unsigned bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}
inline int min(int a, int b) {
  return a < b ? a : b;
}
inline int max(int a, int b) {
  return a > b ? a : b;
}

#endif
