/* The index of a store of taps: virtual datasets over the planes of all its segments. */
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "io/tap_reader_internal.h"

/* Where a segment's lines lie among all. Segments of the stages of a pipeline have the same rows and lie side by side; of
 * those the first, which alone counts its rows, is the one with tap 0. */
struct part {
  const struct tap_segment *segment;
  int64_t token, label;
};

struct parts {
  struct part *list; /* [segments], in the order of their names */
  int count;
  int64_t rows, tokens, labels;
};

static int by_name(const void *left, const void *right) {
  const struct part *a = left, *b = right;
  return strcmp(a->segment->name, b->segment->name);
}

/* Segments of the same rows have names that begin with the same hash (tap_writer.c). */
static bool same_rows(const struct tap_segment *a, const struct tap_segment *b) {
  enum { HASHED = sizeof "segment-0123456789abcdef" - 1 };
  return strncmp(a->name, b->name, HASHED) == 0 && a->count == b->count;
}

/* Appends to `out` segments of these rows that together have taps `tap` to the last; false, and nothing, without such. */
static bool add_from(const struct part *sorted, int count, int tap, struct parts *out) {
  if (tap == sorted->segment->format.layers + 1) return true;
  for (int i = 0; i < count; i++) {
    const struct tap_segment *segment = sorted[i].segment;
    if (segment->format.first != tap) continue;
    out->list[out->count++] = (struct part){.segment = segment, .token = out->tokens, .label = out->labels};
    if (add_from(sorted, count, tap + segment->format.taps, out)) return true;
    out->count--;
  }
  return false;
}

/* Those that have all taps of these rows, side by side, however other ones cut them. */
static void add_row_of_segments(const struct part *sorted, int count, struct parts *out) {
  const struct tap_segment *first = sorted->segment;
  if (!add_from(sorted, count, 0, out)) return;
  out->rows += first->count;
  out->tokens += first->tokens[first->count];
  out->labels += first->labels[first->count];
}

static int collect_parts(const struct tap_reader *reader, struct parts *out) {
  struct part *sorted;
  int count = 0;
  *out = (struct parts){0};
  TRY(memory_array(&sorted, (size_t)reader->segment_count + 1, sizeof *sorted));
  int status = memory_array(&out->list, (size_t)reader->segment_count + 1, sizeof *out->list);
  for (int i = 0; i < reader->segment_count; i++)
    if (reader->segments[i].count > 0) sorted[count++].segment = &reader->segments[i];
  qsort(sorted, (size_t)count, sizeof *sorted, by_name);
  for (int first = 0, end; status == OK && first < count; first = end) {
    for (end = first + 1; end < count && same_rows(sorted[first].segment, sorted[end].segment);) end++;
    add_row_of_segments(sorted + first, end - first, out);
  }
  free(sorted);
  return status;
}

static int write_plane(const struct tap_format *whole, struct h5_file *file, const struct parts *parts,
                       enum tap_plane plane) {
  struct h5_part *mapped;
  uint64_t cols = tap_plane_cols(whole, plane), tap = plane == TAP_PLANE_NORMED ? 0 : cols / (uint64_t)whole->taps;
  size_t count = 0;
  if (cols == 0) return OK;
  TRY(memory_array(&mapped, (size_t)parts->count + 1, sizeof *mapped));
  for (int i = 0; i < parts->count; i++) {
    const struct part *part = &parts->list[i];
    const struct tap_segment *segment = part->segment;
    uint64_t own = tap_plane_cols(&segment->format, plane);
    int64_t lines = tap_plane_lines(plane, segment->tokens[segment->count], segment->labels[segment->count]);
    if (own == 0 || lines == 0) continue;
    mapped[count++] = (struct h5_part){.file = segment->name,
                                       .row = (uint64_t)tap_plane_lines(plane, part->token, part->label),
                                       .rows = (uint64_t)lines,
                                       .col = tap * (uint64_t)segment->format.first,
                                       .cols = own};
  }
  const char *name = tap_plane_name(plane);
  enum h5_type type = tap_plane_type(whole, plane);
  int status = count == 0
                   ? h5_write(file, name, type, 0, cols, mapped)
                   : h5_write_virtual(file, name, type, (uint64_t)tap_plane_lines(plane, parts->tokens, parts->labels),
                                      cols, mapped, count);
  free(mapped);
  return status;
}

enum list { LIST_ROWS, LIST_TOKENS, LIST_LABELS, LISTS };

/* Rows of all segments and where they begin, as if all were one. */
static int write_lists(struct h5_file *file, const struct parts *parts) {
  static const char *const names[] = {[LIST_ROWS] = "/rows", [LIST_TOKENS] = "/tokens", [LIST_LABELS] = "/labels"};
  int64_t *lists[LISTS] = {NULL}, at = 0;
  int status = OK;
  for (int list = 0; list < LISTS; list++)
    TRY_GOTO(status, cleanup, memory_array(&lists[list], (size_t)parts->rows + 1, sizeof **lists));
  for (int p = 0; p < parts->count; p++) {
    const struct part *part = &parts->list[p];
    const struct tap_segment *segment = part->segment;
    for (int64_t i = 0; segment->format.first == 0 && i < segment->count; i++, at++) {
      lists[LIST_ROWS][at] = segment->rows[i];
      lists[LIST_TOKENS][at + 1] = part->token + segment->tokens[i + 1];
      lists[LIST_LABELS][at + 1] = part->label + segment->labels[i + 1];
    }
  }
  for (int list = 0; list < LISTS; list++)
    TRY_GOTO(status, cleanup,
             h5_write(file, names[list], H5_I64, (uint64_t)(parts->rows + (list != LIST_ROWS)), 0, lists[list]));
cleanup:
  for (int list = 0; list < LISTS; list++) free(lists[list]);
  return status;
}

int tap_reader_write_index(const struct tap_reader *reader) {
  struct tap_format whole = tap_format_whole(&reader->format);
  struct parts parts;
  struct h5_file *file = NULL;
  char *path = NULL;
  int status;
  TRY_GOTO(status, cleanup, collect_parts(reader, &parts));
  TRY_GOTO(status, cleanup, file_join(reader->folder, "index.h5", &path));
  TRY_GOTO(status, cleanup, h5_create(&file, path, "qst-taps-index", TAP_VERSION));
  TRY_GOTO(status, cleanup, tap_format_write(file, &whole));
  TRY_GOTO(status, cleanup, write_lists(file, &parts));
  for (int p = 0; p < TAP_PLANES; p++) TRY_GOTO(status, cleanup, write_plane(&whole, file, &parts, (enum tap_plane)p));
  TRY_GOTO(status, cleanup, h5_publish(&file));
cleanup:
  h5_close(&file);
  free(parts.list);
  free(path);
  return status;
}
