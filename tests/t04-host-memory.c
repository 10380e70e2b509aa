/* The limits of cgroups, of either version, from trees as a kernel shows them, and of a real one where one can be made; and
 * what Slurm's environment says. */
#include <fcntl.h>
#include <ftw.h>
#include <math.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/file.h"
#include "base/host_memory.h"
#include "check.h"
#include "scratch.h"

enum { FILES = 5 };

struct tree {
  struct {
    const char *path, *text;
  } files[FILES];
  double limit;
};

#define V2 "/sys/fs/cgroup"
#define V1 "/sys/fs/cgroup/memory"

static const struct tree trees[] = {
    {{{"/proc/self/status", "no cgroup\n"}}, INFINITY},
    {{{"/proc/self/cgroup", "0::/\n"}}, INFINITY},
    /* version 2: the least from the group up */
    {{{"/proc/self/cgroup", "0::/a/b\n"}, {V2 "/a/b/memory.max", "3000000000\n"}, {V2 "/a/memory.max", "max\n"}}, 3e9},
    {{{"/proc/self/cgroup", "0::/a/b\n"}, {V2 "/a/b/memory.max", "max\n"}, {V2 "/a/memory.max", "2000000000\n"}}, 2e9},
    {{{"/proc/self/cgroup", "0::/a/b\n"}, {V2 "/a/b/memory.max", "max\n"}, {V2 "/a/memory.max", "max\n"}}, INFINITY},
    {{{"/proc/self/cgroup", "0::/ab\n"}, {V2 "/ab/memory.max", "5\n"}, {V2 "/a/memory.max", "1\n"}}, 5},
    /* the root of a container */
    {{{"/proc/self/cgroup", "0::/\n"}, {V2 "/memory.max", "7000\n"}}, 7000},
    {{{"/proc/self/cgroup", "4:memory:/docker/1\n"}, {V1 "/memory.limit_in_bytes", "8000\n"}}, 8000},
    /* version 1, and both at once */
    {{{"/proc/self/cgroup", "9:cpu,cpuacct:/x\n8:memory:/job_1/step_0\n1:name=systemd:/y\n"},
      {V1 "/job_1/step_0/memory.limit_in_bytes", "9223372036854771712\n"},
      {V1 "/job_1/memory.limit_in_bytes", "4000000000\n"},
      {V1 "/x/memory.limit_in_bytes", "1\n"},
      {V2 "/x/memory.max", "1\n"}},
     4e9},
    {{{"/proc/self/cgroup", "3:memory:/u\n0::/s\n"},
      {V1 "/u/memory.limit_in_bytes", "6000\n"},
      {V2 "/s/memory.max", "max\n"}},
     6000},
    {{{"/proc/self/cgroup", "nonsense\n3:memory\n"}, {V1 "/memory.limit_in_bytes", "1\n"}}, INFINITY},
};

static void write_at(const char *root, const char *path, const char *text) {
  char whole[1024], folder[1024];
  snprintf(whole, sizeof whole, "%s%s", root, path);
  snprintf(folder, sizeof folder, "%.*s", (int)(strrchr(whole, '/') - whole), whole);
  CHECK_OK(file_make_folder(folder));
  scratch_fill(whole, text, strlen(text));
}

static int remove_one(const char *path, const struct stat *status, int type, struct FTW *where) {
  (void)status, (void)type, (void)where;
  return remove(path);
}

static void test_trees(void) {
  for (size_t i = 0; i < sizeof trees / sizeof *trees; i++) {
    char *root = scratch_path("root");
    for (int f = 0; f < FILES && trees[i].files[f].path; f++)
      write_at(root, trees[i].files[f].path, trees[i].files[f].text);
    double limit = host_memory_of_cgroups(root);
    if (limit != trees[i].limit) fprintf(stderr, "tree %zu: %g, not %g\n", i, limit, trees[i].limit);
    CHECK(limit == trees[i].limit);
    CHECK(nftw(root, remove_one, 8, FTW_DEPTH | FTW_PHYS) == 0);
    free(root);
  }
}

/* To a file that is there. */
static bool put(const char *folder, const char *name, const char *text) {
  char path[512];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  int file = open(path, O_WRONLY);
  bool done = file >= 0 && write(file, text, strlen(text)) == (ssize_t)strlen(text);
  if (file >= 0) close(file);
  return done;
}

/* Whether a group could be made there, with a gigabyte for a child of this process. */
static bool test_group(const char *mount, const char *limit) {
  char folder[256];
  int status = 0;
  snprintf(folder, sizeof folder, "%s/qst-test-%d", mount, (int)getpid());
  if (mkdir(folder, 0755) != 0) return false;
  bool made = put(folder, limit, "1073741824");
  if (made) {
    pid_t child = fork();
    if (child == 0) _exit(!put(folder, "cgroup.procs", "0") ? 2 : host_memory() == 1 << 30 ? 0 : 1);
    CHECK(waitpid(child, &status, 0) == child);
    made = WEXITSTATUS(status) != 2;
    CHECK(!made || status == 0);
  }
  CHECK(rmdir(folder) == 0);
  return made;
}

static void test_slurm(void) {
  unsetenv("SLURM_MEM_PER_NODE");
  unsetenv("SLURM_MEM_PER_CPU");
  double all = host_memory();
  CHECK(all > 1e8 && all <= (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE));
  setenv("SLURM_MEM_PER_NODE", "64", 1);
  CHECK(host_memory() == 64 << 20);
  setenv("SLURM_MEM_PER_NODE", "0", 1);
  CHECK(host_memory() == all);
  unsetenv("SLURM_MEM_PER_NODE");
  setenv("SLURM_MEM_PER_CPU", "10", 1);
  setenv("SLURM_CPUS_ON_NODE", "3", 1);
  CHECK(host_memory() == 30 << 20);
  unsetenv("SLURM_MEM_PER_CPU");
}

int main(void) {
  scratch_make();
  test_trees();
  test_slurm();
  if (!test_group(V1, "memory.limit_in_bytes") && !test_group(V2, "memory.max"))
    printf("no cgroup can be made here: a real one was not tried\n");
  scratch_remove();
  return check_result();
}
