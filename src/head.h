/**
 * @file head.h
 * From the last hidden state and the side network's output to the loss, and back to the side network:
 *
 *   y = mix( norm_backbone(h_L), U · norm_side(s_L) + b ),  logits = W_head · y,  loss = cross entropy
 *
 * All of it on label rows alone (n = batch->label_count), and logits on `chunk` rows at a time: they never exist for
 * all positions. The head is frozen; its input gradient is the only thing that passes through it.
 */
#ifndef QST_HEAD_H
#define QST_HEAD_H

#include "backbone.h"
#include "side.h"

struct head {
  struct device *device;
  struct backbone *backbone;
  struct side *side; /**< NULL: the backbone alone, y = norm(h_L) */
  int capacity;
  int chunk; /**< the device's logit_rows, or all where there are fewer */
  /* act [capacity, hidden] */
  const void *y; /**< `mixed`, or the taps' normed without a side network */
  void *lifted;  /**< U · norm_side(s) + b */
  void *mixed;   /**< mix of the two */
  void *dy;      /**< gradient of y; training only */
  /* act [capacity, width] */
  void *s_picked, *s_normed, *ds_picked;
  struct norm_moments s_moments;
  float *logits; /**< [chunk, vocabulary] */
  void *dlogits; /**< act like logits; training only */
  float *loss;   /**< [chunk] */
};

int head_open(struct head *head, struct backbone *backbone, struct side *side, int capacity);
void head_close(struct head *head);

/** Computes y for the batch's label rows. `s`: act [rows, width] of side_forward(), unused without a side network. The taps
 *  must stay until head_backward(). */
int head_forward(struct head *head, const struct micro_batch *batch, const struct taps *taps, const void *s);

/** Logits of label rows first .. first + count (count ≤ head->chunk) into head->logits. After head_forward(). */
int head_logits(struct head *head, int first, int count);

/** Adds the loss in nats, summed over the label rows, to *sums->loss. After head_forward(). */
int head_loss(struct head *head, const struct micro_batch *batch, struct gradient_sums *sums);

/** head_loss(), and the gradients of the sum: those of mix, U, b and norm_side are added to `sums`, that of s_L goes to
 *  ds, act [rows, width], zero on rows without a label. */
int head_backward(struct head *head, const struct micro_batch *batch, const struct taps *taps, void *ds,
                  struct gradient_sums *sums);

#endif
