/**
 * Attention forward on tensor cores, for bf16 heads of 2 to 128 (FlashAttention-2: Dao 2023).
 *
 * A block has 128 queries of one head, 32 a warp, so that keys and values once read from shared memory serve two products.
 * Tiles of keys and values pass through two buffers: one is filled while the other is used. Scores stay in registers, where
 * a product leaves them in the layout that the next one wants. Two blocks a multiprocessor hide the rest: 128 threads of at
 * most 255 registers and 64 KB of shared memory at a head dimension of 128.
 */
#include "kernels/cuda/attention_mma.cuh"

/** Keys of a tile: as many as leave registers for their scores. */
template <int DIM>
constexpr int keys_of = DIM > 64 ? 32 : 64;

template <int DIM, int PART>
__global__ void __launch_bounds__(THREADS, DIM > 16 ? 2 : 3)
    mma_kernel(const attention_args a, const work_order order, const cuda_fault *fault) {
  constexpr int KEYS = keys_of<DIM>;
  if (fault->kind != FAULT_NONE) return;
  sample_tile s = order.tile(a.segments);
  if (s.first >= s.queries) return;

  int head = order.head(), dim = a.head_dim, column = head / (a.heads / a.kv_heads) * dim;
  int warp = (int)threadIdx.x / WARP, count = min(TILE, s.queries - s.first), keys = s.before + s.first + count;
  int seen = s.before + s.first + warp * MINE; /* the first query of the warp sees keys 0 .. seen */
  element *q = reinterpret_cast<element *>(shared_memory), *pairs = q + TILE * DIM, *own = q + warp * MINE * DIM;
  auto fetch = [&](int begin) { /* into the buffer that its number of tiles says */
                                element *k = pairs + begin / KEYS % 2 * 2 * KEYS * DIM;
                                fill<DIM, KEYS, PART>(k, a.k, (size_t)s.key + begin, keys - begin, a.kv_stride, column,
                                                      dim);
                                fill<DIM, KEYS, PART>(k + KEYS * DIM, a.v, (size_t)s.key + begin, keys - begin,
                                                      a.kv_stride, column, dim);
                                ptx::copy_async_commit();
  };
  bool any = warp * MINE < count;
  softmax<SLICES> weights;
  sums_of_warp<DIM> o = {};
  fill<DIM, TILE, PART>(q, a.q, (size_t)s.query + s.first, count, a.q_stride, head * dim, dim);
  fetch(0);
  for (int begin = 0; begin < keys; begin += KEYS) {
    const element *k = pairs + begin / KEYS % 2 * 2 * KEYS * DIM;
    ptx::copy_async_wait<0>();
    __syncthreads(); /* this buffer is filled, nobody reads the other one */
    if (begin + KEYS < keys) fetch(begin + KEYS);
    if (!any || begin >= seen + MINE) continue;
    sums_of_warp<KEYS> scores;
    multiply_rows<DIM, KEYS>(scores, own, k);
    if (begin + KEYS - 1 > seen) weights.mask(scores, seen - begin);
    weights.weigh(scores, a.scale * LOG2_E);
    weights.fade_out(o);
    add_product<DIM, KEYS>(o, scores, k + KEYS * DIM);
  }
  if (any) weights.template finish<PART>(a, o, own, (size_t)s.query + s.first + warp * MINE, head, count - warp * MINE);
}

/* ---- the launch -------------------------------------------------------------------------------------------- */

bool attention_mma_fits(const cuda_context *context, const attention_args *a) {
  int most = copies_in<CHUNK>(a->head_dim, a->q_stride, a->kv_stride, a->o, a->q, a->k, a->v) ? 128 : 64;
  return context->act == DTYPE_BF16 && a->head_dim <= most && a->scale > 0 &&
         copies_in<2>(a->head_dim, a->q_stride, a->kv_stride, a->o, a->q, a->k, a->v);
}

cudaError_t cuda_launch_attention_mma(const cuda_context *context, const attention_args *a) {
  work_order order(*a);
  auto run = [&]<int DIM, int PART>() {
    return launch(context, mma_kernel<DIM, PART>, order.grid(*a), THREADS,
                  (size_t)(TILE + 4 * keys_of<DIM>)*DIM * sizeof(element), *a, order, context->fault);
  };
  bool chunks = copies_in<CHUNK>(a->head_dim, a->q_stride, a->kv_stride, a->o, a->q, a->k, a->v);
  if (a->head_dim <= 16) return run.operator()<16, 2>();
  if (a->head_dim <= 32) return chunks ? run.operator()<32, CHUNK>() : run.operator()<32, 2>();
  if (a->head_dim <= 64) return chunks ? run.operator()<64, CHUNK>() : run.operator()<64, 2>();
  if (a->head_dim <= 96) return run.operator()<96, CHUNK>();
  return run.operator()<128, CHUNK>();
}
