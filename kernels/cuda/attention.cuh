/**
 * @file attention.cuh
 * What the attention kernels share. Each walks over the keys (or queries) in tiles in shared memory as fp32, with a running
 * maximum and sum forward (Dao et al., FlashAttention, 2022), and the stored log-sum-exp backward. No atomics: the
 * gradients of queries and those of keys are two kernels.
 *
 * A block works on one head and a tile of one sample: grid (tiles of the longest sample, heads, samples). A grid starts
 * with the last tiles, which see the most keys.
 */
#ifndef QST_KERNELS_CUDA_ATTENTION_CUH
#define QST_KERNELS_CUDA_ATTENTION_CUH

#include "kernels/cuda/kernel.cuh"

/** Checks the samples on the device before any other kernel reads what they point to; those do nothing after a fault. */
cudaError_t attention_check(const cuda_context *context, const segments &segments, int rows, bool training);

/** The tensor cores' kernel: bf16 heads up to 64, and up to 128 where rows are whole 16-byte chunks. */
bool attention_mma_fits(const cuda_context *context, const attention_args *arguments);
cudaError_t cuda_launch_attention_mma(const cuda_context *context, const attention_args *arguments);

/** The warp groups' kernel: bf16 heads of 64 and 128 whose rows are whole 16-byte chunks, on GPUs that have such products. */
bool attention_wgmma_fits(const cuda_context *context, const attention_args *arguments);
cudaError_t cuda_launch_attention_wgmma(const cuda_context *context, const attention_args *arguments);

/** The same of the gradients, heads up to 64; `deltas` of the context are filled. */
bool attention_mma_backward_fits(const cuda_context *context, const attention_backward_args *arguments);
cudaError_t cuda_launch_attention_mma_backward(const cuda_context *context, const attention_backward_args *arguments);

struct sample_tile {
  int queries;    /**< of the sample */
  int query, key; /**< its first ones, as rows */
  int first;      /**< of the tile, in the sample */
  int before;     /**< keys before the first query: query i sees before + i + 1 */
  __device__ sample_tile(const segments &s, int sample, int first) : first(first) {
    query = s.q_start[sample];
    queries = s.q_start[sample + 1] - query;
    key = s.k_start[sample];
    before = s.k_length[sample] - queries;
  }
  /** Of this block in a sample_grid(). */
  __device__ sample_tile(const segments &s, int tile)
      : sample_tile(s, (int)blockIdx.z, (int)(gridDim.x - 1 - blockIdx.x) * tile) {
  }
};

inline dim3 sample_grid(const segments &s, int tile, int heads) {
  return dim3(blocks_of((size_t)s.max_queries, (size_t)tile), (unsigned)heads, (unsigned)s.count);
}

/** out[i, 0 .. dim) (row stride `width`) = head `column` / dim of rows first + i of x, zero from `count` up to `tile` and
 *  from dim up to `width`. */
template <typename T>
__device__ inline void load_tile(float *out, int width, const T *x, size_t first, int count, int tile, int stride,
                                 int column, int dim) {
  for (int i = (int)threadIdx.x; i < tile * width; i += (int)blockDim.x) {
    int row = i / width, d = i % width;
    out[i] = row < count && d < dim ? to_float(x[(first + row) * (size_t)stride + column + d]) : 0.0f;
  }
}

#endif
