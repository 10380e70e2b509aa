/**
 * @file attention_backward.c
 * Gradients of attention from the saved log-sum-exp: with p = exp(scale · q k − lse) and D = Σ do · o,
 *
 *   dv_j = Σ_i p_ij do_i     ds_ij = p_ij (do_i v_j − D_i)     dq_i = scale Σ_j ds_ij k_j     dk_j = scale Σ_i ds_ij q_i
 *
 * (Dao et al., FlashAttention, 2022). A thread takes a (sample, query head); a vector holds one dimension of LANES keys.
 * Sums stay in fp32 in cpu_state.gradients, dk and dv by query head, until everything is rounded at the end.
 */
#include "base/error.h"
#include "kernels/cpu/isa/attention.h"

/* A tile of keys, with what it gathers, stays in the first-level cache. It is an odd number of cache lines long, so that
 * its dimensions do not fall onto the same lines of the cache. */
enum { HEAD_DIM_MAX = 256, TILE_FLOATS = 4 << 10, TILE_LEAST = 64, TILE_ODD = 16, QUERIES = 16 };
_Static_assert((4 * HEAD_DIM_MAX + QUERIES) * (TILE_LEAST + TILE_ODD) <= CPU_THREAD_SCRATCH,
               "the tiles fit the scratch");
_Static_assert(QUERIES % LANES == 0, "a block of queries masks whole vectors of keys");

/** Consecutive queries of a sample. */
struct queries {
  int first, count;
  float lse[QUERIES], d_sum[QUERIES];                           /**< log Σ exp in units of log 2; D */
  float q[QUERIES * HEAD_DIM_MAX], d_o[QUERIES * HEAD_DIM_MAX]; /**< q scaled to scores in units of log 2 */
};

struct piece {
  int sample_row, queries; /**< of the sample */
  int head, kv_head, head_dim;
  int first, tile;                    /**< keys first .. first + tile of the sample */
  float *keys, *values, *dk, *dv;     /**< [head_dim, tile] */
  float *ds;                          /**< [QUERIES, tile] */
  float *dq_sums, *dk_sums, *dv_sums; /**< [rows, heads * head_dim] */
  struct key_mask mask;
};

static inline __attribute__((always_inline)) void load_queries(struct queries *out, const struct piece *p,
                                                               const struct attention_backward_args *a, int first,
                                                               enum dtype act, int head_dim) {
  out->first = first;
  out->count = p->queries - first < QUERIES ? p->queries - first : QUERIES;
  for (int i = 0; i < out->count; i++) {
    float o[HEAD_DIM_MAX], *q = out->q + i * head_dim, *d_o = out->d_o + i * head_dim;
    size_t row = (size_t)(p->sample_row + first + i), head_row = row * (size_t)a->heads + (size_t)p->head;
    act_load(q, a->q, row * (size_t)a->q_stride + (size_t)(p->head * head_dim), head_dim, act);
    act_load(d_o, a->d_o, head_row * (size_t)head_dim, head_dim, act);
    act_load(o, a->o, head_row * (size_t)head_dim, head_dim, act);
    out->lse[i] = a->lse[head_row] * LOG2_E;
    out->d_sum[i] = 0;
    for (int d = 0; d < head_dim; d++) {
      q[d] *= a->scale * LOG2_E;
      out->d_sum[i] += d_o[d] * o[d];
    }
  }
}

/** Adds to dk and dv of LANES keys, which stay in registers, and leaves ds for dq. */
static inline __attribute__((always_inline)) void take_keys(struct piece *p, const struct queries *block, int j,
                                                            bool mask, int head_dim) {
  const float *restrict q = block->q, *restrict d_o = block->d_o;
  float *restrict ds_out = p->ds + j;
  vec keys[HEAD_DIM_MAX], values[HEAD_DIM_MAX], dk[HEAD_DIM_MAX], dv[HEAD_DIM_MAX];
  for (int d = 0; d < head_dim; d++) {
    keys[d] = vec_load(p->keys + d * p->tile + j), values[d] = vec_load(p->values + d * p->tile + j);
    dk[d] = vec_load(p->dk + d * p->tile + j), dv[d] = vec_load(p->dv + d * p->tile + j);
  }
  for (int i = 0; i < block->count; i++, q += head_dim, d_o += head_dim, ds_out += p->tile) {
    vec s = vec_set(-block->lse[i]), dp = vec_set(-block->d_sum[i]);
    for (int d = 0; d < head_dim; d++) s += keys[d] * q[d];
    for (int d = 0; d < head_dim; d++) dp += values[d] * d_o[d];
    vec weight = vec_exp2(mask ? masked(s, &p->mask, block->first + i + 1 - p->first - j) : s), ds = weight * dp;
    for (int d = 0; d < head_dim; d++) dv[d] += weight * d_o[d];
    for (int d = 0; d < head_dim; d++) dk[d] += ds * q[d];
    vec_store(ds_out, ds);
  }
  for (int d = 0; d < head_dim; d++) {
    vec_store(p->dk + d * p->tile + j, dk[d]);
    vec_store(p->dv + d * p->tile + j, dv[d]);
  }
}

/** dq of `together` queries of the block, from i on, from ds of the first `seen` keys of the tile. */
static inline __attribute__((always_inline)) void take_ds(const struct piece *p, const struct queries *block, int i,
                                                          int seen, int together, float scale, int heads,
                                                          int head_dim) {
  vec dq[2 * HEAD_DIM_MAX];
  const float *ds = p->ds + i * p->tile;
  for (int d = 0; d < together * head_dim; d++) dq[d] = vec_set(0);
  for (int j = 0; j < seen; j += LANES)
    for (int d = 0; d < head_dim; d++) {
      vec key = vec_load(p->keys + d * p->tile + j);
      for (int k = 0; k < together; k++) dq[k * head_dim + d] += vec_load(ds + k * p->tile + j) * key;
    }
  for (int k = 0; k < together; k++) {
    size_t head_row = (size_t)(p->sample_row + block->first + i + k) * (size_t)heads + (size_t)p->head;
    float *out = p->dq_sums + head_row * (size_t)head_dim;
    for (int d = 0; d < head_dim; d++) out[d] = (p->first ? out[d] : 0) + scale * vec_sum(dq[k * head_dim + d]);
  }
}

/** A block of queries against the keys of the tile that it sees. */
static inline __attribute__((always_inline)) void take_queries(struct piece *p, const struct queries *block,
                                                               const struct attention_backward_args *a, int head_dim) {
  int seen = block->first + block->count - p->first, i = 0, j = 0;
  if (seen > p->tile) seen = p->tile;
  for (; j + LANES <= seen && p->first + j < block->first; j += LANES) take_keys(p, block, j, false, head_dim);
  for (; j < seen; j += LANES) take_keys(p, block, j, true, head_dim);
  for (; i + 2 <= block->count; i += 2) take_ds(p, block, i, seen, 2, a->scale, a->heads, head_dim);
  if (i < block->count) take_ds(p, block, i, seen, 1, a->scale, a->heads, head_dim);
}

/** All queries that see keys of the tile, in order. */
static inline __attribute__((always_inline)) void gather_tile(struct piece *p, const struct attention_backward_args *a,
                                                              enum dtype act, int head_dim) {
  struct queries block;
  for (int first = p->first; first < p->queries; first += QUERIES) {
    load_queries(&block, p, a, first, act, head_dim);
    take_queries(p, &block, a, head_dim);
  }
}

/** The loops are compiled for the head dimensions that occur, and once for any. */
static void gather_tile_any(struct piece *p, const struct attention_backward_args *a, enum dtype act) {
  switch (p->head_dim) {
    case 4:
      gather_tile(p, a, act, 4);
      break;
    case 8:
      gather_tile(p, a, act, 8);
      break;
    default:
      gather_tile(p, a, act, p->head_dim);
  }
}

static void store_transposed(float *sums, const float *tile_sums, float scale, const struct piece *p, int heads,
                             int count) {
  for (int j = 0; j < count; j++) {
    size_t head_row = (size_t)(p->sample_row + p->first + j) * (size_t)heads + (size_t)p->head;
    for (int d = 0; d < p->head_dim; d++)
      sums[head_row * (size_t)p->head_dim + (size_t)d] = scale * tile_sums[d * p->tile + j];
  }
}

static void backward_head(struct piece *p, const struct attention_backward_args *a, enum dtype act) {
  int column = p->kv_head * p->head_dim, size = p->head_dim * p->tile;
  for (p->first = 0; p->first < p->queries; p->first += p->tile) {
    int count = p->queries - p->first < p->tile ? p->queries - p->first : p->tile;
    int row = p->sample_row + p->first;
    load_transposed(p->keys, a->k, row, count, a->kv_stride, column, p->head_dim, p->tile, act);
    load_transposed(p->values, a->v, row, count, a->kv_stride, column, p->head_dim, p->tile, act);
    memset(p->dk, 0, 2 * (size_t)size * sizeof *p->dk);
    gather_tile_any(p, a, act);
    store_transposed(p->dk_sums, p->dk, LN_2, p, a->heads, count);
    store_transposed(p->dv_sums, p->dv, 1, p, a->heads, count);
  }
}

static struct piece make_piece(const struct cpu_state *state, const struct attention_backward_args *a, int sample,
                               int head) {
  int tile = TILE_FLOATS / (4 * a->head_dim) / 32 * 32;
  if (tile < TILE_LEAST) tile = TILE_LEAST;
  tile += TILE_ODD;
  size_t size = (size_t)(tile * a->head_dim);
  float *scratch = thread_scratch(state);
  return (struct piece){
      .sample_row = a->segments.q_start[sample],
      .queries = a->segments.q_start[sample + 1] - a->segments.q_start[sample],
      .head = head,
      .kv_head = head / (a->heads / a->kv_heads),
      .head_dim = a->head_dim,
      .tile = tile,
      .keys = scratch,
      .values = scratch + size,
      .dk = scratch + 2 * size,
      .dv = scratch + 3 * size,
      .ds = scratch + 4 * size,
      .dq_sums = state->gradients,
      .dk_sums = state->gradients + state->gradient_size,
      .dv_sums = state->gradients + 2 * state->gradient_size,
      .mask = key_mask(),
  };
}

/** out[row, kv head] = Σ over the query heads that read it. */
static void store_key_gradient(void *out, const float *sums, const struct attention_backward_args *a, int row,
                               enum dtype act) {
  int group = a->heads / a->kv_heads;
  for (int head = 0; head < a->kv_heads; head++) {
    const float *in = sums + ((size_t)row * (size_t)a->heads + (size_t)(head * group)) * (size_t)a->head_dim;
    float total[HEAD_DIM_MAX];
    memcpy(total, in, (size_t)a->head_dim * sizeof *total);
    for (int g = 1; g < group; g++)
      for (int d = 0; d < a->head_dim; d++) total[d] += in[g * a->head_dim + d];
    act_store(out, (size_t)row * (size_t)a->kv_stride + (size_t)(head * a->head_dim), total, a->head_dim, act);
  }
}

static int check_samples(const struct attention_backward_args *a, const struct cpu_state *state) {
  const struct segments *s = &a->segments;
  if ((size_t)a->rows * (size_t)(a->heads * a->head_dim) > state->gradient_size)
    return fail(ERR_INTERNAL, "%d rows of %d: more than the limits at opening", a->rows, a->heads * a->head_dim);
  if (s->q_start[0] != 0 || s->q_start[s->count] != a->rows)
    return fail(ERR_INTERNAL, "the samples do not have queries 0 to %d", a->rows);
  for (int i = 0; i < s->count; i++) {
    int queries = s->q_start[i + 1] - s->q_start[i];
    if (queries < 0 || s->k_start[i] != s->q_start[i] || s->k_length[i] != queries)
      return fail(ERR_INTERNAL, "sample %d: %d queries from %d, %d keys from %d", i, queries, s->q_start[i],
                  s->k_length[i], s->k_start[i]);
  }
  return OK;
}

int ISA_NAME(cpu_attention_backward)(struct device *device, const struct attention_backward_args *a) {
  const struct cpu_state *state = cpu_state(device);
  if (a->rows == 0) return OK;
  TRY(check_samples(a, state));
  int pieces = a->segments.count * a->heads;
#pragma omp parallel for num_threads(state->threads) schedule(dynamic)
  for (int index = 0; index < pieces; index++) {
    struct piece piece = make_piece(state, a, index / a->heads, index % a->heads);
    backward_head(&piece, a, device->act);
  }
#pragma omp parallel for num_threads(state->threads) schedule(static)
  for (int row = 0; row < a->rows; row++) {
    int width = a->heads * a->head_dim;
    act_store(a->dq, (size_t)row * (size_t)a->q_stride, state->gradients + (size_t)row * (size_t)width, width,
              device->act);
    store_key_gradient(a->dk, state->gradients + state->gradient_size, a, row, device->act);
    store_key_gradient(a->dv, state->gradients + 2 * state->gradient_size, a, row, device->act);
  }
  return OK;
}
