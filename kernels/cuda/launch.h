/**
 * @file launch.h
 * Between C and the .cu files: one launcher for each operation that is kernels of our own. A launcher checks nothing that
 * kernels/operations.c has checked, puts its kernels on the context's stream and returns without waiting.
 */
#ifndef QST_KERNELS_CUDA_LAUNCH_H
#define QST_KERNELS_CUDA_LAUNCH_H

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

#include "kernels/cuda/workspace.h"

/** What a kernel found that contradicts its arguments. The first finding is kept; it is read with the next result that
 *  goes to the host (kernels/cuda/cuda.c). */
enum cuda_fault_kind { FAULT_NONE, FAULT_TOKEN, FAULT_POSITION, FAULT_LABEL, FAULT_SAMPLE, FAULT_SAMPLES };
struct cuda_fault {
  int32_t kind; /**< enum cuda_fault_kind */
  int32_t where, value, limit;
};

/** A lane: its stream, and what kernels on it use besides their arguments. */
struct cuda_context {
  cudaStream_t stream;
  enum dtype act;
  int capability;           /**< of the GPU, or what own kernels may use of it: 90 is 9.0 */
  bool prepares;            /**< nothing is put on the stream: device_prepare() */
  const float *maps;        /**< [MAPS_SIZE] */
  struct cuda_fault *fault; /**< [1] device memory */
  float *sums;              /**< [SUM_SIZE] */
  double *squares;          /**< [SQUARE_BLOCKS] */
  float *deltas;            /**< [delta_size]: Σ do · o of each row and head in attention_backward */
  size_t delta_size;
};

/** Operations that are own kernels throughout; the matrix products are in kernels/cuda/product.h. */
/* clang-format off */
#define CUDA_KERNEL_OPERATIONS(X) \
  X(embed) X(rmsnorm) X(rmsnorm_backward) X(layernorm) X(layernorm_backward) X(rope) X(attention) \
  X(attention_backward) X(swiglu) X(swiglu_backward) X(silu) X(silu_backward) X(relu) X(relu_backward) X(pool) \
  X(gate) X(gate_backward) X(mix) X(mix_backward) X(copy_rows) X(to_act) X(from_act) X(cross_entropy) X(argmax) \
  X(fixed_add) X(fixed_total) X(fixed_get) X(sum_squares) X(adamw)
/* clang-format on */

#define CUDA_LAUNCHER(name) cudaError_t cuda_launch_##name(const struct cuda_context *, const struct name##_args *);
CUDA_KERNEL_OPERATIONS(CUDA_LAUNCHER)
#undef CUDA_LAUNCHER

/** out[i] = element first + i of the flattened matrix, as activations. */
cudaError_t cuda_launch_dequantize(const struct cuda_context *context, void *out, const struct matrix *matrix,
                                   size_t first, size_t count);

/** Rows in E4M3 and their scales [rows] (kernels/fp8.h): of activations [rows, cols], or from row `first` of a matrix on.
 *  16-byte aligned, cols a multiple of 16. */
cudaError_t cuda_launch_fp8_activations(const struct cuda_context *context, void *y, float *scales, const void *x,
                                        int rows, int cols);
cudaError_t cuda_launch_fp8_weights(const struct cuda_context *context, void *y, float *scales,
                                    const struct matrix *matrix, int first, int rows);

/** C[m, n] = A[m, k] · B[n, k]ᵀ + residual. A matrix "by step" is stored [k, ...]: element (i, s) at s * ld + i. */
struct task {
  const void *a, *b, *residual; /**< residual: like C, NULL, or C itself */
  void *c;
  int m, n, k, lda, ldb, ldc;
  bool a_by_step, b_by_step;
  bool fp8; /**< A and B are E4M3, neither by step; else activations */
  const float *a_scales,
      *b_scales; /**< of E4M3's rows, or both NULL: 1. cuBLASLt: Hopper only (compute capability 9.0) */
  enum dtype c_type;
};
/** Without cuBLASLt. */
cudaError_t cuda_launch_task(const struct cuda_context *context, const struct task *task);

/** y = sums · scales + bias + residual, rounded to activations: the end of a product whose sums were left in fp32. */
struct finish_args {
  void *y;                              /**< act [rows, y_stride] */
  const float *sums;                    /**< [rows, cols] */
  const float *row_scales, *col_scales; /**< [rows], [cols]; or both NULL: 1 */
  const float *bias;                    /**< [cols] or NULL */
  const void *residual;                 /**< act like y, or NULL; may be y */
  int rows, cols, y_stride;
};
cudaError_t cuda_launch_finish(const struct cuda_context *context, const struct finish_args *arguments);

/** sums[j] = Σ dy[t, j] over t, in an order fixed by `rows`. */
cudaError_t cuda_launch_column_sums(const struct cuda_context *context, float *sums, const void *dy, int rows,
                                    int cols);

/** The second and third kernel file of attention (attention.cu checks the samples and chooses). */
cudaError_t cuda_launch_attention_narrow(const struct cuda_context *context, const struct attention_args *arguments);
cudaError_t cuda_launch_attention_backward_narrow(const struct cuda_context *context,
                                                  const struct attention_backward_args *arguments);
enum { NARROW_HEAD_DIM = 16 }; /**< a thread holds a whole query */

#ifdef __cplusplus
}
#endif
#endif
