/* bench-step: where the time of training steps goes, phase by phase, against floors. It is a real run of `train`, whose options
 * it takes, with a clock in front of every operation of the device (kernels/device.h). A phase's floor is what its FLOPs need at
 * the rate of one large product, or its bytes at that of memcpy, whichever is longer (kernels/null/cost.h, benchmarks/ceilings.h);
 * both are measured in the same run. The first step is not counted. Of several ranks it shows the first. */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "base/memory.h"
#include "benchmarks/ceilings.h"
#include "commands/data.h"
#include "kernels/null/cost.h"
#include "trainer.h"

static const char usage[] =
    "bench-step FILE.json|- OPTIONS-OF-TRAIN    (on the cpu device, --steps 2 or more)\n"
    "Prints a table of the phases of a step; a JSON file that exists is not overwritten, - writes none.\n";

enum phase {
  BACKBONE_PRODUCTS,
  BACKBONE_ATTENTION,
  BACKBONE_OTHER,
  SIDE_FORWARD,
  SIDE_BACKWARD,
  HEAD,
  SUMS,
  OPTIMIZER,
  LOADING,
  WAITING,
  PHASES
};
static const char *const phase_names[PHASES] = {
    "backbone products", "backbone attention", "backbone, the rest",
    "side forward",      "side backward",      "head",
    "gradient sums",     "optimizer",          "loading",
    "waiting for ranks",
};

/* ---- the clocks ----------------------------------------------------------------------------------------- */

struct total {
  double seconds, flops, bytes, floor;
  long calls;
};

static struct profile {
  const struct device_operations *operations; /* the device's own */
  const struct device_memory *memory;
  struct ceilings ceilings;
  const struct lanes *lanes;
  enum lane lane;
  struct total phases[PHASES];
  int updates;
  bool updating;
  double begin, end, idle; /* of the counted steps; idle: what the lanes had idled when they began */
} profile;

static enum phase phase_of(enum operation operation) {
  switch (operation) {
    case OPERATION_frozen_linear:
      return BACKBONE_PRODUCTS;
    case OPERATION_frozen_logits:
    case OPERATION_frozen_input_grad:
    case OPERATION_cross_entropy:
      return HEAD;
    case OPERATION_fixed_add:
    case OPERATION_fixed_total:
    case OPERATION_fixed_get:
    case OPERATION_sum_squares:
      return SUMS;
    case OPERATION_adamw:
    case OPERATION_to_act:
      return OPTIMIZER;
    case OPERATION_attention_backward:
    case OPERATION_linear_input_grad:
    case OPERATION_linear_weight_grad:
    case OPERATION_rmsnorm_backward:
    case OPERATION_layernorm_backward:
    case OPERATION_swiglu_backward:
    case OPERATION_silu_backward:
    case OPERATION_relu_backward:
    case OPERATION_gate_backward:
    case OPERATION_mix_backward:
      return SIDE_BACKWARD;
    default:
      if (profile.lane == LANE_SIDE) return SIDE_FORWARD;
      return operation == OPERATION_attention ? BACKBONE_ATTENTION : BACKBONE_OTHER;
  }
}

/* The first step ends with the last operation of its update. */
static void follow_steps(enum operation operation, double now) {
  if (profile.updating && phase_of(operation) != OPTIMIZER) {
    profile.updating = false;
    if (profile.updates == 1) {
      memset(profile.phases, 0, sizeof profile.phases);
      profile.begin = now;
      profile.idle = profile.lanes->idle;
    }
  }
  if (operation != OPERATION_adamw || profile.updating) return;
  profile.updating = true;
  profile.updates++;
}

static void count(enum phase phase, double begin, const struct cost *cost) {
  struct total *total = &profile.phases[phase];
  profile.end = clock_seconds();
  total->seconds += profile.end - begin;
  total->flops += cost->flops;
  total->bytes += cost->bytes;
  total->floor += fmax(cost->flops / profile.ceilings.product, cost->bytes / profile.ceilings.copy);
  total->calls++;
}

#define TIMED(name)                                                                     \
  static int timed_##name(struct device *device, const struct name##_args *arguments) { \
    double begin = clock_seconds();                                                     \
    follow_steps(OPERATION_##name, begin);                                              \
    int status = profile.operations->name(device, arguments);                           \
    struct cost cost = operation_cost(OPERATION_##name, arguments, device->act);        \
    count(phase_of(OPERATION_##name), begin, &cost);                                    \
    return status;                                                                      \
  }
DEVICE_OPERATIONS(TIMED)

#define TIMED_SLOT(name) .name = timed_##name,
static const struct device_operations timed_operations = {DEVICE_OPERATIONS(TIMED_SLOT)};

static int timed_upload(struct device *device, void *to, const void *from, size_t bytes) {
  double begin = clock_seconds();
  int status = profile.memory->upload(device, to, from, bytes);
  count(LOADING, begin, &(struct cost){.bytes = 2 * (double)bytes});
  return status;
}

/* The cpu device has one lane, and does not ask which. */
static int follow_lane(struct device *device, enum lane lane) {
  (void)device;
  profile.lane = lane;
  return OK;
}

static int put_clocks(struct engine *engine) {
  static struct device_memory memory;
  struct device *device = engine->device;
  if (strcmp(device->name, "cpu") != 0)
    return fail(ERR_USAGE, "bench-step times the cpu device, whose operations are done when they return");
  profile.operations = device->operations;
  profile.memory = device->memory;
  profile.lanes = &engine->lanes;
  profile.lane = LANE_SIDE;
  memory = *device->memory;
  memory.upload = timed_upload;
  memory.use_lane = follow_lane;
  device->operations = &timed_operations;
  device->memory = &memory;
  return OK;
}

static void take_clocks(struct engine *engine) {
  engine->device->operations = profile.operations;
  engine->device->memory = profile.memory;
}

/* ---- dequantization ------------------------------------------------------------------------------------- */

static int time_product(struct device *device, const struct frozen_linear_args *arguments, double *best) {
  enum { RUNS = 6 };
  *best = 1e9;
  for (int run = 0; run < RUNS; run++) {
    double begin = clock_seconds();
    TRY(device_frozen_linear(device, arguments));
    *best = fmin(*best, clock_seconds() - begin);
  }
  return OK;
}

/* What of a product's time is there only because its weight has 4 bits: beside the same with a bf16 weight. */
static int measure_dequantization(struct engine *engine, double *share) {
  struct device *device = engine->device;
  const struct matrix *quantized = &engine->backbone.layers[0].matrices[MATRIX_GATE];
  struct matrix plain = {.format = WEIGHT_BF16, .rows = quantized->rows, .cols = quantized->cols};
  size_t x_bytes = device_act_bytes(device, (size_t)engine->capacity * (size_t)quantized->cols);
  size_t y_bytes = device_act_bytes(device, (size_t)engine->capacity * (size_t)quantized->rows);
  void *x = NULL, *y = NULL;
  double with, without;
  int status;
  *share = 0;
  if (quantized->format == WEIGHT_BF16) return OK;
  TRY_GOTO(status, cleanup, device_allocate(device, MEMORY_WORKSPACE, &plain.codes, matrix_code_bytes(&plain)));
  TRY_GOTO(status, cleanup, device_allocate(device, MEMORY_WORKSPACE, &x, x_bytes));
  TRY_GOTO(status, cleanup, device_allocate(device, MEMORY_WORKSPACE, &y, y_bytes));
  struct frozen_linear_args arguments = {
      .y = y, .x = x, .parts = {quantized}, .part_count = 1, .rows = engine->capacity};
  TRY_GOTO(status, cleanup, time_product(device, &arguments, &with));
  arguments.parts[0] = &plain;
  TRY_GOTO(status, cleanup, time_product(device, &arguments, &without));
  *share = 1 - without / with;
cleanup:
  device_release(device, MEMORY_WORKSPACE, &plain.codes, matrix_code_bytes(&plain));
  device_release(device, MEMORY_WORKSPACE, &x, x_bytes);
  device_release(device, MEMORY_WORKSPACE, &y, y_bytes);
  return status;
}

/* ---- the result ----------------------------------------------------------------------------------------- */

struct result {
  double step, accounted; /* seconds; share of them that is in some phase */
  double floor, dequantization;
  bool good;
};

/* A phase cannot be faster than arithmetic allows; caches may make it faster than memory. What is in no phase is the host's own
 * work: choosing rows, messages, the log. */
static struct result judge(const struct engine *engine, double dequantization) {
  struct result out = {.dequantization = dequantization};
  int steps = profile.updates - 1;
  double phases = 0, busy = profile.end - profile.begin;
  bool possible = true;
  profile.phases[WAITING].seconds = engine->lanes.idle - profile.idle;
  for (int p = 0; p < PHASES; p++) {
    const struct total *total = &profile.phases[p];
    phases += total->seconds;
    out.floor += total->floor / steps;
    possible = possible && total->flops <= 1.1 * profile.ceilings.product * total->seconds;
  }
  out.step = busy / steps;
  out.accounted = phases / busy;
  out.good = possible && out.accounted < 1.001;
  return out;
}

static void print_phase(int p, const struct result *result) {
  const struct total *total = &profile.phases[p];
  int steps = profile.updates - 1;
  printf("%-19s %11.6f %6.1f %9.1f %9.2f %8.1f %8.1f %8ld\n", phase_names[p], total->seconds / steps,
         100 * total->seconds / steps / result->step, total->flops / fmax(total->seconds, 1e-12) / 1e9,
         total->bytes / fmax(total->seconds, 1e-12) / 1e9, 1e3 * total->floor / steps,
         total->seconds > 0 ? 100 * total->floor / total->seconds : 0, total->calls / steps);
}

static void print_table(const struct engine *engine, const struct result *result) {
  printf("# bench-step, %s\n# %s, compiler %s\n# ceilings: product %.1f GFLOP/s, copy %.1f GB/s; %d steps counted\n",
         engine->device->description, profile.ceilings.library, __VERSION__, profile.ceilings.product / 1e9,
         profile.ceilings.copy / 1e9, profile.updates - 1);
  printf("%-19s %11s %6s %9s %9s %8s %8s %8s\n", "# phase", "seconds", "%", "GFLOP/s", "GB/s", "floor ms", "% floor",
         "calls");
  for (int p = 0; p < PHASES; p++) print_phase(p, result);
  printf("%-19s %11.6f %6.1f %28.1f %8.1f\n", "step", result->step, 100.0, 1e3 * result->floor,
         100 * result->floor / result->step);
  printf("# not in a phase: %.1f %% of the step; dequantization: %.1f %% of a backbone product\n",
         100 * (1 - result->accounted), 100 * result->dequantization);
  printf("# %s\n", result->good ? "PASS" : "FAIL");
}

static json_t *json_of(const struct engine *engine, const struct result *result) {
  char date[32];
  time_t now = time(NULL);
  int steps = profile.updates - 1;
  json_t *phases = json_array();
  strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%SZ", gmtime(&now));
  for (int p = 0; p < PHASES; p++) {
    const struct total *total = &profile.phases[p];
    json_array_append_new(
        phases, json_pack("{ss sf sf sf sf}", "phase", phase_names[p], "seconds", total->seconds / steps, "flops",
                          total->flops / steps, "bytes", total->bytes / steps, "floor_seconds", total->floor / steps));
  }
  return json_pack("{ss ss ss ss sf sf si sf sf sf sf sb so}", "benchmark", "step", "date", date, "device",
                   engine->device->description, "library", profile.ceilings.library, "product_gflops",
                   profile.ceilings.product / 1e9, "copy_gbytes", profile.ceilings.copy / 1e9, "steps", steps,
                   "step_seconds", result->step, "floor_seconds", result->floor, "accounted", result->accounted,
                   "dequantization_share", result->dequantization, "pass", result->good, "phases", phases);
}

static int report(const struct engine *engine, const char *path, double dequantization) {
  if (profile.updates < 2 || !(profile.end > profile.begin))
    return fail(ERR_USAGE, "no step was counted: give --steps 2 or more");
  struct result result = judge(engine, dequantization);
  print_table(engine, &result);
  if (strcmp(path, "-") != 0) {
    json_t *json = json_of(engine, &result);
    int failed = json_dump_file(json, path, JSON_INDENT(1) | JSON_REAL_PRECISION(6));
    json_decref(json);
    if (failed) return fail(ERR_SYSTEM, "%s: cannot be written", path);
  }
  return result.good ? OK : fail(ERR_INTERNAL, "phases are longer than the step, or one is faster than it can be");
}

/* ---- the run -------------------------------------------------------------------------------------------- */

static int open_engine(struct engine *engine, const struct options *options, const struct grid *grid,
                       const struct training_data *data) {
  int capacity = (int)options->micro_batch_tokens, longest = data_longest_row(&data->train, data->train.rows);
  if (longest > capacity) return fail(ERR_INPUT, "a row has %d tokens, more than a micro-batch holds", longest);
  TRY(engine_open(engine, options, grid,
                  &(struct engine_plan){.use = ENGINE_TRAIN,
                                        .capacity = capacity,
                                        .samples = capacity,
                                        .positions = longest,
                                        .label_share = (double)data->train.label_tokens / (double)data->train.total}));
  TRY(data_check(engine, &data->train, options->data));
  return ceilings_measure(&profile.ceilings, engine->threads);
}

static int train(struct engine *engine, const struct options *options, struct grid *grid, struct training_data *data) {
  struct comm *comm = grid->world;
  TRY(comm_agree(comm, token_file_read(options->data, &data->train)));
  TRY(comm_agree(comm, open_engine(engine, options, grid, data)));
  TRY(engine_connect(engine));
  TRY(comm_agree(comm, put_clocks(engine)));
  int status = trainer_run(engine, options, data);
  take_clocks(engine);
  return status;
}

static int run(const char *path, const struct options *options, struct comm *comm) {
  struct grid grid = {0};
  struct engine engine = {0};
  struct training_data data = {0};
  double dequantization = 0;
  int status;
  if (strcmp(path, "-") != 0 && access(path, F_OK) == 0)
    return comm_agree(comm, fail(ERR_USAGE, "%s exists; results are not overwritten", path));
  TRY_GOTO(status, cleanup, grid_open(&grid, comm, (int)options->pipeline_stages, placement_of(options)));
  TRY_GOTO(status, cleanup, train(&engine, options, &grid, &data));
  status = comm_agree(comm, measure_dequantization(&engine, &dequantization));
  if (status == OK) status = comm_agree(comm, comm->rank == 0 ? report(&engine, path, dequantization) : OK);
cleanup:
  engine_close(&engine);
  grid_close(&grid);
  token_file_free(&data.train);
  return status;
}

static int parse_and_run(int count, char **words, struct comm *comm) {
  struct options options = {0};
  struct buffer text = {0};
  const char *path = words[1];
  static char train_word[] = "train";
  words[1] = train_word; /* what follows are its options */
  int status = comm_agree(comm, options_parse(count, words, &options, &text));
  if (status == OK) status = run(path, &options, comm);
  buffer_free(&text);
  options_free(&options);
  return status;
}

int main(int word_count, char **words) {
  if (word_count < 3 || strcmp(words[1], "--help") == 0) {
    fputs(usage, word_count < 3 ? stderr : stdout);
    return word_count < 3 ? ERR_USAGE : OK;
  }
  struct comm *comm = NULL;
  int status = comm_open(&comm);
  if (status == OK) {
    log_setup(comm->rank, true);
    status = parse_and_run(word_count, words, comm);
    if (status != OK && comm->size > 1 && !comm_agreed(comm)) comm_abort(comm, status);
  }
  if (status != OK && comm_launcher_rank() == 0) fprintf(stderr, "bench-step: %s\n", fail_message());
  comm_close(&comm);
  return status;
}
