#include "comm/pipeline.h"

/* In a steady state every rank does one task of each kind a turn, and a turn later its neighbour: the backward pass of
 * stage p comes 2 (P − 1 − p) turns after the forward pass, which asks for one frame more. While the side lane drains at
 * the end of a step, the backbone lane fills slots, about half as many as there are stages. */
struct pipeline pipeline_make(int stages, int stage, bool training, bool lanes_overlap) {
  struct pipeline pipeline = {.stages = stages, .stage = stage, .slots = lanes_overlap ? 2 : 1, .frames = 1};
  if (stages == 1) return pipeline;
  pipeline.frames = training ? 2 * (stages - stage) - 1 : 2;
  pipeline.slots = pipeline.frames + stages / 2 + 1;
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
