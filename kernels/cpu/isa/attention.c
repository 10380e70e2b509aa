/**
 * @file attention.c
 * Attention forward: cuts the work into items and chooses their kernel.
 */
#include "kernels/cpu/isa/attention.h"

#include "base/error.h"

static int check_samples(const struct attention_args *a) {
  const struct segments *s = &a->segments;
  if (s->q_start[0] != 0 || s->q_start[s->count] != a->rows)
    return fail(ERR_INTERNAL, "the samples have queries %d to %d, not 0 to %d", s->q_start[0], s->q_start[s->count],
                a->rows);
  for (int i = 0; i < s->count; i++) {
    int queries = s->q_start[i + 1] - s->q_start[i];
    if (queries < 0 || queries > s->max_queries || s->k_length[i] < queries || s->k_length[i] > s->max_keys ||
        s->k_start[i] < 0)
      return fail(ERR_INTERNAL, "sample %d: %d queries, %d keys from %d, at most %d and %d", i, queries, s->k_length[i],
                  s->k_start[i], s->max_queries, s->max_keys);
  }
  return OK;
}

struct kernel {
  int rows; /**< most softmax rows of an item */
  void (*run)(const struct attention_args *a, const struct attention_item *item, float *scratch, enum dtype act);
};

static struct kernel choose_kernel(const struct attention_args *a, enum dtype act) {
  if (a->head_dim <= NARROW) return (struct kernel){NARROW_ROWS, ISA_NAME(attention_narrow)};
#if defined(__AVX512BF16__)
  if (act == DTYPE_BF16 && a->scale > 0 && a->head_dim % 2 == 0)
    return (struct kernel){DOTS_ROWS, ISA_NAME(attention_dots)};
#endif
  (void)act;
  return (struct kernel){WIDE_ROWS, ISA_NAME(attention_wide)};
}

/** The largest number of heads that read one key head and fit an item together. */
static int heads_together(int group, int rows) {
  int together = group < rows ? group : rows;
  while (group % together) together--;
  return together;
}

struct attention_grid {
  int heads, groups;  /**< heads of an item; groups * heads = all heads */
  int queries, tiles; /**< queries of an item; tiles of the longest sample */
};

/** False when the sample has no such tile. Items with the most keys come first: the last ones are short. */
static bool find_item(struct attention_item *out, const struct attention_args *a, const struct attention_grid *grid,
                      int64_t index) {
  const struct segments *s = &a->segments;
  int group = (int)(index % grid->groups), sample = (int)(index / grid->groups % s->count);
  int first = (grid->tiles - 1 - (int)(index / grid->groups / s->count)) * grid->queries;
  int queries = s->q_start[sample + 1] - s->q_start[sample];
  if (first >= queries) return false;
  *out = (struct attention_item){
      .query = s->q_start[sample] + first,
      .queries = queries - first < grid->queries ? queries - first : grid->queries,
      .heads = grid->heads,
      .head = group * grid->heads,
      .kv_head = group * grid->heads / (a->heads / a->kv_heads),
      .key = s->k_start[sample],
      .position = s->k_length[sample] - queries + first,
  };
  return true;
}

int ISA_NAME(cpu_attention)(struct device *device, const struct attention_args *a) {
  const struct cpu_state *state = cpu_state(device);
  if (a->rows == 0) return OK;
  TRY(check_samples(a));
  struct kernel kernel = choose_kernel(a, device->act);
  struct attention_grid grid = {.heads = heads_together(a->heads / a->kv_heads, kernel.rows)};
  grid.groups = a->heads / grid.heads;
  grid.queries = kernel.rows / grid.heads;
  grid.tiles = (a->segments.max_queries + grid.queries - 1) / grid.queries;
  int64_t items = (int64_t)grid.groups * a->segments.count * grid.tiles;
#pragma omp parallel for num_threads(state->threads) schedule(dynamic)
  for (int64_t index = 0; index < items; index++) {
    struct attention_item item;
    if (find_item(&item, a, &grid, index)) kernel.run(a, &item, thread_scratch(state), device->act);
  }
  return OK;
}
