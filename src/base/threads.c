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

/* Ranks may be bound to cores of their own, or several to the same socket. */
static long processors(int local_ranks) {
  long online = sysconf(_SC_NPROCESSORS_ONLN), share = slurm_share(local_ranks);
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  long bound = sched_getaffinity(0, sizeof allowed, &allowed) == 0 ? CPU_COUNT(&allowed) : online;
  if (share == 0) share = online / local_ranks;
  return share < bound ? share : bound;
}

int threads_of_rank(int local_ranks) {
  long threads = count_in("OMP_NUM_THREADS");
  if (threads == 0) threads = processors(local_ranks > 0 ? local_ranks : 1);
  return threads > 0 ? (int)threads : 1;
}
