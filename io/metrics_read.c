#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "io/metrics.h"

enum { FORMAT = 1 };
static const uint64_t FILE_LIMIT = (uint64_t)1 << 30;

/** Takes the next complete line of a text. False at the end, or when only an incomplete line is left. */
struct lines {
  const char *next, *end;
  const char *line;
  size_t size;
  int64_t number;
};

static bool next_line(struct lines *lines) {
  const char *end = memchr(lines->next, '\n', (size_t)(lines->end - lines->next));
  if (!end) return false;
  lines->line = lines->next;
  lines->size = (size_t)(end - lines->next);
  lines->next = end + 1;
  lines->number++;
  return true;
}

static int number_of(const json_t *object, const char *key, double *out) {
  const json_t *value = json_object_get(object, key);
  *out = json_is_null(value) ? (double)NAN : json_number_value(value);
  return json_is_number(value) || json_is_null(value) ? OK : fail(ERR_INPUT, "\"%s\" is not a number", key);
}

/* NAN where the line was written by a version without this number. */
static int newer_number_of(const json_t *object, const char *key, double *out) {
  *out = (double)NAN;
  return json_object_get(object, key) ? number_of(object, key, out) : OK;
}

static int integer_of(const json_t *object, const char *key, int64_t *out) {
  const json_t *value = json_object_get(object, key);
  *out = json_integer_value(value);
  return json_is_integer(value) && *out >= 0 ? OK : fail(ERR_INPUT, "\"%s\" is not a whole number", key);
}

static int small_integer_of(const json_t *object, const char *key, int *out) {
  int64_t value;
  TRY(integer_of(object, key, &value));
  *out = (int)value;
  return value <= INT32_MAX ? OK : fail(ERR_INPUT, "\"%s\" is out of range", key);
}

/* Replaces *out, also by "" when the object has no such text. */
static int text_of(const json_t *object, const char *key, char **out) {
  const char *value = json_string_value(json_object_get(object, key));
  free(*out);
  *out = strdup(value ? value : "");
  return *out ? OK : fail(ERR_MEMORY, "not enough memory for a text");
}

static int settings_of(const json_t *object, char **out) {
  struct buffer lines = {0};
  int status = buffer_append(&lines, "", 0);
  const char *key;
  json_t *value;
  json_object_foreach(json_object_get(object, "options"), key, value) {
    if (status == OK && json_is_string(value))
      status = buffer_print(&lines, "%s = %s\n", key, json_string_value(value));
  }
  free(*out);
  *out = lines.data;
  return status;
}

static int read_start(const json_t *object, struct metrics_log *log) {
  int format;
  TRY(small_integer_of(object, "format", &format));
  if (format > FORMAT) return fail(ERR_INPUT, "format %d is newer than this program knows (%d)", format, FORMAT);
  TRY(integer_of(object, "step", &log->start.step));
  TRY(small_integer_of(object, "ranks", &log->start.ranks));
  TRY(small_integer_of(object, "threads", &log->start.threads));
  TRY(integer_of(object, "trained_parameters", &log->start.trained_parameters));
  if (json_object_get(object, "buffer_bytes")) TRY(integer_of(object, "buffer_bytes", &log->start.buffer_bytes));
  int status = text_of(object, "version", &log->version);
  if (status == OK) status = text_of(object, "device", &log->device);
  if (status == OK) status = settings_of(object, &log->settings);
  log->start.version = log->version;
  log->start.device = log->device;
  log->start.settings = log->settings;
  log->start_count++;
  return status;
}

/* Room for one more element of an array that grows by doubling whenever `count` is a power of two. */
static int grow(void *array, size_t count, size_t size) {
  if (count & (count - 1)) return OK;
  void *old;
  memcpy(&old, array, sizeof old);
  void *larger = realloc(old, (count ? 2 * count : 1) * size);
  if (!larger) return fail(ERR_MEMORY, "not enough memory for %zu lines", count);
  memcpy(array, &larger, sizeof larger);
  return OK;
}

static int read_step(const json_t *object, struct metrics_log *log) {
  TRY(grow(&log->steps, log->step_count, sizeof *log->steps));
  struct metrics_step *step = &log->steps[log->step_count];
  TRY(integer_of(object, "step", &step->step));
  TRY(number_of(object, "epoch", &step->epoch));
  TRY(number_of(object, "loss", &step->loss));
  TRY(number_of(object, "lr", &step->lr));
  TRY(number_of(object, "grad_norm", &step->grad_norm));
  TRY(integer_of(object, "tokens", &step->tokens));
  TRY(integer_of(object, "label_tokens", &step->label_tokens));
  TRY(number_of(object, "tokens_per_second", &step->tokens_per_second));
  TRY(number_of(object, "seconds", &step->seconds));
  TRY(integer_of(object, "memory_bytes", &step->memory_bytes));
  TRY(number_of(object, "fraction_of_peak", &step->fraction_of_peak));
  TRY(newer_number_of(object, "idle", &step->idle));
  log->step_count++;
  return OK;
}

static int read_eval(const json_t *object, struct metrics_log *log) {
  TRY(grow(&log->evals, log->eval_count, sizeof *log->evals));
  struct metrics_eval *eval = &log->evals[log->eval_count];
  TRY(integer_of(object, "step", &eval->step));
  TRY(number_of(object, "loss", &eval->loss));
  TRY(number_of(object, "perplexity", &eval->perplexity));
  TRY(integer_of(object, "label_tokens", &eval->label_tokens));
  log->eval_count++;
  return OK;
}

static int read_end(const json_t *object, struct metrics_log *log) {
  TRY(integer_of(object, "step", &log->end.step));
  return number_of(object, "seconds", &log->end.seconds);
}

static int read_object(const json_t *object, struct metrics_log *log) {
  const char *type = json_string_value(json_object_get(object, "type"));
  if (!type) return fail(ERR_INPUT, "has no \"type\"");
  log->ended = strcmp(type, "end") == 0;
  if (log->ended) return read_end(object, log);
  if (strcmp(type, "start") == 0) return read_start(object, log);
  if (strcmp(type, "step") == 0) return read_step(object, log);
  if (strcmp(type, "eval") == 0) return read_eval(object, log);
  return fail(ERR_INPUT, "the type is none of start, step, eval, end");
}

static int read_line(const struct lines *lines, struct metrics_log *log) {
  json_error_t error;
  json_t *object = json_loadb(lines->line, lines->size, JSON_REJECT_DUPLICATES, &error);
  if (!object) return fail(ERR_INPUT, "not JSON: %s", error.text);
  int status = read_object(object, log);
  json_decref(object);
  return status;
}

int metrics_read(const char *path, struct metrics_log *out) {
  struct buffer file = {0};
  int status;
  TRY_GOTO(status, cleanup, file_read(path, FILE_LIMIT, &file));
  struct lines lines = {.next = file.data, .end = file.data + file.size};
  while (status == OK && next_line(&lines)) status = read_line(&lines, out);
  if (status != OK) fail_at(status, "%s:%lld", path, (long long)lines.number);
cleanup:
  buffer_free(&file);
  if (status != OK) metrics_log_free(out);
  return status;
}

void metrics_log_free(struct metrics_log *log) {
  free(log->steps);
  free(log->evals);
  free(log->version);
  free(log->device);
  free(log->settings);
  *log = (struct metrics_log){0};
}

/* The step a line belongs to; -1 when the line is damaged. */
static int64_t step_of(const struct lines *lines) {
  json_t *object = json_loadb(lines->line, lines->size, 0, NULL);
  const json_t *step = json_object_get(object, "step");
  int64_t value = json_is_integer(step) && json_integer_value(step) >= 0 ? json_integer_value(step) : -1;
  json_decref(object);
  return value;
}

static int keep_lines(const struct buffer *file, int64_t step, struct buffer *kept, int64_t *damaged) {
  struct lines lines = {.next = file->data, .end = file->data + file->size};
  while (next_line(&lines)) {
    int64_t of_line = step_of(&lines);
    if (of_line < 0) ++*damaged;
    if (of_line >= 0 && of_line <= step) TRY(buffer_append(kept, lines.line, lines.size + 1));
  }
  return OK;
}

int metrics_truncate(const char *path, int64_t step) {
  if (access(path, F_OK) != 0) return OK;
  struct buffer file = {0}, kept = {0};
  int64_t damaged = 0;
  int status;
  TRY_GOTO(status, cleanup, file_read(path, FILE_LIMIT, &file));
  TRY_GOTO(status, cleanup, keep_lines(&file, step, &kept, &damaged));
  if (damaged) log_warning("%s: %lld damaged lines were dropped", path, (long long)damaged);
  if (kept.size != file.size) status = file_write(path, kept.data, kept.size);
cleanup:
  buffer_free(&file);
  buffer_free(&kept);
  return status;
}
