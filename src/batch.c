#include "batch.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "base/random.h"
#include "io/chat.h"

/* ---- the order of the data ------------------------------------------------------------------------------ */

int data_order_open(struct data_order *order, int64_t rows, uint64_t seed, bool shuffle) {
  *order = (struct data_order){.rows = rows, .seed = seed, .epoch = -1};
  if (!shuffle) return OK;
  return memory_array(&order->permutation, (size_t)rows, sizeof *order->permutation);
}

void data_order_close(struct data_order *order) {
  free(order->permutation);
  *order = (struct data_order){0};
}

static void shuffle(struct data_order *order, int64_t epoch) {
  struct random random = random_start(order->seed, RANDOM_DATA_ORDER, (uint64_t)epoch);
  for (int64_t i = 0; i < order->rows; i++) order->permutation[i] = i;
  for (int64_t i = order->rows - 1; i > 0; i--) {
    int64_t j = (int64_t)random_below(&random, (uint64_t)i + 1);
    int64_t swapped = order->permutation[i];
    order->permutation[i] = order->permutation[j];
    order->permutation[j] = swapped;
  }
  order->epoch = epoch;
}

int64_t data_order_row(struct data_order *order, int64_t place) {
  if (!order->permutation) return place;
  int64_t epoch = place / order->rows;
  if (epoch != order->epoch) shuffle(order, epoch);
  return order->permutation[place % order->rows];
}

/* ---- packing a step ------------------------------------------------------------------------------------- */

int step_plan_open(struct step_plan *plan, int row_capacity) {
  *plan = (struct step_plan){0};
  size_t count = (size_t)row_capacity + 1;
  TRY(memory_array(&plan->rows, count, sizeof *plan->rows));
  TRY(memory_array(&plan->start, count, sizeof *plan->start));
  TRY(memory_array(&plan->owner, count, sizeof *plan->owner));
  TRY(memory_array(&plan->tokens, count, sizeof *plan->tokens));
  TRY(memory_array(&plan->taken, count, sizeof *plan->taken));
  TRY(memory_array(&plan->length, count, sizeof *plan->length));
  return memory_array(&plan->bin, count, sizeof *plan->bin);
}

void step_plan_close(struct step_plan *plan) {
  free(plan->rows);
  free(plan->start);
  free(plan->owner);
  free(plan->tokens);
  free(plan->taken);
  free(plan->length);
  free(plan->bin);
  *plan = (struct step_plan){0};
}

struct sized {
  int64_t row;
  int length;
};

static int longest_first(const void *left, const void *right) {
  const struct sized *a = left, *b = right;
  if (a->length != b->length) return a->length > b->length ? -1 : 1;
  return a->row < b->row ? -1 : a->row > b->row;
}

static int least_loaded(const int *load, int count) {
  int best = 0;
  for (int i = 1; i < count; i++)
    if (load[i] < load[best]) best = i;
  return best;
}

/* Longest row first into the emptiest bin; false when a row does not fit. */
static bool fill_bins(struct step_plan *plan, int bins, int capacity) {
  for (int i = 0; i < bins; i++) plan->tokens[i] = 0;
  for (int i = 0; i < plan->row_count; i++) {
    int bin = least_loaded(plan->tokens, bins);
    if (plan->tokens[bin] + plan->length[i] > capacity) return false;
    plan->bin[i] = bin;
    plan->tokens[bin] += plan->length[i];
  }
  return true;
}

/* As few micro-batches as hold the tokens, but an even number where that leaves each an eighth full: two ranks then
 * have equal shares of a small step. */
static int fewest_bins(int64_t total, int capacity, int rows) {
  int bins = (int)((total + capacity - 1) / capacity);
  if (bins % 2 == 1 && bins < rows && total / (bins + 1) >= capacity / 8) bins++;
  return bins > 0 ? bins : 1;
}

static void group_by_bin(struct step_plan *plan) {
  int next = 0;
  for (int bin = 0; bin < plan->micro_batches; bin++) {
    plan->start[bin] = next;
    for (int i = 0; i < plan->row_count; i++)
      if (plan->bin[i] == bin) plan->rows[next++] = plan->taken[i];
  }
  plan->start[plan->micro_batches] = next;
}

/* Largest micro-batch first to the rank with the least; plan->bin and plan->length serve as scratch from here on. */
static void share_among_ranks(struct step_plan *plan, int ranks) {
  int *load = plan->length, *assigned = plan->bin;
  int loads = ranks < plan->row_count ? ranks : plan->row_count;
  for (int i = 0; i < loads; i++) load[i] = 0;
  for (int i = 0; i < plan->micro_batches; i++) assigned[i] = 0;
  for (int n = 0; n < plan->micro_batches; n++) {
    int largest = -1;
    for (int i = 0; i < plan->micro_batches; i++)
      if (!assigned[i] && (largest < 0 || plan->tokens[i] > plan->tokens[largest])) largest = i;
    assigned[largest] = 1;
    plan->owner[largest] = least_loaded(load, loads);
    load[plan->owner[largest]] += plan->tokens[largest];
  }
}

static int64_t labels_of_row(const struct token_file *data, int64_t row) {
  int64_t count = 0;
  for (int64_t i = data->offsets[row] + 1; i < data->offsets[row + 1]; i++) count += data->labels[i] != LABEL_NONE;
  return count;
}

static int take_rows(struct step_plan *plan, const struct token_file *data, struct data_order *order, int64_t first,
                     int count, int capacity) {
  struct sized *sorted;
  TRY(memory_array(&sorted, (size_t)count, sizeof *sorted));
  int status = OK;
  for (int i = 0; i < count && status == OK; i++) {
    int64_t row = data_order_row(order, first + i);
    int64_t length = data->offsets[row + 1] - data->offsets[row];
    if (length > capacity)
      status = fail(ERR_INPUT,
                    "row %lld of the data has %lld tokens, more than a micro-batch holds: raise --micro-batch-tokens "
                    "(now %d) or tokenize with --max-tokens %d",
                    (long long)row + 1, (long long)length, capacity, capacity);
    sorted[i] = (struct sized){row, (int)(length <= capacity ? length : capacity)};
  }
  qsort(sorted, (size_t)count, sizeof *sorted, longest_first);
  for (int i = 0; i < count; i++) {
    plan->taken[i] = sorted[i].row;
    plan->length[i] = sorted[i].length;
  }
  free(sorted);
  plan->row_count = count;
  return status;
}

int step_plan_make(struct step_plan *plan, const struct token_file *data, struct data_order *order, int64_t first,
                   int count, int capacity, int ranks) {
  TRY(take_rows(plan, data, order, first, count, capacity));
  int64_t total = 0;
  plan->label_tokens = 0;
  for (int i = 0; i < count; i++) {
    total += plan->length[i];
    plan->label_tokens += labels_of_row(data, plan->taken[i]);
  }
  plan->micro_batches = fewest_bins(total, capacity, count);
  while (!fill_bins(plan, plan->micro_batches, capacity)) plan->micro_batches++;
  group_by_bin(plan);
  share_among_ranks(plan, ranks);
  return OK;
}

/* ---- a micro-batch on the device ------------------------------------------------------------------------ */

static size_t batch_words(const struct micro_batch *batch) {
  return 5 * (size_t)batch->capacity + 3 * (size_t)batch->sample_capacity + 1;
}

/* The arrays of a micro-batch lie in one block, on the host as on the device. */
static void place_arrays(struct micro_batch *batch, int32_t *block) {
  size_t rows = (size_t)batch->capacity, samples = (size_t)batch->sample_capacity;
  batch->tokens = block;
  batch->positions = block + rows;
  batch->label_rows = block + 2 * rows;
  batch->label_ids = block + 3 * rows;
  batch->cache_rows = block + 4 * rows;
  batch->q_start = block + 5 * rows;
  batch->k_start = batch->q_start + samples + 1;
  batch->k_length = batch->k_start + samples;
}

int micro_batch_open(struct micro_batch *batch, struct device *device, int capacity, int sample_capacity) {
  *batch = (struct micro_batch){.capacity = capacity, .sample_capacity = sample_capacity};
  size_t bytes = batch_words(batch) * sizeof(int32_t);
  int32_t *block;
  TRY(memory_array(&batch->host, batch_words(batch), sizeof *batch->host));
  TRY(device_allocate(device, MEMORY_WORKSPACE, &block, bytes));
  place_arrays(batch, block);
  return OK;
}

void micro_batch_close(struct micro_batch *batch, struct device *device) {
  if (batch->tokens) device_release(device, MEMORY_WORKSPACE, &batch->tokens, batch_words(batch) * sizeof(int32_t));
  free(batch->host);
  *batch = (struct micro_batch){0};
}

/* The same struct with its arrays on the host, empty, ready to be filled. */
static struct micro_batch staging_of(const struct micro_batch *batch) {
  struct micro_batch staging = *batch;
  staging.rows = staging.label_count = 0;
  staging.segments = (struct segments){0};
  place_arrays(&staging, batch->host);
  staging.q_start[0] = 0;
  return staging;
}

static int upload(struct micro_batch *batch, struct device *device, const struct micro_batch *staging) {
  batch->rows = staging->rows;
  batch->label_count = staging->label_count;
  batch->segments = staging->segments;
  batch->segments.q_start = batch->q_start;
  batch->segments.k_start = batch->k_start;
  batch->segments.k_length = batch->k_length;
  return device_upload(device, batch->tokens, staging->tokens, batch_words(batch) * sizeof(int32_t));
}

/* Ends a sample of `queries` new rows that sees `keys` key rows from `k_start` on. */
static void close_sample(struct micro_batch *staging, int queries, int k_start, int keys) {
  struct segments *segments = &staging->segments;
  int i = segments->count++;
  staging->q_start[i + 1] = staging->rows;
  staging->k_start[i] = k_start;
  staging->k_length[i] = keys;
  if (queries > segments->max_queries) segments->max_queries = queries;
  if (keys > segments->max_keys) segments->max_keys = keys;
}

int micro_batch_load(struct micro_batch *batch, struct device *device, const struct token_file *data,
                     const int64_t *rows, int count) {
  struct micro_batch staging = staging_of(batch);
  if (count > batch->sample_capacity) return fail(ERR_INTERNAL, "a micro-batch of %d samples", count);
  for (int s = 0; s < count; s++) {
    int64_t begin = data->offsets[rows[s]];
    int length = (int)(data->offsets[rows[s] + 1] - begin);
    int first = staging.rows;
    if (first + length > batch->capacity) return fail(ERR_INTERNAL, "a micro-batch of more than %d rows", first);
    for (int i = 0; i < length; i++) {
      int row = staging.rows++;
      staging.tokens[row] = data->tokens[begin + i];
      staging.positions[row] = i;
      if (i + 1 < length && data->labels[begin + i + 1] != LABEL_NONE) {
        staging.label_rows[staging.label_count] = row;
        staging.label_ids[staging.label_count++] = data->labels[begin + i + 1];
      }
    }
    close_sample(&staging, length, first, length);
  }
  return upload(batch, device, &staging);
}

int micro_batch_load_pieces(struct micro_batch *batch, struct device *device, const struct piece *pieces, int count,
                            int slot_rows) {
  struct micro_batch staging = staging_of(batch);
  if (count > batch->sample_capacity) return fail(ERR_INTERNAL, "a micro-batch of %d pieces", count);
  for (int p = 0; p < count; p++) {
    const struct piece *piece = &pieces[p];
    if (staging.rows + piece->count > batch->capacity || piece->first + piece->count > slot_rows)
      return fail(ERR_INTERNAL, "a piece of %d tokens at %d does not fit", piece->count, piece->first);
    for (int i = 0; i < piece->count; i++) {
      int row = staging.rows++;
      staging.tokens[row] = piece->tokens[i];
      staging.positions[row] = piece->first + i;
      staging.cache_rows[row] = piece->slot * slot_rows + piece->first + i;
    }
    staging.label_rows[staging.label_count] = staging.rows - 1;
    staging.label_ids[staging.label_count++] = 0;
    close_sample(&staging, piece->count, piece->slot * slot_rows, piece->first + piece->count);
  }
  return upload(batch, device, &staging);
}
