/**
 * @file trainer.h
 * The training loop, the same on every device and any grid of ranks:
 *
 *   for each step: every replica runs its micro-batches (backbone, side network, head, backward) and adds their gradients
 *   to order-independent sums, which are all-reduced layer by layer; every rank makes the same AdamW update of its
 *   stage. Meanwhile the backbone runs ahead into the next step. Every so often rank 0 saves.
 *
 * A run's losses and checkpoints depend on data, options and kind of device alone. It goes on from a checkpoint to the
 * same bits, on any grid.
 */
#ifndef QST_TRAINER_H
#define QST_TRAINER_H

#include "engine.h"
#include "io/token_file.h"

struct training_data {
  struct token_file train, eval; /**< eval.rows = 0: none */
};

/** Runs or resumes the run of the options. STOPPED after a signal that signals_catch() is to have
 *  asked for (SIGTERM, SIGUSR1), with a checkpoint saved. All ranks
 *  return the same status. */
int trainer_run(struct engine *engine, const struct options *options, const struct training_data *data);

#endif
