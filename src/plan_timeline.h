/**
 * @file plan_timeline.h
 * Follows the rules of comm/pipeline.h with times in place of work: how long a step of a pipeline takes once it runs.
 */
#ifndef QST_PLAN_TIMELINE_H
#define QST_PLAN_TIMELINE_H

#include "rehearsal.h"

struct timeline_stage {
  const struct task_seconds *tasks; /**< [task_count]; micro-batch i takes tasks[i % task_count] */
  int task_count;
  int layers;       /**< into which a backbone task is cut: side tasks come in between */
  double reduction; /**< seconds between the end of its last backward pass and the sums of all replicas */
  double optimizer;
};

struct timeline {
  int stages, micro_batches; /**< of a step */
  bool lanes_overlap;
  bool run_ahead;      /**< one stage has a second slot, where lanes overlap */
  double hidden, side; /**< seconds of a message */
  const struct timeline_stage *stage;
};

struct timeline_result {
  double step;   /**< seconds, first fill left out */
  double bubble; /**< share of it in which the busiest stage does nothing */
};

/** ERR_MEMORY. */
int timeline_follow(const struct timeline *timeline, struct timeline_result *out);

#endif
