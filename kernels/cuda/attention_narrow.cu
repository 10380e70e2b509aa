/** Attention and its gradients for narrow heads, as side networks have: a thread holds a whole query (or key), and the keys
 *  (or queries) of a tile are read by all threads of a block at once. */
#include "kernels/cuda/attention.cuh"

constexpr int THREADS = 64, TILE = 64, TOGETHER = 8;

/** One row of a head, zero from dim up to DIM. */
template <int DIM, typename T>
__device__ static inline void load_row(float (&out)[DIM], const T *x, size_t row, int stride, int column, int dim) {
#pragma unroll
  for (int d = 0; d < DIM; d++) out[d] = d < dim ? to_float(x[row * stride + column + d]) : 0.0f;
}

template <int DIM, typename T>
__device__ static inline void store_row(T *y, size_t row, int stride, int column, int dim, const float (&in)[DIM]) {
#pragma unroll
  for (int d = 0; d < DIM; d++)
    if (d < dim) from_float(y + row * stride + column + d, in[d]);
}

template <int DIM>
__device__ static inline float dot(const float (&a)[DIM], const float *b) {
  float sum = 0;
#pragma unroll
  for (int d = 0; d < DIM; d++) sum += a[d] * b[d];
  return sum;
}

template <int DIM>
__device__ static inline void add_scaled(float (&a)[DIM], float scale, const float *b) {
#pragma unroll
  for (int d = 0; d < DIM; d++) a[d] += scale * b[d];
}

/** A running soft-max of one query. */
template <int DIM>
struct soft_max {
  float highest = -INFINITY, sum = 0, acc[DIM] = {};
  /** TOGETHER keys of which the first `seen` count. */
  __device__ void add(const float (&q)[DIM], const float *k, const float *v, int seen, float scale) {
    float score[TOGETHER], top = highest;
#pragma unroll
    for (int j = 0; j < TOGETHER; j++) {
      score[j] = j < seen ? scale * dot(q, k + j * DIM) : -INFINITY;
      top = fmaxf(top, score[j]);
    }
    float fade = expf(highest - top);
    sum *= fade;
    highest = top;
#pragma unroll
    for (int d = 0; d < DIM; d++) acc[d] *= fade;
#pragma unroll
    for (int j = 0; j < TOGETHER; j++) {
      float weight = expf(score[j] - top);
      sum += weight;
      add_scaled(acc, weight, v + j * DIM);
    }
  }
};

template <typename T, int DIM>
__global__ void __launch_bounds__(THREADS) narrow_kernel(const attention_args a, const cuda_fault *fault) {
  if (fault->kind != FAULT_NONE) return;
  sample_tile s(a.segments, THREADS);
  if (s.first >= s.queries) return;
  int dim = a.head_dim, head = (int)blockIdx.y, column = head / (a.heads / a.kv_heads) * dim;
  int query = s.first + (int)threadIdx.x, count = min(THREADS, s.queries - s.first);
  int keys = s.before + s.first + count, seen = query < s.queries ? s.before + query + 1 : 0;
  float *k = reinterpret_cast<float *>(shared_memory), *v = k + TILE * DIM, q[DIM] = {};
  if (seen) load_row(q, (const T *)a.q, (size_t)s.query + query, a.q_stride, head * dim, dim);
  soft_max<DIM> result;
  for (int begin = 0; begin < keys; begin += TILE) {
    __syncthreads();
    load_tile(k, DIM, (const T *)a.k, (size_t)s.key + begin, keys - begin, TILE, a.kv_stride, column, dim);
    load_tile(v, DIM, (const T *)a.v, (size_t)s.key + begin, keys - begin, TILE, a.kv_stride, column, dim);
    __syncthreads();
    for (int j = 0; j < TILE && begin + j < seen; j += TOGETHER)
      result.add(q, k + j * DIM, v + j * DIM, seen - begin - j, a.scale);
  }
  if (!seen) return;
#pragma unroll
  for (int d = 0; d < DIM; d++) result.acc[d] /= result.sum;
  store_row((T *)a.o, (size_t)s.query + query, a.heads * dim, head * dim, dim, result.acc);
  if (a.lse) a.lse[(size_t)(s.query + query) * a.heads + head] = result.highest + logf(result.sum);
}

template <typename T, int DIM>
__global__ void __launch_bounds__(THREADS)
    narrow_query_gradient_kernel(const attention_backward_args a, const float *deltas, const cuda_fault *fault) {
  if (fault->kind != FAULT_NONE) return;
  sample_tile s(a.segments, THREADS);
  if (s.first >= s.queries) return;
  int dim = a.head_dim, head = (int)blockIdx.y, column = head / (a.heads / a.kv_heads) * dim;
  int query = s.first + (int)threadIdx.x, keys = min(s.first + THREADS, s.queries);
  bool active = query < s.queries;
  size_t row = (size_t)s.query + query, at = row * a.heads + head;
  float *k = reinterpret_cast<float *>(shared_memory), *v = k + TILE * DIM, q[DIM] = {}, d_o[DIM] = {}, dq[DIM] = {};
  if (active) load_row(q, (const T *)a.q, row, a.q_stride, head * dim, dim);
  if (active) load_row(d_o, (const T *)a.d_o, row, a.heads * dim, head * dim, dim);
  float lse = active ? a.lse[at] : 0.0f, delta = active ? deltas[at] : 0.0f;
  for (int begin = 0; begin < keys; begin += TILE) {
    __syncthreads();
    load_tile(k, DIM, (const T *)a.k, (size_t)s.key + begin, keys - begin, TILE, a.kv_stride, column, dim);
    load_tile(v, DIM, (const T *)a.v, (size_t)s.key + begin, keys - begin, TILE, a.kv_stride, column, dim);
    __syncthreads();
    for (int j = 0; active && j < TILE && begin + j <= query; j++) {
      float weight = expf(a.scale * dot(q, k + j * DIM) - lse);
      add_scaled(dq, a.scale * weight * (dot(d_o, v + j * DIM) - delta), k + j * DIM);
    }
  }
  if (active) store_row((T *)a.dq, row, a.q_stride, head * dim, dim, dq);
}

template <typename T, int DIM>
__global__ void __launch_bounds__(THREADS)
    narrow_key_gradient_kernel(const attention_backward_args a, const float *deltas, const cuda_fault *fault) {
  if (fault->kind != FAULT_NONE) return;
  sample_tile s(a.segments, THREADS);
  if (s.first >= s.queries) return;
  int dim = a.head_dim, kv_head = (int)blockIdx.y, group = a.heads / a.kv_heads, key = s.first + (int)threadIdx.x;
  bool active = key < s.queries;
  size_t row = (size_t)s.key + key;
  float *q = reinterpret_cast<float *>(shared_memory), *d_o = q + TILE * DIM, *lse = d_o + TILE * DIM;
  float *delta = lse + TILE, k[DIM] = {}, v[DIM] = {}, dk[DIM] = {}, dv[DIM] = {};
  if (active) load_row(k, (const T *)a.k, row, a.kv_stride, kv_head * dim, dim);
  if (active) load_row(v, (const T *)a.v, row, a.kv_stride, kv_head * dim, dim);
  for (int head = kv_head * group; head < (kv_head + 1) * group; head++)
    for (int begin = s.first / TILE * TILE; begin < s.queries; begin += TILE) {
      int count = min(TILE, s.queries - begin);
      size_t first = (size_t)s.query + begin;
      __syncthreads();
      load_tile(q, DIM, (const T *)a.q, first, count, TILE, a.q_stride, head * dim, dim);
      load_tile(d_o, DIM, (const T *)a.d_o, first, count, TILE, a.heads * dim, head * dim, dim);
      for (int j = (int)threadIdx.x; j < count; j += THREADS) {
        lse[j] = a.lse[(first + j) * a.heads + head];
        delta[j] = deltas[(first + j) * a.heads + head];
      }
      __syncthreads();
      for (int j = max(key - begin, 0); active && j < count; j++) {
        float weight = expf(a.scale * dot(k, q + j * DIM) - lse[j]);
        add_scaled(dv, weight, d_o + j * DIM);
        add_scaled(dk, a.scale * weight * (dot(v, d_o + j * DIM) - delta[j]), q + j * DIM);
      }
    }
  if (!active) return;
  store_row((T *)a.dk, row, a.kv_stride, kv_head * dim, dim, dk);
  store_row((T *)a.dv, row, a.kv_stride, kv_head * dim, dim, dv);
}

/** f<T, DIM>() with the smallest DIM that holds a head. */
template <typename F>
static cudaError_t by_dim(const cuda_context *context, int head_dim, F f) {
  return by_act(context, [&]<typename T>(T) {
    if (head_dim <= 4) return f.template operator()<T, 4>();
    if (head_dim <= 8) return f.template operator()<T, 8>();
    return f.template operator()<T, NARROW_HEAD_DIM>();
  });
}

extern "C" cudaError_t cuda_launch_attention_narrow(const cuda_context *context, const attention_args *a) {
  return by_dim(context, a->head_dim, [&]<typename T, int DIM>() {
    return launch(context, narrow_kernel<T, DIM>, sample_grid(a->segments, THREADS, a->heads), THREADS,
                  2 * TILE * DIM * sizeof(float), *a, context->fault);
  });
}

extern "C" cudaError_t cuda_launch_attention_backward_narrow(const cuda_context *context,
                                                             const attention_backward_args *a) {
  return by_dim(context, a->head_dim, [&]<typename T, int DIM>() {
    size_t shared = (size_t)(2 * TILE * DIM + 2 * TILE) * sizeof(float);
    TRY_CUDA(launch(context, narrow_query_gradient_kernel<T, DIM>, sample_grid(a->segments, THREADS, a->heads), THREADS,
                    shared, *a, context->deltas, context->fault));
    return launch(context, narrow_key_gradient_kernel<T, DIM>, sample_grid(a->segments, THREADS, a->kv_heads), THREADS,
                  shared, *a, context->deltas, context->fault);
  });
}
