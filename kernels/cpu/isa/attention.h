/**
 * @file attention.h
 * What the attention kernels share: the pieces of work, and tiles of keys and values as fp32.
 *
 * Forward, the work is cut into items (sample, group of query heads that read one key head, tile of queries), and each
 * item walks over the keys in tiles with a running maximum and sum (Dao et al., FlashAttention, 2022).
 */
#ifndef QST_KERNELS_CPU_ISA_ATTENTION_H
#define QST_KERNELS_CPU_ISA_ATTENTION_H

#include <omp.h>

#include "kernels/cpu/isa/isa.h"
#include "kernels/cpu/isa/vec.h"

/** One item: `rows` = queries * heads softmax rows; row r is query r / heads, head head + r % heads. */
struct attention_item {
  int query;          /**< the first query, as a row of q */
  int queries, heads; /**< in this item */
  int head, kv_head;
  int key;      /**< the sample's first key, as a row of k */
  int position; /**< of the first query among the sample's keys: it sees position + 1 keys */
};

/** How many keys the queries of an item see at most. */
static inline int item_keys(const struct attention_item *item) {
  return item->position + item->queries;
}

/** How many keys of the tile that starts at `first` softmax row r sees: 0 .. tile. */
static inline int visible_keys(const struct attention_item *item, int r, int first, int tile) {
  int seen = item->position + r / item->heads + 1 - first;
  return seen < 0 ? 0 : seen < tile ? seen : tile;
}

static inline float *thread_scratch(const struct cpu_state *state) {
  return state->scratch + (size_t)omp_get_thread_num() * CPU_THREAD_SCRATCH;
}

/** out[d][j] = x[first + j, column + d] as fp32 for j < count, zero up to `tile`. */
static inline void load_transposed(float *restrict out, const void *x, int first, int count, int stride, int column,
                                   int head_dim, int tile, enum dtype act) {
  size_t from = (size_t)first * (size_t)stride + (size_t)column;
  for (int d = 0; d < head_dim; d++) {
    float *restrict line = out + (size_t)d * (size_t)tile;
    const float *restrict floats = (const float *)x + from + d;
    const bf16 *restrict halves = (const bf16 *)x + from + d;
    if (act == DTYPE_F32) {
      for (int j = 0; j < count; j++) line[j] = floats[(size_t)j * (size_t)stride];
    } else {
      for (int j = 0; j < count; j++) line[j] = bf16_to_float(halves[(size_t)j * (size_t)stride]);
    }
    memset(line + count, 0, (size_t)(tile - count) * sizeof *line);
  }
}

/* Scores are kept in units of log 2, where the exponential is cheapest. */
#define LOG2_E 1.44269504f
#define LN_2   0.693147181f

/** A score that has no weight, and leaves no NaN behind. */
#define SCORE_UNSEEN (-1e30f)

/** Added to the scores of a vector of keys of which a query sees the first `seen`: 0 or SCORE_UNSEEN. */
struct key_mask {
  float window[2 * LANES];
};

static inline struct key_mask key_mask(void) {
  struct key_mask mask;
  for (int i = 0; i < 2 * LANES; i++) mask.window[i] = i < LANES ? 0.0f : SCORE_UNSEEN;
  return mask;
}

static inline vec masked(vec scores, const struct key_mask *mask, int seen) {
  if (seen >= LANES) return scores;
  return scores + vec_load(mask->window + LANES - (seen > 0 ? seen : 0));
}

/* The ways through an item: keys in the lanes for head dimensions up to NARROW; fp32 for any; and bf16 dot products
 * (only compiled where there are such instructions), which need bf16 activations.
 * NAME_ROWS: the most softmax rows of an item. */
enum { NARROW = 16, NARROW_ROWS = 192 };
void ISA_NAME(attention_narrow)(const struct attention_args *a, const struct attention_item *item, float *scratch,
                                enum dtype act);
enum { WIDE_ROWS = 64 };
void ISA_NAME(attention_wide)(const struct attention_args *a, const struct attention_item *item, float *scratch,
                              enum dtype act);
enum { DOTS_ROWS = 192 };
void ISA_NAME(attention_dots)(const struct attention_args *a, const struct attention_item *item, float *scratch,
                              enum dtype act);

#endif
