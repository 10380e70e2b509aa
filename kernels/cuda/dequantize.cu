/** Frozen weights to activations (base/types.h has the layout). */
#include "kernels/cuda/frozen.cuh"

constexpr int PIECE = 8, PIECES = 4; /* elements of a 4-byte load of codes; loads of a thread under way at once */

/** Pieces of PIECE elements, which lie in one block of 64. The 16 values of a code are in 16 banks of shared memory: any
 *  32 look-ups are one access. */
template <typename T>
__global__ void __launch_bounds__(BLOCK) dequantize_kernel(T *out, const quantized q, size_t first, size_t pieces) {
  float *map = reinterpret_cast<float *>(shared_memory);
  if (threadIdx.x < 16) map[threadIdx.x] = q.map[threadIdx.x];
  size_t begin = (size_t)blockIdx.x * BLOCK * PIECES + threadIdx.x;
  uint32_t codes[PIECES];
  float scales[PIECES];
#pragma unroll
  for (int p = 0; p < PIECES; p++) { /* past the end the last one again: no branch keeps a load waiting for others */
    size_t at = begin + (size_t)p * BLOCK, element = first + (at < pieces ? at : pieces - 1) * PIECE;
    codes[p] = *reinterpret_cast<const uint32_t *>(q.codes + element / 2);
    scales[p] = block_scale(q, element / QUANT_BLOCK);
  }
  __syncthreads();
#pragma unroll
  for (int p = 0; p < PIECES; p++) {
    size_t at = begin + (size_t)p * BLOCK;
    if (at >= pieces) break;
    float v[PIECE];
#pragma unroll
    for (int k = 0; k < PIECE; k++) v[k] = __fmul_rn(map[code_of(codes[p], k)], scales[p]);
    store<PIECE>(out, at * PIECE, v);
  }
}

/** Elements that begin and end anywhere. */
template <typename T>
struct dequantize_some {
  T *out;
  quantized q;
  size_t first;
  template <int N>
  __device__ void run(unsigned i) const {
    size_t element = first + i;
    int code = q.codes[element / 2] >> (element % 2 ? 0 : 4) & 15;
    from_float(out + i, __fmul_rn(q.map[code], block_scale(q, element / QUANT_BLOCK)));
  }
};

template <typename T>
struct widen {
  T *out;
  const __nv_bfloat16 *x;
  template <int N>
  __device__ void run(unsigned i) const {
    float v[N];
    load<N>(v, x, i);
    store<N>(out, i, v);
  }
};

template <typename T>
static cudaError_t dequantize(const cuda_context *context, T *out, const quantized &q, size_t first, size_t count) {
  if (first % PIECE || count % PIECE || !all_aligned(out, q.codes))
    return each<1>(context, dequantize_some<T>{out, q, first}, count, false);
  size_t pieces = count / PIECE;
  return launch(context, dequantize_kernel<T>, blocks_of(pieces, BLOCK * PIECES), BLOCK, 16 * sizeof(float), out, q,
                first, pieces);
}

extern "C" cudaError_t cuda_launch_dequantize(const cuda_context *context, void *out, const struct matrix *matrix,
                                              size_t first, size_t count) {
  return by_act(context, [&]<typename T>(T) {
    if (matrix->format == WEIGHT_BF16) {
      const __nv_bfloat16 *x = (const __nv_bfloat16 *)matrix->codes + first;
      return each<4>(context, widen<T>{(T *)out, x}, count, count % 4 == 0 && all_aligned(out, x));
    }
    return dequantize(context, (T *)out, quantized_of(context, matrix), first, count);
  });
}
