#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"

static int read_all(int descriptor, const char *path, uint64_t limit, struct buffer *out) {
  char chunk[65536];
  for (;;) {
    ssize_t got = read(descriptor, chunk, sizeof chunk);
    if (got == 0) return OK;
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return fail(ERR_INPUT, "%s: %s", path, strerror(errno));
    if (out->size + (uint64_t)got > limit)
      return fail(ERR_INPUT, "%s: larger than the %llu bytes expected of such a file", path, (unsigned long long)limit);
    TRY(buffer_append(out, chunk, (size_t)got));
  }
}

int file_read(const char *path, uint64_t limit, struct buffer *out) {
  buffer_clear(out);
  TRY(buffer_append(out, "", 0));
  int descriptor = open(path, O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return fail(ERR_INPUT, "%s: %s", path, strerror(errno));
  int status = read_all(descriptor, path, limit, out);
  close(descriptor);
  return status;
}

static int write_all(int descriptor, const char *path, const char *bytes, size_t size) {
  while (size > 0) {
    ssize_t put = write(descriptor, bytes, size);
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return fail(ERR_SYSTEM, "%s: %s", path, strerror(errno));
    bytes += put;
    size -= (size_t)put;
  }
  return OK;
}

int file_write(const char *path, const void *bytes, size_t size) {
  char *temporary;
  TRY(file_temporary(path, &temporary));
  int status = OK;
  int descriptor = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (descriptor < 0) {
    status = fail(ERR_SYSTEM, "%s: %s", path, strerror(errno));
    goto cleanup;
  }
  status = write_all(descriptor, path, bytes, size);
  if (close(descriptor) != 0 && status == OK) status = fail(ERR_SYSTEM, "%s: %s", path, strerror(errno));
  if (status == OK) status = file_publish(temporary, path);
  if (status != OK) unlink(temporary);
cleanup:
  free(temporary);
  return status;
}

int file_try(const char *path) {
  struct stat info;
  char *temporary;
  if (stat(path, &info) == 0 && S_ISDIR(info.st_mode)) return fail(ERR_SYSTEM, "%s: %s", path, strerror(EISDIR));
  TRY(file_temporary(path, &temporary));
  int descriptor = open(temporary, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
  int status = descriptor < 0 ? fail(ERR_SYSTEM, "%s: %s", path, strerror(errno)) : OK;
  if (descriptor >= 0) close(descriptor);
  if (descriptor >= 0) unlink(temporary);
  free(temporary);
  return status;
}

/* Names with our pid in them are never anybody else's, so they are not taken back when their file has been published. */
enum { REMEMBERED = 4, NAME_LIMIT = 4096 };
static char remembered[REMEMBERED][NAME_LIMIT];

/* The first byte is the last one set: a signal must not find half a name. */
static void remember(const char *name) {
  static unsigned next;
  size_t size = strlen(name) + 1;
  if (size > NAME_LIMIT) return;
  char *place = remembered[next++ % REMEMBERED];
  place[0] = 0;
  atomic_signal_fence(memory_order_seq_cst);
  memcpy(place + 1, name + 1, size - 1);
  atomic_signal_fence(memory_order_seq_cst);
  place[0] = name[0];
}

void file_remove_temporaries(void) {
  for (int i = 0; i < REMEMBERED; i++)
    if (remembered[i][0]) unlink(remembered[i]);
}

int file_temporary(const char *path, char **out) {
  char host[64] = "host";
  gethostname(host, sizeof host - 1);
  struct buffer name = {0};
  int status = buffer_print(&name, "%s.tmp-%s-%ld", path, host, (long)getpid());
  if (status == OK)
    remember(name.data);
  else
    buffer_free(&name);
  *out = name.data;
  return status;
}

static int sync_path(const char *path, int flags) {
  int descriptor = open(path, flags | O_CLOEXEC);
  if (descriptor < 0) return errno;
  int failed = fsync(descriptor) != 0 ? errno : 0;
  close(descriptor);
  return failed;
}

static int sync_folder_of(const char *path) {
  char *copy = strdup(path);
  if (!copy) return ENOMEM;
  int failed = sync_path(dirname(copy), O_RDONLY | O_DIRECTORY);
  free(copy);
  return failed == EINVAL ? 0 : failed; /* some network file systems cannot sync a folder */
}

int file_publish(const char *temporary, const char *path) {
  int failed = sync_path(temporary, O_RDWR);
  if (!failed && rename(temporary, path) != 0) failed = errno;
  if (!failed) failed = sync_folder_of(path);
  if (!failed) return OK;
  unlink(temporary);
  return fail(ERR_SYSTEM, "%s: %s", path, strerror(failed));
}

int file_make_folder(const char *path) {
  char *copy = strdup(path);
  if (!copy) return fail(ERR_MEMORY, "not enough memory for a path");
  int status = OK;
  for (char *slash = copy + 1; status == OK && *copy; slash++) {
    char kept = *slash;
    if (kept != '/' && kept != 0) continue;
    *slash = 0;
    if (mkdir(copy, 0777) != 0 && errno != EEXIST) status = fail(ERR_SYSTEM, "%s: %s", copy, strerror(errno));
    *slash = kept;
    if (kept == 0) break;
  }
  struct stat info;
  if (status == OK && (stat(path, &info) != 0 || !S_ISDIR(info.st_mode)))
    status = fail(ERR_SYSTEM, "%s: is not a folder", path);
  free(copy);
  return status;
}

int file_join(const char *folder, const char *name, char **out) {
  struct buffer path = {0};
  int status = buffer_print(&path, "%s/%s", folder, name);
  if (status != OK) buffer_free(&path);
  *out = path.data;
  return status;
}
