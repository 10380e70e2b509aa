/**
 * Attention forward on tensor cores, for bf16 heads of 24 to 128 (FlashAttention-2: Dao 2023).
 *
 * A block has 128 queries of one head, 32 a warp, so that keys and values once read from shared memory serve two products.
 * Tiles of keys and values pass through two buffers: one is filled while the other is used. Scores stay in registers, where
 * a product leaves them in the layout that the next one wants. Two blocks a multiprocessor hide the rest: 128 threads of at
 * most 255 registers and 64 KB of shared memory at a head dimension of 128.
 */
#include <ptx.cuh>

#include "kernels/cuda/attention.cuh"

using element = __nv_bfloat16;

constexpr int WARPS = 4, THREADS = WARPS * WARP, SLICE = 16, SLICES = 2, MINE = SLICES * SLICE;
constexpr int TILE = WARPS * MINE, CHUNK = 8; /* elements in 16 bytes */
/** Keys of a tile: as many as leave registers for their scores. */
template <int DIM>
constexpr int keys_of = DIM > 64 ? 32 : 64;
constexpr float LOG2_E = 1.44269504f;

/* ---- tiles in shared memory ------------------------------------------------------------------------------- */

/** Rows of DIM elements in chunks of 16 bytes, which are permuted so that any 8 rows' chunks of a column lie in different
 *  banks: by xor with bits of the row. */
template <int DIM>
__device__ static inline int chunk_at(int row, int chunk) {
  constexpr bool eights = DIM / CHUNK % 8 == 0; /* else rows are an odd number of half cycles of the banks */
  return row * DIM + (chunk ^ (eights ? row & 7 : row >> 1 & 3)) * CHUNK;
}

/** Rows first .. first + count of x, zero below and from `dim` on; ROWS in all. */
template <int DIM, int ROWS>
__device__ static inline void fill(element *out, const void *x, size_t first, int count, int stride, int column,
                                   int dim) {
#pragma unroll
  for (int i = 0; i < ROWS * DIM / CHUNK / THREADS; i++) {
    int at = i * THREADS + (int)threadIdx.x, row = at / (DIM / CHUNK), chunk = at % (DIM / CHUNK);
    bool there = row < count && chunk * CHUNK < dim;
    const element *from =
        (const element *)x + (first + (there ? row : 0)) * stride + column + (there ? chunk * CHUNK : 0);
    ptx::copy_async_16(out + chunk_at<DIM>(row, chunk), from, there);
  }
}

/* ---- a warp's 32 queries ----------------------------------------------------------------------------------- */

/** Row h of slice i for this lane: 16 i + lane / 4 + 8 h. Each lane has columns 2 (lane % 4) and the next of every 8. */
template <int DIM>
struct queries {
  static constexpr int KEYS = keys_of<DIM>;
  float highest[SLICES][2], sum[SLICES][2] = {}; /**< of scores before scaling; of this lane's columns */
  float o[SLICES][DIM / 8][4] = {};
  float s[SLICES][KEYS / 8][4];

  __device__ queries() {
    for (int i = 0; i < SLICES; i++) highest[i][0] = highest[i][1] = -INFINITY;
  }

  /** s = q · kᵀ; `q`: this warp's rows. */
  __device__ void score(const element *q, const element *k) {
    int lane = (int)threadIdx.x % WARP;
#pragma unroll
    for (int i = 0; i < SLICES; i++)
#pragma unroll
      for (int n = 0; n < KEYS / 8; n++) s[i][n][0] = s[i][n][1] = s[i][n][2] = s[i][n][3] = 0;
#pragma unroll 2
    for (int d = 0; d < DIM / CHUNK; d += 2) {
      unsigned a[SLICES][4], b[4];
#pragma unroll
      for (int i = 0; i < SLICES; i++)
        ptx::load_matrices(a[i], q + chunk_at<DIM>(i * SLICE + lane % 16, d + lane / 16));
#pragma unroll
      for (int n = 0; n < KEYS / 8; n += 2) {
        ptx::load_matrices(b, k + chunk_at<DIM>(n * 8 + lane / 16 * 8 + lane % 8, d + lane / 8 % 2));
#pragma unroll
        for (int i = 0; i < SLICES; i++) {
          ptx::multiply_bf16(s[i][n], a[i], b[0], b[1]);
          ptx::multiply_bf16(s[i][n + 1], a[i], b[2], b[3]);
        }
      }
    }
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

  /** o += s · v, the weights rounded to bf16. */
  __device__ void add(const element *v) {
    int lane = (int)threadIdx.x % WARP;
#pragma unroll
    for (int n = 0; n < KEYS / 8; n += 2) {
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
        ptx::load_matrices_transposed(b, v + chunk_at<DIM>(n * 8 + lane % 16, d + lane / 16));
#pragma unroll
        for (int i = 0; i < SLICES; i++) {
          ptx::multiply_bf16(o[i][d], a[i], b[0], b[1]);
          ptx::multiply_bf16(o[i][d + 1], a[i], b[2], b[3]);
        }
      }
    }
  }

  /** Writes `count` rows from `row` on, by way of `spare` [MINE, DIM] in shared memory. */
  __device__ void finish(const attention_args &a, element *spare, size_t row, int head, int count) {
    int lane = (int)threadIdx.x % WARP;
    __syncwarp(); /* `spare` holds the queries, which other lanes' rows were read from */
#pragma unroll
    for (int i = 0; i < SLICES; i++)
#pragma unroll
      for (int h = 0; h < 2; h++) {
        int mine = i * SLICE + lane / 4 + 8 * h;
        float total = sum[i][h];
        total += __shfl_xor_sync(ALL_LANES, total, 1);
        total += __shfl_xor_sync(ALL_LANES, total, 2);
        float share = 1.0f / total;
#pragma unroll
        for (int n = 0; n < DIM / 8; n++)
          *reinterpret_cast<unsigned *>(spare + chunk_at<DIM>(mine, n) + lane % 4 * 2) =
              ptx::pack_bf16(o[i][n][2 * h] * share, o[i][n][2 * h + 1] * share);
        if (a.lse && mine < count && lane % 4 == 0)
          a.lse[(row + mine) * a.heads + head] = highest[i][h] * a.scale + logf(total);
      }
    __syncwarp();
    for (int at = lane; at < MINE * DIM / CHUNK; at += WARP) {
      int mine = at / (DIM / CHUNK), chunk = at % (DIM / CHUNK);
      if (mine >= count || chunk * CHUNK >= a.head_dim) continue;
      using chunk_of = pack<element, CHUNK>;
      element *to = (element *)a.o + ((row + mine) * a.heads + head) * a.head_dim + chunk * CHUNK;
      *reinterpret_cast<chunk_of *>(to) = *reinterpret_cast<const chunk_of *>(spare + chunk_at<DIM>(mine, chunk));
    }
  }
};

/* ---- the kernel -------------------------------------------------------------------------------------------- */

/** The order of work: of each sample groups of `together` heads, whose keys and values fit the second-level cache, and of
 *  a group its last tiles first, which see the most keys. */
struct mma_order {
  int together, groups, tiles;
};

template <int DIM>
__global__ void __launch_bounds__(THREADS, 2)
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
                                fill<DIM, KEYS>(k, a.k, (size_t)s.key + begin, keys - begin, a.kv_stride, column, dim);
                                fill<DIM, KEYS>(k + KEYS * DIM, a.v, (size_t)s.key + begin, keys - begin, a.kv_stride,
                                                column, dim);
                                ptx::copy_async_commit();
  };
  bool any = warp * MINE < count;
  queries<DIM> mine;
  fill<DIM, TILE>(q, a.q, (size_t)s.query + s.first, count, a.q_stride, head * dim, dim);
  fetch(0);
  for (int begin = 0; begin < keys; begin += KEYS) {
    const element *k = pairs + begin / KEYS % 2 * 2 * KEYS * DIM;
    ptx::copy_async_wait<0>();
    __syncthreads(); /* this buffer is filled, nobody reads the other one */
    if (begin + KEYS < keys) fetch(begin + KEYS);
    if (!any || begin >= seen + MINE) continue;
    mine.score(own, k);
    if (begin + KEYS - 1 > seen) mine.mask(seen - begin);
    mine.weigh(a.scale * LOG2_E);
    mine.add(k + KEYS * DIM);
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
  return context->act == DTYPE_BF16 && a->head_dim <= 128 && a->head_dim % CHUNK == 0 && a->q_stride % CHUNK == 0 &&
         a->kv_stride % CHUNK == 0 && a->scale > 0 && all_aligned(a->o, a->q, a->k, a->v);
}

cudaError_t cuda_launch_attention_mma(const cuda_context *context, const attention_args *a) {
  mma_order order = order_of(a);
  dim3 grid((unsigned)(order.together * order.groups * order.tiles) * (unsigned)a->segments.count);
  auto run = [&]<int DIM>() {
    return launch(context, mma_kernel<DIM>, grid, THREADS, (size_t)(TILE + 4 * keys_of<DIM>)*DIM * sizeof(element), *a,
                  order, context->fault);
  };
  if (a->head_dim <= 32) return run.operator()<32>();
  if (a->head_dim <= 64) return run.operator()<64>();
  if (a->head_dim <= 96) return run.operator()<96>();
  return run.operator()<128>();
}
