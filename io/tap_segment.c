/* One segment of a store of taps: what its file holds, each number checked before it is used. */
#include <stdlib.h>

#include "base/memory.h"
#include "io/tap_reader_internal.h"

void tap_segment_free(struct tap_segment *segment) {
  free(segment->rows);
  free(segment->tokens);
  free(segment->labels);
  free(segment->hashes);
  segment->rows = segment->tokens = segment->labels = NULL;
  segment->hashes = NULL;
}

/* The lists of a segment agree with the token file, row by row. */
static int check_lists(const struct tap_reader *reader, const struct tap_segment *segment, const char *path) {
  bool good = segment->tokens[0] == 0 && segment->labels[0] == 0;
  for (int64_t i = 0; good && i < segment->count; i++) {
    int64_t row = segment->rows[i];
    good = row >= 0 && row < reader->data->rows &&
           segment->tokens[i + 1] == segment->tokens[i] + tap_row_tokens(reader->data, row) &&
           segment->labels[i + 1] == segment->labels[i] + tap_row_labels(reader->data, row);
  }
  return good ? OK : fail(ERR_INPUT, "%s: its rows are not those of the data", path);
}

static int read_lists(struct tap_segment *segment, struct h5_file *file) {
  enum h5_type type;
  uint64_t rows, cols;
  TRY(h5_shape(file, "/rows", &type, &rows, &cols));
  if (cols != 0 || rows == 0 || rows > INT32_MAX) return fail(ERR_INPUT, "%s: /rows is no list", h5_path(file));
  TRY(memory_array(&segment->rows, rows, sizeof *segment->rows));
  TRY(memory_array(&segment->tokens, rows + 1, sizeof *segment->tokens));
  TRY(memory_array(&segment->labels, rows + 1, sizeof *segment->labels));
  TRY(memory_array(&segment->hashes, rows, 32));
  TRY(h5_read(file, "/rows", H5_I64, rows, 0, segment->rows));
  TRY(h5_read(file, "/tokens", H5_I64, rows + 1, 0, segment->tokens));
  TRY(h5_read(file, "/labels", H5_I64, rows + 1, 0, segment->labels));
  TRY(h5_read(file, "/hashes", H5_U8, rows, 32, segment->hashes));
  segment->count = (int64_t)rows;
  return OK;
}

static int find_planes(struct tap_segment *segment, struct h5_file *file) {
  for (int p = 0; p < TAP_PLANES; p++) {
    enum tap_plane plane = (enum tap_plane)p;
    uint64_t cols = tap_plane_cols(&segment->format, plane);
    int64_t lines = tap_plane_lines(plane, segment->tokens[segment->count], segment->labels[segment->count]);
    if (cols > 0)
      TRY(h5_offset(file, tap_plane_name(plane), tap_plane_type(&segment->format, plane), (uint64_t)lines, cols,
                    &segment->offsets[p]));
  }
  return OK;
}

/* A whole file of ours, but of another kind or a later version. */
static bool is_something_else(const char *path) {
  struct h5_file *file;
  bool opens = h5_open(&file, path, NULL, 0) == OK;
  h5_close(&file);
  return opens;
}

int tap_segment_read(struct tap_segment *segment, const struct tap_reader *reader, const char *path) {
  struct h5_file *file;
  int status = h5_open(&file, path, "qst-taps", TAP_VERSION);
  if (status != OK) segment->foreign = is_something_else(path);
  TRY(status);
  status = tap_format_check(file, &reader->format);
  segment->foreign = status != OK;
  if (status == OK) status = tap_format_read(file, &segment->format);
  if (status == OK) status = read_lists(segment, file);
  if (status == OK) status = check_lists(reader, segment, path);
  if (status == OK) status = find_planes(segment, file);
  h5_close(&file);
  return status;
}
