/**
 * @file attention_mma.cuh
 * What the tensor cores' kernels of attention share: a block of 4 warps has 128 rows (queries or keys) of one head, 32 a warp,
 * and walks over tiles of the others. All are bf16 rows in shared memory, DIM wide, zero from the head's dimension on.
 */
#ifndef QST_KERNELS_CUDA_ATTENTION_MMA_CUH
#define QST_KERNELS_CUDA_ATTENTION_MMA_CUH

#include <ptx.cuh>

#include "kernels/cuda/attention.cuh"

using element = __nv_bfloat16;

constexpr int WARPS = 4, THREADS = WARPS * WARP, SLICE = 16, SLICES = 2, MINE = SLICES * SLICE;
constexpr int TILE = WARPS * MINE, CHUNK = 8; /* elements in 16 bytes */
constexpr float LOG2_E = 1.44269504f;

/** Rows of DIM elements in chunks of 16 bytes, which are permuted so that any 8 rows' chunks of a column lie in different
 *  banks: by xor with those bits of the row that do not change the bank already. */
template <int DIM>
__device__ inline int chunk_at(int row, int chunk) {
  constexpr int chunks = DIM / CHUNK;
  int turn = chunks % 8 == 0 ? row & 7 : chunks % 4 == 0 ? row >> 1 & 3 : row >> 2 & 1;
  return row * DIM + (chunk ^ turn) * CHUNK;
}

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

/** A warp's products: [slice, 8 columns, of this lane]. Rows 16 i + lane / 4 and 8 below, columns 2 (lane % 4) and the
 *  next of each 8. */
template <int COLUMNS>
using sums_of_warp = float[SLICES][COLUMNS / 8][4];

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
    for (int i = 0; i < SLICES; i++)
#pragma unroll
      for (int part = 0; part < 4; part++) {
        const float *pair = &s[i][n + part / 2][part % 2 * 2];
        a[i][part] = ptx::pack_bf16(pair[0], pair[1]);
      }
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

/** The row of slice i, half h of this lane. */
__device__ inline int row_of_lane(int i, int h) {
  return i * SLICE + (int)threadIdx.x % WARP / 4 + 8 * h;
}

/** y[row, 0 .. dim) = sums of the warp's first `count` rows times scale[slice][half]; `spare`: the warp's own [MINE, DIM] in
 *  shared memory, through which 16 bytes are written at a time where PART is 8. */
template <int DIM, int PART>
__device__ inline void write_rows(element *y, size_t stride, int dim, int count, const sums_of_warp<DIM> &sums,
                                  const float (&scale)[SLICES][2], element *spare) {
  int lane = (int)threadIdx.x % WARP;
  if constexpr (PART == CHUNK) __syncwarp(); /* `spare` may hold the rows that other lanes' were read from */
#pragma unroll
  for (int i = 0; i < SLICES; i++)
#pragma unroll
    for (int h = 0; h < 2; h++)
#pragma unroll
      for (int n = 0; n < DIM / 8; n++) {
        int row = row_of_lane(i, h), inside = lane % 4 * 2;
        unsigned pair = ptx::pack_bf16(sums[i][n][2 * h] * scale[i][h], sums[i][n][2 * h + 1] * scale[i][h]);
        if constexpr (PART == CHUNK) {
          *reinterpret_cast<unsigned *>(spare + chunk_at<DIM>(row, n) + inside) = pair;
        } else if (row < count && n * 8 + inside < dim) {
          *reinterpret_cast<unsigned *>(y + row * stride + n * 8 + inside) = pair;
        }
      }
  if constexpr (PART == CHUNK) {
    using chunk_of = pack<element, CHUNK>;
    __syncwarp();
    for (int at = lane; at < MINE * DIM / CHUNK; at += WARP) {
      int row = at / (DIM / CHUNK), chunk = at % (DIM / CHUNK);
      if (row >= count || chunk * CHUNK >= dim) continue;
      *reinterpret_cast<chunk_of *>(y + row * stride + chunk * CHUNK) =
          *reinterpret_cast<const chunk_of *>(spare + chunk_at<DIM>(row, chunk));
    }
    __syncwarp();
  }
}

/** Whether rows of these strides can be copied PART elements at a time. */
template <int PART, typename... Pointers>
bool copies_in(int head_dim, int q_stride, int kv_stride, Pointers... pointers) {
  return head_dim % PART == 0 && q_stride % PART == 0 && kv_stride % PART == 0 &&
         ((reinterpret_cast<uintptr_t>(pointers) % (PART * sizeof(element)) == 0) && ...);
}

#endif
