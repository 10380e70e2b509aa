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

enum { HEAD_DIM_MAX = 256, TILE_FLOATS = 8 << 10, TILE_LEAST = 64 };
_Static_assert(4 * TILE_LEAST * HEAD_DIM_MAX <= CPU_THREAD_SCRATCH, "the tiles fit the scratch");

struct piece {
  int sample_row, queries; /**< of the sample */
  int head, kv_head, head_dim;
  int first, tile;                    /**< keys first .. first + tile of the sample */
  float *keys, *values, *dk, *dv;     /**< [head_dim, tile] */
  float *dq_sums, *dk_sums, *dv_sums; /**< [rows, heads * head_dim] */
  float q[HEAD_DIM_MAX], d_o[HEAD_DIM_MAX], dq[HEAD_DIM_MAX];
};

/** Loads a query's q (scaled to scores in units of log 2) and do; returns D = Σ do · o. */
static float load_query(struct piece *p, const struct attention_backward_args *a, size_t row, enum dtype act) {
  float o[HEAD_DIM_MAX], sum = 0;
  size_t column = (size_t)(p->head * p->head_dim), width = (size_t)(a->heads * a->head_dim);
  act_load(p->q, a->q, row * (size_t)a->q_stride + column, p->head_dim, act);
  act_load(p->d_o, a->d_o, row * width + column, p->head_dim, act);
  act_load(o, a->o, row * width + column, p->head_dim, act);
  for (int d = 0; d < p->head_dim; d++) {
    p->q[d] *= a->scale * LOG2_E;
    sum += p->d_o[d] * o[d];
  }
  return sum;
}

/** One query against the `seen` first keys of the tile, a dimension that the compiler knows: dq stays in registers. */
static inline __attribute__((always_inline)) void query_against_keys(struct piece *p, int seen, float lse, float d_sum,
                                                                     int head_dim) {
  const struct key_mask mask = key_mask();
  int tile = p->tile;
  vec dq[NARROW];
  for (int d = 0; d < head_dim; d++) dq[d] = vec_set(0);
  for (int j = 0; j < seen; j += LANES) {
    vec s = vec_set(-lse), dp = vec_set(-d_sum);
    for (int d = 0; d < head_dim; d++) {
      s += vec_load(p->keys + d * tile + j) * p->q[d];
      dp += vec_load(p->values + d * tile + j) * p->d_o[d];
    }
    vec weight = vec_exp2(masked(s, &mask, seen - j)), ds = weight * dp;
    for (int d = 0; d < head_dim; d++) {
      int at = d * tile + j;
      vec_store(p->dv + at, vec_load(p->dv + at) + weight * p->d_o[d]);
      vec_store(p->dk + at, vec_load(p->dk + at) + ds * p->q[d]);
      dq[d] += ds * vec_load(p->keys + at);
    }
  }
  for (int d = 0; d < head_dim; d++) p->dq[d] = vec_sum(dq[d]);
}

/** The same for any dimension. */
static void wide_query_against_keys(struct piece *p, int seen, float lse, float d_sum) {
  const struct key_mask mask = key_mask();
  int tile = p->tile;
  for (int d = 0; d < p->head_dim; d++) p->dq[d] = 0;
  for (int j = 0; j < seen; j += LANES) {
    vec s = vec_set(-lse), dp = vec_set(-d_sum);
    for (int d = 0; d < p->head_dim; d++) {
      s += vec_load(p->keys + d * tile + j) * p->q[d];
      dp += vec_load(p->values + d * tile + j) * p->d_o[d];
    }
    vec weight = vec_exp2(masked(s, &mask, seen - j)), ds = weight * dp;
    for (int d = 0; d < p->head_dim; d++) {
      int at = d * tile + j;
      vec_store(p->dv + at, vec_load(p->dv + at) + weight * p->d_o[d]);
      vec_store(p->dk + at, vec_load(p->dk + at) + ds * p->q[d]);
      p->dq[d] += vec_sum(ds * vec_load(p->keys + at));
    }
  }
}

static void query_against_keys_any(struct piece *p, int seen, float lse, float d_sum) {
  switch (p->head_dim) {
    case 4:
      query_against_keys(p, seen, lse, d_sum, 4);
      break;
    case 8:
      query_against_keys(p, seen, lse, d_sum, 8);
      break;
    case 16:
      query_against_keys(p, seen, lse, d_sum, 16);
      break;
    default:
      wide_query_against_keys(p, seen, lse, d_sum);
  }
}

/** All queries that see keys of the tile, in order. */
static void gather_tile(struct piece *p, const struct attention_backward_args *a, enum dtype act) {
  for (int i = p->first; i < p->queries; i++) {
    size_t row = (size_t)(p->sample_row + i), head_row = row * (size_t)a->heads + (size_t)p->head;
    float d_sum = load_query(p, a, row, act), *dq = p->dq_sums + head_row * (size_t)p->head_dim;
    int seen = i + 1 - p->first < p->tile ? i + 1 - p->first : p->tile;
    query_against_keys_any(p, seen, a->lse[head_row] * LOG2_E, d_sum);
    for (int d = 0; d < p->head_dim; d++) dq[d] = (p->first ? dq[d] : 0) + a->scale * p->dq[d];
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
    gather_tile(p, a, act);
    store_transposed(p->dk_sums, p->dk, LN_2, p, a->heads, count);
    store_transposed(p->dv_sums, p->dv, 1, p, a->heads, count);
  }
}

static struct piece make_piece(const struct cpu_state *state, const struct attention_backward_args *a, int sample,
                               int head) {
  int tile = TILE_FLOATS / (4 * a->head_dim) / 16 * 16;
  if (tile < TILE_LEAST) tile = TILE_LEAST;
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
      .dq_sums = state->gradients,
      .dk_sums = state->gradients + state->gradient_size,
      .dv_sums = state->gradients + 2 * state->gradient_size,
  };
}

/** out[row, kv head] = Σ over the query heads that read it. */
static void store_key_gradient(void *out, const float *sums, const struct attention_backward_args *a, int row,
                               enum dtype act) {
  int group = a->heads / a->kv_heads;
  for (int head = 0; head < a->kv_heads; head++) {
    const float *in = sums + ((size_t)row * (size_t)a->heads + (size_t)(head * group)) * (size_t)a->head_dim;
    float total[HEAD_DIM_MAX] = {0};
    for (int g = 0; g < group; g++)
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
