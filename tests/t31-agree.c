/* Agreement on failure: one, some or all ranks fail; every rank ends with the same status and the same line. */
#include "check.h"
#include "comm/comm.h"

// RUN ranks=1,2,3

/* A different failure on each rank whose bit is set in `failing`. */
static int work(const struct comm *comm, unsigned failing) {
  if (!(failing >> comm->rank & 1)) return OK;
  return fail(comm->rank == 1 ? ERR_SYSTEM : ERR_INPUT, "fault of rank %d", comm->rank);
}

static void test_pattern(struct comm *comm, unsigned failing) {
  int lowest = 0;
  while (!(failing >> lowest & 1)) lowest++;
  char line[64], place[160];
  snprintf(line, sizeof line, "fault of rank %d", lowest);
  snprintf(place, sizeof place, "rank %d on %s: %s", lowest, comm->host, line);
  bool all = failing == (1u << comm->size) - 1;
  CHECK(fail(ERR_INPUT, "an older message") == ERR_INPUT);
  int status = comm_agree(comm, work(comm, failing));
  CHECK(status == (lowest == 1 ? ERR_SYSTEM : ERR_INPUT));
  CHECK(strcmp(fail_message(), all ? line : place) == 0);
  CHECK(comm_agreed(comm));
}

int main(void) {
  struct comm *comm;
  CHECK_OK(comm_open(&comm));
  if (!comm) return 1;
  CHECK_OK(comm_agree(comm, OK));
  CHECK(!comm_agreed(comm));
  for (unsigned failing = 1; failing < 1u << comm->size; failing++) test_pattern(comm, failing);
  comm_close(&comm);
  return check_result();
}
