#include "io/tap_writer.h"

#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"

/* Syncing and renaming a segment that HDF5 is done with: only calls of the operating system, beside the training. */
struct sealing {
  pthread_t thread;
  bool running;
  char *temporary, *path;
  int status;
  char message[ERROR_LINE];
};

struct tap_writer {
  char *folder;
  struct tap_format format;
  struct hash_text identity; /* of the format */
  int64_t capacity;          /* tokens of a segment */
  int64_t count;             /* rows gathered */
  int64_t *rows;             /* [capacity] */
  int64_t *tokens, *labels;  /* [capacity + 1] */
  struct hash_text *hashes;  /* [capacity] */
  struct tap_planes planes;
  struct sealing sealing;
};

enum { DAY = 24 * 60 * 60 };

/* Of a segment, or a copy of one; of the index; of the probe of the disk. Others' files are none of our business. */
static int is_temporary(const struct dirent *entry) {
  static const char *const ours[] = {"segment", "index.h5.tmp-", "probe.tmp-"};
  for (int i = 0; i < 3; i++)
    if (strncmp(entry->d_name, ours[i], strlen(ours[i])) == 0) return strstr(entry->d_name, ".tmp-") != NULL;
  return false;
}

/* Whether the process of this host that base/file.h named the file after is gone. */
static bool is_of_dead_process(const char *name) {
  char host[64] = "", *end;
  gethostname(host, sizeof host - 1);
  const char *mark = strstr(name, ".tmp-") + 5;
  size_t length = strlen(host);
  if (strncmp(mark, host, length) != 0 || mark[length] != '-') return false;
  long process = strtol(mark + length + 1, &end, 10); /* another host's name may begin like this one's */
  return *end == 0 && process > 0 && kill((pid_t)process, 0) != 0 && errno == ESRCH;
}

/* Nobody writes one file for a day, whatever the host. */
static bool is_old(const char *path) {
  struct stat info;
  return stat(path, &info) == 0 && time(NULL) - info.st_mtime > DAY;
}

int tap_writer_clear(const char *folder) {
  struct dirent **entries = NULL;
  int count = scandir(folder, &entries, is_temporary, NULL), status = OK;
  for (int i = 0; i < count; i++) {
    char *path = NULL;
    if (status == OK) status = file_join(folder, entries[i]->d_name, &path);
    if (path && (is_of_dead_process(entries[i]->d_name) || is_old(path))) unlink(path);
    free(path);
    free(entries[i]);
  }
  free(entries);
  return status;
}

static int identify(const struct tap_format *format, struct hash_text *out) {
  struct buffer text = {0};
  int status = tap_format_print(format, &text);
  if (status == OK) *out = hash_bytes(text.data, text.size);
  buffer_free(&text);
  return status;
}

int tap_writer_open(struct tap_writer **out, const char *folder, const struct tap_format *format, int64_t tokens) {
  TRY(file_make_folder(folder));
  TRY(tap_writer_clear(folder));
  TRY(memory_array(out, 1, sizeof **out));
  struct tap_writer *writer = *out;
  writer->format = *format;
  TRY(identify(format, &writer->identity));
  writer->capacity = tokens;
  writer->folder = strdup(folder);
  if (!writer->folder) return fail(ERR_MEMORY, "not enough memory for a path");
  size_t count = (size_t)tokens + 1;
  TRY(memory_array(&writer->rows, count, sizeof *writer->rows));
  TRY(memory_array(&writer->tokens, count, sizeof *writer->tokens));
  TRY(memory_array(&writer->labels, count, sizeof *writer->labels));
  TRY(memory_array(&writer->hashes, count, sizeof *writer->hashes));
  return tap_planes_make(&writer->planes, format, tokens, tokens);
}

/* ---- sealing -------------------------------------------------------------------------------------------- */

static void *publish(void *context) {
  struct sealing *sealing = context;
  sealing->status = file_publish(sealing->temporary, sealing->path);
  snprintf(sealing->message, sizeof sealing->message, "%s", fail_message());
  return NULL;
}

static void forget_paths(struct sealing *sealing) {
  free(sealing->temporary);
  free(sealing->path);
  sealing->temporary = sealing->path = NULL;
}

static int wait_for_sealing(struct sealing *sealing) {
  if (!sealing->running) return OK;
  pthread_join(sealing->thread, NULL);
  sealing->running = false;
  forget_paths(sealing);
  return sealing->status == OK ? OK : fail(sealing->status, "%s", sealing->message);
}

/* Takes `temporary`. Without a thread, it is done at once. */
static int start_sealing(struct sealing *sealing, char *temporary, const char *path) {
  sealing->temporary = temporary;
  sealing->path = strdup(path);
  if (!sealing->path) {
    forget_paths(sealing);
    return fail(ERR_MEMORY, "not enough memory for a path");
  }
  sealing->running = pthread_create(&sealing->thread, NULL, publish, sealing) == 0;
  if (sealing->running) return OK;
  publish(sealing);
  forget_paths(sealing);
  return sealing->status;
}

/* ---- a segment ------------------------------------------------------------------------------------------ */

/* Equal rows of equal taps have equal names: a second writer of the same rows replaces a file by itself, and one that was
 * damaged by a whole one. */
static int segment_path(const struct tap_writer *writer, char **out) {
  char name[64];
  struct hash_state *state;
  const struct tap_format *format = &writer->format;
  TRY(hash_begin(&state));
  hash_more(state, &writer->identity, sizeof writer->identity);
  hash_more(state, writer->rows, (size_t)writer->count * sizeof *writer->rows);
  struct hash_text hash = hash_digest(state);
  hash_end(&state);
  if (tap_format_is_whole(format))
    snprintf(name, sizeof name, "segment-%.16s.h5", hash.hex);
  else
    snprintf(name, sizeof name, "segment-%.16s-%d-%d.h5", hash.hex, format->first, format->first + format->taps);
  return file_join(writer->folder, name, out);
}

static int write_hashes(const struct tap_writer *writer, struct h5_file *file) {
  TRY(h5_write_begin(file, "/hashes", H5_U8, (uint64_t)writer->count, 32));
  for (int64_t i = 0; i < writer->count; i++) TRY(h5_write_more(file, writer->hashes[i].hex, 32));
  return h5_write_end(file);
}

static int write_content(const struct tap_writer *writer, struct h5_file *file) {
  const struct tap_format *format = &writer->format;
  uint64_t count = (uint64_t)writer->count;
  TRY(tap_format_write(file, format));
  TRY(h5_write(file, "/rows", H5_I64, count, 0, writer->rows));
  TRY(h5_write(file, "/tokens", H5_I64, count + 1, 0, writer->tokens));
  TRY(h5_write(file, "/labels", H5_I64, count + 1, 0, writer->labels));
  TRY(write_hashes(writer, file));
  for (int p = 0; p < TAP_PLANES; p++) {
    enum tap_plane plane = (enum tap_plane)p;
    uint64_t cols = tap_plane_cols(format, plane);
    if (cols == 0) continue;
    int64_t lines = tap_plane_lines(plane, writer->tokens[count], writer->labels[count]);
    TRY(h5_write(file, tap_plane_name(plane), tap_plane_type(format, plane), (uint64_t)lines, cols,
                 writer->planes.at[p]));
  }
  return OK;
}

static int write_segment(struct tap_writer *writer, const char *path) {
  struct h5_file *file;
  char *temporary = NULL;
  TRY(h5_create(&file, path, "qst-taps", TAP_VERSION));
  int status = write_content(writer, file);
  if (status == OK) status = h5_finish(&file, &temporary);
  h5_close(&file);
  return status == OK ? start_sealing(&writer->sealing, temporary, path) : status;
}

static int flush_segment(struct tap_writer *writer) {
  if (writer->count == 0) return OK;
  TRY(wait_for_sealing(&writer->sealing));
  char *path;
  TRY(segment_path(writer, &path));
  int status = write_segment(writer, path);
  free(path);
  writer->count = 0;
  return status;
}

/* ---- use ------------------------------------------------------------------------------------------------ */

int tap_writer_add(struct tap_writer *writer, int64_t row, int64_t tokens, int64_t labels,
                   const struct tap_planes *planes) {
  const struct tap_format *format = &writer->format;
  if (tokens > writer->capacity || labels > tokens)
    return fail(ERR_INTERNAL, "a row of %lld tokens in segments of %lld", (long long)tokens,
                (long long)writer->capacity);
  if (writer->tokens[writer->count] + tokens > writer->capacity) TRY(flush_segment(writer));
  int64_t i = writer->count;
  struct tap_planes to = tap_planes_at(format, &writer->planes, writer->tokens[i], writer->labels[i]);
  for (int p = 0; p < TAP_PLANES; p++)
    memcpy(to.at[p], planes->at[p],
           (size_t)tap_plane_lines((enum tap_plane)p, tokens, labels) * tap_plane_bytes(format, (enum tap_plane)p));
  TRY(tap_planes_hash(format, &to, tokens, labels, &writer->hashes[i]));
  writer->rows[i] = row;
  writer->tokens[i + 1] = writer->tokens[i] + tokens;
  writer->labels[i + 1] = writer->labels[i] + labels;
  writer->count++;
  return OK;
}

int tap_writer_seal(struct tap_writer *writer) {
  TRY(flush_segment(writer));
  return wait_for_sealing(&writer->sealing);
}

void tap_writer_close(struct tap_writer **writer) {
  struct tap_writer *w = *writer;
  if (!w) return;
  wait_for_sealing(&w->sealing);
  tap_planes_free(&w->planes);
  free(w->rows);
  free(w->tokens);
  free(w->labels);
  free(w->hashes);
  free(w->folder);
  free(w);
  *writer = NULL;
}
