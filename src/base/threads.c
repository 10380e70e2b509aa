#include "base/threads.h"

#include <sched.h>
#include <stdlib.h>
#include <unistd.h>

static long count_in(const char *variable) {
  const char *text = getenv(variable);
  long count = text ? strtol(text, NULL, 10) : 0;
  return count > 0 ? count : 0;
}

/* The processors that Slurm gave this task; 0 without Slurm. It need not have bound the task to them (TaskPlugin).
 * Under mpirun they are its daemon's. */
static long slurm_share(int local_ranks) {
  if (getenv("OMPI_COMM_WORLD_SIZE")) return 0;
  long each = count_in("SLURM_CPUS_PER_TASK");
  return each ? each : count_in("SLURM_CPUS_ON_NODE") / local_ranks;
}

static long processors(int local_ranks) {
  long online = sysconf(_SC_NPROCESSORS_ONLN);
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  long bound = sched_getaffinity(0, sizeof allowed, &allowed) == 0 ? CPU_COUNT(&allowed) : online;
  long share = slurm_share(local_ranks);
  if (share) return share < bound ? share : bound;
  return bound < online ? bound : online / local_ranks;
}

int threads_of_rank(int local_ranks) {
  long threads = count_in("OMP_NUM_THREADS");
  if (threads == 0) threads = processors(local_ranks > 0 ? local_ranks : 1);
  return threads > 0 ? (int)threads : 1;
}
