/* The index of a store of taps: virtual datasets over the planes of all its segments. */
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "io/tap_reader_internal.h"

static int by_name(const void *left, const void *right) {
  const struct tap_segment *const *a = left, *const *b = right;
  return strcmp((*a)->name, (*b)->name);
}

/* The segments that count, by name; caller frees. */
static int sorted_segments(const struct tap_reader *reader, const struct tap_segment ***out, int *count) {
  size_t pointer = sizeof **out; /* NOLINT(bugprone-sizeof-expression): pointers are listed, not segments */
  TRY(memory_array(out, (size_t)reader->segment_count + 1, pointer));
  *count = 0;
  for (int i = 0; i < reader->segment_count; i++)
    if (reader->segments[i].count > 0) (*out)[(*count)++] = &reader->segments[i];
  qsort(*out, (size_t)*count, pointer, by_name);
  return OK;
}

static int write_plane(const struct tap_reader *reader, struct h5_file *file, const struct tap_segment **segments,
                       int count, enum tap_plane plane) {
  struct h5_part *parts;
  uint64_t cols = tap_plane_cols(&reader->format, plane);
  if (cols == 0) return OK;
  TRY(memory_array(&parts, (size_t)count + 1, sizeof *parts));
  for (int i = 0; i < count; i++) {
    int64_t last = segments[i]->count;
    parts[i] = (struct h5_part){
        .file = segments[i]->name,
        .rows = (uint64_t)tap_plane_lines(plane, segments[i]->tokens[last], segments[i]->labels[last])};
  }
  int status =
      h5_write_virtual(file, tap_plane_name(plane), tap_plane_type(&reader->format, plane), cols, parts, (size_t)count);
  free(parts);
  return status;
}

enum list { LIST_ROWS, LIST_TOKENS, LIST_LABELS, LISTS };

/* Rows of all segments and where they begin, as if all were one. */
static int write_lists(struct h5_file *file, const struct tap_segment **segments, int count) {
  static const char *const names[] = {[LIST_ROWS] = "/rows", [LIST_TOKENS] = "/tokens", [LIST_LABELS] = "/labels"};
  int64_t total = 0, *lists[LISTS] = {NULL}, at = 0;
  int status = OK;
  for (int i = 0; i < count; i++) total += segments[i]->count;
  for (int list = 0; list < LISTS; list++)
    TRY_GOTO(status, cleanup, memory_array(&lists[list], (size_t)total + 1, sizeof **lists));
  for (int s = 0; s < count; s++) {
    const struct tap_segment *segment = segments[s];
    int64_t token = lists[LIST_TOKENS][at], label = lists[LIST_LABELS][at];
    for (int64_t i = 0; i < segment->count; i++, at++) {
      lists[LIST_ROWS][at] = segment->rows[i];
      lists[LIST_TOKENS][at + 1] = token + segment->tokens[i + 1];
      lists[LIST_LABELS][at + 1] = label + segment->labels[i + 1];
    }
  }
  for (int list = 0; list < LISTS; list++)
    TRY_GOTO(status, cleanup,
             h5_write(file, names[list], H5_I64, (uint64_t)(total + (list != LIST_ROWS)), 0, lists[list]));
cleanup:
  for (int list = 0; list < LISTS; list++) free(lists[list]);
  return status;
}

int tap_reader_write_index(const struct tap_reader *reader) {
  const struct tap_segment **segments = NULL;
  struct h5_file *file = NULL;
  char *path = NULL;
  int count, status;
  TRY_GOTO(status, cleanup, sorted_segments(reader, &segments, &count));
  TRY_GOTO(status, cleanup, file_join(reader->folder, "index.h5", &path));
  TRY_GOTO(status, cleanup, h5_create(&file, path, "qst-taps-index", TAP_VERSION));
  TRY_GOTO(status, cleanup, tap_format_write(file, &reader->format));
  TRY_GOTO(status, cleanup, write_lists(file, segments, count));
  for (int p = 0; p < TAP_PLANES; p++)
    TRY_GOTO(status, cleanup, write_plane(reader, file, segments, count, (enum tap_plane)p));
  TRY_GOTO(status, cleanup, h5_publish(&file));
cleanup:
  h5_close(&file);
  free(segments);
  free(path);
  return status;
}
