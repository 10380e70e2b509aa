#include "base/threads.h"

#include <sched.h>
#include <stdlib.h>
#include <unistd.h>

int threads_of_rank(int local_ranks) {
  const char *wish = getenv("OMP_NUM_THREADS");
  if (wish && atoi(wish) > 0) return atoi(wish);
  long online = sysconf(_SC_NPROCESSORS_ONLN);
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  long bound = sched_getaffinity(0, sizeof allowed, &allowed) == 0 ? CPU_COUNT(&allowed) : online;
  long threads = bound < online ? bound : online / (local_ranks > 0 ? local_ranks : 1);
  return threads > 0 ? (int)threads : 1;
}
