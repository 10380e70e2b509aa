/**
 * @file calibrate.h
 * The principal directions (principal.h) of all downsample modules, from the taps of some rows: the backbone runs over
 * them, Σ x xᵀ and Σ x gather on the device in fixed point, so that ranks and micro-batches may come in any order, and each
 * rank solves some modules. Where the sums of all modules take too much memory, groups of modules take a pass each.
 */
#ifndef QST_CALIBRATE_H
#define QST_CALIBRATE_H

#include "comm/comm.h"
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

/** out: [layers][principal_floats(hidden, count)], the same on all ranks. Collective. */
int calibrate(const struct calibration *calibration, struct comm *comm, float *out);

#endif
