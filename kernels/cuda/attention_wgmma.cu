/**
 * Attention forward with the products of Hopper's warp groups, for bf16 heads of 64 and 128 (FlashAttention-3: Shah et al.
 * 2024, without its producer warps).
 *
 * A block has 128 queries of one head, 64 a warp group, and walks over tiles of 128 keys. Keys and values pass through two
 * buffers each, and values come one tile behind: while a tile's keys make its scores and become weights, the tile before is
 * multiplied with its values. So the tensor cores have the next products before the last are awaited, and a group's
 * exponentials run beside them. One block a multiprocessor: 256 threads and, at a head dimension of 128, 160 KB of shared
 * memory; of a thread's registers 64 are scores, 64 output and 32 the weights under way.
 */
#include <wgmma.cuh>

#include "kernels/cuda/attention_rows.cuh"

constexpr int GROUP = 4 * WARP, GROUPS = 2, THREADS = GROUPS * GROUP, QUERIES = TILE / GROUPS, KEYS = 128;
constexpr int PANEL = 64, ROW_BYTES = PANEL * sizeof(element); /* wgmma.cuh */
constexpr int STEP = 16, STEP_BYTES = STEP * sizeof(element);  /* columns, or rows, of one product */
constexpr size_t ALIGNMENT = 1024;

/** Copies the first `count` of 128 rows of x to DIM / 64 panels, zero below. */
template <int DIM>
__device__ static inline void fill_panels(element *out, const element *x, int count, int stride) {
  constexpr int CHUNKS = DIM / CHUNK, ROWS = THREADS / CHUNKS; /* of a row; rows at a time */
  static_assert(TILE == KEYS && ROWS % 8 == 0);
  int chunk = (int)threadIdx.x % CHUNKS, row = (int)threadIdx.x / CHUNKS, inside = chunk % (PANEL / CHUNK);
  element *to = out + chunk / (PANEL / CHUNK) * KEYS * PANEL + chunk_at<PANEL>(row, inside);
  const element *from = x + (size_t)row * stride + chunk * CHUNK;
#pragma unroll
  for (int i = 0; i < KEYS / ROWS; i++) {
    bool there = row + i * ROWS < count;
    ptx::copy_async_16(to + i * ROWS * PANEL, there ? from + (size_t)(i * ROWS) * stride : x, there);
  }
}

/** What a warp group keeps in registers. */
template <int DIM>
struct group_sums {
  float scores[1][KEYS / 8][4], o[1][DIM / 8][4] = {};
  unsigned shares[KEYS / STEP][4]; /**< weights as factors */
  softmax<1> weights;

  /** Begins scores = q · kᵀ. */
  __device__ void start_scores(uint64_t q, uint64_t k) {
    ptx::products_begin();
#pragma unroll
    for (int d = 0; d < DIM / STEP; d++) {
      unsigned at = d * STEP / PANEL * KEYS * ROW_BYTES + d * STEP % PANEL / STEP * STEP_BYTES;
      uint64_t rows = ptx::advance_panels(q, at), columns = ptx::advance_panels(k, at);
      if (d == 0) ptx::multiply_panels<false>(scores[0], rows, columns);
      if (d != 0) ptx::multiply_panels<true>(scores[0], rows, columns);
    }
    ptx::products_commit();
  }

  /** Begins o += shares · v. */
  __device__ void start_output(uint64_t v) {
    ptx::products_begin();
#pragma unroll
    for (int n = 0; n < KEYS / STEP; n++)
      ptx::add_panels(o[0], shares[n], ptx::advance_panels(v, n * STEP * ROW_BYTES));
    ptx::products_commit();
  }

  /** Of the scores of a tile of which the first query of the warp sees keys 0 .. first_seen. */
  __device__ void weigh(int first_seen, float scale) {
    if (first_seen < KEYS - 1) weights.mask(scores, first_seen);
    weights.weigh(scores, scale);
  }

  /** When no product uses o and the shares. */
  __device__ void take_weights() {
    weights.fade_out(o);
#pragma unroll
    for (int n = 0; n < KEYS / STEP; n++) pack_factor(shares[n], scores[0], 2 * n);
  }
};

template <int DIM>
__global__ void __launch_bounds__(THREADS, 1)
    wgmma_kernel(const attention_args a, const work_order order, const cuda_fault *fault) {
  if (fault->kind != FAULT_NONE) return;
  sample_tile s = order.tile(a.segments);
  if (s.first >= s.queries) return;

  int head = order.head(), warp = (int)threadIdx.x / WARP, group = warp / 4;
  int count = min(TILE, s.queries - s.first), before = s.before + s.first, keys = before + count;
  int tiles = (keys + KEYS - 1) / KEYS;
  /* those that a query of this group sees; none for a group without queries */
  int left = min(QUERIES, count - group * QUERIES),
      mine = left > 0 ? (before + group * QUERIES + left - 1) / KEYS + 1 : 0;
  int seen = before + warp * SLICE; /* the first query of the warp sees keys 0 .. seen */

  unsigned past = ptx::shared_address(shared_memory) % ALIGNMENT;
  element *q = reinterpret_cast<element *>(shared_memory + (ALIGNMENT - past) % ALIGNMENT), *k = q + TILE * DIM,
          *v = k + 2 * KEYS * DIM;
  float *spare = reinterpret_cast<float *>(v + 2 * KEYS * DIM) + threadIdx.x;
  size_t column = (size_t)(head / (a.heads / a.kv_heads) * DIM), first_key = (size_t)s.key * a.kv_stride + column;
  auto fetch = [&](element *to, const void *x,
                   int tile) { /* into the buffer that its number says */
                               fill_panels<DIM>(to + tile % 2 * KEYS * DIM,
                                                (const element *)x + first_key + (size_t)(tile * KEYS) * a.kv_stride,
                                                keys - tile * KEYS, a.kv_stride);
  };
  auto fetch_behind = [&](int tile) { /* what is needed when `tile` is done */
                                      if (tile < tiles) fetch(v, a.v, tile);
                                      if (tile + 1 < tiles) fetch(k, a.k, tile + 1);
                                      ptx::copy_async_commit();
  };
  auto panels = [](const element *x, int tile) {
    return ptx::describe_panels(x + tile % 2 * KEYS * DIM, KEYS * ROW_BYTES);
  };
  fill_panels<DIM>(q, (const element *)a.q + (size_t)(s.query + s.first) * a.q_stride + head * DIM, count, a.q_stride);
  fetch(k, a.k, 0);
  ptx::copy_async_commit();
  fetch_behind(0);
  ptx::copy_async_wait<1>();
  ptx::fence_async_shared();
  __syncthreads(); /* queries and the first keys are there */

  uint64_t own = ptx::describe_panels(q + group * QUERIES * PANEL, KEYS * ROW_BYTES);
  float scale = a.scale * LOG2_E;
  group_sums<DIM> sums;
  if (mine > 0) {
    sums.start_scores(own, panels(k, 0));
    ptx::products_wait<0>(sums.scores[0]);
    sums.weigh(seen, scale);
    sums.take_weights();
  }
  for (int tile = 1; tile <= tiles; tile++) { /* the scores of `tile`, the output of the one before */
    ptx::copy_async_wait<0>();
    ptx::fence_async_shared();
    __syncthreads(); /* both are there, nobody reads the other buffers */
    if (tile < mine) {
      sums.start_scores(own, panels(k, tile));
      sums.start_output(panels(v, tile - 1));
      fetch_behind(tile);
      ptx::products_wait<1>(sums.scores[0]);
      sums.weigh(seen - tile * KEYS, scale);
      ptx::compute_before_wait(sums.weights.sum[0][0] + sums.weights.sum[0][1], spare);
      ptx::products_wait<0>(sums.o[0]);
      sums.take_weights();
    } else {
      fetch_behind(tile);
      if (tile > mine) continue;
      sums.start_output(panels(v, tile - 1));
      ptx::products_wait<0>(sums.o[0]);
    }
  }
  __syncthreads(); /* nobody reads queries */
  int first = warp * SLICE;
  if (first < count)
    sums.weights.template finish<CHUNK>(a, sums.o, q + first * DIM, (size_t)(s.query + s.first + first), head,
                                        count - first);
}

/* ---- the launch -------------------------------------------------------------------------------------------- */

bool attention_wgmma_fits(const cuda_context *context, const attention_args *a) {
  return QST_SM90A && context->capability == 90 && context->act == DTYPE_BF16 && a->scale > 0 &&
         (a->head_dim == 64 || a->head_dim == 128) &&
         copies_in<CHUNK>(a->head_dim, a->q_stride, a->kv_stride, a->o, a->q, a->k, a->v);
}

cudaError_t cuda_launch_attention_wgmma(const cuda_context *context, const attention_args *a) {
  work_order order(*a);
  auto run = [&]<int DIM>() {
    return launch(context, wgmma_kernel<DIM>, order.grid(*a), THREADS,
                  (size_t)(TILE + 4 * KEYS) * DIM * sizeof(element) + THREADS * sizeof(float) + ALIGNMENT, *a, order,
                  context->fault);
  };
  return a->head_dim == 64 ? run.operator()<64>() : run.operator()<128>();
}
