/* What other ranks than 0 warn of reaches rank 0's log: each kind once, of the lowest rank, and nothing that rank 0 said.
 *
 * RUN ranks=1,2,3,4 */
#include <fcntl.h>

#include "base/file.h"
#include "base/log.h"
#include "check.h"
#include "comm/comm.h"
#include "scratch.h"

/* Three kinds: of rank 0 and others, of all others, of the last one. */
static void warn(const struct comm *comm, int time) {
  log_warning("the store of rank %d", comm->rank);
  if (comm->rank > 0) log_warning("the cache of rank %d, time %d", comm->rank, time);
  if (comm->rank > 0 && comm->rank == comm->size - 1) log_warning("the last one");
}

static void share_twice(struct comm *comm) {
  CHECK_OK(comm_share_warnings(comm)); /* nobody warned */
  for (int time = 1; time < 3; time++) {
    warn(comm, time);
    CHECK_OK(comm_share_warnings(comm));
    CHECK(!log_unshared());
  }
}

static void expect(const struct comm *comm, char *out, size_t size) {
  char more[32] = "";
  int own = snprintf(out, size, "warning: the store of rank 0\n");
  if (comm->size > 2) snprintf(more, sizeof more, ", and %d more", comm->size - 2);
  if (comm->size > 1)
    own += snprintf(out + own, size - (size_t)own,
                    "warning: rank 1 on %s%s: the cache of rank 1, time 1\nwarning: rank %d on %s: the last one\n",
                    comm->host, more, comm->size - 1, comm->host);
  snprintf(out + own, size - (size_t)own, "warning: the store of rank 0\n");
}

/* What is written to stderr meanwhile. */
static void check_log(struct comm *comm) {
  char *path = scratch_path("stderr"), expected[1000] = "";
  struct buffer content = {0};
  int kept = dup(STDERR_FILENO), file = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
  dup2(file, STDERR_FILENO);
  share_twice(comm);
  dup2(kept, STDERR_FILENO);
  close(kept);
  close(file);
  if (comm->rank == 0) expect(comm, expected, sizeof expected);
  CHECK_OK(file_read(path, sizeof expected, &content));
  CHECK(content.data && strcmp(content.data, expected) == 0);
  buffer_free(&content);
  free(path);
}

int main(void) {
  struct comm *comm;
  scratch_make();
  CHECK_OK(comm_open(&comm));
  if (!comm) return 1;
  log_setup(comm->rank, false);
  check_log(comm);
  comm_close(&comm);
  scratch_remove();
  return check_result();
}
