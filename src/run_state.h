/**
 * @file run_state.h
 * What a run must remember to go on to the same bits: parameters, moments, step and best evaluation so far, between the
 * device and the run folder.
 */
#ifndef QST_RUN_STATE_H
#define QST_RUN_STATE_H

#include "comm/grid.h"
#include "optimizer.h"
#include "run_folder.h"

struct run_state {
  struct checkpoint_state state;
  struct run_folder folder;
  struct optimizer *optimizer;
  const struct options *options;
  const struct grid *grid;
  bool fresh;              /**< started from the seed: no file has given it parameters */
  struct side_buffers own; /**< host staging of this rank's stage */
  struct side_buffers
      all; /**< of the whole side network, on rank 0, which has `own` in it; elsewhere the same as own */
  struct named_tensor *views; /**< of `all` */
};

int run_state_open(struct run_state *run, struct optimizer *optimizer, const struct options *options,
                   const struct grid *grid, const char *backbone_digest, const char *data_digest);
void run_state_close(struct run_state *run);

/** Makes or finds the run folder and sets parameters and moments: from its newest whole checkpoint with --resume, from
 *  --init, or fresh from the seed. All ranks read the same checkpoint. ERR_USAGE when the folder already holds a run and
 *  --resume was not given; ERR_INPUT when the checkpoint is of another backbone, data or options, naming the first that
 *  differs. Collective. */
int run_state_start(struct run_state *run);

/** Writes the checkpoint of `step` from rank 0, where the stages' parts come together. Collective. */
int run_state_save(struct run_state *run, int64_t step);

#endif
