#include "io/tap_reader.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "io/chat.h"
#include "io/tap_reader_internal.h"

enum { MOST_DESCRIPTORS = 128 };

int64_t tap_row_tokens(const struct token_file *data, int64_t row) {
  return data->offsets[row + 1] - data->offsets[row];
}

int64_t tap_row_labels(const struct token_file *data, int64_t row) {
  int64_t count = 0;
  for (int64_t i = data->offsets[row] + 1; i < data->offsets[row + 1]; i++) count += data->labels[i] != LABEL_NONE;
  return count;
}

int tap_reader_open(struct tap_reader **out, const char *folder, const struct tap_format *format,
                    const struct token_file *data) {
  TRY(memory_array(out, 1, sizeof **out));
  struct tap_reader *reader = *out;
  reader->format = *format;
  reader->data = data;
  reader->folder = strdup(folder);
  if (!reader->folder) return fail(ERR_MEMORY, "not enough memory for a path");
  TRY(memory_array(&reader->heads, (size_t)data->rows, sizeof *reader->heads));
  return memory_array(&reader->whole, (size_t)data->rows, sizeof *reader->whole);
}

static void free_segment(struct tap_segment *segment) {
  if (segment->descriptor >= 0) close(segment->descriptor);
  free(segment->name);
  tap_segment_free(segment);
}

void tap_reader_close(struct tap_reader **reader) {
  struct tap_reader *r = *reader;
  if (!r) return;
  for (int i = 0; i < r->segment_count; i++) free_segment(&r->segments[i]);
  tap_cache_close(&r->cache);
  free(r->segments);
  tap_planes_free(&r->scratch);
  free(r->places);
  free(r->heads);
  free(r->whole);
  free(r->folder);
  free(r);
  *reader = NULL;
}

/* ---- where rows lie -------------------------------------------------------------------------------------- */

/* The place among a row's that has the tap and the most after it; NULL without one. */
static const struct tap_place *place_of(const struct tap_reader *reader, int64_t row, int tap) {
  const struct tap_place *best = NULL;
  int end = tap;
  for (int32_t at = reader->heads[row]; at; at = reader->places[at - 1].next) {
    const struct tap_place *place = &reader->places[at - 1];
    const struct tap_format *format = &reader->segments[place->segment].format;
    if (format->first > tap || format->first + format->taps <= end) continue;
    best = place;
    end = format->first + format->taps;
  }
  return best;
}

static bool covers(const struct tap_reader *reader, int64_t row, const struct tap_format *wanted) {
  for (int tap = wanted->first; tap < wanted->first + wanted->taps;) {
    const struct tap_place *place = place_of(reader, row, tap);
    if (!place) return false;
    const struct tap_format *format = &reader->segments[place->segment].format;
    tap = format->first + format->taps;
  }
  return true;
}

static int make_room(struct tap_reader *reader, int64_t more) {
  int64_t needed = reader->place_count + more, capacity = reader->place_capacity;
  if (needed <= capacity) return OK;
  capacity = needed > 2 * capacity ? needed : 2 * capacity;
  if (capacity > INT32_MAX) return fail(ERR_INPUT, "%s: has too many rows", reader->folder);
  struct tap_place *grown = realloc(reader->places, (size_t)capacity * sizeof *grown);
  if (!grown) return fail(ERR_MEMORY, "not enough memory for a list of rows");
  reader->places = grown;
  reader->place_capacity = (int32_t)capacity;
  return OK;
}

static int place_rows(struct tap_reader *reader, int s) {
  const struct tap_segment *segment = &reader->segments[s];
  struct tap_format whole = tap_format_whole(&reader->format);
  TRY(make_room(reader, segment->count));
  for (int64_t i = 0; i < segment->count; i++) {
    int64_t row = segment->rows[i];
    if (covers(reader, row, &segment->format)) continue;
    reader->places[reader->place_count++] =
        (struct tap_place){.segment = s, .index = (int32_t)i, .next = reader->heads[row]};
    reader->heads[row] = reader->place_count;
    if (reader->whole[row] || !covers(reader, row, &whole)) continue;
    reader->whole[row] = true;
    reader->row_count++;
  }
  return OK;
}

static int load_segment(struct tap_reader *reader, int s, const char *path) {
  struct tap_segment *segment = &reader->segments[s];
  struct stat info = {0};
  (void)stat(path, &info);
  segment->file = info.st_ino;
  segment->changed = info.st_ctim;
  int status = tap_segment_read(segment, reader, path);
  if (status == OK) status = place_rows(reader, s);
  if (status == OK) segment->bytes = (int64_t)info.st_size;
  if (status == OK) return OK;
  segment->count = 0;
  tap_segment_free(segment);
  if (status != ERR_INPUT) return status;
  if (!segment->foreign)
    log_warning("%s; the segment is passed over", fail_message());
  else if (!reader->foreign_said)
    snprintf(reader->foreign, sizeof reader->foreign, "%s", fail_message());
  return OK;
}

static int add_segment(struct tap_reader *reader, const char *name, int *s) {
  if (reader->segment_count == reader->segment_capacity) {
    int capacity = reader->segment_capacity ? 2 * reader->segment_capacity : 16;
    struct tap_segment *grown = realloc(reader->segments, (size_t)capacity * sizeof *grown);
    if (!grown) return fail(ERR_MEMORY, "not enough memory for a list of segments");
    reader->segments = grown;
    reader->segment_capacity = capacity;
  }
  *s = reader->segment_count++;
  struct tap_segment *segment = &reader->segments[*s];
  *segment = (struct tap_segment){.descriptor = -1, .name = strdup(name)};
  return segment->name ? OK : fail(ERR_MEMORY, "not enough memory for a path");
}

/* ---- the folder ----------------------------------------------------------------------------------------- */

int tap_is_segment(const struct dirent *entry) {
  size_t length = strlen(entry->d_name);
  return strncmp(entry->d_name, "segment-", 8) == 0 && strcmp(entry->d_name + length - 3, ".h5") == 0;
}

/* The segment of this name; -1 without one. */
static int find_segment(const struct tap_reader *reader, const char *name) {
  int s = reader->segment_count - 1;
  while (s >= 0 && strcmp(reader->segments[s].name, name) != 0) s--;
  return s;
}

/* Whoever computes the rows of a damaged segment again puts a whole one in its place. */
static bool is_replaced(const struct tap_segment *segment, const char *path) {
  struct stat info;
  if (segment->count > 0 || stat(path, &info) != 0) return false;
  return info.st_ino != segment->file || info.st_ctim.tv_sec != segment->changed.tv_sec ||
         info.st_ctim.tv_nsec != segment->changed.tv_nsec;
}

static int look_at(struct tap_reader *reader, const char *name) {
  char *path;
  int s = find_segment(reader, name);
  bool known = s >= 0;
  if (!known) TRY(add_segment(reader, name, &s));
  TRY(file_join(reader->folder, name, &path));
  int status = known && !is_replaced(&reader->segments[s], path) ? OK : load_segment(reader, s, path);
  free(path);
  return status;
}

static void close_segment(struct tap_reader *reader, struct tap_segment *segment) {
  if (segment->descriptor < 0) return;
  close(segment->descriptor);
  segment->descriptor = -1;
  reader->open_count--;
}

/* Segments of the store are closed, so that they are looked for in the cache again. */
static int want_copies(struct tap_reader *reader) {
  const char **names;
  int count = 0;
  if (reader->cache_faults > 0)
    log_warning("%d segments in the tap cache did not hold: read from %s instead", reader->cache_faults,
                reader->folder);
  reader->cache_faults = 0;
  TRY(memory_array(&names, (size_t)reader->segment_count + 1, sizeof(char *)));
  for (int i = 0; i < reader->segment_count; i++) {
    struct tap_segment *segment = &reader->segments[i];
    if (!segment->cached) close_segment(reader, segment);
    if (segment->count > 0 && !segment->shunned) names[count++] = segment->name;
  }
  int status = tap_cache_want(reader->cache, names, count);
  free(names);
  return status;
}

void tap_reader_use_cache(struct tap_reader *reader, struct tap_cache *cache) {
  reader->cache = cache;
}

/* Two runs that began at the same time may have filled one folder with different things: each finds its own. */
static int judge_foreign(struct tap_reader *reader) {
  if (!reader->foreign[0]) return OK;
  if (reader->place_count == 0) return fail(ERR_INPUT, "%s", reader->foreign);
  log_warning("%s; such segments are passed over", reader->foreign);
  reader->foreign[0] = 0;
  reader->foreign_said = true;
  return OK;
}

int tap_reader_scan(struct tap_reader *reader) {
  struct dirent **entries = NULL;
  int count = scandir(reader->folder, &entries, tap_is_segment, alphasort), status = OK;
  if (count < 0) return errno == ENOENT ? OK : fail(ERR_INPUT, "%s: %s", reader->folder, strerror(errno));
  for (int i = 0; i < count; i++) {
    if (status == OK) status = look_at(reader, entries[i]->d_name);
    free(entries[i]);
  }
  free(entries);
  if (status == OK) status = judge_foreign(reader);
  return status == OK && reader->cache ? want_copies(reader) : status;
}

/* ---- reading -------------------------------------------------------------------------------------------- */

bool tap_reader_has(const struct tap_reader *reader, int64_t row) {
  return reader->whole[row];
}

bool tap_reader_holds(const struct tap_reader *reader, int64_t row) {
  return covers(reader, row, &reader->format);
}

int64_t tap_reader_rows(const struct tap_reader *reader) {
  return reader->row_count;
}

int64_t tap_reader_cached_bytes(const struct tap_reader *reader) {
  return reader->cached_bytes;
}

int64_t tap_reader_bytes(const struct tap_reader *reader) {
  int64_t bytes = 0;
  for (int i = 0; i < reader->segment_count; i++) bytes += reader->segments[i].bytes;
  return bytes;
}

/* A store may have more segments than a process may have files open. */
static void close_one(struct tap_reader *reader) {
  for (;; reader->victim++) {
    struct tap_segment *segment = &reader->segments[reader->victim % reader->segment_count];
    if (segment->descriptor < 0) continue;
    close_segment(reader, segment);
    return;
  }
}

static int open_copy(struct tap_reader *reader, struct tap_segment *segment) {
  char *path;
  if (!reader->cache || segment->shunned) return OK;
  TRY(tap_cache_path(reader->cache, segment->name, &path));
  segment->descriptor = open(path, O_RDONLY | O_CLOEXEC);
  segment->cached = segment->descriptor >= 0;
  free(path);
  return OK;
}

static int open_segment(struct tap_reader *reader, struct tap_segment *segment) {
  if (segment->descriptor >= 0) return OK;
  if (reader->open_count == MOST_DESCRIPTORS) close_one(reader);
  TRY(open_copy(reader, segment));
  reader->open_count += segment->cached;
  if (segment->cached) return OK;
  char *path;
  TRY(file_join(reader->folder, segment->name, &path));
  segment->descriptor = open(path, O_RDONLY | O_CLOEXEC);
  int missing = errno == ENOENT ? ERR_INPUT : ERR_SYSTEM;
  int status = segment->descriptor >= 0 ? OK : fail(missing, "%s: %s", path, strerror(errno));
  reader->open_count += status == OK;
  free(path);
  return status;
}

static int read_bytes(const struct tap_segment *segment, char *out, size_t size, uint64_t offset) {
  while (size > 0) {
    ssize_t got = pread(segment->descriptor, out, size, (off_t)offset);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return fail(ERR_SYSTEM, "%s: %s", segment->name, strerror(errno));
    if (got == 0) return fail(ERR_INPUT, "%s: the file ends", segment->name);
    out += got;
    size -= (size_t)got;
    offset += (uint64_t)got;
  }
  return OK;
}

/* The disk works on rows while those before them are copied and checked. */
static void read_ahead(struct tap_reader *reader, int64_t row) {
  const struct tap_place *place = place_of(reader, row, reader->format.first);
  if (!place) return;
  struct tap_segment *segment = &reader->segments[place->segment];
  if (open_segment(reader, segment) != OK) return; /* reading it says so */
  for (int p = 0; p < TAP_PLANES; p++) {
    enum tap_plane plane = (enum tap_plane)p;
    const int64_t *lines = plane == TAP_PLANE_NORMED ? segment->labels : segment->tokens;
    uint64_t width = tap_plane_bytes(&segment->format, plane), first = (uint64_t)lines[place->index] * width;
    uint64_t size = (uint64_t)lines[place->index + 1] * width - first;
    if (size > 0)
      posix_fadvise(segment->descriptor, (off_t)(segment->offsets[p] + first), (off_t)size, POSIX_FADV_WILLNEED);
  }
}

static int read_planes(struct tap_reader *reader, struct tap_segment *segment, int64_t i,
                       const struct tap_planes *out) {
  int64_t token = segment->tokens[i], tokens = segment->tokens[i + 1] - token;
  int64_t label = segment->labels[i], labels = segment->labels[i + 1] - label;
  TRY(open_segment(reader, segment));
  for (int p = 0; p < TAP_PLANES; p++) {
    enum tap_plane plane = (enum tap_plane)p;
    size_t width = tap_plane_bytes(&segment->format, plane),
           size = (size_t)tap_plane_lines(plane, tokens, labels) * width;
    uint64_t first = (uint64_t)tap_plane_lines(plane, token, label) * width;
    TRY(read_bytes(segment, out->at[p], size, segment->offsets[p] + first));
    if (segment->cached) reader->cached_bytes += (int64_t)size;
  }
  struct hash_text hash;
  TRY(tap_planes_hash(&segment->format, out, tokens, labels, &hash));
  if (memcmp(hash.hex, segment->hashes + 32 * (size_t)i, 32) == 0) return OK;
  return fail(ERR_INPUT, "%s/%s: the taps of row %lld are damaged: their hash does not hold", reader->folder,
              segment->name, (long long)segment->rows[i] + 1);
}

int tap_read_place(struct tap_reader *reader, int segment_number, int64_t index, const struct tap_planes *out) {
  struct tap_segment *segment = &reader->segments[segment_number];
  int status = read_planes(reader, segment, index, out);
  if (status == OK || !segment->cached) return status;
  close_segment(reader, segment);
  segment->cached = false;
  segment->shunned = true;
  reader->cache_faults++;
  tap_cache_drop(reader->cache, segment->name);
  return read_planes(reader, segment, index, out);
}

/* Taps [first, end) of a row between formats, and the final normed state where both have it. */
static void copy_taps(const struct tap_format *to_format, const struct tap_planes *to,
                      const struct tap_format *from_format, const struct tap_planes *from, int first, int end,
                      int64_t tokens, int64_t labels) {
  for (int p = TAP_PLANE_TAPS; p <= TAP_PLANE_SCALES; p++) {
    enum tap_plane plane = (enum tap_plane)p;
    size_t to_line = tap_plane_bytes(to_format, plane), from_line = tap_plane_bytes(from_format, plane);
    size_t tap = to_line / (size_t)to_format->taps, bytes = tap * (size_t)(end - first);
    for (int64_t t = 0; bytes > 0 && t < tokens; t++)
      memcpy(to->at[p] + (size_t)t * to_line + tap * (size_t)(first - to_format->first),
             from->at[p] + (size_t)t * from_line + tap * (size_t)(first - from_format->first), bytes);
  }
  size_t normed = (size_t)labels * tap_plane_bytes(to_format, TAP_PLANE_NORMED);
  if (tap_plane_bytes(from_format, TAP_PLANE_NORMED) > 0)
    memcpy(to->at[TAP_PLANE_NORMED], from->at[TAP_PLANE_NORMED], normed);
}

static int scratch_for(struct tap_reader *reader, int64_t tokens) {
  if (tokens <= reader->scratch_tokens) return OK;
  struct tap_format whole = tap_format_whole(&reader->format);
  tap_planes_free(&reader->scratch);
  reader->scratch_tokens = 0;
  TRY(tap_planes_make(&reader->scratch, &whole, tokens, tokens));
  reader->scratch_tokens = tokens;
  return OK;
}

/* The row's taps from `tap` on, as far as one segment has them; *tap moves behind them. */
static int read_part(struct tap_reader *reader, int64_t row, int *tap, const struct tap_planes *out) {
  const struct tap_format *own = &reader->format;
  const struct tap_place *place = place_of(reader, row, *tap);
  if (!place) return fail(ERR_INTERNAL, "row %lld is not in the store", (long long)row);
  const struct tap_format *format = &reader->segments[place->segment].format;
  int own_end = own->first + own->taps, end = format->first + format->taps;
  if (end > own_end) end = own_end;
  if (format->first == own->first && format->taps == own->taps) {
    TRY(tap_read_place(reader, place->segment, place->index, out));
  } else {
    int64_t tokens = tap_row_tokens(reader->data, row), labels = tap_row_labels(reader->data, row);
    TRY(scratch_for(reader, tokens));
    TRY(tap_read_place(reader, place->segment, place->index, &reader->scratch));
    copy_taps(own, out, format, &reader->scratch, *tap, end, tokens, labels);
  }
  *tap = end;
  return OK;
}

static int read_row(struct tap_reader *reader, int64_t row, const struct tap_planes *out) {
  int end = reader->format.first + reader->format.taps;
  for (int tap = reader->format.first; tap < end;) TRY(read_part(reader, row, &tap, out));
  return OK;
}

int tap_reader_read(struct tap_reader *reader, const int64_t *rows, int count, const struct tap_planes *out) {
  enum { AHEAD = 16 };
  struct tap_planes to = *out;
  for (int i = 0; i < count && i < AHEAD; i++) read_ahead(reader, rows[i]);
  for (int i = 0; i < count; i++) {
    if (i + AHEAD < count) read_ahead(reader, rows[i + AHEAD]);
    TRY(read_row(reader, rows[i], &to));
    to = tap_planes_at(&reader->format, &to, tap_row_tokens(reader->data, rows[i]),
                       tap_row_labels(reader->data, rows[i]));
  }
  return OK;
}
