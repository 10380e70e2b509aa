/**
 * @file attention_mma.cuh
 * What the kernels of attention with a warp's products (mma.sync) share: a block of 4 warps has 128 rows (queries or keys) of
 * one head, 32 a warp, and walks over tiles of the others. All are bf16 rows in shared memory, DIM wide, zero from the
 * head's dimension on.
 */
#ifndef QST_KERNELS_CUDA_ATTENTION_MMA_CUH
#define QST_KERNELS_CUDA_ATTENTION_MMA_CUH

#include "kernels/cuda/attention_rows.cuh"

constexpr int WARPS = 4, THREADS = WARPS * WARP, SLICES = 2, MINE = SLICES * SLICE;
static_assert(WARPS * MINE == TILE);

template <int COLUMNS>
using sums_of_warp = sums_of<SLICES, COLUMNS>;

/** Copies rows first .. first + count of x, zero below and from `dim` on, ROWS in all: PART elements (8 or 2) at a time. */
template <int DIM, int ROWS, int PART>
__device__ inline void fill(element *out, const void *x, size_t first, int count, int stride, int column, int dim) {
#pragma unroll 4
  for (int i = 0; i < ROWS * DIM / PART / THREADS; i++) {
    int at = i * THREADS + (int)threadIdx.x, row = at / (DIM / PART), inside = at % (DIM / PART) * PART;
    bool there = row < count && inside < dim;
    const element *from = (const element *)x + (first + (there ? row : 0)) * stride + column + (there ? inside : 0);
    element *to = out + chunk_at<DIM>(row, inside / CHUNK) + inside % CHUNK;
    if constexpr (PART == CHUNK) {
      ptx::copy_async_16(to, from, there);
    } else {
      ptx::copy_async_4(to, from, there);
    }
  }
}

/** out = x · yᵀ for the warp's rows of x and N rows of y. */
template <int DIM, int N>
__device__ inline void multiply_rows(sums_of_warp<N> &out, const element *x, const element *y) {
  int lane = (int)threadIdx.x % WARP;
#pragma unroll
  for (int i = 0; i < SLICES; i++)
#pragma unroll
    for (int n = 0; n < N / 8; n++) out[i][n][0] = out[i][n][1] = out[i][n][2] = out[i][n][3] = 0;
#pragma unroll 2
  for (int d = 0; d < DIM / CHUNK; d += 2) {
    unsigned a[SLICES][4], b[4];
#pragma unroll
    for (int i = 0; i < SLICES; i++) ptx::load_matrices(a[i], x + chunk_at<DIM>(i * SLICE + lane % 16, d + lane / 16));
#pragma unroll
    for (int n = 0; n < N / 8; n += 2) {
      ptx::load_matrices(b, y + chunk_at<DIM>(n * 8 + lane / 16 * 8 + lane % 8, d + lane / 8 % 2));
#pragma unroll
      for (int i = 0; i < SLICES; i++) {
        ptx::multiply_bf16(out[i][n], a[i], b[0], b[1]);
        ptx::multiply_bf16(out[i][n + 1], a[i], b[2], b[3]);
      }
    }
  }
}

/** out += s · y, s rounded to bf16: y has N rows. */
template <int DIM, int N>
__device__ inline void add_product(sums_of_warp<DIM> &out, const sums_of_warp<N> &s, const element *y) {
  int lane = (int)threadIdx.x % WARP;
#pragma unroll
  for (int n = 0; n < N / 8; n += 2) {
    unsigned a[SLICES][4], b[4];
#pragma unroll
    for (int i = 0; i < SLICES; i++) pack_factor(a[i], s[i], n);
#pragma unroll
    for (int d = 0; d < DIM / CHUNK; d += 2) {
      ptx::load_matrices_transposed(b, y + chunk_at<DIM>(n * 8 + lane % 16, d + lane / 16));
#pragma unroll
      for (int i = 0; i < SLICES; i++) {
        ptx::multiply_bf16(out[i][d], a[i], b[0], b[1]);
        ptx::multiply_bf16(out[i][d + 1], a[i], b[2], b[3]);
      }
    }
  }
}

#endif
