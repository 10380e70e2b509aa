#include "calibrate.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "base/memory.h"
#include "principal.h"

/* Rows are planned in groups of a fixed number, so that memory does not grow with the data. */
enum { ROWS_PER_PLAN = 512 };

static const int64_t default_at_once = (int64_t)2 << 30;

/* The work of one pass over the rows, for modules first .. end of this rank's. */
struct pass {
  const struct calibration *calibration;
  const struct stage *stage;
  struct device *device;
  const struct grid *grid;
  struct comm *comm; /* of all ranks */
  int size;          /* hidden size */
  size_t numbers;    /* of a module's sums: x xᵀ [size][size], then x [size] */
  int first, end, room;
  int64_t *modules; /* [layers] the first `count`: those of all ranks in this pass */
  int count;
  int64_t rows, tokens; /* of the calibration, by the order */
  int64_t lost;         /* 1/1000 of the variance that the worst module does not keep */
  struct data_order order;
  struct step_plan plan;
  char *message; /* [x_bytes], host: a hidden state between stages */
  /* device */
  float *weight;          /* [size], 1/√size */
  void *x;                /* act [capacity, size] */
  float *products;        /* [numbers], of one micro-batch */
  int64_t *sums, *faults; /* [room][numbers], [1] */
};

/* ---- memory ----------------------------------------------------------------------------------------------- */

static size_t x_bytes(const struct pass *pass) {
  return device_act_bytes(pass->device, (size_t)pass->calibration->source->capacity * (size_t)pass->size);
}

static size_t sums_bytes(const struct pass *pass) {
  return ((size_t)pass->room * pass->numbers + 1) * sizeof *pass->sums;
}

static int modules_at_once(const struct pass *pass) {
  int64_t bytes = pass->calibration->at_once ? pass->calibration->at_once : default_at_once;
  int64_t room = bytes / (int64_t)(pass->numbers * sizeof *pass->sums), depth = stage_depth(pass->stage);
  return (int)(room < 1 ? 1 : room < depth ? room : depth);
}

static int upload_weight(struct pass *pass) {
  float *weight;
  TRY(memory_array(&weight, (size_t)pass->size, sizeof *weight));
  for (int i = 0; i < pass->size; i++) weight[i] = (float)(1 / sqrt((double)pass->size));
  int status = device_upload(pass->device, pass->weight, weight, (size_t)pass->size * sizeof *weight);
  free(weight);
  return status;
}

static int choose_rows(struct pass *pass) {
  const struct token_file *data = pass->calibration->data;
  TRY(data_order_open(&pass->order, data->rows, 0, true));
  while (pass->rows < data->rows && pass->tokens < pass->calibration->tokens) {
    int64_t row = data_order_row(&pass->order, pass->rows++);
    pass->tokens += data->offsets[row + 1] - data->offsets[row];
  }
  return step_plan_open(&pass->plan, ROWS_PER_PLAN);
}

static int open_pass(struct pass *pass, const struct calibration *calibration, const struct grid *grid) {
  struct backbone *backbone = calibration->source->backbone;
  struct device *device = backbone->device;
  size_t size = (size_t)backbone->config.hidden;
  *pass = (struct pass){.calibration = calibration,
                        .stage = &backbone->stage,
                        .device = device,
                        .grid = grid,
                        .comm = grid->world,
                        .size = backbone->config.hidden,
                        .numbers = size * size + size};
  pass->room = modules_at_once(pass);
  TRY(choose_rows(pass));
  TRY(memory_array(&pass->modules, (size_t)backbone->config.layers, sizeof *pass->modules));
  TRY(memory_array(&pass->message, x_bytes(pass), 1));
  TRY(device_allocate(device, MEMORY_WORKSPACE, &pass->weight, size * sizeof(float)));
  TRY(device_allocate(device, MEMORY_WORKSPACE, &pass->x, x_bytes(pass)));
  TRY(device_allocate(device, MEMORY_WORKSPACE, &pass->products, pass->numbers * sizeof(float)));
  TRY(device_allocate(device, MEMORY_WORKSPACE, &pass->sums, sums_bytes(pass)));
  pass->faults = pass->sums + (size_t)pass->room * pass->numbers;
  return upload_weight(pass);
}

static void close_pass(struct pass *pass) {
  struct device *device = pass->device;
  device_release(device, MEMORY_WORKSPACE, &pass->weight, (size_t)pass->size * sizeof(float));
  device_release(device, MEMORY_WORKSPACE, &pass->x, x_bytes(pass));
  device_release(device, MEMORY_WORKSPACE, &pass->products, pass->numbers * sizeof(float));
  device_release(device, MEMORY_WORKSPACE, &pass->sums, sums_bytes(pass));
  free(pass->message);
  free(pass->modules);
  step_plan_close(&pass->plan);
  data_order_close(&pass->order);
}

/* ---- sums ------------------------------------------------------------------------------------------------- */

/* Tap `i` of the stage. */
static int add_tap(struct pass *pass, int i, int module) {
  const struct tap_source *source = pass->calibration->source;
  const struct model_config *config = &source->backbone->config;
  int rows = pass->calibration->batch->rows;
  size_t at = (size_t)i * (size_t)source->capacity * (size_t)pass->size;
  TRY(device_rmsnorm(pass->device, &(struct rmsnorm_args){.y = pass->x,
                                                          .x = device_act_at(pass->device, source->slots[0].hidden, at),
                                                          .w = pass->weight,
                                                          .rows = rows,
                                                          .cols = pass->size,
                                                          .epsilon = config->norm_epsilon}));
  TRY(device_linear_weight_grad(pass->device,
                                &(struct linear_weight_grad_args){.dw = pass->products,
                                                                  .dbias = pass->products + pass->numbers - pass->size,
                                                                  .dy = pass->x,
                                                                  .x = pass->x,
                                                                  .rows = rows,
                                                                  .n = pass->size,
                                                                  .k = pass->size}));
  return device_fixed_add(pass->device,
                          &(struct fixed_add_args){.sums = pass->sums + (size_t)(module - pass->first) * pass->numbers,
                                                   .faults = pass->faults,
                                                   .x = pass->products,
                                                   .count = pass->numbers});
}

static size_t message_bytes(const struct pass *pass) {
  return device_act_bytes(pass->device, (size_t)pass->calibration->batch->rows * (size_t)pass->size);
}

/* The stage's first tap, from the stage before. */
static int receive_input(struct pass *pass) {
  struct comm *replica = pass->grid->replica_comm;
  if (stage_begins(pass->stage)) return OK;
  TRY(comm_receive(replica, pass->message, message_bytes(pass), replica->rank - 1));
  return device_upload(pass->device, tap_source_input(pass->calibration->source, 0), pass->message,
                       message_bytes(pass));
}

static int send_output(struct pass *pass) {
  struct comm *replica = pass->grid->replica_comm;
  if (stage_ends(pass->stage)) return OK;
  TRY(device_download(pass->device, pass->message, tap_source_output(pass->calibration->source, 0),
                      message_bytes(pass)));
  return comm_send(replica, pass->message, message_bytes(pass), replica->rank + 1);
}

static int add_micro_batch(struct pass *pass, int i) {
  const struct calibration *calibration = pass->calibration;
  struct tap_source *source = calibration->source;
  int first = pass->plan.start[i];
  TRY(micro_batch_load(calibration->batch, pass->device, calibration->data, pass->plan.rows + first,
                       pass->plan.start[i + 1] - first));
  TRY(receive_input(pass));
  TRY(backbone_forward(source->backbone, calibration->batch, source->slots[0].hidden, source->capacity, NULL));
  TRY(send_output(pass));
  if (pass->first == 0) TRY(add_tap(pass, 0, 0));
  for (int module = pass->first; module < pass->end; module++)
    TRY(add_tap(pass, module - pass->stage->first + 1, module));
  return OK;
}

static int add_rows(struct pass *pass) {
  struct step_plan *plan = &pass->plan;
  TRY(device_zero(pass->device, pass->sums, sums_bytes(pass)));
  for (int64_t first = 0; first < pass->rows; first += ROWS_PER_PLAN) {
    int64_t left = pass->rows - first;
    int count = (int)(left < ROWS_PER_PLAN ? left : ROWS_PER_PLAN);
    TRY(step_plan_make(plan, pass->calibration->data, &pass->order, first, count, pass->calibration->source->capacity,
                       pass->grid->replicas));
    for (int i = 0; i < plan->micro_batches; i++)
      if (plan->owner[i] == pass->grid->replica) TRY(add_micro_batch(pass, i));
    log_progress("calibration: row %lld/%lld for %d of %d modules", (long long)(first + count), (long long)pass->rows,
                 pass->count, pass->stage->layers);
  }
  return OK;
}

/* ---- solving ---------------------------------------------------------------------------------------------- */

union number {
  int64_t fixed;
  double real;
};

/* The whole sums of a module on every rank, those of other stages included. */
static int collect(struct pass *pass, int module, union number *numbers) {
  int64_t *fixed = &numbers->fixed;
  memset(fixed, 0, pass->numbers * sizeof *fixed);
  if (module >= pass->first && module < pass->end)
    TRY(device_download(pass->device, fixed, pass->sums + (size_t)(module - pass->first) * pass->numbers,
                        pass->numbers * sizeof *fixed));
  return comm_sum_i64(pass->comm, fixed, pass->numbers);
}

static int solve(struct pass *pass, int module, union number *numbers, float *out) {
  int count = pass->calibration->count;
  double explained, tokens = (double)pass->tokens * (module == 0 ? 2 : 1);
  for (size_t i = 0; i < pass->numbers; i++) numbers[i].real = ldexp((double)numbers[i].fixed, -FIXED_FRACTION_BITS);
  double *squares = &numbers->real;
  TRY(principal_solve(squares, squares + pass->numbers - pass->size, tokens, pass->size, count, out, &explained));
  int64_t lost = llround(1000 * (1 - explained));
  if (lost > pass->lost) pass->lost = lost;
  return OK;
}

/* As many of the pass's modules as there are ranks at a time, one for each. `numbers`: [2][numbers], the sums at hand and the own. */
static int solve_modules(struct pass *pass, int first, int count, union number *numbers, float *out) {
  size_t floats = principal_floats(pass->size, pass->calibration->count);
  const int64_t *modules = pass->modules + first;
  for (int i = 0; i < count; i++) {
    TRY(collect(pass, (int)modules[i], numbers));
    if (i == pass->comm->rank) memcpy(numbers + pass->numbers, numbers, pass->numbers * sizeof *numbers);
  }
  int own = pass->comm->rank < count ? (int)modules[pass->comm->rank] : -1, status = OK;
  if (own >= 0) status = solve(pass, own, numbers + pass->numbers, out + (size_t)own * floats);
  TRY(comm_agree(pass->comm, status));
  for (int i = 0; i < count; i++)
    TRY(comm_broadcast(pass->comm, out + (size_t)modules[i] * floats, floats * sizeof *out, i));
  return OK;
}

static int solve_pass(struct pass *pass, float *out) {
  union number *numbers = NULL;
  int ranks = pass->comm->size;
  int status = comm_agree(pass->comm, memory_array(&numbers, 2 * pass->numbers, sizeof *numbers));
  for (int first = 0; status == OK && first < pass->count; first += ranks)
    status = solve_modules(pass, first, pass->count - first < ranks ? pass->count - first : ranks, numbers, out);
  free(numbers);
  return status;
}

static int check_faults(struct pass *pass) {
  int64_t faults;
  TRY(device_download(pass->device, &faults, pass->faults, sizeof faults));
  TRY(comm_sum_i64(pass->comm, &faults, 1));
  if (faults == 0) return OK;
  return comm_agree(pass->comm, fail(ERR_INPUT, "hidden states are not finite: look for damaged weights with inspect"));
}

/* The next modules of this rank, and those of all in the same pass; none when no rank has any left. */
static int next_modules(struct pass *pass) {
  int layers = pass->stage->layers, left = pass->stage->end - pass->end;
  pass->first = pass->end;
  pass->end += left < pass->room ? left : pass->room;
  pass->count = 0;
  for (int i = 0; i < layers; i++) pass->modules[i] = i >= pass->first && i < pass->end;
  TRY(comm_max_i64(pass->comm, pass->modules, (size_t)layers));
  for (int i = 0; i < layers; i++)
    if (pass->modules[i]) pass->modules[pass->count++] = i;
  return OK;
}

static int run_passes(struct pass *pass, float *out) {
  pass->end = pass->stage->first;
  TRY(next_modules(pass));
  while (pass->count > 0) {
    TRY(add_rows(pass));
    TRY(check_faults(pass));
    TRY(solve_pass(pass, out));
    TRY(next_modules(pass));
  }
  return comm_max_i64(pass->comm, &pass->lost, 1);
}

int calibrate(const struct calibration *calibration, const struct grid *grid, float *out) {
  struct pass pass;
  double begin = clock_seconds();
  if (calibration->threads > 0) omp_set_num_threads(calibration->threads);
  int status = comm_agree(grid->world, open_pass(&pass, calibration, grid));
  if (status == OK) status = run_passes(&pass, out);
  if (status == OK)
    log_note(
        "pca        %d directions a layer from %lld tokens of %lld rows keep at least %.1f %% of the variance, %.1f s",
        calibration->count, (long long)pass.tokens, (long long)pass.rows, 100 - (double)pass.lost / 10,
        clock_seconds() - begin);
  close_pass(&pass);
  return status;
}
