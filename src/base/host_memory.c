/* Sources: cgroups(7) for /proc/self/cgroup; the kernel's admin-guide/cgroup-v2.rst (memory.max) and cgroup-v1/memory.rst
 * (memory.limit_in_bytes); sbatch(1) and srun(1) for the environment. */
#include "base/host_memory.h"

#include <limits.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- cgroups --------------------------------------------------------------------------------------------- */

/* INFINITY without such a file, or where it says "max". */
static double number_in_file(const char *path) {
  char text[64];
  FILE *file = fopen(path, "r");
  if (!file) return INFINITY;
  double number = fgets(text, sizeof text, file) ? strtod(text, NULL) : 0;
  fclose(file);
  return number > 0 ? number : INFINITY;
}

/* Of a group and all that it is in. In a container its path may be one outside, where there are no files: then what is
 * mounted is the group itself. */
static double least_of_group(const char *mount, const char *group, const char *name) {
  double least = INFINITY;
  char path[PATH_MAX];
  for (int length = (int)strlen(group); length >= 0; length--) {
    if (group[length] && group[length] != '/') continue;
    int size = snprintf(path, sizeof path, "%s%.*s/%s", mount, length, group, name);
    if (size < (int)sizeof path) least = fmin(least, number_in_file(path));
  }
  return least;
}

/* `line`: "hierarchy:controllers:group"; version 2 names no controllers. */
static double limit_of_line(const char *root, char *line) {
  char mount[PATH_MAX];
  line[strcspn(line, "\n")] = '\0';
  char *controllers = strchr(line, ':'), *group = controllers ? strchr(++controllers, ':') : NULL;
  if (!group) return INFINITY;
  *group++ = '\0';
  bool first = strstr(controllers, "memory") != NULL;
  if (*controllers && !first) return INFINITY;
  snprintf(mount, sizeof mount, "%s/sys/fs/cgroup%s", root, first ? "/memory" : "");
  return least_of_group(mount, group, first ? "memory.limit_in_bytes" : "memory.max");
}

double host_memory_of_cgroups(const char *root) {
  double least = INFINITY;
  char line[PATH_MAX];
  snprintf(line, sizeof line, "%s/proc/self/cgroup", root);
  FILE *file = fopen(line, "r");
  if (!file) return INFINITY;
  while (fgets(line, sizeof line, file)) least = fmin(least, limit_of_line(root, line));
  fclose(file);
  return least;
}

/* ---- Slurm ----------------------------------------------------------------------------------------------- */

static double number_of(const char *variable) {
  const char *text = getenv(variable);
  return text ? strtod(text, NULL) : 0;
}

/* Its MB are 2^20 bytes; 0 is all that the node has. */
static double slurm_memory(void) {
  double megabytes = number_of("SLURM_MEM_PER_NODE");
  if (megabytes <= 0) megabytes = number_of("SLURM_MEM_PER_CPU") * number_of("SLURM_CPUS_ON_NODE");
  return megabytes > 0 ? megabytes * 0x1p20 : INFINITY;
}

double host_memory(void) {
  double physical = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE);
  return fmin(physical, fmin(host_memory_of_cgroups(""), slurm_memory()));
}
