/**
 * @file calibrate.h
 * The principal directions (principal.h) of all downsample modules, from the taps of some rows: the backbone runs over
 * them, Σ x xᵀ and Σ x gather on the device in fixed point, so that ranks and micro-batches may come in any order, and each
 * rank solves some modules. A stage of a pipeline gathers those of its modules, one micro-batch after the other: hidden states
 * go from stage to stage as messages of the host. Where the sums of all modules take too much memory, groups of modules take a
 * pass each.
 */
#ifndef QST_CALIBRATE_H
#define QST_CALIBRATE_H

#include "comm/grid.h"
#include "taps.h"

struct calibration {
  struct tap_source *source; /**< its memory for hidden states is used */
  struct micro_batch *batch;
  const struct token_file *data;
  int64_t tokens;  /**< rows are drawn, in an order of their own, until they have that many */
  int count;       /**< k, directions of a module */
  int threads;     /**< of this rank, for solving; 0: OpenMP's choice */
  int64_t at_once; /**< bytes of sums that may be in device memory; 0: a default */
};

/** out: [layers][principal_floats(hidden, count)], the same on all ranks of any grid. Collective; a failure that the other
 *  ranks do not know of is for comm_conclude(). */
int calibrate(const struct calibration *calibration, const struct grid *grid, float *out);

#endif
