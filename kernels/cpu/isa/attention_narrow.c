/**
 * @file attention_narrow.c
 * An attention item for the small heads of a side network: a vector holds one dimension of LANES keys, so that a head
 * of 4 costs 8 multiply-adds and one exponential for LANES keys. Softmax rows are taken in groups, which share what is
 * loaded.
 *
 * Weights are 2^(score − reference). The reference is 0 where no score of the tile can exceed 2^±60, by the lengths of
 * the query and the longest key; else the scores are computed twice, first for the highest.
 */
#include <math.h>

#include "kernels/cpu/isa/attention.h"

/* TILE is an odd number of cache lines, so that its dimensions do not fall onto the same lines of the cache. */
enum { TILE = 512 + 16, GROUP = 4 };

/** Scores up to this have exponentials in fp32 with room for sums. */
static const float score_safe = 60;

struct narrow {
  float *keys, *values; /**< [head_dim, TILE] */
  float longest;        /**< the largest squared length of a key of the tile */
  struct key_mask mask;
  float q[NARROW_ROWS][NARROW]; /**< scaled to scores in units of log 2 */
  float length[NARROW_ROWS];    /**< of q, squared */
  float o[NARROW_ROWS][NARROW], reference[NARROW_ROWS], sum[NARROW_ROWS];
};
_Static_assert(2 * NARROW * TILE <= CPU_THREAD_SCRATCH, "the tiles fit the scratch");
_Static_assert(NARROW_ROWS % GROUP == 0, "groups fill an item");

/** Some rows of a group and the keys of the tile they see; those before `all` every row sees. */
struct group {
  int row, seen[GROUP], all, most;
};

static inline __attribute__((always_inline)) vec score(const struct narrow *n, int row, int j, int head_dim) {
  vec s = vec_load(n->keys + j) * n->q[row][0];
  for (int d = 1; d < head_dim; d++) s += vec_load(n->keys + d * TILE + j) * n->q[row][d];
  return s;
}

/** The group's references for this tile; what was summed before is brought to them. */
static inline __attribute__((always_inline)) void refer(struct narrow *n, const struct group *g, int head_dim) {
  for (int i = 0; i < GROUP; i++) {
    int row = g->row + i;
    vec high = vec_set(n->reference[row]);
    if (n->length[row] * n->longest <= score_safe * score_safe) {
      high = vec_max(high, vec_set(0));
    } else {
      for (int j = 0; j < g->seen[i]; j += LANES)
        high = vec_max(high, masked(score(n, row, j, head_dim), &n->mask, g->seen[i] - j));
    }
    float reference = vec_highest(high);
    if (reference == n->reference[row]) continue;
    float rescale = row_exp((n->reference[row] - reference) * LN_2);
    n->reference[row] = reference;
    n->sum[row] *= rescale;
    for (int d = 0; d < head_dim; d++) n->o[row][d] *= rescale;
  }
}

struct sums {
  vec weight[GROUP], o[GROUP][NARROW];
};

static inline __attribute__((always_inline)) void weigh_keys(struct sums *sums, const struct narrow *n,
                                                             const struct group *g, int i, int rows, int j, bool mask,
                                                             int head_dim) {
  vec p[GROUP];
  for (int r = 0; r < rows; r++) {
    vec s = score(n, g->row + i + r, j, head_dim);
    if (mask) s = masked(s, &n->mask, g->seen[i + r] - j);
    p[r] = vec_exp2(s - n->reference[g->row + i + r]);
    sums->weight[r] += p[r];
  }
  for (int d = 0; d < head_dim; d++) {
    vec v = vec_load(n->values + d * TILE + j);
    for (int r = 0; r < rows; r++) sums->o[r][d] += v * p[r];
  }
}

/** `rows` rows of the group, from row i on, as many as their sums fit the registers. */
static inline __attribute__((always_inline)) void weigh(struct narrow *n, const struct group *g, int i, int rows,
                                                        int head_dim) {
  struct sums sums;
  for (int r = 0; r < rows; r++) {
    sums.weight[r] = vec_set(0);
    for (int d = 0; d < head_dim; d++) sums.o[r][d] = vec_set(0);
  }
  for (int j = 0; j < g->all; j += LANES) weigh_keys(&sums, n, g, i, rows, j, false, head_dim);
  for (int j = g->all; j < g->most; j += LANES) weigh_keys(&sums, n, g, i, rows, j, true, head_dim);
  for (int r = 0; r < rows; r++) {
    int row = g->row + i + r;
    n->sum[row] += vec_sum(sums.weight[r]);
    for (int d = 0; d + 3 < head_dim; d += 4) {
      const vec *o = sums.o[r] + d;
      vec4 sum = vec_sum4(o[0], o[1], o[2], o[3]);
      for (int k = 0; k < 4; k++) n->o[row][d + k] += sum[k];
    }
    for (int d = head_dim / 4 * 4; d < head_dim; d++) n->o[row][d] += vec_sum(sums.o[r][d]);
  }
}

static struct group find_group(const struct attention_item *item, int row, int first) {
  struct group g = {.row = row, .all = TILE};
  int last = item->queries * item->heads - 1;
  for (int i = 0; i < GROUP; i++) { /* rows beyond the last repeat it; what they give is not stored */
    g.seen[i] = visible_keys(item, row + i < last ? row + i : last, first, TILE);
    if (g.seen[i] < g.all) g.all = g.seen[i];
    if (g.seen[i] > g.most) g.most = g.seen[i];
  }
  g.all = g.all / LANES * LANES;
  return g;
}

static inline __attribute__((always_inline)) void take_tile(struct narrow *n, const struct attention_item *item,
                                                            int first, int rows, int head_dim) {
  for (int row = 0; row < item->queries * item->heads; row += GROUP) {
    struct group g = find_group(item, row, first);
    if (g.most == 0) continue;
    refer(n, &g, head_dim);
    for (int i = 0; i < GROUP; i += rows) weigh(n, &g, i, rows, head_dim);
  }
}

/** The loops are compiled for the head dimensions that occur, and once for any. */
static void take_tile_any(struct narrow *n, const struct attention_item *item, int first, int head_dim) {
  switch (head_dim) {
    case 4:
      take_tile(n, item, first, LANES == 16 ? 4 : LANES == 8 ? 2 : 1, 4);
      break;
    case 8:
      take_tile(n, item, first, LANES == 16 ? 2 : 1, 8);
      break;
    default:
      take_tile(n, item, first, 1, head_dim);
  }
}

static void load_queries(struct narrow *n, const struct attention_args *a, const struct attention_item *item,
                         enum dtype act) {
  int rows = item->queries * item->heads;
  for (int r = 0; r < (rows + GROUP - 1) / GROUP * GROUP; r++) {
    int from = r < rows ? r : rows - 1, column = (item->head + from % item->heads) * a->head_dim;
    size_t row = (size_t)(item->query + from / item->heads) * (size_t)a->q_stride;
    act_load(n->q[r], a->q, row + (size_t)column, a->head_dim, act);
    n->length[r] = n->sum[r] = 0;
    n->reference[r] = -INFINITY;
    for (int d = 0; d < a->head_dim; d++) {
      n->q[r][d] *= a->scale * LOG2_E;
      n->length[r] += n->q[r][d] * n->q[r][d];
      n->o[r][d] = 0;
    }
  }
}

static float longest_of(const float *keys, int head_dim) {
  vec high = vec_set(0);
  for (int j = 0; j < TILE; j += LANES) {
    vec length = vec_set(0);
    for (int d = 0; d < head_dim; d++) length += vec_load(keys + d * TILE + j) * vec_load(keys + d * TILE + j);
    high = vec_max(high, length);
  }
  return vec_highest(high);
}

static void store_rows(struct narrow *n, const struct attention_args *a, const struct attention_item *item,
                       enum dtype act) {
  for (int r = 0; r < item->queries * item->heads; r++) {
    size_t row = (size_t)(item->query + r / item->heads) * (size_t)a->heads + (size_t)(item->head + r % item->heads);
    float inverse = 1.0f / n->sum[r];
    for (int d = 0; d < a->head_dim; d++) n->o[r][d] *= inverse;
    act_store(a->o, row * (size_t)a->head_dim, n->o[r], a->head_dim, act);
    if (a->lse) a->lse[row] = n->reference[r] * LN_2 + logf(n->sum[r]);
  }
}

void ISA_NAME(attention_narrow)(const struct attention_args *a, const struct attention_item *item, float *scratch,
                                enum dtype act) {
  struct narrow n;
  int keys = item_keys(item), column = item->kv_head * a->head_dim;
  n.keys = scratch;
  n.values = scratch + a->head_dim * TILE;
  n.mask = key_mask();
  load_queries(&n, a, item, act);
  for (int first = 0; first < keys; first += TILE) {
    int count = keys - first < TILE ? keys - first : TILE;
    load_transposed(n.keys, a->k, item->key + first, count, a->kv_stride, column, a->head_dim, TILE, act);
    load_transposed(n.values, a->v, item->key + first, count, a->kv_stride, column, a->head_dim, TILE, act);
    n.longest = longest_of(n.keys, a->head_dim);
    take_tile_any(&n, item, first, a->head_dim);
  }
  store_rows(&n, a, item, act);
}
