/** Attention forward for any head dimension: a lane a key for the scores, a lane a dimension for the values. */
#include "kernels/cuda/attention.cuh"

static __global__ void __launch_bounds__(BLOCK)
    check_samples_kernel(const segments s, int rows, bool training, cuda_fault *fault) {
  if (threadIdx.x == 0 && (s.q_start[0] != 0 || s.q_start[s.count] != rows))
    report(fault, FAULT_SAMPLES, s.q_start[0], s.q_start[s.count], rows);
  for (int i = (int)threadIdx.x; i < s.count; i += BLOCK) {
    int queries = s.q_start[i + 1] - s.q_start[i], keys = s.k_length[i];
    bool good = s.q_start[i] >= 0 && s.q_start[i + 1] <= rows && queries >= 0 && queries <= s.max_queries &&
                keys >= queries && keys <= s.max_keys && s.k_start[i] >= 0;
    if (training) good = good && keys == queries && s.k_start[i] == s.q_start[i];
    if (!good) report(fault, FAULT_SAMPLE, i, keys, queries);
  }
}

cudaError_t attention_check(const cuda_context *context, const segments &segments, int rows, bool training) {
  return launch(context, check_samples_kernel, dim3(1), BLOCK, 0, segments, rows, training, context->fault);
}

constexpr int WARPS = 4, QUERIES = 4, TILE = WARPS * QUERIES, KEYS = WARP;

/** STEPS * 32 dimensions at least. Warp w has queries w * QUERIES ... of the tile. */
template <typename T, int STEPS>
__global__ void __launch_bounds__(WARPS *WARP) attention_kernel(const attention_args a, const cuda_fault *fault) {
  if (fault->kind != FAULT_NONE) return;
  sample_tile s(a.segments, TILE);
  if (s.first >= s.queries) return;
  int dim = a.head_dim, head = (int)blockIdx.y, column = head / (a.heads / a.kv_heads) * dim;
  int lane = (int)threadIdx.x % WARP, mine = (int)threadIdx.x / WARP * QUERIES;
  int count = min(TILE, s.queries - s.first), keys = s.before + s.first + count;
  float *shares = reinterpret_cast<float *>(shared_memory) + mine * KEYS; /* this warp's [KEYS][QUERIES] */
  float *q = reinterpret_cast<float *>(shared_memory) + TILE * KEYS, *k = q + TILE * dim, *v = k + KEYS * (dim + 1);
  load_tile(q, dim, (const T *)a.q, (size_t)s.query + s.first, count, TILE, a.q_stride, head * dim, dim);

  float highest[QUERIES], sum[QUERIES] = {}, acc[QUERIES][STEPS] = {};
  for (int r = 0; r < QUERIES; r++) highest[r] = -INFINITY;
  for (int begin = 0; begin < keys; begin += KEYS) {
    __syncthreads();
    load_tile(k, dim + 1, (const T *)a.k, (size_t)s.key + begin, keys - begin, KEYS, a.kv_stride, column, dim);
    load_tile(v, dim, (const T *)a.v, (size_t)s.key + begin, keys - begin, KEYS, a.kv_stride, column, dim);
    __syncthreads();
    float weight[QUERIES] = {};
    for (int d = 0; d < dim; d++) {
      float value = k[lane * (dim + 1) + d];
#pragma unroll
      for (int r = 0; r < QUERIES; r++) weight[r] += q[(mine + r) * dim + d] * value;
    }
#pragma unroll
    for (int r = 0; r < QUERIES; r++) {
      bool seen = begin + lane <= s.before + s.first + mine + r;
      float score = seen ? a.scale * weight[r] : -INFINITY, top = score;
#pragma unroll
      for (int step = WARP / 2; step > 0; step /= 2) top = fmaxf(top, __shfl_xor_sync(ALL_LANES, top, step));
      top = fmaxf(top, highest[r]);
      float fade = expf(highest[r] - top);
      weight[r] = expf(score - top);
      sum[r] = sum[r] * fade + warp_sum(weight[r]);
      highest[r] = top;
#pragma unroll
      for (int i = 0; i < STEPS; i++) acc[r][i] *= fade;
    }
    store<QUERIES>(shares, lane * QUERIES, weight);
    __syncwarp();
    for (int j = 0; j < KEYS; j++) {
      float value[STEPS], share[QUERIES];
      load<QUERIES>(share, shares, j * QUERIES);
#pragma unroll
      for (int i = 0; i < STEPS; i++) value[i] = lane + i * WARP < dim ? v[j * dim + lane + i * WARP] : 0.0f;
#pragma unroll
      for (int r = 0; r < QUERIES; r++)
#pragma unroll
        for (int i = 0; i < STEPS; i++) acc[r][i] += share[r] * value[i];
    }
  }
#pragma unroll
  for (int r = 0; r < QUERIES; r++) {
    if (mine + r >= count) continue;
    size_t row = (size_t)(s.query + s.first + mine + r) * a.heads + head;
#pragma unroll
    for (int i = 0; i < STEPS; i++)
      if (lane + i * WARP < dim) from_float((T *)a.o + row * dim + lane + i * WARP, acc[r][i] / sum[r]);
    if (a.lse && lane == 0) a.lse[row] = highest[r] + logf(sum[r]);
  }
}

extern "C" cudaError_t cuda_launch_attention(const cuda_context *context, const attention_args *a) {
  if (a->rows == 0) return cudaSuccess;
  TRY_CUDA(attention_check(context, a->segments, a->rows, false));
  if (attention_wgmma_fits(context, a)) return cuda_launch_attention_wgmma(context, a);
  if (attention_mma_fits(context, a)) return cuda_launch_attention_mma(context, a);
  if (a->head_dim <= NARROW_HEAD_DIM) return cuda_launch_attention_narrow(context, a);
  size_t shared =
      sizeof(float) * (size_t)(TILE * KEYS + TILE * a->head_dim + KEYS * (a->head_dim + 1) + KEYS * a->head_dim);
  dim3 grid = sample_grid(a->segments, TILE, a->heads);
  return by_act(context, [&]<typename T>(T) {
    auto run = [&](auto kernel) { return launch(context, kernel, grid, WARPS * WARP, shared, *a, context->fault); };
    if (a->head_dim <= WARP) return run(attention_kernel<T, 1>);
    if (a->head_dim <= 2 * WARP) return run(attention_kernel<T, 2>);
    if (a->head_dim <= 4 * WARP) return run(attention_kernel<T, 4>);
    return run(attention_kernel<T, 8>);
  });
}
