#include <sched.h>
#include <stdlib.h>
#include <time.h>

#include "base/clock.h"
#include "base/error.h"
#include "comm/mpi.h"

struct mpi_request {
  MPI_Request handle;
  int bytes; /**< to receive or NOT_A_RECEIVE */
};

enum { FIRST_CAPACITY = 8 };

int mpi_status(int code, const char *operation) {
  if (code == MPI_SUCCESS) return OK;
  char text[MPI_MAX_ERROR_STRING + 1] = "";
  int size = 0;
  MPI_Error_string(code, text, &size);
  return fail(ERR_LOST, "%s: %s", operation, text);
}

static int grow(struct mpi_requests *requests) {
  int capacity = requests->capacity ? 2 * requests->capacity : FIRST_CAPACITY;
  struct mpi_request *list = realloc(requests->list, (size_t)capacity * sizeof *list);
  if (!list) return fail(ERR_MEMORY, "no memory for %d messages under way", capacity);
  requests->list = list;
  requests->capacity = capacity;
  return OK;
}

int mpi_add(struct mpi_requests *requests, int bytes, MPI_Request **out) {
  if (requests->count == requests->capacity) TRY(grow(requests));
  struct mpi_request *request = &requests->list[requests->count++];
  *request = (struct mpi_request){.handle = MPI_REQUEST_NULL, .bytes = bytes};
  *out = &request->handle;
  return OK;
}

static int check_received(const MPI_Status *state, int bytes, const char *operation) {
  int got = 0;
  TRY(mpi_status(MPI_Get_count(state, MPI_BYTE, &got), operation));
  if (got == bytes) return OK;
  return fail(ERR_INTERNAL, "%s: rank %d sent %d bytes where %d were expected", operation, state->MPI_SOURCE, got,
              bytes);
}

int mpi_test(struct mpi_requests *requests, bool *done, const char *operation) {
  for (*done = false; requests->done < requests->count; requests->done++) {
    struct mpi_request *request = &requests->list[requests->done];
    MPI_Status state;
    int arrived = 0;
    TRY(mpi_status(MPI_Test(&request->handle, &arrived, &state), operation));
    if (!arrived) return OK;
    if (request->bytes != NOT_A_RECEIVE) TRY(check_received(&state, request->bytes, operation));
  }
  *done = true;
  requests->count = requests->done = 0;
  return OK;
}

/* Ranks often share cores: who waits for longer than a message takes gives its core away, and sleeps in the end. */
static void give_way(double waited) {
  static const struct timespec nap = {.tv_nsec = 100000};
  if (waited > 1) {
    nanosleep(&nap, NULL);
  } else if (waited > 50e-6) {
    sched_yield();
  }
}

int mpi_wait_on(const struct comm *comm, struct comm_waiting *waiting, const char *operation) {
  TRY(comm_wait_on(comm, waiting, operation));
  give_way(clock_seconds() - waiting->start);
  return OK;
}

int mpi_wait(struct comm *comm, struct mpi_requests *requests, const char *operation) {
  struct comm_waiting waiting = {0};
  bool done;
  TRY(mpi_test(requests, &done, operation));
  while (!done) {
    TRY(mpi_wait_on(comm, &waiting, operation));
    TRY(mpi_test(requests, &done, operation));
  }
  comm_wait_over(comm, &waiting);
  return OK;
}

void mpi_forget(struct mpi_requests *requests) {
  free(requests->list);
  *requests = (struct mpi_requests){0};
}
