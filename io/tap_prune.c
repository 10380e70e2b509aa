#include "io/tap_prune.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "io/tap_reader_internal.h"

int tap_store_format(const char *folder, struct tap_format *out) {
  struct dirent **entries = NULL;
  int count = scandir(folder, &entries, tap_is_segment, alphasort);
  int status = fail(ERR_INPUT, "%s: holds no segments of taps", folder);
  for (int i = 0; i < count; i++) {
    char *path = NULL;
    struct h5_file *file = NULL;
    if (status != OK && file_join(folder, entries[i]->d_name, &path) == OK &&
        h5_open(&file, path, "qst-taps", TAP_VERSION) == OK)
      status = tap_format_read(file, out);
    h5_close(&file);
    free(path);
    free(entries[i]);
  }
  free(entries);
  return status;
}

/* ---- what is to go ---------------------------------------------------------------------------------------- */

static int largest_row(const struct tap_segment *segment, int64_t most) {
  for (int64_t i = 0; i < segment->count; i++) {
    int64_t tokens = segment->tokens[i + 1] - segment->tokens[i];
    most = tokens > most ? tokens : most;
  }
  return (int)most;
}

/* What cannot even be opened may be whole. */
static int try_open(const struct tap_reader *reader, const struct tap_segment *segment) {
  char *path;
  TRY(file_join(reader->folder, segment->name, &path));
  int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  int status = descriptor >= 0 || errno == ENOENT ? OK : fail(ERR_SYSTEM, "%s: %s", path, strerror(errno));
  if (descriptor >= 0) close(descriptor);
  free(path);
  return status;
}

/* Every row of the segment, those that other segments hold as well included. */
static int verify(struct tap_reader *reader, int s, const struct tap_planes *planes, bool *good) {
  *good = reader->segments[s].count > 0;
  if (!*good) TRY(try_open(reader, &reader->segments[s]));
  for (int64_t i = 0; *good && i < reader->segments[s].count; i++) {
    int status = tap_read_place(reader, s, i, planes);
    if (status != OK && status != ERR_INPUT) return status;
    *good = status == OK;
    if (status != OK) log_warning("%s", fail_message());
  }
  return OK;
}

static int remove_segment(struct tap_reader *reader, int s, struct tap_pruned *out) {
  struct tap_segment *segment = &reader->segments[s];
  struct stat info;
  char *path;
  TRY(file_join(reader->folder, segment->name, &path));
  if (stat(path, &info) == 0) out->bytes += (int64_t)info.st_size;
  int status = unlink(path) == 0 || errno == ENOENT ? OK : fail(ERR_SYSTEM, "%s: %s", path, strerror(errno));
  free(path);
  segment->count = 0;
  segment->bytes = 0;
  return status;
}

static int remove_damaged(struct tap_reader *reader, struct tap_pruned *out) {
  int most = 0;
  struct tap_planes planes;
  for (int s = 0; s < reader->segment_count; s++) most = largest_row(&reader->segments[s], most);
  struct tap_format whole = tap_format_whole(&reader->format);
  int status = tap_planes_make(&planes, &whole, most, most);
  for (int s = 0; status == OK && s < reader->segment_count; s++) {
    bool good;
    if (reader->segments[s].foreign) continue;
    status = verify(reader, s, &planes, &good);
    if (status == OK && !good) {
      status = remove_segment(reader, s, out);
      out->damaged++;
    }
  }
  tap_planes_free(&planes);
  return status;
}

/* Segments of all taps, then those of some, the same ones together; the largest first: few large ones rather than many. */
static int by_taps_and_count(const void *left, const void *right) {
  const struct tap_segment *a = left, *b = right;
  if (a->format.taps != b->format.taps) return b->format.taps - a->format.taps;
  if (a->format.first != b->format.first) return a->format.first - b->format.first;
  return a->count != b->count ? (a->count < b->count) - (a->count > b->count) : strcmp(a->name, b->name);
}

/* Those of segments first .. end, which are of the same taps, whose rows others of them have, or `held` says are held.
 * `held` then has their rows, too. */
static int remove_doubled_among(struct tap_reader *reader, int first, int end, bool *held, struct tap_pruned *out) {
  for (int s = first; s < end; s++) {
    const struct tap_segment *segment = &reader->segments[s];
    bool news = false;
    for (int64_t i = 0; i < segment->count; i++) {
      news = news || !held[segment->rows[i]];
      held[segment->rows[i]] = true;
    }
    if (segment->count == 0 || news) continue;
    TRY(remove_segment(reader, s, out));
    out->doubled++;
  }
  return OK;
}

static int remove_doubled(struct tap_reader *reader, struct tap_pruned *out) {
  bool *whole, *held = NULL;
  size_t rows = (size_t)reader->data->rows;
  TRY(memory_array(&whole, rows, sizeof *whole));
  int status = memory_array(&held, rows, sizeof *held);
  qsort(reader->segments, (size_t)reader->segment_count, sizeof *reader->segments, by_taps_and_count);
  for (int first = 0, end; status == OK && first < reader->segment_count; first = end) {
    const struct tap_format *format = &reader->segments[first].format;
    for (end = first; end < reader->segment_count && reader->segments[end].format.taps == format->taps &&
                      reader->segments[end].format.first == format->first;)
      end++;
    bool all = tap_format_is_whole(format);
    memcpy(held, whole, rows * sizeof *held);
    status = remove_doubled_among(reader, first, end, all ? whole : held, out);
  }
  free(whole);
  free(held);
  return status;
}

int tap_prune(struct tap_reader *reader, int64_t limit, struct tap_pruned *out) {
  *out = (struct tap_pruned){0};
  TRY(remove_damaged(reader, out));
  TRY(remove_doubled(reader, out));
  for (int s = reader->segment_count - 1; limit > 0 && s >= 0 && tap_reader_bytes(reader) > limit; s--) {
    if (reader->segments[s].count == 0) continue;
    TRY(remove_segment(reader, s, out));
    out->beyond++;
  }
  return OK;
}
