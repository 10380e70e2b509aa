/* The pipeline's rules followed with times in place of work: how long the slowest of four stages idles once it runs. */
#include "base/random.h"
#include "check.h"
#include "comm/pipeline.h"
#include "plan_timeline.h"

enum { STAGES = 4, MICRO_BATCHES = 8, CASES = 200 };

/** Seconds of a micro-batch on each stage; `side` is forward and backward together. */
struct shape {
  const char *name;
  int layers[STAGES];
  double backbone[STAGES], side[STAGES], message;
};

/* By `plan`: SmolLM2-135M and 7B on one core of a cpu a stage, 7B and 70B on GPUs. And two made up: equal stages whose side
 * network takes a third of the backbone's time, and next to none. */
static const struct shape shapes[] = {
    {"135M cpu", {10, 10, 9, 1}, {.5, .5, .45, .05}, {.07, .07, .0625, .4955}, .0003},
    {"7B cpu", {8, 8, 8, 8}, {18.9, 18.9, 18.9, 18.9}, {.636, .632, .632, 2.79}, .003},
    {"7B gpu", {8, 8, 8, 8}, {.0122, .0122, .0122, .0122}, {.00134, .00131, .00131, .00224}, .0001},
    {"70B gpu", {20, 20, 20, 20}, {.123, .123, .123, .123}, {.00586, .00582, .00582, .00756}, .0002},
    {"a third", {8, 8, 8, 8}, {3, 3, 3, 3}, {1, 1, 1, 1}, .01},
    {"next to none", {8, 8, 8, 8}, {3, 3, 3, 3}, {.05, .05, .05, .05}, .01},
};

/* Micro-batches whose lengths differ by up to `spread` of their mean. */
static double bubble_of(const struct shape *shape, double spread, uint64_t seed) {
  struct task_seconds tasks[STAGES][MICRO_BATCHES];
  struct timeline_stage stages[STAGES];
  struct timeline timeline = {.stages = STAGES,
                              .micro_batches = MICRO_BATCHES,
                              .hidden = shape->message,
                              .side = shape->message / 16,
                              .stage = stages};
  struct timeline_result result = {.bubble = 1};
  struct random random = {seed};
  for (int i = 0; i < MICRO_BATCHES; i++) {
    double length = 1 + spread * (2 * random_unit(&random) - 1);
    for (int p = 0; p < STAGES; p++)
      tasks[p][i] = (struct task_seconds){.backbone = length * shape->backbone[p],
                                          .forward = length * shape->side[p] / 3,
                                          .backward = length * shape->side[p] * 2 / 3};
  }
  for (int p = 0; p < STAGES; p++)
    stages[p] = (struct timeline_stage){.tasks = tasks[p],
                                        .task_count = MICRO_BATCHES,
                                        .layers = shape->layers[p],
                                        .reduction = shape->message,
                                        .optimizer = .05 * shape->side[p]};
  CHECK_OK(timeline_follow(&timeline, &result));
  return result.bubble;
}

static void equal_micro_batches(void) {
  for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
    double bubble = bubble_of(&shapes[i], 0, 0);
    printf("%-13s %.2f %%\n", shapes[i].name, 100 * bubble);
    CHECK(bubble < .005);
  }
}

static void unequal_micro_batches(void) {
  for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
    double worst = 0, mean = 0;
    for (uint64_t seed = 1; seed <= CASES; seed++) {
      double bubble = bubble_of(&shapes[i], .3, seed);
      worst = bubble > worst ? bubble : worst;
      mean += bubble / CASES;
    }
    printf("%-13s %.2f %% on average, %.2f %% at most\n", shapes[i].name, 100 * mean, 100 * worst);
    CHECK(worst < .03 && mean < .005);
  }
}

/* What it costs: of the taps and the side network's activations of one micro-batch, so many. */
static void memory(void) {
  static const int frames[] = {5, 4, 3, 1}, slots[] = {7, 6, 5, 3};
  for (int p = 0; p < STAGES; p++) {
    struct pipeline order = pipeline_make(STAGES, p, true, false);
    CHECK(order.frames == frames[p] && order.slots == slots[p]);
  }
}

int main(void) {
  equal_micro_batches();
  unequal_micro_batches();
  memory();
  return check_result();
}
