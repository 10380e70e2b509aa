#include "io/disk_probe.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"

enum { BLOCK = 4 << 20, ALIGNMENT = 4096 };

/* Numbers that no file system packs. */
static char *make_block(void) {
  uint64_t *block = aligned_alloc(ALIGNMENT, BLOCK), state = 1;
  for (size_t i = 0; block && i < BLOCK / sizeof *block; i++)
    block[i] = state = state * 6364136223846793005u + 1442695040888963407u;
  return (char *)block;
}

/* Past the page cache where that works: tmpfs and some network file systems refuse O_DIRECT. */
static int open_past_cache(const char *path, int flags) {
  int descriptor = open(path, flags | O_CLOEXEC | O_DIRECT, 0600);
  return descriptor >= 0 || errno != EINVAL ? descriptor : open(path, flags | O_CLOEXEC, 0600);
}

static bool transfer(int descriptor, char *block, int64_t blocks, bool write_them) {
  for (int64_t i = 0; i < blocks; i++)
    for (size_t done = 0; done < BLOCK;) {
      ssize_t moved =
          write_them ? write(descriptor, block + done, BLOCK - done) : read(descriptor, block + done, BLOCK - done);
      if (moved < 0 && errno == EINTR) continue;
      if (moved <= 0) return false;
      done += (size_t)moved;
    }
  return true;
}

/* Seconds that the whole file takes; negative, with errno, when it fails. */
static double time_pass(const char *path, char *block, int64_t blocks, bool write_it) {
  int descriptor = open_past_cache(path, write_it ? O_WRONLY | O_CREAT | O_TRUNC : O_RDONLY);
  if (descriptor < 0) return -1;
  if (!write_it) posix_fadvise(descriptor, 0, 0, POSIX_FADV_DONTNEED);
  double begin = clock_seconds();
  bool good = transfer(descriptor, block, blocks, write_it) && (!write_it || fdatasync(descriptor) == 0);
  double seconds = clock_seconds() - begin;
  int reason = errno;
  close(descriptor);
  errno = reason;
  return good ? seconds : -1;
}

int disk_probe(const char *folder, int64_t bytes, struct disk_speed *out) {
  int64_t blocks = (bytes + BLOCK - 1) / BLOCK;
  char *path = NULL, *temporary = NULL, *block = make_block();
  int status = block ? OK : fail(ERR_MEMORY, "not enough memory for a block");
  if (status == OK) status = file_join(folder, "probe", &path);
  if (status == OK) status = file_temporary(path, &temporary);
  if (status == OK) {
    double wrote = time_pass(temporary, block, blocks, true);
    double took = wrote < 0 ? -1 : time_pass(temporary, block, blocks, false);
    if (took < 0) status = fail(ERR_SYSTEM, "%s: %s", temporary, strerror(errno));
    double size = (double)blocks * BLOCK;
    *out = (struct disk_speed){.read = size / (took + 1e-9), .write = size / (wrote + 1e-9)};
    unlink(temporary);
  }
  free(path);
  free(temporary);
  free(block);
  return status;
}
