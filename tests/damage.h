/**
 * @file damage.h
 * Flips bits of a file and cuts it short, and looks at what its reader makes of each: the same content (the bit lies in
 * unused space) or ERR_INPUT with a line that names the file.
 */
#ifndef QST_TESTS_DAMAGE_H
#define QST_TESTS_DAMAGE_H

#include <fcntl.h>
#include <unistd.h>

#include "base/file.h"
#include "scratch.h"

/** One bit of every byte of the first 4096, which hold most of the catalogue, and of every `stride`th after. */
static inline void damage_bits(const char *path, size_t stride, int (*read_file)(const char *path)) {
  char *copy = scratch_path("damaged");
  struct buffer whole = {0};
  int found = 0, tried = 0;
  CHECK_OK(file_read(path, 1 << 22, &whole));
  scratch_fill(copy, whole.data, whole.size);
  int descriptor = open(copy, O_WRONLY);
  for (size_t at = 0; at < whole.size; at += at < 4096 ? 1 : stride, tried++) {
    char flipped = (char)(whole.data[at] ^ (1 << (at % 8)));
    CHECK(pwrite(descriptor, &flipped, 1, (off_t)at) == 1);
    int status = read_file(copy);
    CHECK(pwrite(descriptor, &whole.data[at], 1, (off_t)at) == 1);
    CHECK(status == OK || (status == ERR_INPUT && strstr(fail_message(), copy)));
    found += status != OK;
  }
  close(descriptor);
  CHECK(found > 0);
  printf("%d of %d flipped bits were found, the others lie in unused space\n", found, tried);
  buffer_free(&whole);
  free(copy);
}

/** Every cut must be noticed. */
static inline void damage_length(const char *path, int (*read_file)(const char *path)) {
  char *copy = scratch_path("cut");
  struct buffer whole = {0};
  CHECK_OK(file_read(path, 1 << 22, &whole));
  for (size_t size = 0; size < whole.size; size += size < 4096 ? 211 : whole.size / 64 + 1) {
    scratch_fill(copy, whole.data, size);
    CHECK_FAILS(ERR_INPUT, copy, read_file(copy));
  }
  buffer_free(&whole);
  free(copy);
}

/** Whether two files hold the same bytes. */
static inline int same_bytes(const char *a, const char *b) {
  struct buffer first = {0}, second = {0};
  CHECK_OK(file_read(a, 1 << 22, &first));
  CHECK_OK(file_read(b, 1 << 22, &second));
  int same = first.size == second.size && memcmp(first.data, second.data, first.size) == 0;
  buffer_free(&first);
  buffer_free(&second);
  return same;
}

#endif
