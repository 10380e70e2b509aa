/**
 * @file plan_print.h
 * A plan for people and for machines.
 */
#ifndef QST_PLAN_PRINT_H
#define QST_PLAN_PRINT_H

#include <jansson.h>

#include "plan.h"

/** Lines of text. */
int plan_print(const struct plan_request *request, const struct plan *plan, struct buffer *out);
/** NULL without memory. */
json_t *plan_json(const struct plan_request *request, const struct plan *plan);

#endif
