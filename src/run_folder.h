/**
 * @file run_folder.h
 * A run on disk: RUN/step-NNNNNN.h5 checkpoints, the links RUN/latest and RUN/best to two of them, RUN/options (the
 * options used, in the config file's syntax), RUN/metrics.jsonl and RUN/lock. Only rank 0 writes. A checkpoint appears complete or
 * not at all and is never opened for writing again.
 */
#ifndef QST_RUN_FOLDER_H
#define QST_RUN_FOLDER_H

#include <stdint.h>

#include "io/checkpoint.h"

struct run_folder {
  char *path;
  int64_t keep; /**< checkpoints that stay: the newest `keep` and the best */
  int lock;     /**< descriptor of RUN/lock while it is held; -1 */
};

/** Takes RUN/lock: one run at a time writes a folder. ERR_USAGE when another process has it. It ends with the process,
 *  however that ends; file systems without locks go without. */
int run_folder_lock(struct run_folder *run);
void run_folder_unlock(struct run_folder *run);

/** "<run>/step-000100.h5"; caller frees. */
int run_folder_checkpoint(const struct run_folder *run, int64_t step, char **out);

/** The step of the newest checkpoint that opens and is whole; -1 when there is none. Damaged ones are warned of and
 *  passed over. */
int run_folder_newest(const struct run_folder *run, int64_t *step);

/** The settings of that checkpoint, "key = value" lines; empty when there is none. Says nothing of damaged ones: starting the
 *  run will. */
int run_folder_settings(const struct run_folder *run, struct buffer *out);

/** Turns `latest` to the checkpoint of state->step and `best` to that of state->best_step, where they are there. */
int run_folder_link(const struct run_folder *run, const struct checkpoint_state *state);

/** Writes a checkpoint, links it and removes what is not kept. */
int run_folder_save(const struct run_folder *run, const struct checkpoint_state *state,
                    const struct named_tensor *tensors, int count);

/** Removes temporary files that a killed run left. */
int run_folder_clean(const struct run_folder *run);

#endif
