/**
 * @file tap_rows.h
 * Rows of a token file and taps of them, made of their numbers alone, for the tests of the tap store's files.
 */
#ifndef QST_TESTS_TAP_ROWS_H
#define QST_TESTS_TAP_ROWS_H

#include "io/chat.h"
#include "io/tap_prefetch.h"
#include "io/tap_prune.h"
#include "io/tap_writer.h"
#include "scratch.h"

enum { ROWS = 300, LONGEST = 7, TOTAL = ROWS * LONGEST };

static int32_t tokens[TOTAL], labels[TOTAL];
static int64_t offsets[ROWS + 1];
static struct token_file data = {
    .rows = ROWS, .vocabulary = 10, .tokens = tokens, .labels = labels, .offsets = offsets};

/** Rows of 1 to LONGEST tokens, the last two of each with labels. */
static inline void make_data(void) {
  for (int64_t row = 0; row < ROWS; row++) {
    int64_t length = 1 + row * 5 % LONGEST;
    offsets[row + 1] = offsets[row] + length;
    for (int64_t i = 0; i < length; i++) labels[offsets[row] + i] = i + 2 >= length ? 1 : LABEL_NONE;
  }
  data.total = offsets[ROWS];
}

static inline struct tap_format make_format(enum dtype act, bool int8) {
  return (struct tap_format){.backbone = "b",
                             .data = "d",
                             .kind = "hidden",
                             .directions = "-",
                             .compute = "bf16",
                             .layers = 2,
                             .hidden = 70,
                             .cols = 70,
                             .window = 1,
                             .taps = 3,
                             .act = act,
                             .int8 = int8};
}

/** Planes of a row: numbers that depend on row and place alone. */
static inline void fill_planes(const struct tap_format *format, int64_t row, struct tap_planes *planes) {
  uint32_t state = (uint32_t)row + 1;
  int64_t lines[TAP_PLANES] = {tap_row_tokens(&data, row), tap_row_tokens(&data, row), tap_row_labels(&data, row)};
  for (int p = 0; p < TAP_PLANES; p++)
    for (size_t i = 0; i < (size_t)lines[p] * tap_plane_bytes(format, (enum tap_plane)p); i++)
      planes->at[p][i] = (char)((state = state * 1664525u + 1013904223u) >> 24);
}

static inline void add_rows(struct tap_writer *writer, const struct tap_format *format, int64_t first, int64_t end) {
  struct tap_planes planes;
  CHECK_OK(tap_planes_make(&planes, format, LONGEST, LONGEST));
  for (int64_t row = first; row < end; row++) {
    fill_planes(format, row, &planes);
    CHECK_OK(tap_writer_add(writer, row, tap_row_tokens(&data, row), tap_row_labels(&data, row), &planes));
  }
  tap_planes_free(&planes);
}

static inline void write_rows(const char *folder, const struct tap_format *format, int64_t first, int64_t end,
                              int64_t segment_tokens) {
  struct tap_writer *writer = NULL;
  CHECK_OK(tap_writer_open(&writer, folder, format, segment_tokens));
  add_rows(writer, format, first, end);
  CHECK_OK(tap_writer_seal(writer));
  tap_writer_close(&writer);
}

static inline void check_row(struct tap_reader *reader, const struct tap_format *format, int64_t row) {
  struct tap_planes want, got;
  CHECK_OK(tap_planes_make(&want, format, LONGEST, LONGEST));
  CHECK_OK(tap_planes_make(&got, format, LONGEST, LONGEST));
  fill_planes(format, row, &want);
  CHECK(tap_reader_has(reader, row));
  CHECK_OK(tap_reader_read(reader, &row, 1, &got));
  struct hash_text a, b;
  CHECK_OK(tap_planes_hash(format, &want, tap_row_tokens(&data, row), tap_row_labels(&data, row), &a));
  CHECK_OK(tap_planes_hash(format, &got, tap_row_tokens(&data, row), tap_row_labels(&data, row), &b));
  CHECK(strcmp(a.hex, b.hex) == 0);
  tap_planes_free(&want);
  tap_planes_free(&got);
}

/** A segment of the store, the last one found. */
static inline void find_segment(const char *folder, char path[700]) {
  DIR *entries = opendir(folder);
  for (struct dirent *entry; (entry = readdir(entries));)
    if (strncmp(entry->d_name, "segment-", 8) == 0) snprintf(path, 700, "%s/%s", folder, entry->d_name);
  closedir(entries);
}

/** The store and all in it. */
static inline void remove_folder(const char *folder) {
  char *kept = strdup(scratch_folder);
  snprintf(scratch_folder, sizeof scratch_folder, "%s", folder);
  scratch_remove();
  snprintf(scratch_folder, sizeof scratch_folder, "%s", kept);
  free(kept);
}

#endif
