/**
 * @file scratch.h
 * A folder of its own for a test's files, under $TMPDIR, removed at the end.
 */
#ifndef QST_TESTS_SCRATCH_H
#define QST_TESTS_SCRATCH_H

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"

static char scratch_folder[512];

static inline void scratch_make(void) {
  const char *parent = getenv("TMPDIR");
  snprintf(scratch_folder, sizeof scratch_folder, "%s/qst-test-XXXXXX", parent ? parent : "/tmp");
  CHECK(mkdtemp(scratch_folder) != NULL);
}

/** folder/name; the caller frees it. */
static inline char *scratch_path(const char *name) {
  size_t size = strlen(scratch_folder) + strlen(name) + 2;
  char *path = malloc(size);
  if (path) snprintf(path, size, "%s/%s", scratch_folder, name);
  return path;
}

/** Writes a file without ceremony. */
static inline void scratch_fill(const char *path, const void *bytes, size_t size) {
  FILE *file = fopen(path, "wb");
  CHECK(file && fwrite(bytes, 1, size, file) == size);
  if (file) fclose(file);
}

/** The number of files whose names begin with `prefix`; removes all files with `remove_them`. */
static inline int scratch_walk(const char *prefix, int remove_them) {
  DIR *folder = opendir(scratch_folder);
  int count = 0;
  for (struct dirent *entry; folder && (entry = readdir(folder));) {
    if (entry->d_name[0] == '.' || strncmp(entry->d_name, prefix, strlen(prefix)) != 0) continue;
    count++;
    char *path = scratch_path(entry->d_name);
    if (remove_them) unlink(path);
    free(path);
  }
  if (folder) closedir(folder);
  return count;
}

static inline int scratch_count(const char *prefix) {
  return scratch_walk(prefix, 0);
}

static inline void scratch_remove(void) {
  scratch_walk("", 1);
  rmdir(scratch_folder);
}

#endif
