/* The cuda device's memory, lanes and events. */
#include "base/memory.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/product.h"
#include "kernels/cuda/stream.h"

/* ---- faults ---------------------------------------------------------------------------------------------- */

static int describe_fault(const struct cuda_fault *f) {
  switch ((enum cuda_fault_kind)f->kind) {
    case FAULT_TOKEN:
      return fail(ERR_INTERNAL, "embed: row %d has token %d, not in the vocabulary of %d", f->where, f->value,
                  f->limit);
    case FAULT_POSITION:
      return fail(ERR_INTERNAL, "row %d is at position %d of %d", f->where, f->value, f->limit);
    case FAULT_LABEL:
      return fail(ERR_INTERNAL, "row %d has label %d of %d", f->where, f->value, f->limit);
    case FAULT_SAMPLE:
      return fail(ERR_INTERNAL, "sample %d: %d keys, %d queries, or it is not where it can be", f->where, f->value,
                  f->limit);
    case FAULT_SAMPLES:
      return fail(ERR_INTERNAL, "the samples have queries %d to %d, not 0 to %d", f->where, f->value, f->limit);
    case FAULT_NONE:
      break;
  }
  return OK;
}

/* ---- the host's waits ------------------------------------------------------------------------------------ */

cudaStream_t cuda_stream(const struct device *device) {
  return cuda_context(device)->stream;
}

cudaError_t cuda_stream_open(cudaStream_t *stream, bool urgent) {
  int least = 0, most = 0;
  cudaError_t error = cudaDeviceGetStreamPriorityRange(&least, &most);
  if (error != cudaSuccess) return error;
  return cudaStreamCreateWithPriority(stream, cudaStreamNonBlocking, urgent ? most : least);
}

void cuda_set_guard(struct device *device, const struct cuda_guard *guard) {
  cuda_state(device)->guard = guard;
}

/** Asks until `query` of `what` says that it is done. */
static int poll_guarded(const struct cuda_guard *guard, cudaError_t (*query)(void *), void *what,
                        const char *operation) {
  cudaError_t error = query(what);
  int status = OK;
  guard->begin();
  for (; error == cudaErrorNotReady && status == OK; error = query(what)) {
    sched_yield();
    status = guard->poll(operation);
  }
  guard->end();
  return status == OK ? cuda_check(error, operation) : status;
}

static cudaError_t query_stream(void *stream) {
  return cudaStreamQuery(stream);
}

static cudaError_t query_event(void *event) {
  return cudaEventQuery(event);
}

int cuda_wait_stream(const struct device *device, cudaStream_t stream, const char *operation) {
  const struct cuda_guard *guard = cuda_state(device)->guard;
  if (!guard) return cuda_check(cudaStreamSynchronize(stream), operation);
  return poll_guarded(guard, query_stream, stream, operation);
}

/** Waits for everything a lane was asked so far and reports what a kernel has found. */
static int wait_for_lane(const struct device *device, enum lane lane, const char *what) {
  struct cuda_state *state = cuda_state(device);
  struct cuda_context *c = &state->lanes[lane];
  struct cuda_fault *found = &state->found[lane];
  TRY(cuda_check(cudaMemcpyAsync(found, c->fault, sizeof *found, cudaMemcpyDeviceToHost, c->stream), what));
  TRY(cuda_wait_stream(device, c->stream, what));
  if (found->kind == FAULT_NONE) return OK;
  TRY(cuda_check(cudaMemsetAsync(c->fault, 0, sizeof *c->fault, c->stream), what));
  return describe_fault(found);
}

/* ---- memory ---------------------------------------------------------------------------------------------- */

static int refuse_memory(size_t bytes) {
  size_t left = 0, all = 0;
  cudaGetLastError(); /* not to be reported again by the next call */
  cudaMemGetInfo(&left, &all);
  return fail(ERR_MEMORY, "cuda: no %.1f MB of memory left on the GPU: %.1f of %.1f MB are free", (double)bytes / 1e6,
              (double)left / 1e6, (double)all / 1e6);
}

/** Zero for every lane: waits. */
static int cuda_allocate(struct device *device, void **out, size_t bytes) {
  cudaStream_t stream = cuda_context(device)->stream;
  cudaError_t error = cudaMalloc(out, bytes ? bytes : 1);
  if (error == cudaErrorMemoryAllocation) return refuse_memory(bytes);
  TRY(cuda_check(error, "allocation"));
  TRY(cuda_check(cudaMemsetAsync(*out, 0, bytes, stream), "allocation"));
  return cuda_check(cudaStreamSynchronize(stream), "allocation");
}

static void cuda_release(struct device *device, void *block) {
  (void)device;
  cudaFree(block); /* waits for what uses it; at a program's end there may be nothing left to free it from */
}

static int cuda_host_allocate(struct device *device, void **out, size_t bytes) {
  (void)device;
  TRY(cuda_check(cudaMallocHost(out, bytes ? bytes : 1), "pinned memory"));
  memset(*out, 0, bytes);
  return OK;
}

static void cuda_host_release(struct device *device, void *block) {
  (void)device;
  cudaFreeHost(block); /* waits for copies from and to it */
}

/** Memory that is not pinned has been read by the runtime when this returns. */
static int cuda_upload(struct device *device, void *to_device, const void *from_host, size_t bytes) {
  cudaStream_t stream = cuda_context(device)->stream;
  return cuda_check(cudaMemcpyAsync(to_device, from_host, bytes, cudaMemcpyHostToDevice, stream), "upload");
}

static int cuda_download(struct device *device, void *to_host, const void *from_device, size_t bytes) {
  struct cuda_state *state = cuda_state(device);
  cudaStream_t stream = cuda_context(device)->stream;
  TRY(cuda_check(cudaMemcpyAsync(to_host, from_device, bytes, cudaMemcpyDeviceToHost, stream), "download"));
  return wait_for_lane(device, state->lane, "download");
}

static int cuda_zero(struct device *device, void *block, size_t bytes) {
  if (cuda_context(device)->prepares) return OK;
  return cuda_check(cudaMemsetAsync(block, 0, bytes, cuda_context(device)->stream), "zeroing");
}

/** All lanes are waited for also when one has an error; the first is reported. */
static int cuda_synchronize(struct device *device) {
  int status = OK;
  for (enum lane lane = 0; lane < LANE_COUNT; lane++) {
    int waited = wait_for_lane(device, lane, "synchronization");
    if (status == OK) status = waited;
  }
  return status;
}

/* ---- lanes ----------------------------------------------------------------------------------------------- */

struct device_event {
  cudaEvent_t event;
};

static int cuda_use_lane(struct device *device, enum lane lane) {
  cuda_state(device)->lane = lane;
  return OK;
}

static int cuda_event_open(struct device *device, struct device_event **out) {
  (void)device;
  struct device_event *event;
  TRY(memory_array(&event, 1, sizeof *event));
  int status = cuda_check(cudaEventCreateWithFlags(&event->event, cudaEventDisableTiming), "an event");
  if (status != OK) {
    free(event);
    return status;
  }
  *out = event;
  return OK;
}

static void cuda_event_close(struct device *device, struct device_event *event) {
  (void)device;
  cudaEventDestroy(event->event);
  free(event);
}

static int cuda_record(struct device *device, struct device_event *event) {
  return cuda_check(cudaEventRecord(event->event, cuda_context(device)->stream), "an event");
}

static int cuda_wait(struct device *device, struct device_event *event) {
  return cuda_check(cudaStreamWaitEvent(cuda_context(device)->stream, event->event, 0), "an event");
}

static int cuda_finish(struct device *device, struct device_event *event) {
  const struct cuda_guard *guard = cuda_state(device)->guard;
  if (!guard) return cuda_check(cudaEventSynchronize(event->event), "an event");
  return poll_guarded(guard, query_event, event->event, "an event");
}

static void cuda_close(struct device *device) {
  struct cuda_state *state = cuda_state(device);
  if (!state) return;
  cuda_tasks_close(state);
  cuda_product_close(device);
  device_release(device, MEMORY_WORKSPACE, &state->workspace, state->workspace_bytes);
  if (state->found) cudaFreeHost(state->found);
  for (enum lane lane = 0; lane < LANE_COUNT; lane++)
    if (state->lanes[lane].stream) cudaStreamDestroy(state->lanes[lane].stream);
  free(state);
  device->state = NULL;
}

const struct device_memory cuda_memory = {
    .allocate = cuda_allocate,
    .release = cuda_release,
    .upload = cuda_upload,
    .download = cuda_download,
    .zero = cuda_zero,
    .synchronize = cuda_synchronize,
    .use_lane = cuda_use_lane,
    .event_open = cuda_event_open,
    .event_close = cuda_event_close,
    .record = cuda_record,
    .wait = cuda_wait,
    .finish = cuda_finish,
    .host_allocate = cuda_host_allocate,
    .host_release = cuda_host_release,
    .task_begin = cuda_task_begin,
    .task_end = cuda_task_end,
    .prepare = cuda_prepare,
    .close = cuda_close,
};
