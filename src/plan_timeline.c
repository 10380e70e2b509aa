#include "plan_timeline.h"

#include <math.h>
#include <stdlib.h>

#include "base/error.h"
#include "base/memory.h"
#include "comm/pipeline.h"

/* The last step is there to be run ahead into. */
enum { WARM_STEPS = 2, TIMED_STEPS = 2, TIMED_END = WARM_STEPS + TIMED_STEPS, STEPS = TIMED_END + 1 };

/* A lane's next task, and when it can begin; INFINITY: not yet known. */
struct next_task {
  enum { NEXT_TAPS, NEXT_SIDE, NEXT_UPDATE } kind;
  double begin;
};

struct stage_state {
  struct pipeline order;
  struct pipeline_counts counts;
  int step;                          /* of the side lane */
  int layer;                         /* done of the micro-batch in the backbone lane */
  double clock;                      /* when what was begun is done */
  double busy;                       /* seconds of the timed steps' tasks */
  double warm, end;                  /* when the timed steps begin and end */
  double *taps, *forward, *backward; /* [STEPS · micro_batches] when each was done */
};

struct simulation {
  const struct timeline *timeline;
  struct stage_state *stages;
  double *times;
  int64_t total;
};

static double later(double a, double b) {
  return a > b ? a : b;
}

static const struct task_seconds *task_of(const struct simulation *s, int p, int64_t i) {
  const struct timeline_stage *stage = &s->timeline->stage[p];
  return &stage->tasks[i % s->timeline->micro_batches % stage->task_count];
}

/* ---- what may begin, and when --------------------------------------------------------------------------- */

static double taps_ready(const struct simulation *s, int p) {
  const struct stage_state *stage = &s->stages[p];
  if (stage->layer > 0) return 0;
  if (!pipeline_may_make_taps(&stage->order, &stage->counts)) return INFINITY;
  if (p == 0) return 0;
  const struct stage_state *before = &s->stages[p - 1];
  int64_t i = stage->counts.taps;
  return i < before->counts.taps ? before->taps[i] + s->timeline->hidden : INFINITY;
}

static double forward_ready(const struct simulation *s, int p) {
  const struct stage_state *stage = &s->stages[p];
  int64_t i = stage->counts.forward;
  if (i >= stage->counts.taps) return INFINITY;
  if (p == 0) return stage->taps[i];
  const struct stage_state *before = &s->stages[p - 1];
  return i < before->counts.forward ? later(stage->taps[i], before->forward[i] + s->timeline->side) : INFINITY;
}

static double backward_ready(const struct simulation *s, int p) {
  const struct stage_state *stage = &s->stages[p];
  int64_t i = stage->counts.finished;
  if (p == s->timeline->stages - 1) return stage->forward[i];
  const struct stage_state *after = &s->stages[p + 1];
  return i < after->counts.finished ? later(stage->forward[i], after->backward[i] + s->timeline->side) : INFINITY;
}

/* The norm of all stages' gradients comes first. */
static double update_ready(const struct simulation *s, int step) {
  double ready = 0;
  int64_t end = (int64_t)(step + 1) * s->timeline->micro_batches;
  for (int p = 0; p < s->timeline->stages; p++) {
    const struct stage_state *stage = &s->stages[p];
    if (stage->counts.finished < end) return INFINITY;
    ready = later(ready, stage->backward[end - 1] + s->timeline->stage[p].reduction);
  }
  return ready;
}

static enum pipeline_task side_task(const struct simulation *s, const struct stage_state *stage) {
  return pipeline_side_task(&stage->order, &stage->counts, (int64_t)(stage->step + 1) * s->timeline->micro_batches,
                            true);
}

/* The side lane goes first where both can begin at the same time. */
static struct next_task next_of(const struct simulation *s, int p) {
  const struct stage_state *stage = &s->stages[p];
  struct next_task none = {.begin = INFINITY}, taps = {NEXT_TAPS, later(stage->clock, taps_ready(s, p))};
  if (stage->step == STEPS) return none;
  struct next_task side = {.kind = NEXT_SIDE};
  switch (side_task(s, stage)) {
    case TASK_FORWARD:
      side.begin = forward_ready(s, p);
      break;
    case TASK_BACKWARD:
      side.begin = backward_ready(s, p);
      break;
    default:
      side = (struct next_task){NEXT_UPDATE, update_ready(s, stage->step)};
  }
  side.begin = later(stage->clock, side.begin);
  return side.begin <= taps.begin ? side : taps;
}

/* ---- doing it ------------------------------------------------------------------------------------------- */

static void pass(struct stage_state *stage, double begin, double seconds) {
  stage->clock = begin + seconds;
  if (stage->step >= WARM_STEPS && stage->step < TIMED_END) stage->busy += seconds;
}

static void run_side(const struct simulation *s, int p, double begin) {
  struct stage_state *stage = &s->stages[p];
  if (side_task(s, stage) == TASK_FORWARD) {
    int64_t i = stage->counts.forward++;
    pass(stage, begin, task_of(s, p, i)->forward);
    stage->forward[i] = stage->clock;
  } else {
    int64_t i = stage->counts.finished++;
    pass(stage, begin, task_of(s, p, i)->backward);
    stage->backward[i] = stage->clock;
  }
}

static void run_update(const struct simulation *s, int p, double begin) {
  struct stage_state *stage = &s->stages[p];
  pass(stage, begin, s->timeline->stage[p].optimizer);
  stage->step++;
  if (stage->step == WARM_STEPS) stage->warm = stage->clock;
  if (stage->step == TIMED_END) stage->end = stage->clock;
  int64_t known = (int64_t)(stage->step + 2) * s->timeline->micro_batches; /* this step's and the next one's */
  stage->counts.queued = known < s->total ? known : s->total;
}

static void run_layer(const struct simulation *s, int p, double begin) {
  struct stage_state *stage = &s->stages[p];
  int layers = s->timeline->stage[p].layers;
  pass(stage, begin, task_of(s, p, stage->counts.taps)->backbone / layers);
  if (++stage->layer < layers) return;
  stage->layer = 0;
  stage->taps[stage->counts.taps++] = stage->clock;
}

static void run_task(const struct simulation *s, int p, const struct next_task *task) {
  switch (task->kind) {
    case NEXT_TAPS:
      run_layer(s, p, task->begin);
      break;
    case NEXT_SIDE:
      run_side(s, p, task->begin);
      break;
    case NEXT_UPDATE:
      run_update(s, p, task->begin);
      break;
  }
}

/* What begins first is done first: nothing that is not known yet can come before it. */
static void run_all(const struct simulation *s) {
  for (;;) {
    struct next_task best = {.begin = INFINITY};
    int where = -1;
    for (int p = 0; p < s->timeline->stages; p++) {
      struct next_task task = next_of(s, p);
      if (!(task.begin < best.begin)) continue;
      best = task;
      where = p;
    }
    if (where < 0) return;
    run_task(s, where, &best);
  }
}

static void start(struct simulation *s) {
  int stages = s->timeline->stages;
  int64_t known = 2 * (int64_t)s->timeline->micro_batches;
  for (int p = 0; p < stages; p++) {
    struct stage_state *stage = &s->stages[p];
    stage->order = pipeline_make(stages, p, true, s->timeline->lanes_overlap && s->timeline->run_ahead);
    stage->counts.queued = known < s->total ? known : s->total;
    stage->taps = s->times + (size_t)p * 3 * (size_t)s->total;
    stage->forward = stage->taps + s->total;
    stage->backward = stage->forward + s->total;
  }
}

static struct timeline_result result_of(const struct simulation *s) {
  struct timeline_result out = {0};
  double busy = 0;
  for (int p = 0; p < s->timeline->stages; p++) {
    const struct stage_state *stage = &s->stages[p];
    out.step = later(out.step, (stage->end - stage->warm) / TIMED_STEPS);
    busy = later(busy, stage->busy / TIMED_STEPS);
  }
  out.bubble = out.step > 0 ? later(0, 1 - busy / out.step) : 0;
  return out;
}

int timeline_follow(const struct timeline *timeline, struct timeline_result *out) {
  struct simulation s = {.timeline = timeline, .total = (int64_t)STEPS * timeline->micro_batches};
  int status;
  TRY_GOTO(status, cleanup, memory_array(&s.stages, (size_t)timeline->stages, sizeof *s.stages));
  TRY_GOTO(status, cleanup, memory_array(&s.times, (size_t)timeline->stages * 3 * (size_t)s.total, sizeof *s.times));
  start(&s);
  run_all(&s);
  *out = result_of(&s);
cleanup:
  free(s.stages);
  free(s.times);
  return status;
}
