#include "io/tap_prefetch.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

enum { BUFFERS = 2 };

struct tap_prefetch {
  struct tap_reader *reader;
  struct tap_format format;
  struct tap_planes planes[BUFFERS];
  void *decoded[BUFFERS]; /* act [tokens, taps · cols]; int8 only */
  int current;            /* the buffer of the newest request */
  pthread_t thread;
  bool running;
  /* the newest request and how it went */
  int64_t *rows; /* [tokens] */
  int count;
  int64_t tokens;
  int status;
  char message[ERROR_LINE];
};

int tap_prefetch_open(struct tap_prefetch **out, struct tap_reader *reader, const struct tap_format *format,
                      int64_t tokens) {
  TRY(memory_array(out, 1, sizeof **out));
  struct tap_prefetch *prefetch = *out;
  prefetch->reader = reader;
  prefetch->format = *format;
  TRY(memory_array(&prefetch->rows, (size_t)tokens, sizeof *prefetch->rows));
  size_t decoded = (size_t)format->taps * (size_t)format->cols * dtype_size(format->act);
  for (int i = 0; i < BUFFERS; i++) {
    TRY(tap_planes_make(&prefetch->planes[i], format, tokens, tokens));
    if (format->int8) TRY(memory_array(&prefetch->decoded[i], (size_t)tokens, decoded));
  }
  return OK;
}

void tap_prefetch_close(struct tap_prefetch **prefetch) {
  struct tap_prefetch *p = *prefetch;
  if (!p) return;
  tap_prefetch_wait(p);
  for (int i = 0; i < BUFFERS; i++) {
    tap_planes_free(&p->planes[i]);
    free(p->decoded[i]);
  }
  free(p->rows);
  free(p);
  *prefetch = NULL;
}

static void *read_request(void *context) {
  struct tap_prefetch *prefetch = context;
  const struct tap_planes *planes = &prefetch->planes[prefetch->current];
  prefetch->status = tap_reader_read(prefetch->reader, prefetch->rows, prefetch->count, planes);
  if (prefetch->status != OK)
    snprintf(prefetch->message, sizeof prefetch->message, "%s", fail_message());
  else if (prefetch->format.int8)
    tap_decode(&prefetch->format, planes, prefetch->tokens, prefetch->decoded[prefetch->current]);
  return NULL;
}

void tap_prefetch_wait(struct tap_prefetch *prefetch) {
  if (prefetch->running) pthread_join(prefetch->thread, NULL);
  prefetch->running = false;
}

void tap_prefetch_ask(struct tap_prefetch *prefetch, const int64_t *rows, int count, int64_t tokens) {
  tap_prefetch_wait(prefetch);
  prefetch->current = (prefetch->current + 1) % BUFFERS;
  memcpy(prefetch->rows, rows, (size_t)count * sizeof *rows);
  prefetch->count = count;
  prefetch->tokens = tokens;
  prefetch->running = pthread_create(&prefetch->thread, NULL, read_request, prefetch) == 0;
  if (!prefetch->running) read_request(prefetch);
}

int tap_prefetch_take(struct tap_prefetch *prefetch, const int64_t *rows, int count, int64_t tokens, const void **taps,
                      const void **normed) {
  if (count != prefetch->count || memcmp(rows, prefetch->rows, (size_t)count * sizeof *rows) != 0)
    tap_prefetch_ask(prefetch, rows, count, tokens);
  tap_prefetch_wait(prefetch);
  prefetch->count = 0;
  if (prefetch->status != OK) return fail(prefetch->status, "%s", prefetch->message);
  const struct tap_planes *planes = &prefetch->planes[prefetch->current];
  *taps = prefetch->format.int8 ? prefetch->decoded[prefetch->current] : planes->at[TAP_PLANE_TAPS];
  *normed = planes->at[TAP_PLANE_NORMED];
  return OK;
}
