/**
 * @file tap_prefetch.h
 * Reads rows of taps (tap_reader.h) in a thread while the ones before are used: one request ahead, two sets of buffers.
 */
#ifndef QST_IO_TAP_PREFETCH_H
#define QST_IO_TAP_PREFETCH_H

#include "io/tap_reader.h"

struct tap_prefetch;

/** Requests of at most `tokens` tokens (and so at most as many rows and label rows). */
int tap_prefetch_open(struct tap_prefetch **out, struct tap_reader *reader, const struct tap_format *format,
                      int64_t tokens);
void tap_prefetch_close(struct tap_prefetch **prefetch);

/** Starts to read these rows; waits for a request before and drops it. All of them must be in the store. */
void tap_prefetch_ask(struct tap_prefetch *prefetch, const int64_t *rows, int count, int64_t tokens);
/** Waits until nothing is read. */
void tap_prefetch_wait(struct tap_prefetch *prefetch);

/** These rows, read ahead or now. `taps` (act [tokens, (layers + 1) · cols], decoded) and `normed` are host memory, valid
 *  until the ask after the next. */
int tap_prefetch_take(struct tap_prefetch *prefetch, const int64_t *rows, int count, int64_t tokens, const void **taps,
                      const void **normed);

#endif
