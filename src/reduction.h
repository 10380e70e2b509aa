/**
 * @file reduction.h
 * How the gradients of all replicas of a stage come together, part by part (side.h) while the backward pass still runs.
 *
 *   exact      the 64-bit fixed-point sums: any order gives the same bits, so that the run is the same on every grid
 *   fast       fp32: half the bytes; the sum of a step depends on the ranks in its last bits
 *   fast-bf16  bf16: a quarter of the bytes; every partial sum is rounded to 8 bits
 */
#ifndef QST_REDUCTION_H
#define QST_REDUCTION_H

#include "comm/transport.h"
#include "side.h"

enum reduction_kind { REDUCE_EXACT, REDUCE_FAST, REDUCE_FAST_BF16 };

struct reduction {
  struct side *side;
  struct gradient_sums *sums;
  struct transport *transport; /**< between the replicas of this stage */
  enum reduction_kind kind;
  double scale;                  /**< of the step's gradient */
  void *wire;                    /**< act [side->size]; fast-bf16 only */
  struct side_listener listener; /**< takes part after part as they are collected */
};

/** All are borrowed. ERR_USAGE for fast-bf16 on a device of fp32 activations. */
int reduction_open(struct reduction *reduction, struct side *side, struct gradient_sums *sums,
                   struct transport *transport, const char *kind);
void reduction_close(struct reduction *reduction);

/** Gives all parts to the reduction, in the order of a backward pass: for a rank without a micro-batch of its own. */
int reduction_of_nothing(struct reduction *reduction);

/** After the transport was waited for: the gradient, what came together · scale, in the side network's scratch. */
int reduction_gradient(struct reduction *reduction);

#endif
