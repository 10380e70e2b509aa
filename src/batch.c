#include "batch.h"

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

/* A row or a micro-batch by its size. */
struct sized {
  int64_t index;
  int length;
};

int step_plan_open(struct step_plan *plan, int row_capacity) {
  *plan = (struct step_plan){0};
  size_t count = (size_t)row_capacity + 1;
  TRY(memory_array(&plan->rows, count, sizeof *plan->rows));
  TRY(memory_array(&plan->start, count, sizeof *plan->start));
  TRY(memory_array(&plan->owner, count, sizeof *plan->owner));
  TRY(memory_array(&plan->tokens, count, sizeof *plan->tokens));
  TRY(memory_array(&plan->labels, count, sizeof *plan->labels));
  TRY(memory_array(&plan->taken, count, sizeof *plan->taken));
  TRY(memory_array(&plan->length, count, sizeof *plan->length));
  TRY(memory_array(&plan->bin, count, sizeof *plan->bin));
  TRY(memory_array(&plan->load, count, sizeof *plan->load));
  TRY(memory_array(&plan->heap, count, sizeof *plan->heap));
  return memory_array(&plan->sorted, count, sizeof *plan->sorted);
}

void step_plan_close(struct step_plan *plan) {
  free(plan->rows);
  free(plan->start);
  free(plan->owner);
  free(plan->tokens);
  free(plan->labels);
  free(plan->taken);
  free(plan->length);
  free(plan->bin);
  free(plan->load);
  free(plan->heap);
  free(plan->sorted);
  *plan = (struct step_plan){0};
}

static int longest_first(const void *left, const void *right) {
  const struct sized *a = left, *b = right;
  if (a->length != b->length) return a->length > b->length ? -1 : 1;
  return a->index < b->index ? -1 : a->index > b->index;
}

/* A heap of bins: the one with the least at the root, of equal ones the first. */
static bool is_lighter(const int64_t *load, int a, int b) {
  return load[a] != load[b] ? load[a] < load[b] : a < b;
}

static void sink_root(int *heap, int count, const int64_t *load) {
  for (int at = 0, child; (child = 2 * at + 1) < count; at = child) {
    if (child + 1 < count && is_lighter(load, heap[child + 1], heap[child])) child++;
    if (!is_lighter(load, heap[child], heap[at])) return;
    int swapped = heap[at];
    heap[at] = heap[child];
    heap[child] = swapped;
  }
}

/* Deals items, in their order, each to the emptiest bin: load[bins] is filled, bin[i] says where item i went. False when
 * a bin would hold more than `capacity`. heap: [bins] of scratch. */
static bool deal(const int *sizes, int count, int bins, int64_t capacity, int64_t *load, int *bin, int *heap) {
  for (int i = 0; i < bins; i++) {
    load[i] = 0;
    heap[i] = i;
  }
  for (int i = 0; i < count; i++) {
    int emptiest = heap[0];
    if (sizes[i] > capacity - load[emptiest]) return false;
    bin[i] = emptiest;
    load[emptiest] += sizes[i];
    sink_root(heap, bins, load);
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

/* No two of these share a micro-batch: fewer than their number need not be tried. */
static int rows_over_half(const struct step_plan *plan, int capacity) {
  int count = 0;
  while (count < plan->row_count && plan->length[count] > capacity / 2) count++;
  return count;
}

/* The rows of a bin together, in their order: start[bin] walks from the bin's first place to its end while they are laid
 * down, and so ends as the next one's start. */
static void group_by_bin(struct step_plan *plan) {
  int *start = plan->start;
  for (int bin = 0; bin <= plan->micro_batches; bin++) start[bin] = 0;
  for (int i = 0; i < plan->row_count; i++) start[plan->bin[i] + 1]++;
  for (int bin = 0; bin < plan->micro_batches; bin++) start[bin + 1] += start[bin];
  for (int i = 0; i < plan->row_count; i++) plan->rows[start[plan->bin[i]]++] = plan->taken[i];
  for (int bin = plan->micro_batches; bin > 0; bin--) start[bin] = start[bin - 1];
  start[0] = 0;
}

/* Largest micro-batch first to the replica with the least. */
static void share_among(struct step_plan *plan, int replicas) {
  int count = plan->micro_batches;
  for (int i = 0; i < count; i++) plan->sorted[i] = (struct sized){i, plan->tokens[i]};
  qsort(plan->sorted, (size_t)count, sizeof *plan->sorted, longest_first);
  for (int i = 0; i < count; i++) plan->length[i] = plan->sorted[i].length;
  deal(plan->length, count, replicas < plan->row_count ? replicas : plan->row_count, INT64_MAX, plan->load, plan->bin,
       plan->heap);
  for (int i = 0; i < count; i++) plan->owner[plan->sorted[i].index] = plan->bin[i];
}

static int64_t labels_of_row(const struct token_file *data, int64_t row) {
  int64_t count = 0;
  for (int64_t i = data->offsets[row] + 1; i < data->offsets[row + 1]; i++) count += data->labels[i] != LABEL_NONE;
  return count;
}

static void count_labels(struct step_plan *plan, const struct token_file *data) {
  plan->label_tokens = 0;
  for (int i = 0; i < plan->micro_batches; i++) {
    plan->labels[i] = 0;
    for (int at = plan->start[i]; at < plan->start[i + 1]; at++)
      plan->labels[i] += (int)labels_of_row(data, plan->rows[at]);
    plan->label_tokens += plan->labels[i];
  }
}

static int take_rows(struct step_plan *plan, const struct token_file *data, struct data_order *order, int64_t first,
                     int count, int capacity) {
  for (int i = 0; i < count; i++) {
    int64_t row = data_order_row(order, first + i);
    int64_t length = data->offsets[row + 1] - data->offsets[row];
    if (length > capacity)
      return fail(ERR_INPUT,
                  "row %lld of the data has %lld tokens, more than a micro-batch holds: raise --micro-batch-tokens "
                  "(now %d) or tokenize with --max-tokens %d",
                  (long long)row + 1, (long long)length, capacity, capacity);
    plan->sorted[i] = (struct sized){row, (int)length};
  }
  qsort(plan->sorted, (size_t)count, sizeof *plan->sorted, longest_first);
  for (int i = 0; i < count; i++) {
    plan->taken[i] = plan->sorted[i].index;
    plan->length[i] = plan->sorted[i].length;
  }
  plan->row_count = count;
  return OK;
}

/* Longest row first into the emptiest bin; false when a row does not fit. */
static bool fill_bins(struct step_plan *plan, int capacity) {
  if (!deal(plan->length, plan->row_count, plan->micro_batches, capacity, plan->load, plan->bin, plan->heap))
    return false;
  for (int i = 0; i < plan->micro_batches; i++) plan->tokens[i] = (int)plan->load[i];
  return true;
}

int step_plan_make(struct step_plan *plan, const struct token_file *data, struct data_order *order, int64_t first,
                   int count, int capacity, int replicas) {
  TRY(take_rows(plan, data, order, first, count, capacity));
  int64_t total = 0;
  for (int i = 0; i < count; i++) total += plan->length[i];
  int bins = fewest_bins(total, capacity, count), large = rows_over_half(plan, capacity);
  plan->micro_batches = bins > large ? bins : large;
  /* One more at a time; of many, half a percent, or the packing of a huge step would take minutes. */
  while (!fill_bins(plan, capacity)) {
    bins = plan->micro_batches + 1 + plan->micro_batches / 256;
    plan->micro_batches = bins < count ? bins : count;
  }
  group_by_bin(plan);
  count_labels(plan, data);
  share_among(plan, replicas);
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
  TRY(device_event_open(device, &batch->uploaded));
  TRY(device_host_allocate(device, &batch->host, bytes));
  TRY(device_allocate(device, MEMORY_WORKSPACE, &block, bytes));
  place_arrays(batch, block);
  return OK;
}

void micro_batch_close(struct micro_batch *batch, struct device *device) {
  if (batch->tokens) device_release(device, MEMORY_WORKSPACE, &batch->tokens, batch_words(batch) * sizeof(int32_t));
  device_host_release(device, &batch->host);
  device_event_close(device, &batch->uploaded);
  *batch = (struct micro_batch){0};
}

/* The same struct with its arrays on the host, empty, ready to be filled once the last upload has read them. */
static int open_staging(const struct micro_batch *batch, struct device *device, struct micro_batch *staging) {
  *staging = *batch;
  staging->rows = staging->label_count = 0;
  staging->segments = (struct segments){0};
  place_arrays(staging, batch->host);
  TRY(device_finish(device, batch->uploaded));
  staging->q_start[0] = 0;
  return OK;
}

static int upload(struct micro_batch *batch, struct device *device, const struct micro_batch *staging) {
  batch->rows = staging->rows;
  batch->label_count = staging->label_count;
  batch->segments = staging->segments;
  batch->segments.q_start = batch->q_start;
  batch->segments.k_start = batch->k_start;
  batch->segments.k_length = batch->k_length;
  TRY(device_upload(device, batch->tokens, staging->tokens, batch_words(batch) * sizeof(int32_t)));
  return device_record(device, batch->uploaded);
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
  segments->pairs += (int64_t)queries * (keys - queries) + (int64_t)queries * (queries + 1) / 2;
}

int micro_batch_load(struct micro_batch *batch, struct device *device, const struct token_file *data,
                     const int64_t *rows, int count) {
  struct micro_batch staging;
  TRY(open_staging(batch, device, &staging));
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
  struct micro_batch staging;
  TRY(open_staging(batch, device, &staging));
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
