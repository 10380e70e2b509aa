/* Whole files: read with a limit, written whole or not at all, also when the disk is full in mid-write. */
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "base/hash.h"
#include "check.h"
#include "scratch.h"
#include "signals.h"

static void check_content(const char *path, const char *expected) {
  struct buffer content = {0};
  CHECK_OK(file_read(path, 1000, &content));
  CHECK(content.data && content.size == strlen(expected) && strcmp(content.data, expected) == 0);
  buffer_free(&content);
}

static void test_read(void) {
  char *path = scratch_path("read");
  struct buffer content = {0};
  CHECK_FAILS(ERR_INPUT, "No such file", file_read(path, 10, &content));
  CHECK_FAILS(ERR_INPUT, "read", file_read(path, 10, &content));
  scratch_fill(path, "0123456789", 10);
  CHECK_OK(file_read(path, 10, &content));
  CHECK(content.size == 10 && memcmp(content.data, "0123456789", 11) == 0);
  CHECK_FAILS(ERR_INPUT, "larger than", file_read(path, 9, &content));
  scratch_fill(path, "", 0);
  CHECK_OK(file_read(path, 10, &content));
  CHECK(content.size == 0 && content.data && content.data[0] == 0);
  CHECK_FAILS(ERR_INPUT, "Is a directory", file_read(scratch_folder, 10, &content));
  buffer_free(&content);
  free(path);
}

static void test_write(void) {
  char *path = scratch_path("written"), *beneath = scratch_path("written/x");
  CHECK_OK(file_write(path, "one", 3));
  check_content(path, "one");
  CHECK_OK(file_write(path, "second", 6));
  check_content(path, "second");
  CHECK(scratch_count("written") == 1);
  CHECK_FAILS(ERR_SYSTEM, "written/x: Not a directory", file_write(beneath, "x", 1));
  free(path);
  free(beneath);
}

/* A file size limit stands for the full disk: the write fails after some of the bytes. */
static void test_full_disk(void) {
  char *path = scratch_path("full");
  static char large[100000];
  CHECK_OK(file_write(path, "old", 3));
  struct rlimit before, limit;
  getrlimit(RLIMIT_FSIZE, &before);
  limit = before;
  limit.rlim_cur = 5000;
  signal(SIGXFSZ, SIG_IGN);
  setrlimit(RLIMIT_FSIZE, &limit);
  int status = file_write(path, large, sizeof large);
  setrlimit(RLIMIT_FSIZE, &before);
  CHECK_FAILS(ERR_SYSTEM, "full: File too large", status);
  check_content(path, "old");
  CHECK(scratch_count("full") == 1);
  free(path);
}

static void test_publish(void) {
  char *path = scratch_path("published"), *temporary = NULL;
  CHECK_OK(file_temporary(path, &temporary));
  CHECK(strncmp(temporary, path, strlen(path)) == 0 && strstr(temporary, ".tmp-"));
  CHECK_FAILS(ERR_SYSTEM, "published: No such file", file_publish(temporary, path));
  scratch_fill(temporary, "text", 4);
  CHECK_OK(file_publish(temporary, path));
  check_content(path, "text");
  CHECK(scratch_count("published") == 1);
  free(temporary);
  free(path);
}

static void test_try(void) {
  char *path = scratch_path("tried"), *below = scratch_path("tried/below");
  CHECK_OK(file_try(path));
  CHECK(scratch_count("tried") == 0);
  scratch_fill(path, "old", 3);
  CHECK_OK(file_try(path));
  check_content(path, "old");
  CHECK_FAILS(ERR_SYSTEM, "tried/below: Not a directory", file_try(below));
  CHECK_FAILS(ERR_SYSTEM, "Is a directory", file_try(scratch_folder));
  free(path);
  free(below);
}

/* A signal ends the program as it does any other, and what was half-written is gone. */
static void test_signal(void) {
  char *path = scratch_path("interrupted"), *temporary = NULL;
  pid_t child = fork();
  if (child == 0) {
    signals_clean_up();
    if (file_temporary(path, &temporary) == OK) scratch_fill(temporary, "half", 4);
    raise(SIGTERM);
    _exit(1);
  }
  int ended = 0;
  CHECK(child > 0 && waitpid(child, &ended, 0) == child);
  CHECK(WIFSIGNALED(ended) && WTERMSIG(ended) == SIGTERM);
  CHECK(scratch_count("interrupted") == 0);
  free(path);
}

static void test_folders(void) {
  char *deep = scratch_path("a/b//c"), *file = scratch_path("file"), *joined = NULL;
  CHECK_OK(file_make_folder(deep));
  CHECK_OK(file_make_folder(deep));
  CHECK_OK(file_join(deep, "name", &joined));
  CHECK_OK(file_write(joined, "x", 1));
  scratch_fill(file, "x", 1);
  CHECK_FAILS(ERR_SYSTEM, "not a folder", file_make_folder(file));
  unlink(joined);
  free(joined);
  CHECK_OK(file_join(file, "sub", &joined));
  CHECK_FAILS(ERR_SYSTEM, "file/sub", file_make_folder(joined));
  free(joined);
  for (char *end = deep + strlen(deep); end > deep + strlen(scratch_folder); end--)
    if (*end == '/' || *end == 0) *end = 0, rmdir(deep);
  free(deep);
  free(file);
}

/* The values of xxhsum -H128 0.8.1. */
static void test_hash(void) {
  CHECK(strcmp(hash_bytes("", 0).hex, "99aa06d3014798d86001c324468d497f") == 0);
  CHECK(strcmp(hash_bytes("a", 1).hex, "a96faf705af16834e6c632b61e964e1f") == 0);
}

int main(void) {
  scratch_make();
  test_read();
  test_write();
  test_full_disk();
  test_publish();
  test_try();
  test_signal();
  test_folders();
  test_hash();
  scratch_remove();
  return check_result();
}
