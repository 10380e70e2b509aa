#include "rehearsal.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "optimizer.h"
#include "reduction.h"

struct stage_run {
  struct engine engine;
  struct optimizer optimizer;
  struct reduction reduction;
  struct data_order order;
  struct step_plan plan;
  struct comm alone;
  struct grid grid;
};

/* Seconds the device was given since the last call. */
static double take_seconds(struct device *device, double *flops) {
  struct counted backbone = null_lane(device, LANE_BACKBONE), side = null_lane(device, LANE_SIDE);
  *flops += backbone.flops + side.flops;
  null_reset(device);
  return backbone.seconds + side.seconds;
}

/* ---- opening -------------------------------------------------------------------------------------------- */

static int check_rows(const struct options *options, int longest) {
  if (longest <= options->micro_batch_tokens) return OK;
  return fail(ERR_INPUT, "a row of %d tokens is more than a micro-batch holds: raise --micro-batch-tokens (now %lld)",
              longest, (long long)options->micro_batch_tokens);
}

static int plan_first_step(struct stage_run *run, const struct options *options, const struct token_file *data,
                           int replicas) {
  int64_t rows = options->global_batch;
  if (replicas > rows)
    return fail(ERR_USAGE, "%d replicas cannot share steps of %lld rows: raise --global-batch", replicas,
                (long long)rows);
  TRY(data_order_open(&run->order, data->rows, (uint64_t)options->seed, true));
  TRY(step_plan_open(&run->plan, (int)rows));
  return step_plan_make(&run->plan, data, &run->order, 0, (int)rows, (int)options->micro_batch_tokens, replicas);
}

static int open_run(struct stage_run *run, const struct options *options, const struct rehearsal_place *place) {
  const struct token_file *data = place->data;
  struct engine *engine = &run->engine;
  run->alone = (struct comm){.name = "null", .size = 1, .local_size = 1};
  run->grid =
      (struct grid){.stages = place->stages, .replicas = place->replicas, .stage = place->stage, .world = &run->alone};
  int capacity = (int)options->micro_batch_tokens;
  TRY(check_rows(options, place->longest));
  TRY(engine_open(engine, options, &run->grid,
                  &(struct engine_plan){.use = ENGINE_TRAIN,
                                        .capacity = capacity,
                                        .samples = capacity,
                                        .positions = place->longest,
                                        .label_share = (double)data->label_tokens / (double)data->total,
                                        .hardware = place->hardware}));
  TRY(optimizer_open(&run->optimizer, &engine->side, options, 0, place->shards));
  TRY(reduction_open(&run->reduction, &engine->side, &engine->sums, NULL, options->reduction));
  if (options->taps && strcmp(options->tap_format, "int8") == 0) TRY(tap_source_separate_output(&engine->source));
  return plan_first_step(run, options, place->data, place->replicas);
}

static void close_run(struct stage_run *run) {
  step_plan_close(&run->plan);
  data_order_close(&run->order);
  reduction_close(&run->reduction);
  optimizer_close(&run->optimizer);
  engine_close(&run->engine);
}

/* ---- the step ------------------------------------------------------------------------------------------- */

/* The replica with the most tokens to train on: micro-batches without a label are left out. */
static int busiest(const struct step_plan *plan, int replicas) {
  int64_t *load;
  int best = 0;
  if (memory_array(&load, (size_t)replicas, sizeof *load) != OK) return 0;
  for (int i = 0; i < plan->micro_batches; i++)
    if (plan->labels[i] > 0) load[plan->owner[i]] += plan->tokens[i];
  for (int r = 0; r < replicas; r++)
    if (load[r] > load[best]) best = r;
  free(load);
  return best;
}

/* The tasks of src/lanes.c, one after the other: taps, forward, backward. */
static int run_micro_batch(struct stage_run *run, const struct token_file *data, int i, struct rehearsal *out) {
  struct engine *engine = &run->engine;
  struct device *device = engine->device;
  struct slot *slot = &engine->lanes.slots[0];
  struct side_frame *frame = &engine->side.frames[0];
  struct task_seconds *task = &out->tasks[out->micro_batches++];
  int first = run->plan.start[i];
  TRY(device_use_lane(device, LANE_BACKBONE));
  TRY(micro_batch_load(&slot->batch, device, data, run->plan.rows + first, run->plan.start[i + 1] - first));
  TRY(tap_source_run(&engine->source, 0, &slot->batch, NULL, &slot->taps));
  task->backbone = take_seconds(device, &out->flops);
  TRY(device_use_lane(device, LANE_SIDE));
  TRY(side_forward(&engine->side, frame, &slot->batch, &slot->taps, NULL));
  if (engine->lanes.head) TRY(head_forward(&engine->head, &slot->batch, &slot->taps, frame->s_out));
  task->forward = take_seconds(device, &out->flops);
  if (engine->lanes.head) TRY(head_backward(&engine->head, &slot->batch, &slot->taps, frame->ds, &engine->sums));
  TRY(side_backward(&engine->side, frame, &slot->batch, &slot->taps, &engine->sums, NULL));
  task->backward = take_seconds(device, &out->flops);
  return OK;
}

static int update(struct stage_run *run) {
  struct engine *engine = &run->engine;
  double *squares = (double *)(engine->totals + TOTAL_SQUARES);
  TRY(engine_zero(engine));
  TRY(reduction_gradient(&run->reduction));
  TRY(optimizer_squares(&run->optimizer, squares));
  TRY(device_download(engine->device, engine->host_totals, engine->totals, engine->total_count * sizeof(int64_t)));
  double norm = optimizer_norm(&engine->side.layout, (const double *)(engine->host_totals + TOTAL_SQUARES));
  return optimizer_update(&run->optimizer, norm, 0, 1);
}

static int run_step(struct stage_run *run, const struct token_file *data, int replicas, struct rehearsal *out) {
  const struct step_plan *plan = &run->plan;
  double none = 0;
  int replica = busiest(plan, replicas);
  TRY(memory_array(&out->tasks, (size_t)plan->micro_batches, sizeof *out->tasks));
  take_seconds(run->engine.device, &none);
  for (int i = 0; i < plan->micro_batches; i++)
    if (plan->owner[i] == replica && plan->labels[i] > 0) TRY(run_micro_batch(run, data, i, out));
  if (out->micro_batches == 0) return fail(ERR_INPUT, "no token of the first step's rows has a label");
  TRY(update(run));
  out->optimizer = take_seconds(run->engine.device, &out->flops);
  return OK;
}

/* What tap_store_open() takes of the device's memory: a micro-batch's taps by token. */
static size_t store_bytes(const struct engine *engine) {
  size_t taps = (size_t)stage_depth(&engine->stage) + stage_begins(&engine->stage);
  return device_act_bytes(engine->device, (size_t)engine->capacity * taps * (size_t)engine->source.cols);
}

static void describe(struct stage_run *run, const struct options *options, const struct token_file *data,
                     struct rehearsal *out) {
  const struct step_plan *plan = &run->plan;
  const struct engine *engine = &run->engine;
  double squares = 0;
  for (int i = 0; i < plan->row_count; i++) {
    int64_t length = data->offsets[plan->rows[i] + 1] - data->offsets[plan->rows[i]];
    out->tokens += length;
    squares += (double)length * (double)length;
  }
  out->label_tokens = plan->label_tokens;
  for (int i = 0; i < plan->micro_batches; i++) out->step_micro_batches += plan->labels[i] > 0;
  out->model_flops = engine_flops(engine, out->tokens, out->label_tokens, squares);
  out->gradients = engine->sums.size;
  out->parameters = engine->side.layout.parameters;
  out->layers = stage_depth(&engine->stage);
  double tokens = (double)out->tokens / plan->micro_batches;
  out->act_size = dtype_size(engine->device->act);
  out->hidden_message = tokens * engine->backbone.config.hidden * (double)out->act_size;
  out->side_message = tokens * engine->side.layout.shape.width * (double)out->act_size;
  memcpy(out->memory, engine->device->allocated, sizeof out->memory);
  if (options->taps) out->memory[MEMORY_TAPS] += store_bytes(engine);
}

int rehearse(const struct options *options, const struct rehearsal_place *place, struct rehearsal *out) {
  struct stage_run run = {0};
  *out = (struct rehearsal){0};
  int status;
  TRY_GOTO(status, cleanup, open_run(&run, options, place));
  TRY_GOTO(status, cleanup, run_step(&run, place->data, place->replicas, out));
  describe(&run, options, place->data, out);
cleanup:
  close_run(&run);
  if (status != OK) rehearsal_free(out);
  return status;
}

void rehearsal_free(struct rehearsal *rehearsal) {
  free(rehearsal->tasks);
  *rehearsal = (struct rehearsal){0};
}
