#include "plan.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "plan_timeline.h"

/* What the driver, the runtime and communication libraries keep of a GPU's memory: an assumption. */
static const double RESERVED = 1.5e9;

static double later(double a, double b) {
  return a > b ? a : b;
}

/* ---- rehearsals ----------------------------------------------------------------------------------------- */

static int check_ranks(const struct plan_request *request) {
  int ranks = plan_ranks(request);
  if (ranks % request->stages == 0) return OK;
  return fail(ERR_USAGE, "%d ranks do not divide into %d stages", ranks, request->stages);
}

int plan_rehearse(const struct plan_request *request, int replicas, struct rehearsal **out) {
  TRY(check_ranks(request));
  TRY(memory_array(out, (size_t)request->stages, sizeof **out));
  struct rehearsal_place place = {
      .hardware = &request->machine.hardware,
      .data = request->data,
      .longest = request->longest,
      .stages = request->stages,
      .replicas = replicas,
      .shards = request->options->shard_optimizer ? plan_ranks(request) / request->stages : 1};
  int status = OK;
  for (place.stage = 0; status == OK && place.stage < request->stages; place.stage++)
    status = rehearse(request->options, &place, &(*out)[place.stage]);
  if (status != OK) plan_forget(out, request->stages);
  return status;
}

void plan_forget(struct rehearsal **rehearsals, int stages) {
  for (int p = 0; *rehearsals && p < stages; p++) rehearsal_free(&(*rehearsals)[p]);
  free(*rehearsals);
  *rehearsals = NULL;
}

/* ---- communication -------------------------------------------------------------------------------------- */

/* The ranks of a stage: neighbours, or one in every `stages`. */
static struct timed_group replicas_of(const struct plan_request *request) {
  const struct machine *machine = &request->machine;
  int replicas = plan_ranks(request) / request->stages, per_node = machine->per_node;
  if (request->placement == PLACE_STAGES) per_node = per_node / request->stages;
  if (per_node < 1) per_node = 1;
  return (struct timed_group){.ranks = replicas,
                              .per_node = per_node < replicas ? per_node : replicas,
                              .node = machine->hardware.node,
                              .network = machine->hardware.network};
}

/* Of a replica's neighbouring stages some pair is on two nodes where a node does not hold them all. */
static struct wire between_stages(const struct plan_request *request) {
  const struct machine *machine = &request->machine;
  int replicas = plan_ranks(request) / request->stages;
  bool together = request->placement == PLACE_STAGES ? machine->per_node % request->stages == 0
                                                     : request->stages * replicas <= machine->per_node;
  return together ? machine->hardware.node : machine->hardware.network;
}

/* Bytes of each gradient on the wire. */
static double gradient_size(const struct plan_request *request, const struct rehearsal *r) {
  const char *kind = request->options->reduction;
  return strcmp(kind, "exact") == 0 ? 8 : strcmp(kind, "fast") == 0 ? 4 : (double)r->act_size;
}

/* A sum for each layer; sharded, each part's parameters from its owner after the update. */
static double reduction_seconds(const struct plan_request *request, const struct rehearsal *r) {
  struct timed_group group = replicas_of(request);
  double layers = r->layers, numbers = (double)r->gradients / layers;
  double seconds = layers * timed_sum(&group, numbers * gradient_size(request, r));
  return request->options->shard_optimizer ? seconds + layers * timed_broadcast(&group, numbers * 4) : seconds;
}

static double gradient_wire(const struct plan_request *request, const struct rehearsal *r) {
  struct timed_group group = replicas_of(request);
  double wire = timed_sum_wire(&group, (double)r->gradients * gradient_size(request, r));
  return request->options->shard_optimizer && group.ranks > 1 ? wire + (double)r->gradients * 4 : wire;
}

/* ---- a stage -------------------------------------------------------------------------------------------- */

static void count_memory(const struct rehearsal *r, struct plan_stage *out) {
  memcpy(out->memory, r->memory, sizeof out->memory);
  for (int kind = 0; kind < MEMORY_KINDS; kind++) out->bytes += out->memory[kind];
}

/* Sums of a layer begin when its last backward pass is done, so that only the first layer's follow the last pass. */
static double exposed_reduction(const struct rehearsal *r, double reduction) {
  double last = r->micro_batches ? r->tasks[r->micro_batches - 1].backward : 0, layers = r->layers;
  return later(reduction / layers, reduction - last * (layers - 1) / layers);
}

static void describe_stage(const struct plan_request *request, const struct rehearsal *r, const struct plan *plan,
                           int p, struct plan_stage *out) {
  count_memory(r, out);
  out->layers = r->layers;
  for (int i = 0; i < plan->micro_batches; i++) {
    const struct task_seconds *task = &r->tasks[i % r->micro_batches];
    out->backbone += task->backbone;
    out->side += task->forward + task->backward;
  }
  out->optimizer = r->optimizer;
  out->reduction = reduction_seconds(request, r);
  out->exposed = exposed_reduction(r, out->reduction);
  out->gradient_wire = gradient_wire(request, r);
  double neighbours = (p > 0) + (p < plan->stages - 1);
  out->message_wire = plan->micro_batches * (neighbours * r->side_message + (p < plan->stages - 1) * r->hidden_message);
}

/* ---- the plan ------------------------------------------------------------------------------------------- */

static int time_step(const struct plan_request *request, const struct rehearsal *rehearsals, struct plan *plan) {
  struct timeline_stage *stages;
  TRY(memory_array(&stages, (size_t)plan->stages, sizeof *stages));
  struct wire wire = between_stages(request);
  struct timeline timeline = {.stages = plan->stages,
                              .micro_batches = plan->micro_batches,
                              .lanes_overlap = request->machine.hardware.is_gpu,
                              .run_ahead = request->options->run_ahead,
                              .hidden = timed_message(&wire, rehearsals[0].hidden_message),
                              .side = timed_message(&wire, rehearsals[0].side_message),
                              .stage = stages};
  for (int p = 0; p < plan->stages; p++)
    stages[p] = (struct timeline_stage){.tasks = rehearsals[p].tasks,
                                        .task_count = rehearsals[p].micro_batches,
                                        .layers = rehearsals[p].layers,
                                        .reduction = plan->stage[p].exposed,
                                        .optimizer = plan->stage[p].optimizer};
  struct timeline_result result;
  int status = timeline_follow(&timeline, &result);
  plan->step = result.step;
  plan->bubble = result.bubble;
  free(stages);
  return status;
}

static void describe_run(const struct plan_request *request, const struct rehearsal *first, struct plan *plan) {
  const struct options *options = request->options;
  const struct hardware *hardware = &request->machine.hardware;
  double growth = request->growth > 0 ? request->growth : 1, rows = (double)options->global_batch * growth;
  double places = options->steps > 0 ? (double)options->steps * rows : round(options->epochs * (double)request->rows);
  plan->steps = (int64_t)ceil(places / rows);
  plan->step_tokens = (int64_t)((double)first->tokens * growth);
  plan->label_tokens = (int64_t)((double)first->label_tokens * growth);
  plan->tokens_per_second = (double)first->tokens * growth / plan->step;
  plan->seconds = plan->step * places / rows;
  plan->of_peak = first->model_flops * growth / plan->step / (hardware->matrix_bf16 * plan_ranks(request));
  plan->usable = hardware->is_gpu ? hardware->memory - RESERVED : hardware->memory;
  plan->fits = true;
  for (int p = 0; p < plan->stages; p++)
    if (plan->usable > 0 && (double)plan->stage[p].bytes > plan->usable) plan->fits = false;
}

int plan_combine(const struct plan_request *request, const struct rehearsal *rehearsals, struct plan *out) {
  *out = (struct plan){.stages = request->stages, .replicas = plan_ranks(request) / request->stages};
  TRY(check_ranks(request));
  TRY(memory_array(&out->stage, (size_t)out->stages, sizeof *out->stage));
  double growth = request->growth > 0 ? request->growth : 1;
  out->micro_batches = (int)ceil((double)rehearsals[0].step_micro_batches * growth / out->replicas - 1e-9);
  for (int p = 0; p < out->stages; p++) describe_stage(request, &rehearsals[p], out, p, &out->stage[p]);
  int status = time_step(request, rehearsals, out);
  if (status == OK) describe_run(request, rehearsals, out);
  if (status != OK) plan_free(out);
  return status;
}

int plan_make(const struct plan_request *request, struct plan *out) {
  struct rehearsal *rehearsals = NULL;
  *out = (struct plan){0};
  TRY(plan_rehearse(request, plan_ranks(request) / request->stages, &rehearsals));
  int status = plan_combine(request, rehearsals, out);
  plan_forget(&rehearsals, request->stages);
  return status;
}

void plan_free(struct plan *plan) {
  free(plan->stage);
  *plan = (struct plan){0};
}
