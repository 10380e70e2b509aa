/**
 * @file plan_taps.h
 * What a tap store would take, and whether its disk or the planned machine's backbone would be the faster source.
 */
#ifndef QST_PLAN_TAPS_H
#define QST_PLAN_TAPS_H

#include <jansson.h>

#include "plan.h"

struct plan_taps {
  double token_bytes, store_bytes; /**< of a token with its share of labels; of all rows */
  double disk;                     /**< bytes a second that this machine reads where the store is to be; 0: unknown */
  double replayed, live;           /**< tokens a second: what the disk gives; what the planned backbone makes */
};

/** Measures the disk of options->taps, or of the nearest folder above it that is there. */
int plan_taps_make(const struct plan_request *request, const struct plan *plan, struct plan_taps *out);

int plan_taps_print(const struct plan_taps *taps, struct buffer *out);
/** NULL without memory. */
json_t *plan_taps_json(const struct plan_taps *taps);

#endif
