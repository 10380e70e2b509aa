/**
 * @file rehearsal.h
 * One step of the trainer on the null device: what a rank allocates, and what each task of its lanes costs. Nothing is read
 * of a backbone but its shape, nothing is written.
 */
#ifndef QST_REHEARSAL_H
#define QST_REHEARSAL_H

#include "engine.h"
#include "io/token_file.h"
#include "kernels/null/null.h"

/** Seconds of one micro-batch on one stage. */
struct task_seconds {
  double backbone, forward, backward;
};

/** The rank to rehearse: that of a stage in the replica with the most to do. */
struct rehearsal_place {
  const struct hardware *hardware;
  const struct token_file *data; /**< at least the rows of a step */
  int longest;                   /**< tokens of its longest row */
  int stage, stages;
  int replicas; /**< that share the micro-batches */
  int shards;   /**< replicas that share the optimizer's state; 1: none does */
};

struct rehearsal {
  size_t memory[MEMORY_KINDS]; /**< bytes, as `struct device` counts them */
  int micro_batches;
  struct task_seconds *tasks; /**< [micro_batches] of this replica's step, in order */
  double optimizer;           /**< seconds of the update, the sums already reduced */
  double flops;               /**< of both lanes in the step */
  size_t gradients;           /**< numbers that are summed over the replicas */
  size_t parameters;          /**< trained ones of this stage */
  int layers;                 /**< of this stage */
  /* of the step, all replicas; micro-batches: those with a label */
  int64_t tokens, label_tokens, step_micro_batches;
  double model_flops; /**< as the trainer's metrics count them */
  /* bytes of a micro-batch's messages between stages: h; s and its gradient */
  double hidden_message, side_message;
  size_t act_size;
};

/** ERR_INPUT and ERR_USAGE as the trainer would give them. */
int rehearse(const struct options *options, const struct rehearsal_place *place, struct rehearsal *out);
void rehearsal_free(struct rehearsal *rehearsal);

#endif
