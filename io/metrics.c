#include "io/metrics.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"

enum { FORMAT = 1 };

struct metrics {
  int descriptor;
  char *path;
};

int metrics_open(struct metrics **out, const char *path) {
  struct metrics *metrics;
  TRY(memory_array(&metrics, 1, sizeof *metrics));
  metrics->descriptor = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (metrics->descriptor < 0) {
    free(metrics);
    return fail(ERR_SYSTEM, "%s: %s", path, strerror(errno));
  }
  metrics->path = strdup(path);
  *out = metrics;
  if (metrics->path) return OK;
  metrics_close(out);
  return fail(ERR_MEMORY, "not enough memory for a path");
}

void metrics_close(struct metrics **metrics) {
  if (!*metrics) return;
  close((*metrics)->descriptor);
  free((*metrics)->path);
  free(*metrics);
  *metrics = NULL;
}

/* One write() for the line, so that a kill cannot leave half a line before other lines. */
static int append(struct metrics *metrics, const char *line, size_t size) {
  off_t before = lseek(metrics->descriptor, 0, SEEK_END);
  ssize_t put;
  do put = write(metrics->descriptor, line, size);
  while (put < 0 && errno == EINTR);
  if (put == (ssize_t)size) return OK;
  int reason = put < 0 ? errno : ENOSPC;
  int restored = put <= 0 || before < 0 ? 0 : ftruncate(metrics->descriptor, before);
  return fail(ERR_SYSTEM, "%s: %s%s", metrics->path, strerror(reason),
              restored == 0 ? "" : " (its last line is incomplete)");
}

/* Takes the object over. */
static int append_object(struct metrics *metrics, json_t *object) {
  char *line = object ? json_dumps(object, JSON_COMPACT | JSON_REAL_PRECISION(10)) : NULL;
  json_decref(object);
  if (!line) return fail(ERR_MEMORY, "%s: not enough memory for a line", metrics->path);
  size_t size = strlen(line);
  line[size] = '\n'; /* in the place of the terminating 0 */
  int status = append(metrics, line, size + 1);
  free(line);
  return status;
}

static json_t *number(double value) {
  return isfinite(value) ? json_real(value) : json_null();
}

/* Paths may hold bytes that are not UTF-8, which JSON cannot. */
static json_t *text(const char *value, size_t size) {
  json_t *string = json_stringn(value, size);
  return string ? string : json_string("(not UTF-8)");
}

static const char *trim(const char *begin, const char **end) {
  while (begin < *end && *begin == ' ') begin++;
  while (begin < *end && (*end)[-1] == ' ') --*end;
  return begin;
}

static json_t *settings_object(const char *lines) {
  json_t *object = json_object();
  while (lines && *lines) {
    const char *end = lines + strcspn(lines, "\n");
    const char *equals = memchr(lines, '=', (size_t)(end - lines));
    const char *next = *end ? end + 1 : end;
    if (equals) {
      const char *key_end = equals;
      const char *key = trim(lines, &key_end);
      const char *value = trim(equals + 1, &end);
      json_object_setn_new(object, key, (size_t)(key_end - key), text(value, (size_t)(end - value)));
    }
    lines = next;
  }
  return object;
}

int metrics_start(struct metrics *metrics, const struct metrics_start *start) {
  return append_object(
      metrics, json_pack("{s:s, s:i, s:I, s:o, s:o, s:i, s:i, s:I, s:I, s:o}", "type", "start", "format", FORMAT,
                         "step", (json_int_t)start->step, "version", text(start->version, strlen(start->version)),
                         "device", text(start->device, strlen(start->device)), "ranks", start->ranks, "threads",
                         start->threads, "trained_parameters", (json_int_t)start->trained_parameters, "buffer_bytes",
                         (json_int_t)start->buffer_bytes, "options", settings_object(start->settings)));
}

int metrics_step(struct metrics *metrics, const struct metrics_step *step) {
  return append_object(
      metrics,
      json_pack("{s:s, s:I, s:o, s:o, s:o, s:o, s:I, s:I, s:o, s:o, s:I, s:o, s:o}", "type", "step", "step",
                (json_int_t)step->step, "epoch", number(step->epoch), "loss", number(step->loss), "lr",
                number(step->lr), "grad_norm", number(step->grad_norm), "tokens", (json_int_t)step->tokens,
                "label_tokens", (json_int_t)step->label_tokens, "tokens_per_second", number(step->tokens_per_second),
                "seconds", number(step->seconds), "memory_bytes", (json_int_t)step->memory_bytes, "fraction_of_peak",
                number(step->fraction_of_peak), "idle", number(step->idle)));
}

int metrics_eval(struct metrics *metrics, const struct metrics_eval *eval) {
  return append_object(metrics, json_pack("{s:s, s:I, s:o, s:o, s:I}", "type", "eval", "step", (json_int_t)eval->step,
                                          "loss", number(eval->loss), "perplexity", number(eval->perplexity),
                                          "label_tokens", (json_int_t)eval->label_tokens));
}

int metrics_end(struct metrics *metrics, const struct metrics_end *end) {
  return append_object(metrics, json_pack("{s:s, s:I, s:o}", "type", "end", "step", (json_int_t)end->step, "seconds",
                                          number(end->seconds)));
}
