/**
 * @file plan.h
 * What a training run takes on given machines: memory, time, bytes on the wire, and whether it fits. The trainer's own
 * set-up and one step of it are run on the null device once for each pipeline stage; all replicas are alike.
 */
#ifndef QST_PLAN_H
#define QST_PLAN_H

#include "comm/grid.h"
#include "comm/timed.h"
#include "rehearsal.h"

struct machine {
  struct hardware hardware;
  int nodes, per_node;
  struct measured_cost *measured; /**< owned; what hardware.measured points to */
};

struct plan_request {
  const struct options *options;
  struct machine machine;
  int stages;
  enum placement placement;
  const struct token_file *data; /**< at least one step's rows */
  int longest;                   /**< tokens of the longest of them */
  int64_t rows;                  /**< of an epoch */
  double growth;                 /**< of the step over the rows of the options; 0: none */
};

/** A rank of one stage. Seconds and bytes are of a step. */
struct plan_stage {
  size_t memory[MEMORY_KINDS];
  size_t bytes; /**< sum of them */
  int layers;
  double backbone, side, optimizer; /**< what its lanes are busy with */
  double reduction, exposed;        /**< the sum over the replicas; what of it no backward pass hides */
  double gradient_wire, message_wire;
};

struct plan {
  int stages, replicas;
  struct plan_stage *stage; /**< [stages] */
  int micro_batches;        /**< of the busiest replica's step */
  int64_t step_tokens, label_tokens;
  double step;   /**< seconds */
  double bubble; /**< idle share of the busiest stage */
  double tokens_per_second;
  double of_peak; /**< the model's FLOPs against the matrix units' bf16 peak */
  int64_t steps;
  double seconds; /**< of the whole run */
  double usable;  /**< bytes of memory of a rank; 0: not known */
  bool fits;
};

/** ERR_USAGE when the ranks do not divide into the stages, and what the trainer would refuse. */
int plan_make(const struct plan_request *request, struct plan *out);
void plan_free(struct plan *plan);

/** plan_make() in two: the stages' rehearsals, of a step that `replicas` share, and what follows from them. */
int plan_rehearse(const struct plan_request *request, int replicas, struct rehearsal **out);
int plan_combine(const struct plan_request *request, const struct rehearsal *rehearsals, struct plan *out);
void plan_forget(struct rehearsal **rehearsals, int stages);

/** Fills in what the options leave to the program, their stages, placement and micro_batch_tokens, such that the run fits and
 *  is fastest, in the request as well; with recompute and without run_ahead where nothing else fits. `options` is what the
 *  request points to; its placement is not to be freed then. ERR_MEMORY when nothing fits; ERR_USAGE when no number of stages
 *  suits the ranks and the step. */
int plan_choose(struct plan_request *request, struct options *options);
/** Whether they leave anything. */
bool plan_is_open(const struct options *options);

/** The first that fits of: smaller micro-batches, more stages. *found false when none does. `request` is left as it was but
 *  for `stages`; *micro_batch_tokens is what to give for --micro-batch-tokens. */
int plan_find_fit(const struct plan_request *request, int *stages, int64_t *micro_batch_tokens, bool *found);

/** Ranks in all. */
static inline int plan_ranks(const struct plan_request *request) {
  return request->machine.nodes * request->machine.per_node;
}

#endif
