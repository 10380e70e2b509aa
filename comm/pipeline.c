#include "comm/pipeline.h"

/* A micro-batch is back after P − p forward passes of 1F1B, and one more keeps a stage busy while messages travel. While the
 * side lane drains at the end of a step, the backbone lane fills slots, about half as many as there are stages. With these
 * numbers the slowest of 4 stages idles for at most 0.5 % of a step of 8 equal micro-batches in the shapes that
 * tests/t48-bubble.c simulates; with fewer micro-batches, or more stages, for several percent. */
struct pipeline pipeline_make(int stages, int stage, bool training, bool ahead) {
  struct pipeline pipeline = {.stages = stages, .stage = stage, .slots = ahead ? 2 : 1, .frames = 1};
  if (stages == 1) return pipeline;
  int back = stages - stage, frames = back == 1 ? 1 : back + 1;
  pipeline.frames = training ? frames : 2;
  pipeline.slots = pipeline.frames + stages / 2;
  return pipeline;
}

enum pipeline_task pipeline_side_task(const struct pipeline *pipeline, const struct pipeline_counts *counts,
                                      int64_t end, bool backward) {
  if (counts->finished >= end) return TASK_NONE;
  bool full = counts->forward - counts->finished >= pipeline->frames;
  if (!backward || (counts->forward < end && !full)) return TASK_FORWARD;
  return TASK_BACKWARD;
}

bool pipeline_may_make_taps(const struct pipeline *pipeline, const struct pipeline_counts *counts) {
  return counts->taps < counts->queued && counts->taps - counts->finished < pipeline->slots;
}
