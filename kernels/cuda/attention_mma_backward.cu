/**
 * The gradients of attention on tensor cores, for bf16 heads up to 64: once over keys for dq, once over queries for dk and
 * dv, without atomics. In both a block has 128 rows of two matrices, (q, do) or (k, v), and walks over tiles of the other
 * two: scores and the gradients of weights are one product each, what becomes of them stays in registers and is the first
 * factor of the next products.
 */
#include "kernels/cuda/attention_mma.cuh"

constexpr int OTHERS = 32; /* rows of a tile */

/** Rows of two matrices of equal strides in pairs. */
struct two_matrices {
  const void *first, *second;
  int first_stride, second_stride, first_column, second_column;
};

template <int DIM, int ROWS, int PART>
__device__ static inline void fill_both(element *out, const two_matrices &from, size_t row, int count, int dim) {
  fill<DIM, ROWS, PART>(out, from.first, row, count, from.first_stride, from.first_column, dim);
  fill<DIM, ROWS, PART>(out + ROWS * DIM, from.second, row, count, from.second_stride, from.second_column, dim);
}

/** s: scores become weights, slopes: gradients of weights become those of scores. 2^(s · c − lse), 0 with an infinite
 *  lse. */
__device__ static inline void differentiate(float *s, float *slope, float scale, float lse, float delta) {
  *s = ptx::exp2_fast(*s * (scale * LOG2_E) - lse);
  *slope = scale * *s * (*slope - delta);
}

__device__ static inline two_matrices queries_of(const attention_backward_args &a, int head) {
  int column = head * a.head_dim;
  return {a.q, a.d_o, a.q_stride, a.heads * a.head_dim, column, column};
}

__device__ static inline two_matrices keys_of(const attention_backward_args &a, int kv_head) {
  int column = kv_head * a.head_dim;
  return {a.k, a.v, a.kv_stride, a.kv_stride, column, column};
}

/** dq: rows are queries, tiles are keys. */
template <int DIM, int PART>
__global__ void __launch_bounds__(THREADS, 2)
    mma_query_gradient_kernel(const attention_backward_args a, const float *deltas, const cuda_fault *fault) {
  if (fault->kind != FAULT_NONE) return;
  sample_tile s(a.segments, TILE);
  if (s.first >= s.queries) return;
  int head = (int)blockIdx.y, warp = (int)threadIdx.x / WARP, count = min(TILE, s.queries - s.first);
  int first = s.first + warp * MINE, left = count - warp * MINE, keys = s.first + count;
  element *rows = reinterpret_cast<element *>(shared_memory), *tiles = rows + 2 * TILE * DIM;
  element *own = rows + warp * MINE * DIM;
  two_matrices from = keys_of(a, head / (a.heads / a.kv_heads));
  auto fetch = [&](int begin) {
    fill_both<DIM, OTHERS, PART>(tiles + begin / OTHERS % 2 * 2 * OTHERS * DIM, from, (size_t)s.key + begin,
                                 keys - begin, a.head_dim);
    ptx::copy_async_commit();
  };
  float lse[SLICES][2], delta[SLICES][2], one[SLICES][2];
  for (int i = 0; i < SLICES; i++)
    for (int h = 0; h < 2; h++) {
      int row = row_of_lane(i, h);
      size_t at = (size_t)(s.query + first + row) * a.heads + head;
      lse[i][h] = row < left ? a.lse[at] * LOG2_E : INFINITY;
      delta[i][h] = row < left ? deltas[at] : 0.0f;
      one[i][h] = 1;
    }
  sums_of_warp<DIM> dq = {};
  fill_both<DIM, TILE, PART>(rows, queries_of(a, head), (size_t)s.query + s.first, count, a.head_dim);
  fetch(0);
  for (int begin = 0; begin < keys; begin += OTHERS) {
    const element *k = tiles + begin / OTHERS % 2 * 2 * OTHERS * DIM;
    ptx::copy_async_wait<0>();
    __syncthreads(); /* this buffer is filled, nobody reads the other one */
    if (begin + OTHERS < keys) fetch(begin + OTHERS);
    if (left <= 0 || begin >= first + MINE) continue;
    sums_of_warp<OTHERS> weights, slopes;
    multiply_rows<DIM, OTHERS>(weights, own, k);
    multiply_rows<DIM, OTHERS>(slopes, own + TILE * DIM, k + OTHERS * DIM);
    bool crosses = begin + OTHERS - 1 > first;
#pragma unroll
    for (int i = 0; i < SLICES; i++)
#pragma unroll
      for (int n = 0; n < OTHERS / 8; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
          int key = begin + n * 8 + (int)threadIdx.x % 4 * 2 + e % 2;
          bool seen = !crosses || key <= first + row_of_lane(i, e / 2);
          differentiate(&weights[i][n][e], &slopes[i][n][e], a.scale, seen ? lse[i][e / 2] : INFINITY, delta[i][e / 2]);
        }
    add_product<DIM, OTHERS>(dq, slopes, k);
  }
  element *to = (element *)a.dq + (size_t)(s.query + first) * a.q_stride + head * a.head_dim;
  if (left > 0) write_rows<PART>(to, (size_t)a.q_stride, a.head_dim, left, dq, one, own);
}

/** dk and dv: rows are keys, tiles are queries; query heads in ascending order. */
template <int DIM, int PART>
__global__ void __launch_bounds__(THREADS, 2)
    mma_key_gradient_kernel(const attention_backward_args a, const float *deltas, const cuda_fault *fault) {
  if (fault->kind != FAULT_NONE) return;
  sample_tile s(a.segments, TILE);
  if (s.first >= s.queries) return;
  int kv_head = (int)blockIdx.y, group = a.heads / a.kv_heads, warp = (int)threadIdx.x / WARP;
  int count = min(TILE, s.queries - s.first), first = s.first + warp * MINE, left = count - warp * MINE;
  element *rows = reinterpret_cast<element *>(shared_memory), *tiles = rows + 2 * TILE * DIM;
  element *own = rows + warp * MINE * DIM;
  float *numbers = reinterpret_cast<float *>(tiles + 4 * OTHERS * DIM); /* [2][lse, delta][OTHERS] */
  int start = s.first / OTHERS * OTHERS, tiles_each = (s.queries - start + OTHERS - 1) / OTHERS;
  auto fetch = [&](int tile) { /* of all heads, one after the other */
                               int head = kv_head * group + tile / tiles_each,
                                   begin = start + tile % tiles_each * OTHERS;
                               fill_both<DIM, OTHERS, PART>(tiles + tile % 2 * 2 * OTHERS * DIM, queries_of(a, head),
                                                            (size_t)s.query + begin, s.queries - begin, a.head_dim);
                               ptx::copy_async_commit();
                               if (threadIdx.x >= OTHERS) return;
                               bool there = begin + (int)threadIdx.x < s.queries;
                               size_t at = ((size_t)s.query + begin + threadIdx.x) * a.heads + head;
                               float *to = numbers + tile % 2 * 2 * OTHERS + threadIdx.x;
                               to[0] = there ? a.lse[at] * LOG2_E : INFINITY;
                               to[OTHERS] = there ? deltas[at] : 0.0f;
  };
  sums_of_warp<DIM> dk = {}, dv = {};
  float one[SLICES][2] = {{1, 1}, {1, 1}};
  fill_both<DIM, TILE, PART>(rows, keys_of(a, kv_head), (size_t)s.key + s.first, count, a.head_dim);
  fetch(0);
  for (int tile = 0; tile < group * tiles_each; tile++) {
    const element *q = tiles + tile % 2 * 2 * OTHERS * DIM;
    const float *lse = numbers + tile % 2 * 2 * OTHERS, *delta = lse + OTHERS;
    int begin = start + tile % tiles_each * OTHERS;
    ptx::copy_async_wait<0>();
    __syncthreads(); /* this buffer is filled, nobody reads the other one */
    if (tile + 1 < group * tiles_each) fetch(tile + 1);
    if (left <= 0 || begin + OTHERS <= first) continue;
    sums_of_warp<OTHERS> weights, slopes;
    multiply_rows<DIM, OTHERS>(weights, own, q);
    multiply_rows<DIM, OTHERS>(slopes, own + TILE * DIM, q + OTHERS * DIM);
#pragma unroll
    for (int n = 0; n < OTHERS / 8; n++)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        int inside = n * 8 + (int)threadIdx.x % 4 * 2 + e % 2;
#pragma unroll
        for (int i = 0; i < SLICES; i++) {
          bool seen = first + row_of_lane(i, e / 2) <= begin + inside;
          differentiate(&weights[i][n][e], &slopes[i][n][e], a.scale, seen ? lse[inside] : INFINITY, delta[inside]);
        }
      }
    add_product<DIM, OTHERS>(dv, weights, q + OTHERS * DIM);
    add_product<DIM, OTHERS>(dk, slopes, q);
  }
  if (left <= 0) return;
  size_t at = (size_t)(s.key + first) * a.kv_stride + kv_head * a.head_dim;
  write_rows<PART>((element *)a.dk + at, (size_t)a.kv_stride, a.head_dim, left, dk, one, own);
  write_rows<PART>((element *)a.dv + at, (size_t)a.kv_stride, a.head_dim, left, dv, one, own);
}

/* ---- the launch -------------------------------------------------------------------------------------------- */

template <int PART>
static bool copies(const attention_backward_args *a) {
  return copies_in<PART>(a->head_dim, a->q_stride, a->kv_stride, a->dq, a->dk, a->dv, a->d_o, a->q, a->k, a->v);
}

bool attention_mma_backward_fits(const cuda_context *context, const attention_backward_args *a) {
  return context->act == DTYPE_BF16 && a->head_dim <= 64 && a->scale > 0 && copies<2>(a);
}

cudaError_t cuda_launch_attention_mma_backward(const cuda_context *context, const attention_backward_args *a) {
  auto run = [&]<int DIM, int PART>() {
    size_t shared = (size_t)(2 * TILE + 4 * OTHERS) * DIM * sizeof(element);
    TRY_CUDA(launch(context, mma_query_gradient_kernel<DIM, PART>, sample_grid(a->segments, TILE, a->heads), THREADS,
                    shared, *a, context->deltas, context->fault));
    return launch(context, mma_key_gradient_kernel<DIM, PART>, sample_grid(a->segments, TILE, a->kv_heads), THREADS,
                  shared + 4 * OTHERS * sizeof(float), *a, context->deltas, context->fault);
  };
  bool chunks = copies<CHUNK>(a);
  if (a->head_dim <= 16) return run.operator()<16, 2>();
  if (a->head_dim <= 32) return chunks ? run.operator()<32, CHUNK>() : run.operator()<32, 2>();
  return chunks ? run.operator()<64, CHUNK>() : run.operator()<64, 2>();
}
