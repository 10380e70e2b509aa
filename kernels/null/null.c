#include "kernels/null/null.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cuda/workspace.h"

static struct null_state *null_state(const struct device *device) {
  return device->state;
}

/* ---- counting ------------------------------------------------------------------------------------------- */

static void count(struct device *device, int what, double flops, double bytes, double seconds) {
  struct null_state *state = null_state(device);
  struct counted *work = &state->work[state->lane][what];
  work->calls++;
  work->flops += flops;
  work->bytes += bytes;
  work->seconds += seconds;
}

static void count_operation(struct device *device, enum operation operation, const void *arguments) {
  struct cost cost = operation_cost(operation, arguments, device->act);
  if (device->fp8 && operation == OPERATION_frozen_linear) {
    cost.fp8 = true;
    cost.unpacked /= (double)dtype_size(device->act);
  }
  count(device, (int)operation, cost.flops, cost.bytes,
        hardware_seconds(null_state(device)->hardware, operation, &cost));
}

#define NULL_OPERATION(name)                                                           \
  static int null_##name(struct device *device, const struct name##_args *arguments) { \
    count_operation(device, OPERATION_##name, arguments);                              \
    return OK;                                                                         \
  }
DEVICE_OPERATIONS(NULL_OPERATION)
#undef NULL_OPERATION

#define NULL_SLOT(operation) .operation = null_##operation,
static const struct device_operations null_operations = {DEVICE_OPERATIONS(NULL_SLOT)};
#undef NULL_SLOT

struct counted null_lane(const struct device *device, enum lane lane) {
  struct counted sum = {0};
  for (int i = 0; i < WORK_COUNT; i++) {
    const struct counted *one = &null_state(device)->work[lane][i];
    sum.calls += one->calls;
    sum.flops += one->flops;
    sum.bytes += one->bytes;
    sum.seconds += one->seconds;
  }
  return sum;
}

const struct counted *null_counted(const struct device *device, enum lane lane, int operation) {
  return &null_state(device)->work[lane][operation];
}

void null_reset(struct device *device) {
  struct null_state *state = null_state(device);
  memset(state->work, 0, sizeof state->work);
}

/* ---- memory --------------------------------------------------------------------------------------------- */

enum { ALIGNMENT = 256 };

static int null_allocate(struct device *device, void **out, size_t bytes) {
  struct null_state *state = null_state(device);
  *out = (void *)state->next;
  state->next += (bytes + ALIGNMENT) / ALIGNMENT * ALIGNMENT;
  return OK;
}

static void null_release(struct device *device, void *block) {
  (void)device;
  (void)block;
}

static void count_transfer(struct device *device, size_t bytes) {
  count(device, WORK_TRANSFER, 0, (double)bytes,
        hardware_transfer_seconds(null_state(device)->hardware, (double)bytes));
}

static int null_upload(struct device *device, void *to_device, const void *from_host, size_t bytes) {
  (void)to_device;
  (void)from_host;
  count_transfer(device, bytes);
  return OK;
}

static int null_download(struct device *device, void *to_host, const void *from_device, size_t bytes) {
  (void)from_device;
  memset(to_host, 0, bytes);
  count_transfer(device, bytes);
  return OK;
}

static int null_zero(struct device *device, void *block, size_t bytes) {
  (void)block;
  struct cost cost = {.bytes = (double)bytes};
  count(device, WORK_ZERO, 0, cost.bytes, hardware_seconds(null_state(device)->hardware, OPERATION_COUNT, &cost));
  return OK;
}

static int null_synchronize(struct device *device) {
  (void)device;
  return OK;
}

static int null_use_lane(struct device *device, enum lane lane) {
  null_state(device)->lane = lane;
  return OK;
}

/* Tasks are timed by whoever gives them; there is nothing to wait for. */
static int null_event_open(struct device *device, struct device_event **out) {
  (void)device;
  *out = NULL;
  return OK;
}

static void null_event_close(struct device *device, struct device_event *event) {
  (void)device;
  (void)event;
}

static int null_event(struct device *device, struct device_event *event) {
  (void)device;
  (void)event;
  return OK;
}

static void null_close(struct device *device) {
  struct null_state *state = null_state(device);
  if (!state) return;
  device_release(device, MEMORY_WORKSPACE, &state->workspace_block, state->workspace);
  free(state);
  device->state = NULL;
}

static const struct device_memory null_memory = {
    .allocate = null_allocate,
    .release = null_release,
    .upload = null_upload,
    .download = null_download,
    .zero = null_zero,
    .synchronize = null_synchronize,
    .use_lane = null_use_lane,
    .event_open = null_event_open,
    .event_close = null_event_close,
    .record = null_event,
    .wait = null_event,
    .finish = null_event,
    .close = null_close,
};

/* ---- opening -------------------------------------------------------------------------------------------- */

bool null_present(void) {
  return false;
}

/* The act type, chunks of logits and workspace of the device it stands for. */
static int imitate(struct device *device, const struct device_options *options) {
  struct null_state *state = null_state(device);
  bool is_gpu = state->hardware->is_gpu;
  device->logit_rows = is_gpu ? CUDA_LOGIT_ROWS : CPU_LOGIT_ROWS;
  if (is_gpu && options->limits.fp8 && state->hardware->matrix_fp8 <= 0)
    return fail(ERR_USAGE, "--backbone-compute fp8: %s cannot: use bf16", state->hardware->name);
  if (is_gpu)
    device->act = options->act && strcmp(options->act, "fp32") == 0 ? DTYPE_F32 : DTYPE_BF16;
  else
    TRY(cpu_choose_act(&device->act, options));
  state->workspace = is_gpu ? cuda_workspace_bytes(&options->limits, device->act)
                            : cpu_workspace_bytes(&options->limits, options->threads);
  return device_allocate(device, MEMORY_WORKSPACE, &state->workspace_block, state->workspace);
}

int null_open(struct device *device, const struct device_options *options) {
  struct null_state *state;
  if (!options->hardware)
    return fail(ERR_USAGE, "the null device computes nothing: it is what plan runs on; choose cpu or auto");
  TRY(memory_array(&state, 1, sizeof *state));
  *state = (struct null_state){.hardware = options->hardware, .lane = LANE_SIDE, .next = (uintptr_t)1 << 20};
  device->state = state;
  device->memory = &null_memory;
  device->operations = &null_operations;
  device->counts_only = true;
  device->lanes_overlap = options->hardware->is_gpu;
  snprintf(device->description, sizeof device->description, "null, in place of %s", options->hardware->name);
  return imitate(device, options);
}
