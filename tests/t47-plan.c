/* What a plan says against what it stands for: the cpu device's memory to the byte, the model's FLOPs, a pipeline's steps
 * and collectives worked out by hand. */
// RUN ranks=1
#include "base/threads.h"
#include "io/chat.h"
#include "optimizer.h"
#include "plan.h"
#include "plan_timeline.h"
#include "tiny.h"

/* ---- memory --------------------------------------------------------------------------------------------- */

/* Rows of 20 tokens, the second half with labels. */
static struct token_file make_rows(int64_t rows) {
  enum { LENGTH = 20 };
  struct token_file data = {.rows = rows, .total = rows * LENGTH, .label_tokens = rows * LENGTH / 2};
  CHECK_OK(memory_array(&data.tokens, (size_t)data.total, sizeof *data.tokens));
  CHECK_OK(memory_array(&data.labels, (size_t)data.total, sizeof *data.labels));
  CHECK_OK(memory_array(&data.offsets, (size_t)rows + 1, sizeof *data.offsets));
  for (int64_t i = 0; i < data.total; i++) data.labels[i] = i % LENGTH < LENGTH / 2 ? LABEL_NONE : 0;
  for (int64_t i = 0; i <= rows; i++) data.offsets[i] = i * LENGTH;
  return data;
}

static struct options plan_options(char *backbone) {
  struct options options;
  CHECK_OK(options_start(&options, COMMAND_PLAN));
  options.backbone = strdup(backbone);
  options.reduction_factor = 3;
  options.micro_batch_tokens = 64;
  options.global_batch = 12;
  options.threads = 2;
  return options;
}

/* What a rank of the trainer allocates on the cpu before its first step. */
static void open_for_real(const struct options *options, const struct token_file *data, int stages, int stage,
                          size_t memory[MEMORY_KINDS]) {
  struct comm alone = {.size = 1, .local_size = 1};
  struct grid grid = {.stages = stages, .replicas = 1, .stage = stage, .world = &alone};
  struct engine_plan plan = {.use = ENGINE_TRAIN,
                             .capacity = (int)options->micro_batch_tokens,
                             .samples = (int)options->micro_batch_tokens,
                             .positions = 20,
                             .label_share = (double)data->label_tokens / (double)data->total};
  struct engine engine;
  struct optimizer optimizer;
  CHECK_OK(engine_open(&engine, options, &grid, &plan));
  CHECK_OK(optimizer_open(&optimizer, &engine.side, options, 0, 1));
  memcpy(memory, engine.device->allocated, sizeof engine.device->allocated);
  optimizer_close(&optimizer);
  engine_close(&engine);
}

static void test_memory(const struct options *options, const struct token_file *data, const struct hardware *cpu) {
  for (int stages = 1; stages <= 2; stages++)
    for (int stage = 0; stage < stages; stage++) {
      struct rehearsal planned;
      size_t real[MEMORY_KINDS];
      struct rehearsal_place place = {
          .hardware = cpu, .data = data, .longest = 20, .stage = stage, .stages = stages, .replicas = 1, .shards = 1};
      CHECK_OK(rehearse(options, &place, &planned));
      open_for_real(options, data, stages, stage, real);
      for (int kind = 0; kind < MEMORY_KINDS; kind++) {
        if (planned.memory[kind] != real[kind])
          fprintf(stderr, "stage %d of %d, kind %d: %zu planned, %zu allocated\n", stage, stages, kind,
                  planned.memory[kind], real[kind]);
        CHECK(planned.memory[kind] == real[kind] && real[kind] > 0);
      }
      rehearsal_free(&planned);
    }
}

/* ---- work ----------------------------------------------------------------------------------------------- */

/* What the null device counted is what the trainer's metrics say of a step. The formula takes half of n² pairs for the
 * causal mask, the device the n (n + 1) / 2 that there are, and it leaves out the pairs' backward pass of a fifth matrix. */
static void test_flops(const struct options *options, const struct token_file *data, const struct hardware *cpu) {
  struct rehearsal planned;
  struct rehearsal_place place = {
      .hardware = cpu, .data = data, .longest = 20, .stages = 1, .replicas = 1, .shards = 1};
  CHECK_OK(rehearse(options, &place, &planned));
  CHECK(planned.tokens == 240 && planned.label_tokens == 120);
  CHECK(planned.micro_batches == planned.step_micro_batches && planned.micro_batches >= 4);
  CHECK(planned.flops > 0.9 * planned.model_flops && planned.flops < 1.1 * planned.model_flops);
  rehearsal_free(&planned);
}

/* Two replicas share the micro-batches of a step. */
static void test_replicas(const struct options *options, const struct token_file *data, const struct hardware *cpu) {
  struct rehearsal planned;
  struct rehearsal_place place = {
      .hardware = cpu, .data = data, .longest = 20, .stages = 1, .replicas = 2, .shards = 1};
  CHECK_OK(rehearse(options, &place, &planned));
  CHECK(planned.micro_batches * 2 == planned.step_micro_batches && planned.tokens == 240);
  rehearsal_free(&planned);
  place.replicas = 13;
  CHECK_FAILS(ERR_USAGE, "raise --global-batch", rehearse(options, &place, &planned));
  place.replicas = 1, place.longest = 65;
  CHECK_FAILS(ERR_INPUT, "raise --micro-batch-tokens", rehearse(options, &place, &planned));
}

/* The longest row has no label, and so is not trained on: the replica that would have it is not the busiest. */
static void test_unlabelled(const struct options *options, const struct hardware *cpu) {
  int32_t tokens[90] = {0}, labels[90];
  int64_t offsets[] = {0, 60, 70, 80, 90};
  struct token_file data = {
      .rows = 4, .total = 90, .label_tokens = 30, .tokens = tokens, .labels = labels, .offsets = offsets};
  struct options four = *options;
  struct rehearsal planned;
  struct rehearsal_place place = {
      .hardware = cpu, .data = &data, .longest = 60, .stages = 1, .replicas = 2, .shards = 1};
  for (int i = 0; i < 90; i++) labels[i] = i < 60 ? LABEL_NONE : 0;
  four.global_batch = 4;
  CHECK_OK(rehearse(&four, &place, &planned));
  CHECK(planned.micro_batches == 1 && planned.step_micro_batches == 1 && planned.tokens == 90);
  rehearsal_free(&planned);
}

/* Four times the ranks of a whole plan: a quarter of the optimizer's moments when they are sharded, fewer bytes when fast. */
static void test_plan(const struct options *options, const struct token_file *data, const struct hardware *cpu) {
  struct plan_request request = {.options = options,
                                 .machine = {.hardware = *cpu, .nodes = 2, .per_node = 2},
                                 .stages = 1,
                                 .data = data,
                                 .longest = 20,
                                 .rows = 1200};
  struct plan exact, fast;
  CHECK_OK(plan_make(&request, &exact));
  struct options changed = *options;
  char kind[] = "fast-bf16";
  changed.shard_optimizer = true, changed.reduction = kind;
  request.options = &changed;
  CHECK_OK(plan_make(&request, &fast));
  CHECK(exact.replicas == 4 && exact.steps == 100 && exact.fits && exact.step > 0);
  CHECK(fabs(exact.seconds - 100 * exact.step) < 1e-9 * exact.seconds);
  CHECK(fabs(exact.tokens_per_second - 240 / exact.step) < 1e-6 * exact.tokens_per_second);
  CHECK(fast.stage[0].memory[MEMORY_OPTIMIZER] < exact.stage[0].memory[MEMORY_OPTIMIZER]);
  CHECK(fast.stage[0].gradient_wire > exact.stage[0].gradient_wire / 4);
  CHECK(fast.stage[0].gradient_wire < exact.stage[0].gradient_wire);
  plan_free(&exact);
  plan_free(&fast);
  changed.epochs = 1.11; /* of 1200 rows: 1332.0000000000002 */
  CHECK_OK(plan_make(&request, &exact));
  CHECK(exact.steps == 111);
  plan_free(&exact);
  request.stages = 3;
  CHECK_FAILS(ERR_USAGE, "do not divide", plan_make(&request, &exact));
}

/* On a GPU with too little memory a smaller micro-batch or more stages are found, and without any, nothing. */
static void test_fit(const struct options *options, const struct token_file *data) {
  const struct hardware *gpu;
  CHECK_OK(hardware_find("l4", &gpu));
  struct plan_request request = {.options = options,
                                 .machine = {.hardware = *gpu, .nodes = 1, .per_node = 2},
                                 .stages = 1,
                                 .data = data,
                                 .longest = 20,
                                 .rows = 12};
  struct plan whole, half;
  int stages;
  int64_t tokens;
  bool found;
  CHECK_OK(plan_make(&request, &whole));
  CHECK(whole.fits);
  request.stages = 2;
  CHECK_OK(plan_make(&request, &half));
  request.stages = 1;
  /* a little more than what is kept for the driver and half the model */
  double reserved = gpu->memory - whole.usable;
  request.machine.hardware.memory = reserved + (double)whole.stage[0].bytes - 1;
  CHECK_OK(plan_find_fit(&request, &stages, &tokens, &found));
  CHECK(found && stages == 1 && tokens == 32);
  request.machine.hardware.memory = reserved + 1;
  CHECK_OK(plan_find_fit(&request, &stages, &tokens, &found));
  CHECK(!found);
  plan_free(&whole);
  plan_free(&half);
}

/* Bytes of a whole plan with these two. */
static double bytes_of(struct plan_request request, bool recompute, bool run_ahead) {
  struct options options = *request.options;
  struct plan plan;
  options.recompute = recompute, options.run_ahead = run_ahead;
  request.options = &options;
  CHECK_OK(plan_make(&request, &plan));
  double bytes = (double)plan.stage[0].bytes;
  plan_free(&plan);
  return bytes;
}

/* What auto takes where a GPU has this much for it: nothing that costs time while it fits without. */
static void test_lean(const struct options *options, const struct token_file *data) {
  const struct hardware *gpu;
  CHECK_OK(hardware_find("l4", &gpu));
  struct plan_request request = {
      .machine = {.hardware = *gpu, .nodes = 1, .per_node = 1}, .stages = 1, .data = data, .longest = 20, .rows = 12};
  const double reserved = 1.5e9;
  for (int lean = 0; lean < 4; lean++) {
    struct options chosen = *options;
    request.options = &chosen;
    chosen.placement = (char *)(uintptr_t) "stages";
    double bytes = bytes_of(request, lean & 1, !(lean & 2)), less = bytes_of(request, true, lean < 2);
    CHECK(bytes_of(request, true, true) < bytes_of(request, false, true) && less <= bytes);
    CHECK(bytes_of(request, false, false) < bytes_of(request, false, true));
    request.machine.hardware.memory = reserved + bytes;
    CHECK_OK(plan_choose(&request, &chosen));
    CHECK(bytes_of(request, chosen.recompute, chosen.run_ahead) <= bytes);
    CHECK(lean == 0 ? !chosen.recompute && chosen.run_ahead : chosen.recompute || !chosen.run_ahead);
  }
  struct options chosen = *options;
  request.options = &chosen;
  chosen.placement = (char *)(uintptr_t) "stages";
  request.machine.hardware.memory = reserved + bytes_of(request, true, false) - 1;
  CHECK_FAILS(ERR_MEMORY, "nothing that was tried fits", plan_choose(&request, &chosen));
}

/* ---- the schedule --------------------------------------------------------------------------------------- */

/* While the gradients' sums are waited for, two slots take more of the next step than one. */
static void test_run_ahead(void) {
  static const struct task_seconds task = {.backbone = 6, .forward = 1, .backward = 2};
  struct timeline_stage stage = {.tasks = &task, .task_count = 1, .layers = 4, .reduction = 12, .optimizer = 3};
  struct timeline timeline = {.stages = 1, .micro_batches = 5, .lanes_overlap = true, .stage = &stage};
  struct timeline_result waits, ahead;
  CHECK_OK(timeline_follow(&timeline, &waits));
  timeline.run_ahead = true;
  CHECK_OK(timeline_follow(&timeline, &ahead));
  CHECK(ahead.step < waits.step - 1 && ahead.step > 5 * 9 + 3 - 1e-9);
}

static struct timeline_result follow(int stages, int micro_batches, double message, double reduction) {
  static const struct task_seconds task = {.backbone = 6, .forward = 1, .backward = 2};
  struct timeline_stage stage[8];
  struct timeline timeline = {
      .stages = stages, .micro_batches = micro_batches, .hidden = message, .side = message, .stage = stage};
  struct timeline_result result = {0};
  for (int p = 0; p < stages; p++)
    stage[p] =
        (struct timeline_stage){.tasks = &task, .task_count = 1, .layers = 4, .reduction = reduction, .optimizer = 3};
  CHECK_OK(timeline_follow(&timeline, &result));
  return result;
}

static void test_schedule(void) {
  struct timeline_result one = follow(1, 5, 0, 0), waits = follow(1, 5, 0, 4), hides = follow(4, 8, 0, 4);
  CHECK(fabs(one.step - (5 * 9 + 3)) < 1e-9 && one.bubble < 1e-9);
  /* a reduction of 4 s is waited for: one slot is full of what is not yet done, nothing can be run ahead but one */
  CHECK(waits.step >= one.step && waits.step <= one.step + 4 + 1e-9);
  /* a pipeline can't be faster than its ranks are busy, and not much slower: no flush at the end of a step */
  CHECK(hides.step >= 8 * 9 + 3 - 1e-9 && hides.step < 1.1 * (8 * 9 + 3));
  /* the backbone may end the timed steps a layer or two further ahead than it began them */
  CHECK(fabs(hides.bubble - (1 - (8 * 9 + 3) / hides.step)) < 3 * 6.0 / 4 / 2 / hides.step);
  CHECK(follow(4, 8, 3, 4).step >= hides.step);
  CHECK(follow(4, 2, 0, 4).bubble > hides.bubble);
}

/* ---- collectives ---------------------------------------------------------------------------------------- */

static void test_timed(void) {
  struct timed_group node = {.ranks = 4, .per_node = 4, .node = {1e9, 1e-6}, .network = {1e8, 1e-5}};
  /* 6 steps of a quarter of 4 MB */
  CHECK(fabs(timed_sum(&node, 4e6) - 6 * (1e-6 + 1e-3)) < 1e-12);
  CHECK(fabs(timed_broadcast(&node, 4e6) - (2e-6 + 4e-3)) < 1e-12);
  CHECK(fabs(timed_sum_wire(&node, 4e6) - 6e6) < 1e-3);
  CHECK(fabs(timed_message(&node.node, 1e6) - 1.001e-3) < 1e-12);
  struct timed_group alone = node, two = node, many = node;
  alone.ranks = alone.per_node = 1;
  CHECK(timed_sum(&alone, 4e6) == 0 && timed_sum_wire(&alone, 4e6) == 0);
  /* Two nodes of 4: in the node 2 · 3 (1 us + 1 ms), of each rank's 1 MB between nodes 2 (10 us + 5 ms); one ring would
   * take 14 steps of half a megabyte over 4 · 100 MB/s: 17.6 ms */
  two.ranks = 8;
  CHECK(fabs(timed_sum(&two, 4e6) - (6 * (1e-6 + 1e-3) + 2 * (1e-5 + 5e-3))) < 1e-12);
  /* 1,024 nodes and few bytes: a tree's 2 · 10 steps, not a ring's 2,046 */
  many.ranks = 4096;
  CHECK(timed_sum(&many, 64) < 6 * 2e-6 + 2 * 10 * 1e-5 + 1e-4);
}

int main(void) {
  char *backbone = tiny_backbone_file("tests/fixtures/tiny-llama", WEIGHT_NF4);
  struct options options = plan_options(backbone);
  struct token_file data = make_rows(12);
  const struct hardware cpu = {.name = "cpu",
                               .achieved = true,
                               .matrix_bf16 = 1e11,
                               .vector = 1e11,
                               .memory_bandwidth = 1e10,
                               .host = {1e10, 0},
                               .node = {1e9, 1e-6},
                               .network = {1e8, 1e-5}};
  test_memory(&options, &data, &cpu);
  test_flops(&options, &data, &cpu);
  test_replicas(&options, &data, &cpu);
  test_unlabelled(&options, &cpu);
  test_plan(&options, &data, &cpu);
  test_fit(&options, &data);
  test_lean(&options, &data);
  test_run_ahead();
  test_schedule();
  test_timed();
  token_file_free(&data);
  options_free(&options);
  free(backbone);
  return check_result();
}
