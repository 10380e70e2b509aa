/**
 * @file column_sums.cuh
 * Sums over the rows of something that is computed for each row and column: partial sums of blocks of rows, then the sum
 * of those. Blocks and order depend on the number of rows alone.
 */
#ifndef QST_KERNELS_CUDA_COLUMN_SUMS_CUH
#define QST_KERNELS_CUDA_COLUMN_SUMS_CUH

#include "kernels/cuda/kernel.cuh"

constexpr int COLUMN_THREADS = 64, FEWEST_ROWS = 16;

/** partial[blockIdx.y, j] = Σ f.at(t, first + j) over the block's rows. */
template <typename F>
__global__ void __launch_bounds__(COLUMN_THREADS)
    partial_sums_kernel(const F f, float *partial, int rows, int rows_each, int first, int cols) {
  int j = (int)(blockIdx.x * blockDim.x + threadIdx.x);
  if (j >= cols) return;
  int begin = (int)blockIdx.y * rows_each, end = min(begin + rows_each, rows);
  float sum = 0;
#pragma unroll 8
  for (int t = begin; t < end; t++) sum += f.at(t, first + j);
  partial[(size_t)blockIdx.y * cols + j] = sum;
}

static __global__ void __launch_bounds__(COLUMN_THREADS)
    total_sums_kernel(float *out, const float *partial, int blocks, int cols) {
  int j = (int)(blockIdx.x * blockDim.x + threadIdx.x);
  if (j >= cols) return;
  float sum = 0;
  for (int block = 0; block < blocks; block++) sum += partial[(size_t)block * cols + j];
  out[j] = sum;
}

/** out[j] = Σ f.at(t, j) for t < rows; uses the context's sums. */
template <typename F>
cudaError_t column_sums(const cuda_context *context, float *out, const F &f, int rows, int cols) {
  int blocks = (rows + FEWEST_ROWS - 1) / FEWEST_ROWS;
  if (blocks > SUM_BLOCKS) blocks = SUM_BLOCKS;
  int rows_each = blocks ? (rows + blocks - 1) / blocks : 0;
  for (int first = 0; first < cols; first += SUM_COLUMNS) {
    int count = cols - first < SUM_COLUMNS ? cols - first : SUM_COLUMNS;
    unsigned columns = blocks_of((size_t)count, COLUMN_THREADS);
    TRY_CUDA(launch(context, partial_sums_kernel<F>, dim3(columns, (unsigned)blocks), COLUMN_THREADS, 0, f,
                    context->sums, rows, rows_each, first, count));
    TRY_CUDA(launch(context, total_sums_kernel, dim3(columns), COLUMN_THREADS, 0, out + first, context->sums, blocks,
                    count));
  }
  return cudaSuccess;
}

#endif
