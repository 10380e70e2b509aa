/**
 * @file optimizer.h
 * AdamW on fp32 masters (Loshchilov and Hutter 2019), global-norm clipping, warm-up and the learning rate's schedule.
 * Matrices decay; vectors (norms, biases, gates, mix weights) do not.
 */
#ifndef QST_OPTIMIZER_H
#define QST_OPTIMIZER_H

#include "base/options.h"
#include "side.h"

struct optimizer {
  struct side *side;
  float *m, *v; /**< device fp32 [side->size] */
  double clip;  /**< 0: off */
  float beta1, beta2, epsilon, decay;
};

int optimizer_open(struct optimizer *optimizer, struct side *side, const struct options *options);
void optimizer_close(struct optimizer *optimizer);

/** The gradient, sums of all ranks / label_tokens, into the side network's scratch. Where `squares` is not NULL, device
 *  double [layout.count], its squared norm by tensor for those of this stage. */
int optimizer_gradient(struct optimizer *optimizer, const struct gradient_sums *sums, int64_t label_tokens,
                       double *squares);

/** The global norm from the host's squares of all tensors: added in the layout's order, whatever the stages. */
double optimizer_norm(const struct side_layout *layout, const double *squares);

/** One update of the stage's tensors from that gradient, clipped by its global norm. `step`: 1 for the first. */
int optimizer_update(struct optimizer *optimizer, double norm, double lr, int64_t step);

/** The learning rate of step 1 … total: linear warm-up over `warmup` steps to the peak, then constant, linear to 0 or
 *  half a cosine to 0. */
enum schedule { SCHEDULE_CONSTANT, SCHEDULE_LINEAR, SCHEDULE_COSINE };
double schedule_rate(enum schedule schedule, double peak, int64_t warmup, int64_t total, int64_t step);
int schedule_parse(const char *name, enum schedule *out);

#endif
