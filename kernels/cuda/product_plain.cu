/** Products that cuBLASLt has no algorithm for: any shape and alignment, in fp32 and in an order fixed by k alone. Slow: no
 *  tensor cores, an element of the result a thread. */
#include "kernels/cuda/kernel.cuh"

constexpr int TILE = 16; /* rows, columns and steps of a block's tiles */
typedef float (*tile_rows)[TILE + 1];

struct e4m3 {
  uint8_t bits;
};
/** Exponent and fraction in fp32's places, with fp32's bias for E4M3's. */
__device__ static inline float to_float(e4m3 x) {
  unsigned size = x.bits & 0x7f, sign = x.bits >> 7;
  return __uint_as_float(sign << 31 | (size == 0x7f ? 0x7fc00000 : size << 20)) * 0x1p120f;
}

/** A thread's element of a tile of an operand [count, k], whose first row and step these are: zero outside the operand. */
template <typename T>
__device__ static inline void load_tile(tile_rows tile, const T *x, bool by_step, int ld, int first, int count,
                                        int step, int k) {
  int fast = (int)threadIdx.x % TILE, slow = (int)threadIdx.x / TILE; /* neighbours read neighbours */
  int i = by_step ? fast : slow, s = by_step ? slow : fast;
  size_t row = (size_t)(first + i), at = (size_t)(step + s);
  bool inside = first + i < count && step + s < k;
  tile[i][s] = inside ? to_float(x[by_step ? at * ld + row : row * ld + at]) : 0.0f;
}

template <typename T, typename C>
__global__ void __launch_bounds__(TILE *TILE) product_kernel(const task t) {
  tile_rows a = reinterpret_cast<tile_rows>(shared_memory), b = a + TILE;
  int x = (int)threadIdx.x % TILE, y = (int)threadIdx.x / TILE;
  int first_row = (int)blockIdx.x * TILE, first_col = (int)blockIdx.y * TILE, row = first_row + y, col = first_col + x;
  float sum = 0;
  for (int step = 0; step < t.k; step += TILE) {
    load_tile(a, static_cast<const T *>(t.a), t.a_by_step, t.lda, first_row, t.m, step, t.k);
    load_tile(b, static_cast<const T *>(t.b), t.b_by_step, t.ldb, first_col, t.n, step, t.k);
    __syncthreads();
#pragma unroll
    for (int s = 0; s < TILE; s++) sum += a[y][s] * b[x][s];
    __syncthreads();
  }
  if (row >= t.m || col >= t.n) return;
  size_t at = (size_t)row * t.ldc + col;
  if (t.a_scales) sum *= t.a_scales[row] * t.b_scales[col];
  if (t.residual) sum += to_float(static_cast<const C *>(t.residual)[at]);
  from_float(static_cast<C *>(t.c) + at, sum);
}

template <typename T>
static cudaError_t multiply(const cuda_context *context, const task *t) {
  dim3 grid(blocks_of((size_t)t->m, TILE), blocks_of((size_t)t->n, TILE));
  constexpr size_t SHARED = 2 * TILE * sizeof(*tile_rows());
  auto kernel = t->c_type == DTYPE_BF16 ? product_kernel<T, __nv_bfloat16> : product_kernel<T, float>;
  return launch(context, kernel, grid, TILE * TILE, SHARED, *t);
}

extern "C" cudaError_t cuda_launch_task(const cuda_context *context, const task *task) {
  if (task->fp8) return multiply<e4m3>(context, task);
  return by_act(context, [&](auto act) { return multiply<decltype(act)>(context, task); });
}
