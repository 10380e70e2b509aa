/**
 * @file image.h
 * The fuzzer's bytes as a file of a folder of its own, for HDF5, which wants a path that is really there. Both are removed at
 * the end, when it is also said how many inputs were taken for whole files: none, and the target tested nothing
 * (tests/fuzz/run).
 */
#ifndef QST_TESTS_FUZZ_IMAGE_H
#define QST_TESTS_FUZZ_IMAGE_H

#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static char image_folder[] = "/tmp/qst-fuzz.XXXXXX", image_path[64];
static long image_whole; /**< the target counts */

static void image_end(void) {
  unlink(image_path);
  rmdir(image_folder);
  fprintf(stderr, "image: %ld inputs were whole files\n", image_whole);
}

/** False when it could not be written. */
static inline bool image_write(const unsigned char *bytes, size_t size) {
  static int descriptor = -1;
  if (descriptor < 0) {
    if (!mkdtemp(image_folder)) abort();
    snprintf(image_path, sizeof image_path, "%s/segment-0.h5", image_folder);
    descriptor = open(image_path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (descriptor < 0 || atexit(image_end)) abort();
  }
  return !ftruncate(descriptor, 0) && pwrite(descriptor, bytes, size, 0) == (ssize_t)size;
}

#endif
