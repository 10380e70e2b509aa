/** Cross entropy and argmax over rows of fp32 logits, a block a row. */
#include "kernels/cuda/kernel.cuh"

template <typename T>
__global__ void __launch_bounds__(BLOCK) cross_entropy_kernel(const cross_entropy_args a, cuda_fault *fault) {
  int t = (int)blockIdx.x, label = a.labels[t];
  if (label < 0 || label >= a.cols) {
    if (threadIdx.x == 0) report(fault, FAULT_LABEL, t, label, a.cols);
    return;
  }
  const float *x = a.logits + (size_t)t * a.cols;
  float highest = -INFINITY;
  double sum = 0;
  for (int i = (int)threadIdx.x; i < a.cols; i += BLOCK) highest = fmaxf(highest, x[i]);
  highest = block_highest(highest);
  for (int i = (int)threadIdx.x; i < a.cols; i += BLOCK) sum += (double)expf(x[i] - highest);
  double log_sum = log(block_sum(sum));
  if (threadIdx.x == 0) a.loss[t] = (float)(log_sum + ((double)highest - (double)x[label]));
  if (!a.dlogits) return;
  T *d = (T *)a.dlogits + (size_t)t * a.cols;
  float lse = (float)((double)highest + log_sum);
  for (int i = (int)threadIdx.x; i < a.cols; i += BLOCK)
    from_float(d + i, expf(x[i] - lse) - (i == label ? 1.0f : 0.0f));
}

extern "C" cudaError_t cuda_launch_cross_entropy(const cuda_context *context, const cross_entropy_args *a) {
  return by_act(context, [&]<typename T>(T) {
    return launch(context, cross_entropy_kernel<T>, dim3((unsigned)a->rows), BLOCK, SHARED_FOR_SUMS, *a,
                  context->fault);
  });
}

/** The first of equal ones. A row of NaN has its last. */
static __global__ void __launch_bounds__(BLOCK) argmax_kernel(const argmax_args a) {
  const float *x = a.logits + (size_t)blockIdx.x * a.cols;
  float highest = -INFINITY;
  int *first = reinterpret_cast<int *>(shared_memory);
  for (int i = (int)threadIdx.x; i < a.cols; i += BLOCK) highest = fmaxf(highest, x[i]);
  highest = block_highest(highest);
  __syncthreads();
  if (threadIdx.x == 0) *first = a.cols - 1;
  __syncthreads();
  for (int i = (int)threadIdx.x; i < a.cols; i += BLOCK)
    if (x[i] == highest) {
      atomicMin(first, i);
      break;
    }
  __syncthreads();
  if (threadIdx.x == 0) a.index[blockIdx.x] = *first;
}

extern "C" cudaError_t cuda_launch_argmax(const cuda_context *context, const argmax_args *a) {
  return launch(context, argmax_kernel, dim3((unsigned)a->rows), BLOCK, SHARED_FOR_SUMS, *a);
}
