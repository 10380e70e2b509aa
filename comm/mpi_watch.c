/* Who waits for whom. A rank that has waited for long tells all others, and again when it goes on; so the first whose
 * deadline is over can name those that did not come, though MPI itself would not say. Nothing is sent in a normal run. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "comm/mpi.h"

enum { NAMED = 4, HOST = sizeof((struct comm *)0)->host };

/* One for the process, as MPI is. */
static struct {
  MPI_Comm comm; /**< all ranks, its messages apart from all others */
  int rank, size;
  char (*hosts)[HOST]; /**< [size] */
  char *waits;         /**< [size] the last notice of each rank */
} watch;

int mpi_watch_open(const struct comm *world) {
  watch.rank = world->rank;
  watch.size = world->size;
  TRY(memory_array(&watch.hosts, (size_t)world->size, HOST));
  TRY(memory_array(&watch.waits, (size_t)world->size, 1));
  TRY(mpi_status(MPI_Comm_dup(mpi_handle(world), &watch.comm), "start of MPI"));
  return mpi_status(MPI_Allgather(world->host, HOST, MPI_CHAR, watch.hosts, HOST, MPI_CHAR, watch.comm),
                    "start of MPI");
}

static void take_notices(void) {
  MPI_Status state;
  int there = 0;
  while (MPI_Iprobe(MPI_ANY_SOURCE, 0, watch.comm, &there, &state) == MPI_SUCCESS && there) {
    int from = state.MPI_SOURCE;
    if (MPI_Recv(&watch.waits[from], 1, MPI_CHAR, from, 0, watch.comm, MPI_STATUS_IGNORE) != MPI_SUCCESS) return;
  }
}

void mpi_watch_say(bool waits) {
  static const char notices[] = {0, 1};
  take_notices();
  watch.waits[watch.rank] = waits;
  /* The messages are never waited for. NOLINTNEXTLINE(clang-analyzer-optin.mpi.MPI-Checker) */
  for (int rank = 0; rank < watch.size; rank++) {
    MPI_Request request;
    if (rank != watch.rank && MPI_Isend(&notices[waits], 1, MPI_CHAR, rank, 0, watch.comm, &request) == MPI_SUCCESS)
      MPI_Request_free(&request);
  }
}

int mpi_watch_blame(const char *operation, double seconds) {
  char late[ERROR_LINE / 2] = "";
  int count = 0;
  take_notices();
  for (int rank = 0; rank < watch.size; rank++) {
    size_t used = strlen(late);
    if (watch.waits[rank] || rank == watch.rank || count++ >= NAMED) continue;
    snprintf(late + used, sizeof late - used, "%srank %d on %s", count > 1 ? ", " : "", rank, watch.hosts[rank]);
  }
  if (count == 0)
    return fail(ERR_INTERNAL,
                "%s: nothing came in %g s, though every rank waits (a fault of this program, please report it)",
                operation, seconds);
  size_t used = strlen(late);
  if (count > NAMED) snprintf(late + used, sizeof late - used, " and %d more", count - NAMED);
  return fail(ERR_LOST, "%s: %s did not come within %g s (--comm-timeout)", operation, late, seconds);
}

void mpi_watch_close(void) {
  if (watch.comm) {
    take_notices();
    MPI_Comm_free(&watch.comm);
  }
  free(watch.hosts);
  free(watch.waits);
  memset(&watch, 0, sizeof watch);
}
