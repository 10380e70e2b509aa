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

/* ---- a warp's 32 queries ----------------------------------------------------------------------------------- */

template <int DIM, int PART>
struct queries {
  static constexpr int KEYS = keys_of<DIM>;
  float highest[SLICES][2], sum[SLICES][2] = {}; /**< of scores before scaling; of this lane's columns */
  sums_of_warp<DIM> o = {};
  sums_of_warp<KEYS> s;

  __device__ queries() {
    for (int i = 0; i < SLICES; i++) highest[i][0] = highest[i][1] = -INFINITY;
  }

  /** Query r of the warp sees keys 0 .. first_seen + r of the tile. */
  __device__ void mask(int first_seen) {
    int lane = (int)threadIdx.x % WARP;
#pragma unroll
    for (int i = 0; i < SLICES; i++)
#pragma unroll
      for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
          int key = n * 8 + lane % 4 * 2 + e % 2, row = i * SLICE + lane / 4 + e / 2 * 8;
          if (key > first_seen + row) s[i][n][e] = -INFINITY;
        }
  }

  /** s becomes weights 2^((s − highest) · scale); what was summed fades accordingly. */
  __device__ void weigh(float scale) {
#pragma unroll
    for (int i = 0; i < SLICES; i++)
#pragma unroll
      for (int h = 0; h < 2; h++) {
        float top = highest[i][h];
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++) top = fmaxf(top, fmaxf(s[i][n][2 * h], s[i][n][2 * h + 1]));
        top = fmaxf(top, __shfl_xor_sync(ALL_LANES, top, 1));
        top = fmaxf(top, __shfl_xor_sync(ALL_LANES, top, 2));
        float fade = ptx::exp2_fast((highest[i][h] - top) * scale), shift = top * scale;
        highest[i][h] = top;
        sum[i][h] *= fade;
        if (fade < 1) {
#pragma unroll
          for (int n = 0; n < DIM / 8; n++) o[i][n][2 * h] *= fade, o[i][n][2 * h + 1] *= fade;
        }
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
          for (int e = 2 * h; e < 2 * h + 2; e++) {
            s[i][n][e] = ptx::exp2_fast(s[i][n][e] * scale - shift);
            sum[i][h] += s[i][n][e];
          }
      }
  }

  /** Writes `count` rows from `row` on, by way of `spare` [MINE, DIM] in shared memory. */
  __device__ void finish(const attention_args &a, element *spare, size_t row, int head, int count) {
    float shares[SLICES][2];
#pragma unroll
    for (int i = 0; i < SLICES; i++)
#pragma unroll
      for (int h = 0; h < 2; h++) {
        float total = sum[i][h];
        total += __shfl_xor_sync(ALL_LANES, total, 1);
        total += __shfl_xor_sync(ALL_LANES, total, 2);
        shares[i][h] = 1.0f / total;
        if (a.lse && row_of_lane(i, h) < count && threadIdx.x % 4 == 0)
          a.lse[(row + row_of_lane(i, h)) * a.heads + head] = highest[i][h] * a.scale + logf(total);
      }
    size_t stride = (size_t)a.heads * a.head_dim;
    write_rows<DIM, PART>((element *)a.o + row * stride + head * a.head_dim, stride, a.head_dim, count, o, shares,
                          spare);
  }
};

/* ---- the kernel -------------------------------------------------------------------------------------------- */

/** The order of work: of each sample groups of `together` heads, whose keys and values fit the second-level cache, and of
 *  a group its last tiles first, which see the most keys. */
struct mma_order {
  int together, groups, tiles;
};

template <int DIM, int PART>
__global__ void __launch_bounds__(THREADS, DIM > 16 ? 2 : 3)
    mma_kernel(const attention_args a, const mma_order order, const cuda_fault *fault) {
  constexpr int KEYS = keys_of<DIM>;
  if (fault->kind != FAULT_NONE) return;
  int index = (int)blockIdx.x, head = index % order.together,
      tile = order.tiles - 1 - index / order.together % order.tiles;
  index /= order.together * order.tiles;
  head += index % order.groups * order.together;
  sample_tile s(a.segments, index / order.groups, tile * TILE);
  if (s.first >= s.queries) return;

  int dim = a.head_dim, column = head / (a.heads / a.kv_heads) * dim, warp = (int)threadIdx.x / WARP;
  int count = min(TILE, s.queries - s.first), keys = s.before + s.first + count;
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
  queries<DIM, PART> mine;
  fill<DIM, TILE, PART>(q, a.q, (size_t)s.query + s.first, count, a.q_stride, head * dim, dim);
  fetch(0);
  for (int begin = 0; begin < keys; begin += KEYS) {
    const element *k = pairs + begin / KEYS % 2 * 2 * KEYS * DIM;
    ptx::copy_async_wait<0>();
    __syncthreads(); /* this buffer is filled, nobody reads the other one */
    if (begin + KEYS < keys) fetch(begin + KEYS);
    if (!any || begin >= seen + MINE) continue;
    multiply_rows<DIM, KEYS>(mine.s, own, k);
    if (begin + KEYS - 1 > seen) mine.mask(seen - begin);
    mine.weigh(a.scale * LOG2_E);
    add_product<DIM, KEYS>(mine.o, mine.s, k + KEYS * DIM);
  }
  if (any) mine.finish(a, own, (size_t)s.query + s.first + warp * MINE, head, count - warp * MINE);
}

/* ---- the launch -------------------------------------------------------------------------------------------- */

constexpr size_t CACHED = (size_t)16 << 20; /* bytes of keys and values that stay in the second-level cache */

static mma_order order_of(const attention_args *a) {
  size_t bytes = (size_t)a->segments.max_keys * a->head_dim * 2 * sizeof(element);
  int kv_together = a->kv_heads;
  while (kv_together > 1 && (a->kv_heads % kv_together || bytes * kv_together > CACHED)) kv_together--;
  int together = a->heads / a->kv_heads * kv_together;
  return {together, a->heads / together, (a->segments.max_queries + TILE - 1) / TILE};
}

bool attention_mma_fits(const cuda_context *context, const attention_args *a) {
  int most = copies_in<CHUNK>(a->head_dim, a->q_stride, a->kv_stride, a->o, a->q, a->k, a->v) ? 128 : 64;
  return context->act == DTYPE_BF16 && a->head_dim <= most && a->scale > 0 &&
         copies_in<2>(a->head_dim, a->q_stride, a->kv_stride, a->o, a->q, a->k, a->v);
}

cudaError_t cuda_launch_attention_mma(const cuda_context *context, const attention_args *a) {
  mma_order order = order_of(a);
  dim3 grid((unsigned)(order.together * order.groups * order.tiles) * (unsigned)a->segments.count);
  auto run = [&]<int DIM, int PART>() {
    return launch(context, mma_kernel<DIM, PART>, grid, THREADS,
                  (size_t)(TILE + 4 * keys_of<DIM>)*DIM * sizeof(element), *a, order, context->fault);
  };
  bool chunks = copies_in<CHUNK>(a->head_dim, a->q_stride, a->kv_stride, a->o, a->q, a->k, a->v);
  if (a->head_dim <= 16) return run.operator()<16, 2>();
  if (a->head_dim <= 32) return chunks ? run.operator()<32, CHUNK>() : run.operator()<32, 2>();
  if (a->head_dim <= 64) return chunks ? run.operator()<64, CHUNK>() : run.operator()<64, 2>();
  if (a->head_dim <= 96) return run.operator()<96, CHUNK>();
  return run.operator()<128, CHUNK>();
}
