/**
 * @file attention_rows.cuh
 * What the tensor cores' kernels of attention share, whichever of their instructions they use: the layout of rows in shared
 * memory, what a product leaves in a warp's registers, the softmax of that, and the order of work.
 */
#ifndef QST_KERNELS_CUDA_ATTENTION_ROWS_CUH
#define QST_KERNELS_CUDA_ATTENTION_ROWS_CUH

#include <ptx.cuh>

#include "kernels/cuda/attention.cuh"

using element = __nv_bfloat16;

constexpr int SLICE = 16, TILE = 128,
              CHUNK = 8; /* rows of a product, queries or keys of a block, elements in 16 bytes */
constexpr float LOG2_E = 1.44269504f;

/* ---- rows in shared memory ------------------------------------------------------------------------------------ */

/** Rows of DIM elements in chunks of 16 bytes, which are permuted so that any 8 rows' chunks of a column lie in different
 *  banks: by xor with those bits of the row that do not change the bank already. */
template <int DIM>
__device__ inline int chunk_at(int row, int chunk) {
  constexpr int chunks = DIM / CHUNK;
  int turn = chunks % 8 == 0 ? row & 7 : chunks % 4 == 0 ? row >> 1 & 3 : row >> 2 & 1;
  return row * DIM + (chunk ^ turn) * CHUNK;
}

/** Whether rows of these strides can be copied PART elements at a time. */
template <int PART, typename... Pointers>
bool copies_in(int head_dim, int q_stride, int kv_stride, Pointers... pointers) {
  return head_dim % PART == 0 && q_stride % PART == 0 && kv_stride % PART == 0 &&
         ((reinterpret_cast<uintptr_t>(pointers) % (PART * sizeof(element)) == 0) && ...);
}

/* ---- rows in registers ---------------------------------------------------------------------------------------- */

/** A warp's products of S slices of rows: [slice, 8 columns, of this lane]. Rows 16 i + lane / 4 and 8 below, columns
 *  2 (lane % 4) and the next of each 8. */
template <int S, int COLUMNS>
using sums_of = float[S][COLUMNS / 8][4];

/** The row of slice i, half h of this lane. */
__device__ inline int row_of_lane(int i, int h) {
  return i * SLICE + (int)threadIdx.x % WARP / 4 + 8 * h;
}

/** The bf16 factor of a product made of a slice's columns 8 n to 8 n + 15. */
template <int N>
__device__ inline void pack_factor(unsigned (&a)[4], const float (&s)[N][4], int n) {
#pragma unroll
  for (int part = 0; part < 4; part++) {
    const float *pair = &s[n + part / 2][part % 2 * 2];
    a[part] = ptx::pack_bf16(pair[0], pair[1]);
  }
}

/** y[row, 0 .. dim) = sums of the warp's first `count` rows times scale[slice][half]; `spare`: the warp's own
 *  [16 S, 8 N] in shared memory, through which 16 bytes are written at a time where PART is 8. */
template <int PART, int S, int N>
__device__ inline void write_rows(element *y, size_t stride, int dim, int count, const float (&sums)[S][N][4],
                                  const float (&scale)[S][2], element *spare) {
  constexpr int DIM = N * 8;
  int lane = (int)threadIdx.x % WARP;
  if constexpr (PART == CHUNK) __syncwarp(); /* `spare` may hold the rows that other lanes' were read from */
#pragma unroll
  for (int i = 0; i < S; i++)
#pragma unroll
    for (int h = 0; h < 2; h++)
#pragma unroll
      for (int n = 0; n < N; n++) {
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
    for (int at = lane; at < S * SLICE * DIM / CHUNK; at += WARP) {
      int row = at / (DIM / CHUNK), chunk = at % (DIM / CHUNK);
      if (row >= count || chunk * CHUNK >= dim) continue;
      *reinterpret_cast<chunk_of *>(y + row * stride + chunk * CHUNK) =
          *reinterpret_cast<const chunk_of *>(spare + chunk_at<DIM>(row, chunk));
    }
    __syncwarp();
  }
}

/* ---- softmax -------------------------------------------------------------------------------------------------- */

/** Scores of tile after tile become weights, of a warp's S slices of queries (Dao et al., FlashAttention, 2022). */
template <int S>
struct softmax {
  float highest[S][2], sum[S][2] = {},
                       fade[S][2]; /**< of scores before scaling; of this lane's columns; the last tile's */

  __device__ softmax() {
    for (int i = 0; i < S; i++) highest[i][0] = highest[i][1] = -INFINITY;
  }

  /** Query r of the warp sees keys 0 .. first_seen + r of the tile. */
  template <int N>
  __device__ void mask(float (&s)[S][N][4], int first_seen) {
    int lane = (int)threadIdx.x % WARP;
#pragma unroll
    for (int i = 0; i < S; i++)
#pragma unroll
      for (int n = 0; n < N; n++)
#pragma unroll
        for (int e = 0; e < 4; e++)
          if (n * 8 + lane % 4 * 2 + e % 2 > first_seen + row_of_lane(i, e / 2)) s[i][n][e] = -INFINITY;
  }

  /** s becomes weights 2^((s − highest) · scale), and `fade` what earlier ones are to be multiplied by. */
  template <int N>
  __device__ void weigh(float (&s)[S][N][4], float scale) {
#pragma unroll
    for (int i = 0; i < S; i++)
#pragma unroll
      for (int h = 0; h < 2; h++) {
        float top = highest[i][h];
#pragma unroll
        for (int n = 0; n < N; n++) top = fmaxf(top, fmaxf(s[i][n][2 * h], s[i][n][2 * h + 1]));
        top = fmaxf(top, __shfl_xor_sync(ALL_LANES, top, 1));
        top = fmaxf(top, __shfl_xor_sync(ALL_LANES, top, 2));
        float shift = top * scale;
        fade[i][h] = ptx::exp2_fast((highest[i][h] - top) * scale);
        highest[i][h] = top;
        sum[i][h] *= fade[i][h];
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
          for (int e = 2 * h; e < 2 * h + 2; e++) {
            s[i][n][e] = ptx::exp2_fast(s[i][n][e] * scale - shift);
            sum[i][h] += s[i][n][e];
          }
      }
  }

  /** o: what was summed with earlier weights. */
  template <int N>
  __device__ void fade_out(float (&o)[S][N][4]) {
#pragma unroll
    for (int i = 0; i < S; i++)
#pragma unroll
      for (int h = 0; h < 2; h++) {
        if (fade[i][h] == 1) continue;
#pragma unroll
        for (int n = 0; n < N; n++) o[i][n][2 * h] *= fade[i][h], o[i][n][2 * h + 1] *= fade[i][h];
      }
  }

  /** Writes `count` rows from `row` on, by way of `spare` as in write_rows(). */
  template <int PART, int N>
  __device__ void finish(const attention_args &a, const float (&o)[S][N][4], element *spare, size_t row, int head,
                         int count) {
    float shares[S][2];
#pragma unroll
    for (int i = 0; i < S; i++)
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
    write_rows<PART>((element *)a.o + row * stride + head * a.head_dim, stride, a.head_dim, count, o, shares, spare);
  }
};

/* ---- the order of work ---------------------------------------------------------------------------------------- */

/** Of each sample groups of `together` heads, whose keys and values fit the second-level cache, and of a group its last
 *  tiles first, which see the most keys. */
struct work_order {
  int together, groups, tiles;

  explicit work_order(const attention_args &a) {
    constexpr size_t cached = (size_t)16 << 20; /* bytes of keys and values that stay there */
    size_t bytes = (size_t)a.segments.max_keys * a.head_dim * 2 * sizeof(element);
    int kv_together = a.kv_heads;
    while (kv_together > 1 && (a.kv_heads % kv_together || bytes * kv_together > cached)) kv_together--;
    together = a.heads / a.kv_heads * kv_together;
    groups = a.heads / together;
    tiles = (a.segments.max_queries + TILE - 1) / TILE;
  }
  dim3 grid(const attention_args &a) const {
    return dim3((unsigned)(together * groups * tiles) * (unsigned)a.segments.count);
  }
  __device__ int head() const {
    return (int)blockIdx.x % together + (int)blockIdx.x / (together * tiles) % groups * together;
  }
  __device__ sample_tile tile(const segments &s) const {
    int tile = tiles - 1 - (int)blockIdx.x / together % tiles;
    return sample_tile(s, (int)blockIdx.x / (together * tiles * groups), tile * TILE);
  }
};

#endif
