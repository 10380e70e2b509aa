/**
 * @file t17-tap-cache.c
 * Nobody waits for the copies of a tap cache: while one is made, which here takes until the test lets it, asking for more
 * returns at once.
 */
// RUN ranks=1 args=""
#include <fcntl.h>
#include <libgen.h>
#include <sys/stat.h>
#include <time.h>

#include "io/tap_cache.h"
#include "tap_rows.h"

/* Asks for a copy until it is there, or for a minute. */
static bool comes(struct tap_cache *cache, const char *name) {
  char *path;
  CHECK_OK(tap_cache_path(cache, name, &path));
  bool came = false;
  for (int i = 0; i < 6000 && !came; i++) {
    CHECK_OK(tap_cache_want(cache, &name, 1));
    nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    came = access(path, F_OK) == 0;
  }
  free(path);
  return came;
}

static void remove_copies(struct tap_cache *cache, const char *folder) {
  char *path;
  CHECK_OK(tap_cache_path(cache, "slow", &path));
  remove_folder(dirname(path));
  remove_folder(folder);
  free(path);
}

int main(void) {
  scratch_make();
  struct tap_cache *cache = NULL;
  struct tap_format format = make_format(DTYPE_BF16, false);
  char *folder = scratch_path("cache"), *slow = scratch_path("slow"), *fast = scratch_path("fast");
  CHECK(mkfifo(slow, 0600) == 0); /* opening it waits for a writer */
  scratch_fill(fast, "taps", 4);
  CHECK_OK(tap_cache_open(&cache, folder, scratch_folder, &format, true));
  CHECK_OK(tap_cache_want(cache, &(const char *){"slow"}, 1));
  CHECK_OK(tap_cache_want(cache, &(const char *){"fast"}, 1));
  int pipe = open(slow, O_WRONLY);
  CHECK(pipe >= 0 && write(pipe, "taps", 4) == 4 && close(pipe) == 0);
  CHECK(comes(cache, "slow"));
  CHECK(comes(cache, "fast"));
  remove_copies(cache, folder);
  tap_cache_close(&cache);
  free(slow);
  free(fast);
  free(folder);
  scratch_remove();
  return check_result();
}
