#include "plan_sweep.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "io/json_read.h"

enum { RESULTS_LIMIT = 64 << 20 };

static const struct variant {
  const char *name;
  char reduction[12];
  bool sharded;
} variants[SWEEP_VARIANTS] = {{.name = "exact", .reduction = "exact"},
                              {.name = "fast", .reduction = "fast"},
                              {.name = "exact, sharded optimizer", .reduction = "exact", .sharded = true},
                              {.name = "fast, sharded optimizer", .reduction = "fast", .sharded = true}};

const char *sweep_variant_name(int variant) {
  return variants[variant].name;
}

/* ---- one point ------------------------------------------------------------------------------------------ */

/* Fewer ranks than a node has are one node of so many; others are whole nodes. */
static struct machine machine_of(const struct plan_request *request, int ranks) {
  struct machine machine = request->machine;
  if (ranks < machine.per_node) machine.per_node = ranks;
  machine.nodes = machine.per_node > 1 ? ranks / machine.per_node : ranks;
  return machine;
}

static bool fills_nodes(int ranks, int per_node) {
  return ranks <= per_node || per_node <= 1 || ranks % per_node == 0;
}

/* `request` with its stages and its growth, on so many ranks. */
static int plan_point(const struct plan_request *request, int ranks, const struct variant *variant,
                      struct sweep_point *out) {
  struct options options = *request->options;
  struct plan_request at = *request;
  struct rehearsal *rehearsals = NULL;
  struct plan plan;
  char reduction[sizeof variant->reduction];
  memcpy(reduction, variant->reduction, sizeof reduction);
  options.reduction = reduction;
  options.shard_optimizer = variant->sharded;
  at.options = &options;
  at.machine = machine_of(request, ranks);
  TRY(plan_rehearse(&at, 1, &rehearsals));
  int status = plan_combine(&at, rehearsals, &plan);
  plan_forget(&rehearsals, at.stages);
  TRY(status);
  *out = (struct sweep_point){
      .ranks = ranks, .nodes = at.machine.nodes, .tokens_per_second = plan.tokens_per_second, .fits = plan.fits};
  plan_free(&plan);
  return OK;
}

/* ---- all of them ---------------------------------------------------------------------------------------- */

/* The fewest nodes that hold whole pipelines. */
static int whole_nodes(const struct plan_request *request) {
  int nodes = 1;
  while (nodes * request->machine.per_node % request->stages) nodes++;
  return nodes;
}

/* Ranks of point i: pipelines on part of a node, twice as many each time, then on whole nodes, likewise. 0 after the last. */
static int ranks_at(const struct plan_request *request, int i) {
  int per_node = request->machine.per_node, nodes = whole_nodes(request);
  for (int ranks = request->stages; ranks < per_node; ranks *= 2)
    if (i-- == 0) return ranks;
  for (; i > 0 && nodes <= SWEEP_NODES; i--) nodes *= 2;
  return nodes <= SWEEP_NODES ? nodes * per_node : 0;
}

static double growth_at(const struct plan_request *request, int ranks, bool weak) {
  return weak ? (double)ranks / plan_ranks(request) : 1;
}

static int fill_points(const struct plan_request *request, struct sweep *sweep) {
  struct sweep_point *point = sweep->points;
  for (int weak = 0; weak < SWEEP_SCALINGS; weak++)
    for (int v = 0; v < SWEEP_VARIANTS; v++)
      for (int i = 0; i < sweep->count; i++, point++) {
        const struct sweep_point *first = point - i;
        struct plan_request at = *request;
        int ranks = ranks_at(request, i);
        at.growth = growth_at(request, ranks, weak);
        TRY(plan_point(&at, ranks, &variants[v], point));
        if (!point->fits) sweep->too_large++;
        point->efficiency = point->tokens_per_second / point->ranks / (first->tokens_per_second / first->ranks);
      }
  return OK;
}

/* ---- what was measured ---------------------------------------------------------------------------------- */

/* An integer from 1 on; `other` where the entry has none. -1 when it is something else. */
static int read_count(const json_t *entry, const char *key, int other) {
  const json_t *value = json_object_get(entry, key);
  json_int_t count = json_integer_value(value);
  if (!value) return other;
  return json_is_integer(value) && count >= 1 && count <= 1 << 24 ? (int)count : -1;
}

static int check_grid(const struct plan_request *request, const struct measured_point *point, const char *path) {
  int per_node = request->machine.per_node;
  if (point->ranks % point->stages == 0 && fills_nodes(point->ranks, per_node)) return OK;
  return fail(ERR_INPUT, "%s: %d ranks were measured, which are not whole pipelines of %d on nodes of %d", path,
              point->ranks, point->stages, per_node);
}

static int read_point(const struct plan_request *request, const json_t *entry, const char *path,
                      struct measured_point *out) {
  const char *scaling = json_string_value(json_object_get(entry, "scaling"));
  struct plan_request at = *request;
  out->tokens_per_second = json_number_value(json_object_get(entry, "tokens_per_second"));
  out->weak = scaling && strcmp(scaling, "weak") == 0;
  out->ranks = read_count(entry, "ranks", -1);
  out->stages = at.stages = read_count(entry, "stages", request->stages);
  int rows = read_count(entry, "rows", 0);
  bool known = out->weak || (scaling && strcmp(scaling, "strong") == 0);
  if (!known || out->ranks < 0 || out->stages < 0 || rows < 0 || !(out->tokens_per_second > 0))
    return fail(ERR_INPUT, "%s: a point needs scaling (strong or weak), ranks and tokens_per_second", path);
  TRY(check_grid(request, out, path));
  at.growth = rows ? (double)rows / (double)request->options->global_batch : growth_at(request, out->ranks, out->weak);
  struct sweep_point planned;
  TRY(plan_point(&at, out->ranks, &variants[0], &planned));
  out->planned = planned.tokens_per_second;
  return OK;
}

static int read_points(const struct plan_request *request, const json_t *points, const char *path,
                       struct sweep *sweep) {
  size_t count = json_array_size(points);
  if (count == 0) return fail(ERR_INPUT, "%s: no \"points\": give a result of benchmarks/scaling", path);
  TRY(memory_array(&sweep->measured, count, sizeof *sweep->measured));
  for (size_t i = 0; i < count; i++) TRY(read_point(request, json_array_get(points, i), path, &sweep->measured[i]));
  sweep->measured_count = (int)count;
  return OK;
}

static int read_measured(const struct plan_request *request, const char *path, struct sweep *sweep) {
  json_t *root;
  TRY(json_read_file(path, RESULTS_LIMIT, &root));
  int status = read_points(request, json_object_get(root, "points"), path, sweep);
  json_decref(root);
  return status;
}

/* ---- the sweep ------------------------------------------------------------------------------------------ */

int sweep_make(const struct plan_request *request, const char *measured, struct sweep *out) {
  *out = (struct sweep){0};
  int status;
  out->node_unit = whole_nodes(request);
  while (ranks_at(request, out->count)) out->count++;
  TRY_GOTO(status, failed,
           memory_array(&out->points, SWEEP_SCALINGS * SWEEP_VARIANTS * (size_t)out->count, sizeof *out->points));
  TRY_GOTO(status, failed, fill_points(request, out));
  if (measured) TRY_GOTO(status, failed, read_measured(request, measured, out));
  return OK;
failed:
  sweep_free(out);
  return status;
}

void sweep_free(struct sweep *sweep) {
  free(sweep->points);
  free(sweep->measured);
  *sweep = (struct sweep){0};
}
