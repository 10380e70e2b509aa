/**
 * @file pipeline.h
 * The order of work on one rank of a pipeline, as rules over counts: nothing here computes or communicates, so that a plan
 * can follow the very same rules with times in place of work.
 *
 * A rank has two lanes. The backbone lane makes the taps of micro-batch after micro-batch and never waits for a backward
 * pass. The side lane runs forward and backward passes one-forward-one-backward (1F1B; Narayanan et al., PipeDream, 2019):
 * so many forward passes ahead that the gradient of the first is back from the last stage when it is their turn, then
 * backward and forward in turn. Whichever lane's next task is ready runs, the side lane's first; where one core runs both, the
 * backbone's task is cut into its layers, so that a side task, for which a neighbour waits, comes at most a layer late.
 *
 *   slots   micro-batches whose taps are in memory: from the backbone lane's start to the end in the side lane
 *   frames  micro-batches between the forward and the backward pass of this stage
 */
#ifndef QST_COMM_PIPELINE_H
#define QST_COMM_PIPELINE_H

#include <stdbool.h>
#include <stdint.h>

struct pipeline {
  int stages, stage;
  int slots, frames;
};

/** `ahead`: the device runs both lanes at a time, so that even one stage gains by a second slot. */
struct pipeline pipeline_make(int stages, int stage, bool training, bool ahead);

/** Micro-batches done so far, since ever. forward ≤ taps ≤ queued; finished: through the side lane. */
struct pipeline_counts {
  int64_t queued, taps, forward, finished;
};

enum pipeline_task { TASK_NONE, TASK_TAPS, TASK_FORWARD, TASK_BACKWARD };

/** The side lane's next task on the way to `end` micro-batches finished; TASK_NONE at the end. It may run as soon as what
 *  it reads is there. */
enum pipeline_task pipeline_side_task(const struct pipeline *pipeline, const struct pipeline_counts *counts,
                                      int64_t end, bool backward);

/** Whether the backbone lane has a next micro-batch and a slot for it. */
bool pipeline_may_make_taps(const struct pipeline *pipeline, const struct pipeline_counts *counts);

#endif
