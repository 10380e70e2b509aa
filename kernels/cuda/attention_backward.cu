/** The gradients of attention for any head dimension: the layout of attention.cu, once over keys for dq and once over
 *  queries for dk and dv. */
#include "kernels/cuda/attention.cuh"

constexpr int WARPS = 4, EACH = 2, TILE = WARPS * EACH, OTHERS = WARP;

/** delta[t, head] = Σ do · o. */
template <typename T>
struct delta {
  float *out;
  const T *d_o, *o;
  int dim;
  template <int N>
  __device__ void run(unsigned i) const {
    float sum = 0;
    for (size_t at = (size_t)i * dim; at < (size_t)(i + 1) * dim; at++) sum += to_float(d_o[at]) * to_float(o[at]);
    out[i] = sum;
  }
};

/** dq of TILE queries: EACH a warp, a lane a key. */
template <typename T, int STEPS>
__global__ void __launch_bounds__(WARPS *WARP)
    query_gradient_kernel(const attention_backward_args a, const float *deltas, const cuda_fault *fault) {
  if (fault->kind != FAULT_NONE) return;
  sample_tile s(a.segments, TILE);
  if (s.first >= s.queries) return;
  int dim = a.head_dim, head = (int)blockIdx.y, column = head / (a.heads / a.kv_heads) * dim;
  int lane = (int)threadIdx.x % WARP, mine = (int)threadIdx.x / WARP * EACH;
  int count = min(TILE, s.queries - s.first), keys = s.first + count, width = dim + 1;
  size_t row = (size_t)s.query + s.first;
  float *slopes = reinterpret_cast<float *>(shared_memory) + mine * OTHERS; /* this warp's [OTHERS][EACH] */
  float *q = reinterpret_cast<float *>(shared_memory) + TILE * OTHERS, *d_o = q + TILE * dim;
  float *k = d_o + TILE * dim, *v = k + OTHERS * width;
  load_tile(q, dim, (const T *)a.q, row, count, TILE, a.q_stride, head * dim, dim);
  load_tile(d_o, dim, (const T *)a.d_o, row, count, TILE, a.heads * dim, head * dim, dim);

  float acc[EACH][STEPS] = {};
  for (int begin = 0; begin < keys; begin += OTHERS) {
    __syncthreads();
    load_tile(k, width, (const T *)a.k, (size_t)s.key + begin, keys - begin, OTHERS, a.kv_stride, column, dim);
    load_tile(v, width, (const T *)a.v, (size_t)s.key + begin, keys - begin, OTHERS, a.kv_stride, column, dim);
    __syncthreads();
    float ds[EACH];
#pragma unroll
    for (int r = 0; r < EACH; r++) {
      size_t at = (row + mine + r) * a.heads + head;
      float score = 0, dp = 0;
      for (int d = 0; d < dim; d++) {
        score += q[(mine + r) * dim + d] * k[lane * width + d];
        dp += d_o[(mine + r) * dim + d] * v[lane * width + d];
      }
      bool seen = mine + r < count && begin + lane <= s.first + mine + r;
      ds[r] = seen ? a.scale * expf(a.scale * score - a.lse[at]) * (dp - deltas[at]) : 0.0f;
    }
    store<EACH>(slopes, lane * EACH, ds);
    __syncwarp();
    for (int j = 0; j < OTHERS; j++) {
      load<EACH>(ds, slopes, j * EACH);
#pragma unroll
      for (int r = 0; r < EACH; r++)
#pragma unroll
        for (int i = 0; i < STEPS; i++)
          if (lane + i * WARP < dim) acc[r][i] += ds[r] * k[j * width + lane + i * WARP];
    }
  }
#pragma unroll
  for (int r = 0; r < EACH; r++)
#pragma unroll
    for (int i = 0; i < STEPS; i++)
      if (mine + r < count && lane + i * WARP < dim)
        from_float((T *)a.dq + (row + mine + r) * a.q_stride + head * dim + lane + i * WARP, acc[r][i]);
}

/** dk and dv of TILE keys: EACH a warp, a lane a query. Query heads in ascending order. */
template <typename T, int STEPS>
__global__ void __launch_bounds__(WARPS *WARP)
    key_gradient_kernel(const attention_backward_args a, const float *deltas, const cuda_fault *fault) {
  if (fault->kind != FAULT_NONE) return;
  sample_tile s(a.segments, TILE);
  if (s.first >= s.queries) return;
  int dim = a.head_dim, kv_head = (int)blockIdx.y, group = a.heads / a.kv_heads, width = dim + 1;
  int lane = (int)threadIdx.x % WARP, mine = (int)threadIdx.x / WARP * EACH;
  int count = min(TILE, s.queries - s.first);
  size_t row = (size_t)s.key + s.first;
  float *pairs =
      reinterpret_cast<float *>(shared_memory) + mine * OTHERS * 2; /* this warp's [OTHERS][weights, slopes] */
  float *k = reinterpret_cast<float *>(shared_memory) + 2 * TILE * OTHERS, *v = k + TILE * dim;
  float *q = v + TILE * dim, *d_o = q + OTHERS * width;
  load_tile(k, dim, (const T *)a.k, row, count, TILE, a.kv_stride, kv_head * dim, dim);
  load_tile(v, dim, (const T *)a.v, row, count, TILE, a.kv_stride, kv_head * dim, dim);

  float dk[EACH][STEPS] = {}, dv[EACH][STEPS] = {};
  for (int head = kv_head * group; head < (kv_head + 1) * group; head++)
    for (int begin = s.first / OTHERS * OTHERS; begin < s.queries; begin += OTHERS) {
      int left = s.queries - begin;
      size_t first = (size_t)s.query + begin;
      __syncthreads();
      load_tile(q, width, (const T *)a.q, first, left, OTHERS, a.q_stride, head * dim, dim);
      load_tile(d_o, width, (const T *)a.d_o, first, left, OTHERS, a.heads * dim, head * dim, dim);
      __syncthreads();
      size_t at = (first + lane) * a.heads + head;
      float lse = lane < left ? a.lse[at] : 0.0f, delta = lane < left ? deltas[at] : 0.0f;
      float pair[2 * EACH];
#pragma unroll
      for (int r = 0; r < EACH; r++) {
        float score = 0, dp = 0;
        for (int d = 0; d < dim; d++) {
          score += k[(mine + r) * dim + d] * q[lane * width + d];
          dp += v[(mine + r) * dim + d] * d_o[lane * width + d];
        }
        bool seen = lane < left && s.first + mine + r <= begin + lane;
        pair[r] = seen ? expf(a.scale * score - lse) : 0.0f;
        pair[EACH + r] = seen ? a.scale * pair[r] * (dp - delta) : 0.0f;
      }
      store<2 * EACH>(pairs, lane * 2 * EACH, pair);
      __syncwarp();
      for (int j = 0; j < OTHERS; j++) {
        load<2 * EACH>(pair, pairs, j * 2 * EACH);
#pragma unroll
        for (int r = 0; r < EACH; r++)
#pragma unroll
          for (int i = 0; i < STEPS; i++) {
            if (lane + i * WARP >= dim) break;
            dv[r][i] += pair[r] * d_o[j * width + lane + i * WARP];
            dk[r][i] += pair[EACH + r] * q[j * width + lane + i * WARP];
          }
      }
    }
#pragma unroll
  for (int r = 0; r < EACH; r++)
#pragma unroll
    for (int i = 0; i < STEPS; i++) {
      if (mine + r >= count || lane + i * WARP >= dim) continue;
      size_t at = (row + mine + r) * a.kv_stride + kv_head * dim + lane + i * WARP;
      from_float((T *)a.dk + at, dk[r][i]);
      from_float((T *)a.dv + at, dv[r][i]);
    }
}

template <typename T, int STEPS>
static cudaError_t gradients(const cuda_context *context, const attention_backward_args *a) {
  size_t shared = sizeof(float) * (size_t)(2 * TILE * OTHERS + 2 * TILE * a->head_dim + 2 * OTHERS * (a->head_dim + 1));
  TRY_CUDA(launch(context, query_gradient_kernel<T, STEPS>, sample_grid(a->segments, TILE, a->heads), WARPS * WARP,
                  shared, *a, context->deltas, context->fault));
  return launch(context, key_gradient_kernel<T, STEPS>, sample_grid(a->segments, TILE, a->kv_heads), WARPS * WARP,
                shared, *a, context->deltas, context->fault);
}

extern "C" cudaError_t cuda_launch_attention_backward(const cuda_context *context, const attention_backward_args *a) {
  if (a->rows == 0) return cudaSuccess;
  TRY_CUDA(attention_check(context, a->segments, a->rows, true));
  return by_act(context, [&]<typename T>(T) {
    TRY_CUDA(each<1>(context, delta<T>{context->deltas, (const T *)a->d_o, (const T *)a->o, a->head_dim},
                     (size_t)a->rows * a->heads, false));
    if (attention_mma_backward_fits(context, a)) return cuda_launch_attention_mma_backward(context, a);
    if (a->head_dim <= NARROW_HEAD_DIM) return cuda_launch_attention_backward_narrow(context, a);
    if (a->head_dim <= WARP) return gradients<T, 1>(context, a);
    if (a->head_dim <= 2 * WARP) return gradients<T, 2>(context, a);
    if (a->head_dim <= 4 * WARP) return gradients<T, 4>(context, a);
    return gradients<T, 8>(context, a);
  });
}
