/** Order-independent sums in 64-bit fixed point, the gradient norm, and AdamW. */
#include "kernels/cuda/kernel.cuh"

static constexpr double fixed_one = (double)((int64_t)1 << FIXED_FRACTION_BITS);
static constexpr float fixed_limit = (float)((int64_t)1 << (62 - FIXED_FRACTION_BITS));

__device__ static inline int64_t fixed(float x, int *faults) {
  bool fits = fabsf(x) < fixed_limit; /* a NaN does not */
  *faults += !fits;
  return fits ? (int64_t)rint((double)x * fixed_one) : 0;
}

/** Two's complement: the sum of signed numbers is that of unsigned ones. Integers may be added in any order. */
__device__ static inline void add(int64_t *sum, int64_t value) {
  atomicAdd(reinterpret_cast<unsigned long long *>(sum), (unsigned long long)value);
}

struct fixed_sums {
  int64_t *sums, *faults;
  const float *x;
  template <int N>
  __device__ void run(unsigned i) const {
    pack<float, N> v = *reinterpret_cast<const pack<float, N> *>(x + i);
    pack<int64_t, N> old = *reinterpret_cast<const pack<int64_t, N> *>(sums + i);
    int bad = 0;
#pragma unroll
    for (int k = 0; k < N; k++) old.values[k] += fixed(v.values[k], &bad);
    *reinterpret_cast<pack<int64_t, N> *>(sums + i) = old;
    if (bad) add(faults, bad);
  }
};

extern "C" cudaError_t cuda_launch_fixed_add(const cuda_context *context, const fixed_add_args *a) {
  return each<2>(context, fixed_sums{a->sums, a->faults, a->x}, a->count,
                 a->count % 2 == 0 && all_aligned(a->sums, a->x));
}

/** f(x[i]) for every element of this thread, in order, and perhaps some zeros at the end: the grid strides over the array, with
 *  so many loads under way at once that few threads are enough. */
template <typename F>
__device__ static inline void each_of_mine(const float *x, size_t count, F f) {
  constexpr int TOGETHER = 8;
  size_t stride = (size_t)gridDim.x * BLOCK;
  for (size_t begin = (size_t)blockIdx.x * BLOCK + threadIdx.x; begin < count; begin += TOGETHER * stride) {
    float values[TOGETHER];
#pragma unroll
    for (int k = 0; k < TOGETHER; k++) values[k] = begin + k * stride < count ? x[begin + k * stride] : 0.0f;
#pragma unroll
    for (int k = 0; k < TOGETHER; k++) f(values[k]);
  }
}

constexpr int TOTAL_BLOCKS = 256;

static __global__ void __launch_bounds__(BLOCK) fixed_total_kernel(const fixed_total_args a) {
  int64_t sum = 0;
  int bad = 0;
  each_of_mine(a.x, a.count, [&](float value) { sum += fixed(value, &bad); });
  long long total = block_sum((long long)sum);
  int total_bad = block_sum(bad);
  if (threadIdx.x > 0) return;
  add(a.sum, total);
  if (total_bad) add(a.faults, total_bad);
}

extern "C" cudaError_t cuda_launch_fixed_total(const cuda_context *context, const fixed_total_args *a) {
  unsigned blocks = a->count < (size_t)TOTAL_BLOCKS * BLOCK ? blocks_of(a->count, BLOCK) : TOTAL_BLOCKS;
  return launch(context, fixed_total_kernel, dim3(blocks), BLOCK, SHARED_FOR_SUMS, *a);
}

struct fixed_values {
  float *y;
  const int64_t *sums;
  double unit;
  template <int N>
  __device__ void run(unsigned i) const {
    pack<int64_t, N> sum = *reinterpret_cast<const pack<int64_t, N> *>(sums + i);
    pack<float, N> v;
#pragma unroll
    for (int k = 0; k < N; k++) v.values[k] = (float)((double)sum.values[k] * unit);
    *reinterpret_cast<pack<float, N> *>(y + i) = v;
  }
};

extern "C" cudaError_t cuda_launch_fixed_get(const cuda_context *context, const fixed_get_args *a) {
  return each<2>(context, fixed_values{a->y, a->sums, a->scale / fixed_one}, a->count,
                 a->count % 2 == 0 && all_aligned(a->y, a->sums));
}

/** One part a block: parts depend on `count` alone. */
static __global__ void __launch_bounds__(BLOCK) squares_kernel(double *parts, const float *x, size_t count) {
  double sum = 0;
  each_of_mine(x, count, [&](float value) { sum += (double)value * (double)value; });
  sum = block_sum(sum);
  if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

static __global__ void __launch_bounds__(SQUARE_BLOCKS)
    squares_total_kernel(double *result, const double *parts, unsigned count) {
  double sum = block_sum(threadIdx.x < count ? parts[threadIdx.x] : 0.0);
  if (threadIdx.x == 0) *result = sum;
}

extern "C" cudaError_t cuda_launch_sum_squares(const cuda_context *context, const sum_squares_args *a) {
  unsigned blocks = a->count < (size_t)SQUARE_BLOCKS * BLOCK ? blocks_of(a->count, BLOCK) : (unsigned)SQUARE_BLOCKS;
  TRY_CUDA(launch(context, squares_kernel, dim3(blocks), BLOCK, SHARED_FOR_SUMS, context->squares, a->x, a->count));
  return launch(context, squares_total_kernel, dim3(1), SQUARE_BLOCKS, SHARED_FOR_SUMS, a->result, context->squares,
                blocks);
}

template <typename T>
struct adamw {
  adamw_args a;
  float correction1, correction2;
  template <int N>
  __device__ void run(unsigned i) const {
    float w[N], m[N], v[N], g[N];
    load<N>(w, a.master, i);
    load<N>(m, a.m, i);
    load<N>(v, a.v, i);
    load<N>(g, a.gradient, i);
#pragma unroll
    for (int k = 0; k < N; k++) {
      float scaled = g[k] * a.gradient_scale;
      m[k] = a.beta1 * m[k] + (1.0f - a.beta1) * scaled;
      v[k] = a.beta2 * v[k] + (1.0f - a.beta2) * scaled * scaled;
      float step = (m[k] * correction1) / (sqrtf(v[k] * correction2) + a.epsilon);
      w[k] -= a.lr * (step + a.decay * w[k]);
    }
    store<N>(a.master, i, w);
    store<N>(a.m, i, m);
    store<N>(a.v, i, v);
    if (a.weights) store<N>((T *)a.weights, i, w);
  }
};

extern "C" cudaError_t cuda_launch_adamw(const cuda_context *context, const adamw_args *a) {
  float correction1 = (float)(1.0 / (1.0 - pow((double)a->beta1, (double)a->step)));
  float correction2 = (float)(1.0 / (1.0 - pow((double)a->beta2, (double)a->step)));
  return by_act(context, [&]<typename T>(T) {
    return each<4>(context, adamw<T>{*a, correction1, correction2}, a->count,
                   a->count % 4 == 0 && all_aligned(a->master, a->m, a->v, a->gradient, a->weights));
  });
}
