/**
 * @file attention_wide.c
 * An attention item in fp32 for any head dimension: scores of a tile of keys, soft-max, weighted values, each over
 * blocks of softmax rows that stay in registers.
 */
#include <math.h>

#include "kernels/cpu/isa/attention.h"

enum { TILE = 64, BLOCK_ROWS = LANES == 16 ? 4 : 2, BLOCK_VECS = 4 };

struct wide {
  int rows, head_dim, width; /**< width: head_dim rounded up to whole vectors */
  float *q;                  /**< [WIDE_ROWS, head_dim], scaled to scores in units of log 2 */
  float *keys;               /**< [head_dim, TILE] */
  float *values;             /**< [TILE, width] */
  float *scores;             /**< [WIDE_ROWS, TILE] */
  float *o;                  /**< [WIDE_ROWS, width] */
  float highest[WIDE_ROWS], sum[WIDE_ROWS];
};

static void lay_out(struct wide *w, const struct attention_args *a, const struct attention_item *item, float *scratch) {
  w->rows = item->queries * item->heads;
  w->head_dim = a->head_dim;
  w->width = (a->head_dim + 15) / 16 * 16;
  w->q = scratch;
  w->keys = w->q + WIDE_ROWS * w->head_dim;
  w->values = w->keys + TILE * w->head_dim;
  w->scores = w->values + TILE * w->width;
  w->o = w->scores + WIDE_ROWS * TILE;
}
_Static_assert(2 * (WIDE_ROWS + TILE) * 256 + WIDE_ROWS * TILE <= CPU_THREAD_SCRATCH, "the tiles fit the scratch");

static void load_queries(struct wide *w, const struct attention_args *a, const struct attention_item *item,
                         enum dtype act) {
  for (int r = 0; r < w->rows; r++) {
    float *q = w->q + r * w->head_dim;
    int head = item->head + r % item->heads;
    size_t row = (size_t)(item->query + r / item->heads) * (size_t)a->q_stride;
    act_load(q, a->q, row + (size_t)(head * w->head_dim), w->head_dim, act);
    for (int d = 0; d < w->head_dim; d++) q[d] *= a->scale * LOG2_E;
    w->highest[r] = -INFINITY;
    w->sum[r] = 0;
  }
  int padded = (w->rows + BLOCK_ROWS - 1) / BLOCK_ROWS * BLOCK_ROWS;
  memset(w->q + w->rows * w->head_dim, 0, (size_t)((padded - w->rows) * w->head_dim) * sizeof *w->q);
  memset(w->o, 0, (size_t)(padded * w->width) * sizeof *w->o);
}

static void load_keys(struct wide *w, const struct attention_args *a, const struct attention_item *item, int first,
                      int count, enum dtype act) {
  int column = item->kv_head * w->head_dim;
  load_transposed(w->keys, a->k, item->key + first, count, a->kv_stride, column, w->head_dim, TILE, act);
  memset(w->values, 0, (size_t)(TILE * w->width) * sizeof *w->values);
  for (int j = 0; j < count; j++) {
    size_t row = (size_t)(item->key + first + j) * (size_t)a->kv_stride;
    act_load(w->values + j * w->width, a->v, row + (size_t)column, w->head_dim, act);
  }
}

/** c[BLOCK_ROWS, vecs · LANES] (+)= a[BLOCK_ROWS, depth] · b[depth, …] in registers. */
static inline __attribute__((always_inline)) void block_product(float *c, int c_stride, const float *a, int a_stride,
                                                                const float *b, int b_stride, int depth, int vecs,
                                                                bool accumulate) {
  vec sum[BLOCK_ROWS][BLOCK_VECS];
  for (int r = 0; r < BLOCK_ROWS; r++)
    for (int v = 0; v < vecs; v++) sum[r][v] = accumulate ? vec_load(c + r * c_stride + v * LANES) : vec_set(0);
  for (int d = 0; d < depth; d++) {
    vec in[BLOCK_VECS];
    for (int v = 0; v < vecs; v++) in[v] = vec_load(b + d * b_stride + v * LANES);
    for (int r = 0; r < BLOCK_ROWS; r++)
      for (int v = 0; v < vecs; v++) sum[r][v] += in[v] * a[r * a_stride + d];
  }
  for (int r = 0; r < BLOCK_ROWS; r++)
    for (int v = 0; v < vecs; v++) vec_store(c + r * c_stride + v * LANES, sum[r][v]);
}

static void compute_scores(struct wide *w) {
  for (int r = 0; r < w->rows; r += BLOCK_ROWS)
    for (int j = 0; j < TILE; j += BLOCK_VECS * LANES)
      block_product(w->scores + r * TILE + j, TILE, w->q + r * w->head_dim, w->head_dim, w->keys + j, TILE, w->head_dim,
                    BLOCK_VECS, false);
}

static void add_values(struct wide *w, int keys) {
  for (int r = 0; r < w->rows; r += BLOCK_ROWS) {
    int d = 0;
    for (; d + BLOCK_VECS * LANES <= w->width; d += BLOCK_VECS * LANES)
      block_product(w->o + r * w->width + d, w->width, w->scores + r * TILE, TILE, w->values + d, w->width, keys,
                    BLOCK_VECS, true);
    for (; d < w->width; d += LANES)
      block_product(w->o + r * w->width + d, w->width, w->scores + r * TILE, TILE, w->values + d, w->width, keys, 1,
                    true);
  }
}

/** Scores of row r become weights relative to the highest score so far; what was summed before is brought to it. */
static void soften_row(struct wide *w, int r, int seen) {
  float *s = w->scores + r * TILE, *o = w->o + r * w->width;
  for (int j = seen; j < TILE; j++) s[j] = seen ? SCORE_UNSEEN : 0;
  if (seen == 0) return;
  vec high = vec_set(w->highest[r]), total = vec_set(0);
  for (int j = 0; j < TILE; j += LANES) high = vec_max(high, vec_load(s + j));
  float highest = vec_highest(high), rescale = row_exp((w->highest[r] - highest) * LN_2);
  for (int j = 0; j < TILE; j += LANES) {
    vec p = vec_exp2(vec_load(s + j) - highest);
    vec_store(s + j, p);
    total += p;
  }
  w->sum[r] = w->sum[r] * rescale + vec_sum(total);
  if (highest == w->highest[r]) return;
  w->highest[r] = highest;
  for (int d = 0; d < w->width; d += LANES) vec_store(o + d, vec_load(o + d) * rescale);
}

static void store_rows(struct wide *w, const struct attention_args *a, const struct attention_item *item,
                       enum dtype act) {
  for (int r = 0; r < w->rows; r++) {
    float *o = w->o + r * w->width, inverse = 1.0f / w->sum[r];
    size_t row = (size_t)(item->query + r / item->heads) * (size_t)a->heads + (size_t)(item->head + r % item->heads);
    for (int d = 0; d < w->head_dim; d++) o[d] *= inverse;
    act_store(a->o, row * (size_t)w->head_dim, o, w->head_dim, act);
    if (a->lse) a->lse[row] = w->highest[r] * LN_2 + logf(w->sum[r]);
  }
}

void ISA_NAME(attention_wide)(const struct attention_args *a, const struct attention_item *item, float *scratch,
                              enum dtype act) {
  struct wide w;
  int keys = item_keys(item);
  lay_out(&w, a, item, scratch);
  load_queries(&w, a, item, act);
  for (int first = 0; first < keys; first += TILE) {
    int count = keys - first < TILE ? keys - first : TILE;
    load_keys(&w, a, item, first, count, act);
    compute_scores(&w);
    for (int r = 0; r < w.rows; r++) soften_row(&w, r, visible_keys(item, r, first, TILE));
    add_values(&w, count);
  }
  store_rows(&w, a, item, act);
}
