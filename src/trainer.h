/**
 * @file trainer.h
 * The training loop, the same on every device and any number of ranks:
 *
 *   for each step: every rank runs its micro-batches (backbone, side network, head, backward) and adds their gradients
 *   to order-independent sums; one all-reduce; every rank makes the same AdamW update. Every so often rank 0 saves.
 *
 * A run's losses and checkpoints depend on data, options and kind of device alone. It goes on from a checkpoint to the
 * same bits, on any number of ranks.
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
int trainer_run(struct engine *engine, const struct options *options, struct comm *comm,
                const struct training_data *data);

#endif
