#include "comm/nccl/endpoint.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "comm/mpi.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/stream.h"

/* Those of this process, and the host's wait for the GPU. */
static struct endpoint *all;
static struct {
  struct comm_waiting waiting;
  double looked; /**< when they were last asked for errors */
} watch;

/* ---- errors ---------------------------------------------------------------------------------------------- */

static int nccl_status(const struct endpoint *endpoint, ncclResult_t result) {
  if (result == ncclSuccess || result == ncclInProgress) return OK;
  const char *more = endpoint->nccl ? ncclGetLastError(endpoint->nccl) : NULL;
  return fail(result == ncclRemoteError ? ERR_LOST : ERR_SYSTEM, "%s: NCCL: %s%s%s", endpoint->operation,
              ncclGetErrorString(result), more && *more ? ": " : "", more && *more ? more : "");
}

/** Whether NCCL has taken the last call. */
static int ask(const struct endpoint *endpoint, bool *ready) {
  ncclResult_t state = ncclSuccess;
  ncclResult_t result = ncclCommGetAsyncError(endpoint->nccl, &state);
  *ready = state != ncclInProgress;
  TRY(nccl_status(endpoint, result));
  return nccl_status(endpoint, state);
}

/** Until NCCL has taken the call that gave `result`. */
static int settle(const struct endpoint *endpoint, ncclResult_t result) {
  struct comm_waiting waiting = {0};
  bool ready = result != ncclInProgress;
  TRY(nccl_status(endpoint, result));
  while (!ready) {
    TRY(ask(endpoint, &ready));
    if (!ready) TRY(mpi_wait_on(endpoint->comm, &waiting, endpoint->operation));
  }
  comm_wait_over(endpoint->comm, &waiting);
  return OK;
}

/* ---- the host's waits for the GPU -------------------------------------------------------------------------- */

enum { LOOKS_PER_SECOND = 1000 };

static bool is_under_way(const struct endpoint *endpoint) {
  return cudaEventQuery(endpoint->last) == cudaErrorNotReady;
}

static void begin_wait(void) {
  memset(&watch, 0, sizeof watch);
}

/** The deadline counts while a message is under way; else the GPU just computes. */
static int check(const struct endpoint *endpoint) {
  bool ready;
  TRY(ask(endpoint, &ready));
  return is_under_way(endpoint) ? mpi_wait_on(endpoint->comm, &watch.waiting, endpoint->operation) : OK;
}

static int poll_wait(const char *operation) {
  double now = clock_seconds();
  if (now - watch.looked < 1.0 / LOOKS_PER_SECOND) return OK;
  watch.looked = now;
  for (const struct endpoint *endpoint = all; endpoint; endpoint = endpoint->next) {
    int status = fail_at(check(endpoint), "%s", operation);
    if (status == OK) continue;
    comm_abort(endpoint->comm, status);
    return status;
  }
  return OK;
}

static void end_wait(void) {
  if (all) comm_wait_over(all->comm, &watch.waiting);
}

static const struct cuda_guard guard = {.begin = begin_wait, .poll = poll_wait, .end = end_wait};

/* ---- opening --------------------------------------------------------------------------------------------- */

int nccl_id(ncclUniqueId *id) {
  TRY(nccl_load());
  ncclResult_t result = ncclGetUniqueId(id);
  return result == ncclSuccess ? OK : fail(ERR_SYSTEM, "NCCL: %s", ncclGetErrorString(result));
}

static int connect(struct endpoint *endpoint, ncclUniqueId id, int size, int rank) {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  /* All connections now: one that is made at the first use would hold up the host until the partner comes there. */
  setenv("NCCL_RUNTIME_CONNECT", "0", 0);
  snprintf(endpoint->operation, sizeof endpoint->operation, "start of NCCL among %d ranks", size);
  int status = settle(endpoint, ncclCommInitRankConfig(&endpoint->nccl, size, id, rank, &config));
  if (status != OK) endpoint->nccl = NULL; /* never opened: its end would fail, too, and hide why */
  return status;
}

int endpoint_open(struct endpoint *endpoint, struct comm *comm, struct device *device, ncclUniqueId id, int size,
                  int rank) {
  *endpoint = (struct endpoint){.comm = comm, .device = device};
  TRY(nccl_load());
  TRY(cuda_check(cuda_stream_open(&endpoint->stream, true), "stream"));
  TRY(cuda_check(cudaEventCreateWithFlags(&endpoint->begun, cudaEventDisableTiming), "event"));
  TRY(cuda_check(cudaEventCreateWithFlags(&endpoint->last, cudaEventDisableTiming), "event"));
  TRY(connect(endpoint, id, size, rank));
  endpoint->next = all;
  all = endpoint;
  cuda_set_guard(device, &guard);
  return OK;
}

static void leave_list(struct endpoint *endpoint) {
  struct endpoint **at = &all;
  while (*at && *at != endpoint) at = &(*at)->next;
  if (*at) *at = endpoint->next;
  if (!all) cuda_set_guard(endpoint->device, NULL);
}

void endpoint_close(struct endpoint *endpoint) {
  if (!endpoint->device) return;
  leave_list(endpoint);
  snprintf(endpoint->operation, sizeof endpoint->operation, "end of NCCL");
  /* Only what opened is ended in order; the rest goes with the process. */
  if (endpoint->nccl && settle(endpoint, ncclCommFinalize(endpoint->nccl)) == OK) ncclCommDestroy(endpoint->nccl);
  if (endpoint->last) cudaEventDestroy(endpoint->last);
  if (endpoint->begun) cudaEventDestroy(endpoint->begun);
  if (endpoint->stream) cudaStreamDestroy(endpoint->stream);
  *endpoint = (struct endpoint){0};
}

/* ---- operations ------------------------------------------------------------------------------------------ */

int endpoint_begin(struct endpoint *endpoint, const char *operation) {
  snprintf(endpoint->operation, sizeof endpoint->operation, "%s", operation);
  TRY(cuda_check(cudaEventRecord(endpoint->begun, cuda_stream(endpoint->device)), operation));
  return cuda_check(cudaStreamWaitEvent(endpoint->stream, endpoint->begun, 0), operation);
}

int endpoint_end(struct endpoint *endpoint, ncclResult_t result) {
  TRY(settle(endpoint, result));
  return cuda_check(cudaEventRecord(endpoint->last, endpoint->stream), endpoint->operation);
}

int endpoint_wait(struct endpoint *endpoint, cudaEvent_t event) {
  return cuda_check(cudaStreamWaitEvent(cuda_stream(endpoint->device), event, 0), endpoint->operation);
}
