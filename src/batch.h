/**
 * @file batch.h
 * From rows to micro-batches. A step takes the next `global_batch` rows of the shuffled data and packs them, whole and
 * without padding, into micro-batches of at most `capacity` tokens. What is in a micro-batch follows from (seed, step,
 * data, global batch, capacity) alone, never from the number of ranks; replicas share the micro-batches of a step.
 */
#ifndef QST_BATCH_H
#define QST_BATCH_H

#include "io/token_file.h"
#include "kernels/device.h"

/** The order of the data: epoch after epoch, each a permutation of the rows (Fisher-Yates) drawn from (seed, epoch). */
struct data_order {
  int64_t rows;
  uint64_t seed;
  int64_t epoch;        /**< the one `permutation` holds; -1 at first */
  int64_t *permutation; /**< [rows] */
};
/** Shuffled with a seed; in file order, one epoch, with `shuffle` false (evaluation). */
int data_order_open(struct data_order *order, int64_t rows, uint64_t seed, bool shuffle);
void data_order_close(struct data_order *order);
/** The row at a place of the endless stream of epochs: place = epoch · rows + index. */
int64_t data_order_row(struct data_order *order, int64_t place);

/** The micro-batches of one step: micro-batch i holds rows[start[i]] .. rows[start[i + 1]]. */
struct step_plan {
  int row_count, micro_batches;
  int64_t *rows;        /**< [row capacity] row numbers of the token file, by micro-batch */
  int *start;           /**< [row capacity + 1] */
  int *owner;           /**< [row capacity] replica of each micro-batch: longest first to the least loaded */
  int *tokens;          /**< [row capacity] tokens of each micro-batch */
  int *labels;          /**< [row capacity] label tokens of each micro-batch */
  int64_t label_tokens; /**< of the whole step: what the loss is divided by */
  /* scratch of the packing, [row capacity] each */
  int64_t *taken, *load;
  int *length, *bin, *heap;
  struct sized *sorted;
};
int step_plan_open(struct step_plan *plan, int row_capacity);
void step_plan_close(struct step_plan *plan);

/** Plans places [first, first + count) of the stream. ERR_INPUT when a row is longer than `capacity`. */
int step_plan_make(struct step_plan *plan, const struct token_file *data, struct data_order *order, int64_t first,
                   int count, int capacity, int replicas);

/** A micro-batch in device memory, and the host arrays it is filled from. */
struct micro_batch {
  int capacity, sample_capacity;
  int rows, label_count;
  /* device */
  int32_t *tokens, *positions;     /**< [capacity] */
  int32_t *label_rows, *label_ids; /**< [capacity] rows whose logits are scored, and against what */
  int32_t *cache_rows;             /**< [capacity] row of the key/value cache each token goes to (decoding) */
  struct segments segments;
  int32_t *q_start, *k_start, *k_length; /**< device, what `segments` points to */
  int32_t *host;                         /**< device_host_allocate()d staging of all of the above, in their order */
  struct device_event *uploaded;         /**< marks the last upload from it */
};
int micro_batch_open(struct micro_batch *batch, struct device *device, int capacity, int sample_capacity);
void micro_batch_close(struct micro_batch *batch, struct device *device);

/** Loads whole rows of the token file: causal, each row its own sample, positions from 0. */
int micro_batch_load(struct micro_batch *batch, struct device *device, const struct token_file *data,
                     const int64_t *rows, int count);

/** A piece of a sequence for decoding: `count` tokens at positions first .. first + count of cache slot `slot`. */
struct piece {
  const int32_t *tokens;
  int count, first, slot;
};
/** Loads pieces against a cache with `slot_rows` rows a slot. label_rows are the last rows of the pieces. */
int micro_batch_load_pieces(struct micro_batch *batch, struct device *device, const struct piece *pieces, int count,
                            int slot_rows);

#endif
