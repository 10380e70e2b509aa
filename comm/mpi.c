/* Open MPI (any MPI 3) on host memory. MPI's own error handler is replaced by one that returns, so that a failure
 * becomes a status with MPI's text. Every call is a nonblocking one that is waited for with a deadline. */
#include "comm/mpi.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/error.h"
#include "base/memory.h"
#include "comm/backends.h"
#include "comm/lifeline.h"

enum { MESSAGE_TAG = 1 };

struct mpi_state {
  MPI_Comm handle;
  struct mpi_requests requests; /**< of the operation under way */
};

static struct mpi_state *state_of(const struct comm *comm) {
  return comm->state;
}

MPI_Comm mpi_handle(const struct comm *comm) {
  return state_of(comm)->handle;
}

/* ---- operations ----------------------------------------------------------------------------------------- */

/** Adds a request, makes it with MPI's `call` (arguments in parentheses, without the request at their end) and waits. */
#define COMPLETE(comm, bytes, name, call, ...)                 \
  do {                                                         \
    MPI_Request *request_;                                     \
    TRY(mpi_add(&state_of(comm)->requests, bytes, &request_)); \
    TRY(mpi_status(call(__VA_ARGS__, request_), name));        \
    TRY(mpi_wait(comm, &state_of(comm)->requests, name));      \
  } while (0)

static int reduce(struct comm *comm, int64_t *values, size_t count, MPI_Op operation, const char *name) {
  for (size_t done = 0; done < count;) {
    int now = mpi_piece((count - done) * sizeof *values) / (int)sizeof *values;
    COMPLETE(comm, NOT_A_RECEIVE, name, MPI_Iallreduce, MPI_IN_PLACE, values + done, now, MPI_INT64_T, operation,
             mpi_handle(comm));
    done += (size_t)now;
  }
  return OK;
}

static int mpi_sum_i64(struct comm *comm, int64_t *values, size_t count) {
  return reduce(comm, values, count, MPI_SUM, "sum over ranks");
}

static int mpi_max_i64(struct comm *comm, int64_t *values, size_t count) {
  return reduce(comm, values, count, MPI_MAX, "maximum over ranks");
}

static int mpi_broadcast(struct comm *comm, void *bytes, size_t size, int root) {
  for (size_t done = 0; done < size;) {
    int now = mpi_piece(size - done);
    COMPLETE(comm, NOT_A_RECEIVE, "broadcast", MPI_Ibcast, (char *)bytes + done, now, MPI_BYTE, root, mpi_handle(comm));
    done += (size_t)now;
  }
  return OK;
}

static int mpi_send(struct comm *comm, const void *bytes, size_t size, int to) {
  for (size_t done = 0; done < size;) {
    int now = mpi_piece(size - done);
    COMPLETE(comm, NOT_A_RECEIVE, "send", MPI_Isend, (const char *)bytes + done, now, MPI_BYTE, to, MESSAGE_TAG,
             mpi_handle(comm));
    done += (size_t)now;
  }
  return OK;
}

static int mpi_receive(struct comm *comm, void *bytes, size_t size, int from) {
  for (size_t done = 0; done < size;) {
    int now = mpi_piece(size - done);
    COMPLETE(comm, now, "receive", MPI_Irecv, (char *)bytes + done, now, MPI_BYTE, from, MESSAGE_TAG, mpi_handle(comm));
    done += (size_t)now;
  }
  return OK;
}

static int mpi_barrier(struct comm *comm) {
  COMPLETE(comm, NOT_A_RECEIVE, "barrier", MPI_Ibarrier, mpi_handle(comm));
  return OK;
}

static void mpi_abort(struct comm *comm, int status) {
  (void)comm;
  MPI_Abort(MPI_COMM_WORLD, status);
}

/* MPI's end waits for all ranks, and without a deadline. */
static void end_together(struct comm *comm) {
  int status = mpi_barrier(comm);
  if (status != OK) comm_abort(comm, status);
}

static void mpi_close(struct comm *comm) {
  struct mpi_state *state = state_of(comm);
  int started = 0;
  MPI_Initialized(&started);
  if (started && state && state->handle != MPI_COMM_WORLD) {
    MPI_Comm_free(&state->handle);
  } else if (started) {
    if (state) end_together(comm);
    lifeline_close();
    mpi_watch_close();
    MPI_Finalize();
  }
  if (state) mpi_forget(&state->requests);
  free(state);
}

static int mpi_split(struct comm *comm, int color, int key, struct comm **out);

static const struct comm_operations operations = {
    .sum_i64 = mpi_sum_i64,
    .max_i64 = mpi_max_i64,
    .broadcast = mpi_broadcast,
    .send = mpi_send,
    .receive = mpi_receive,
    .barrier = mpi_barrier,
    .split = mpi_split,
    .say_waiting = mpi_watch_say,
    .name_missing = mpi_watch_blame,
    .abort = mpi_abort,
    .close = mpi_close,
};

/* ---- opening --------------------------------------------------------------------------------------------- */

static int find_neighbours(struct comm *comm) {
  MPI_Comm host;
  TRY(mpi_status(MPI_Comm_split_type(mpi_handle(comm), MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &host), "ranks"));
  MPI_Comm_rank(host, &comm->local_rank);
  MPI_Comm_size(host, &comm->local_size);
  MPI_Comm_free(&host);
  return OK;
}

/* Slurm's messages call a node by Slurm's name for it, and so do ours there. */
static void name_host(struct comm *comm) {
  const char *node = getenv("SLURMD_NODENAME");
  if (node)
    snprintf(comm->host, sizeof comm->host, "%s", node);
  else
    gethostname(comm->host, sizeof comm->host - 1);
}

/** A communicator around `handle`, which it owns from now on. */
static int open_handle(struct comm *comm, MPI_Comm handle) {
  struct mpi_state *state;
  TRY(memory_array(&state, 1, sizeof *state));
  state->handle = handle;
  comm->state = state;
  MPI_Comm_set_errhandler(handle, MPI_ERRORS_RETURN);
  MPI_Comm_rank(handle, &comm->rank);
  MPI_Comm_size(handle, &comm->size);
  name_host(comm);
  return find_neighbours(comm);
}

static int new_comm(struct comm **out) {
  TRY(memory_array(out, 1, sizeof **out));
  (*out)->name = "mpi";
  (*out)->operations = &operations;
  return OK;
}

static int mpi_split(struct comm *comm, int color, int key, struct comm **out) {
  MPI_Comm handle;
  TRY(mpi_barrier(comm)); /* waits with a deadline; MPI's own call would not */
  TRY(mpi_status(MPI_Comm_split(mpi_handle(comm), color, key, &handle), "split of the ranks"));
  int status = new_comm(out);
  if (status == OK) status = open_handle(*out, handle);
  if (status == OK) return OK;
  if (!*out || !(*out)->state) MPI_Comm_free(&handle);
  return status;
}

int comm_mpi_open(struct comm **out) {
  int provided;
  TRY(new_comm(out));
  TRY(mpi_status(MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided), "start of MPI"));
  if (provided < MPI_THREAD_FUNNELED) return fail(ERR_SYSTEM, "this MPI was built without support of threads");
  TRY(open_handle(*out, MPI_COMM_WORLD));
  (*out)->world_rank = (*out)->rank;
  TRY(mpi_watch_open(*out));
  return lifeline_open(*out, mpi_handle(*out));
}
