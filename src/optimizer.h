/**
 * @file optimizer.h
 * AdamW on fp32 masters (Loshchilov and Hutter 2019), global-norm clipping, warm-up and the learning rate's schedule.
 * Matrices decay; vectors (norms, biases, gates, mix weights) do not.
 *
 * Sharded among the replicas of a stage (ZeRO stage 1; Rajbhandari et al. 2020), each part of the side network (side.h)
 * has one owner, which alone keeps its moments and updates it; the others get its parameters from there.
 */
#ifndef QST_OPTIMIZER_H
#define QST_OPTIMIZER_H

#include "base/options.h"
#include "comm/transport.h"
#include "side.h"

struct optimizer {
  struct side *side;
  int replica, replicas; /**< among those that share the work: 0 of 1 when it is not sharded */
  size_t size;           /**< numbers in this replica's parts */
  float *m, *v;          /**< device fp32 [size], part after part */
  double clip;           /**< 0: off */
  float beta1, beta2, epsilon, decay;
};

/** `replica` of `replicas`: 0 of 1 where every replica updates everything. */
int optimizer_open(struct optimizer *optimizer, struct side *side, const struct options *options, int replica,
                   int replicas);
void optimizer_close(struct optimizer *optimizer);

/** The replica that updates a part. */
static inline int optimizer_owner(const struct optimizer *optimizer, int part) {
  return part % optimizer->replicas;
}

/** The squared norm of the gradient in the side network's scratch, by tensor, for the tensors that this replica updates;
 *  device double [layout.count]. */
int optimizer_squares(struct optimizer *optimizer, double *squares);

/** The global norm from the host's squares of all tensors: added in the layout's order, whatever the stages. */
double optimizer_norm(const struct side_layout *layout, const double *squares);

/** One update from that gradient, clipped by its global norm, of the tensors that this replica updates. `step`: 1 for the
 *  first. */
int optimizer_update(struct optimizer *optimizer, double norm, double lr, int64_t step);

/** After the update of a sharded optimizer: every replica gets all parameters of the stage. Collective among them. */
int optimizer_share(struct optimizer *optimizer, struct transport *transport);

/** The moments of this replica's parts, from or to the host's of the whole stage, fp32 [side->size]. */
int optimizer_upload(struct optimizer *optimizer, const float *m, const float *v);
int optimizer_download(struct optimizer *optimizer, float *m, float *v);

/** The learning rate of step 1 … total: linear warm-up over `warmup` steps to the peak, then constant, linear to 0 or
 *  half a cosine to 0. */
enum schedule { SCHEDULE_CONSTANT, SCHEDULE_LINEAR, SCHEDULE_COSINE };
double schedule_rate(enum schedule schedule, double peak, int64_t warmup, int64_t total, int64_t step);
int schedule_parse(const char *name, enum schedule *out);

#endif
