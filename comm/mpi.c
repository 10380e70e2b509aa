/* Open MPI (any MPI 3) on host memory. MPI's own error handler is replaced by one that returns, so that a failure
 * becomes a status with MPI's text. Counts of MPI calls are int: larger data goes in pieces. */
#include <mpi.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/memory.h"
#include "comm/backends.h"

enum { PIECE = 1 << 26, MESSAGE_TAG = 1 }; /* bytes; well under INT_MAX, and no slower than one large call */

static int mpi_status(int code, const char *operation) {
  if (code == MPI_SUCCESS) return OK;
  char text[MPI_MAX_ERROR_STRING + 1] = "";
  int size = 0;
  MPI_Error_string(code, text, &size);
  return fail(ERR_SYSTEM, "%s: %s", operation, text);
}

static int piece(size_t left, size_t most) {
  return (int)(left < most ? left : most);
}

static int reduce(int64_t *values, size_t count, MPI_Op operation, const char *name) {
  for (size_t done = 0; done < count;) {
    int now = piece(count - done, PIECE / sizeof *values);
    TRY(mpi_status(MPI_Allreduce(MPI_IN_PLACE, values + done, now, MPI_INT64_T, operation, MPI_COMM_WORLD), name));
    done += (size_t)now;
  }
  return OK;
}

static int mpi_sum_i64(struct comm *comm, int64_t *values, size_t count) {
  (void)comm;
  return reduce(values, count, MPI_SUM, "sum over ranks");
}

static int mpi_max_i64(struct comm *comm, int64_t *values, size_t count) {
  (void)comm;
  return reduce(values, count, MPI_MAX, "maximum over ranks");
}

static int mpi_broadcast(struct comm *comm, void *bytes, size_t size, int root) {
  (void)comm;
  for (size_t done = 0; done < size;) {
    int now = piece(size - done, PIECE);
    TRY(mpi_status(MPI_Bcast((char *)bytes + done, now, MPI_BYTE, root, MPI_COMM_WORLD), "broadcast"));
    done += (size_t)now;
  }
  return OK;
}

static int mpi_send(struct comm *comm, const void *bytes, size_t size, int to) {
  (void)comm;
  for (size_t done = 0; done < size;) {
    int now = piece(size - done, PIECE);
    TRY(mpi_status(MPI_Send((const char *)bytes + done, now, MPI_BYTE, to, MESSAGE_TAG, MPI_COMM_WORLD), "send"));
    done += (size_t)now;
  }
  return OK;
}

static int receive_piece(char *bytes, int size, int from) {
  MPI_Status state;
  int got = 0;
  TRY(mpi_status(MPI_Recv(bytes, size, MPI_BYTE, from, MESSAGE_TAG, MPI_COMM_WORLD, &state), "receive"));
  TRY(mpi_status(MPI_Get_count(&state, MPI_BYTE, &got), "receive"));
  if (got == size) return OK;
  return fail(ERR_INTERNAL, "rank %d sent %d bytes where %d were expected", from, got, size);
}

static int mpi_receive(struct comm *comm, void *bytes, size_t size, int from) {
  (void)comm;
  for (size_t done = 0; done < size;) {
    int now = piece(size - done, PIECE);
    TRY(receive_piece((char *)bytes + done, now, from));
    done += (size_t)now;
  }
  return OK;
}

static int mpi_barrier(struct comm *comm) {
  (void)comm;
  return mpi_status(MPI_Barrier(MPI_COMM_WORLD), "barrier");
}

static void mpi_abort(struct comm *comm, int status) {
  (void)comm;
  MPI_Abort(MPI_COMM_WORLD, status);
}

static void mpi_close(struct comm *comm) {
  (void)comm;
  int started = 0;
  MPI_Initialized(&started);
  if (started) MPI_Finalize();
}

static const struct comm_operations operations = {
    .sum_i64 = mpi_sum_i64,
    .max_i64 = mpi_max_i64,
    .broadcast = mpi_broadcast,
    .send = mpi_send,
    .receive = mpi_receive,
    .barrier = mpi_barrier,
    .abort = mpi_abort,
    .close = mpi_close,
};

static int find_neighbours(struct comm *comm) {
  MPI_Comm host;
  TRY(mpi_status(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &host), "start of MPI"));
  MPI_Comm_rank(host, &comm->local_rank);
  MPI_Comm_size(host, &comm->local_size);
  MPI_Comm_free(&host);
  return OK;
}

int comm_mpi_open(struct comm **out) {
  struct comm *comm;
  TRY(memory_array(&comm, 1, sizeof *comm));
  *out = comm;
  comm->name = "mpi";
  comm->operations = &operations;
  gethostname(comm->host, sizeof comm->host - 1);
  int provided;
  TRY(mpi_status(MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided), "start of MPI"));
  if (provided < MPI_THREAD_FUNNELED) return fail(ERR_SYSTEM, "this MPI was built without support of threads");
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  MPI_Comm_rank(MPI_COMM_WORLD, &comm->rank);
  MPI_Comm_size(MPI_COMM_WORLD, &comm->size);
  return find_neighbours(comm);
}
