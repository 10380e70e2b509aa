/**
 * @file attention_narrow.c
 * An attention item for the small heads of a side network: a vector holds one dimension of LANES keys, so that a head
 * of 4 costs 8 multiply-adds and one exp for LANES keys. Each tile is walked over twice: the highest score first, so
 * that nothing is rescaled in the second walk and no score is stored.
 */
#include <math.h>

#include "kernels/cpu/isa/attention.h"

enum { TILE = 512 };

struct narrow {
  float *keys, *values; /**< [head_dim, TILE] */
  float q[NARROW];      /**< of one softmax row, scaled to scores in units of log 2 */
  float o[ITEM_ROWS][NARROW];
  float highest[ITEM_ROWS], sum[ITEM_ROWS];
};
_Static_assert(2 * NARROW * TILE <= CPU_THREAD_SCRATCH, "the tiles fit the scratch");

static inline __attribute__((always_inline)) vec score(const struct narrow *n, int j, int head_dim) {
  vec s = vec_load(n->keys + j) * n->q[0];
  for (int d = 1; d < head_dim; d++) s += vec_load(n->keys + d * TILE + j) * n->q[d];
  return s;
}

/** Row r takes in the `seen` first keys of the tile. */
static inline __attribute__((always_inline)) void take_tile(struct narrow *n, int r, int seen, int head_dim) {
  const struct key_mask mask = key_mask();
  vec high = vec_set(n->highest[r]), total = vec_set(0), o[NARROW];
  for (int j = 0; j < seen; j += LANES) high = vec_max(high, masked(score(n, j, head_dim), &mask, seen - j));
  float highest = vec_highest(high), rescale = row_exp((n->highest[r] - highest) * LN_2);
  for (int d = 0; d < head_dim; d++) o[d] = vec_set(0);
  for (int j = 0; j < seen; j += LANES) {
    vec p = vec_exp2(masked(score(n, j, head_dim), &mask, seen - j) - highest);
    total += p;
    for (int d = 0; d < head_dim; d++) o[d] += vec_load(n->values + d * TILE + j) * p;
  }
  n->highest[r] = highest;
  n->sum[r] = n->sum[r] * rescale + vec_sum(total);
  for (int d = 0; d < head_dim; d++) n->o[r][d] = n->o[r][d] * rescale + vec_sum(o[d]);
}

static size_t row_index(const struct attention_item *item, int r) {
  return (size_t)(item->query + r / item->heads);
}

static inline __attribute__((always_inline)) void take_keys(struct narrow *n, const struct attention_args *a,
                                                            const struct attention_item *item, int first,
                                                            enum dtype act, int head_dim) {
  for (int r = 0; r < item->queries * item->heads; r++) {
    int seen = visible_keys(item, r, first, TILE), column = (item->head + r % item->heads) * head_dim;
    if (seen == 0) continue;
    act_load(n->q, a->q, row_index(item, r) * (size_t)a->q_stride + (size_t)column, head_dim, act);
    for (int d = 0; d < head_dim; d++) n->q[d] *= a->scale * LOG2_E;
    take_tile(n, r, seen, head_dim);
  }
}

/** The loops are compiled for the head dimensions that occur, and once for any. */
static void take_keys_any(struct narrow *n, const struct attention_args *a, const struct attention_item *item,
                          int first, enum dtype act) {
  switch (a->head_dim) {
    case 4:
      take_keys(n, a, item, first, act, 4);
      break;
    case 8:
      take_keys(n, a, item, first, act, 8);
      break;
    case 16:
      take_keys(n, a, item, first, act, 16);
      break;
    default:
      take_keys(n, a, item, first, act, a->head_dim);
  }
}

static void store_rows(struct narrow *n, const struct attention_args *a, const struct attention_item *item,
                       enum dtype act) {
  for (int r = 0; r < item->queries * item->heads; r++) {
    size_t row = row_index(item, r) * (size_t)a->heads + (size_t)(item->head + r % item->heads);
    float inverse = 1.0f / n->sum[r];
    for (int d = 0; d < a->head_dim; d++) n->o[r][d] *= inverse;
    act_store(a->o, row * (size_t)a->head_dim, n->o[r], a->head_dim, act);
    if (a->lse) a->lse[row] = n->highest[r] * LN_2 + logf(n->sum[r]);
  }
}

void ISA_NAME(attention_narrow)(const struct attention_args *a, const struct attention_item *item, float *scratch,
                                enum dtype act) {
  struct narrow n = {.keys = scratch, .values = scratch + a->head_dim * TILE};
  int keys = item_keys(item), column = item->kv_head * a->head_dim;
  for (int r = 0; r < ITEM_ROWS; r++) n.highest[r] = -INFINITY;
  for (int first = 0; first < keys; first += TILE) {
    int count = keys - first < TILE ? keys - first : TILE;
    load_transposed(n.keys, a->k, item->key + first, count, a->kv_stride, column, a->head_dim, TILE, act);
    load_transposed(n.values, a->v, item->key + first, count, a->kv_stride, column, a->head_dim, TILE, act);
    take_keys_any(&n, a, item, first, act);
  }
  store_rows(&n, a, item, act);
}
