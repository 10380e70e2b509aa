/**
 * @file plan_sweep.h
 * Scaling as the plan sees it: from one replica to 1,024 nodes, strong (the step stays as it is) and weak (it grows with the
 * replicas, from the size it has on the machines that were asked for), for each way to sum gradients and to keep the
 * optimizer's state. Numbers of nodes whose ranks do not divide into the stages are left out.
 *
 * What was measured is drawn into it. Its file, as benchmarks/scaling.sh writes it: {"points": [{"scaling": "strong" | "weak",
 * "ranks": N, "tokens_per_second": X}, …]}, where a point may also say how many "stages" its pipelines had and how many "rows"
 * its steps; other members are not looked at.
 */
#ifndef QST_PLAN_SWEEP_H
#define QST_PLAN_SWEEP_H

#include <jansson.h>

#include "plan.h"

enum { SWEEP_NODES = 1024, SWEEP_VARIANTS = 4, SWEEP_SCALINGS = 2 };

struct sweep_point {
  int ranks, nodes;
  double tokens_per_second;
  double efficiency; /**< tokens/s a rank against the first point's */
  bool fits;         /**< in the ranks' memory */
};

/** Strong first, then weak; of each variant by number of ranks. */
struct sweep {
  struct sweep_point *points; /**< [SWEEP_SCALINGS][SWEEP_VARIANTS][count] */
  int count;
  int too_large; /**< points that do not fit */
  int node_unit; /**< whole nodes are planned in multiples of so many: others do not divide into pipelines */
  struct measured_point {
    bool weak;
    int ranks, stages;
    double tokens_per_second, planned;
  } * measured; /**< [measured_count] */
  int measured_count;
};

/** "exact", "fast", "exact, sharded optimizer", … */
const char *sweep_variant_name(int variant);
static inline const struct sweep_point *sweep_at(const struct sweep *sweep, bool weak, int variant, int i) {
  return &sweep->points[((size_t)weak * SWEEP_VARIANTS + (size_t)variant) * (size_t)sweep->count + (size_t)i];
}

/** `measured`: a file, or NULL. ERR_INPUT when it is none. */
int sweep_make(const struct plan_request *request, const char *measured, struct sweep *out);
void sweep_free(struct sweep *sweep);

int sweep_print(const struct sweep *sweep, struct buffer *out);
/** NULL without memory. */
json_t *sweep_json(const struct plan_request *request, const struct sweep *sweep);
/** A picture as SVG; *drawn is false where there is no gnuplot. */
int sweep_draw(const struct plan_request *request, const struct sweep *sweep, bool *drawn, struct buffer *out);

#endif
