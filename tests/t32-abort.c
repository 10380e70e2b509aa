/* A rank that fails alone ends the job: the others, which wait for it, do not hang; its line appears once, and the job's
 * exit status is its own. */
#include <stdlib.h>
#include <sys/wait.h>

#include "check.h"
#include "comm/comm.h"

// RUN ranks=1 timeout=60

static int play_rank(void) {
  struct comm *comm;
  if (comm_open(&comm) != OK) return 99;
  if (comm->rank == 1) comm_abort(comm, fail(ERR_INPUT, "the fault"));
  comm_barrier(comm);
  return 98;
}

int main(int count, char **words) {
  if (count > 1) return play_rank();
  const char *launcher = getenv("MPIRUN");
  char command[1024], line[1024];
  snprintf(command, sizeof command, "%s 3 %s rank 2>&1", launcher ? launcher : "mpirun -n", words[0]);
  FILE *output = popen(command, "r");
  CHECK(output != NULL);
  if (!output) return 1;
  int seen = 0;
  while (fgets(line, sizeof line, output))
    seen += strncmp(line, "qst-mpi: rank 1 on ", 19) == 0 && strstr(line, ": the fault\n");
  int status = pclose(output);
  CHECK(seen == 1);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == ERR_INPUT);
  return check_result();
}
