/**
 * @file side.h
 * The side network: one small decoder layer for each backbone layer, fed by its taps (Zhang et al. 2024, section 3).
 *
 *   s_0 = D_1(h_0)
 *   u_l = (1 − σ(z_l)) ⊙ D_l(h_l) + σ(z_l) ⊙ s_{l−1}
 *   v_l = u_l + Attention_l(RMSNorm(u_l))
 *   s_l = v_l + SwiGLU_l(RMSNorm(v_l))                                        l = 1 … L
 *
 *   D(h) = LayerNorm(B · swish(A · h)) for adapter; lora leaves out the swish, linear is LayerNorm(W · h), maxpool and
 *   avgpool are LayerNorm(pool(h)): every variant ends in the same trained LayerNorm, which brings the residual
 *   stream's scale, growing from layer to layer, back to one.
 *
 * All activations are act [rows, …] with T = rows of the micro-batch. Gradients stop at the taps.
 */
#ifndef QST_SIDE_H
#define QST_SIDE_H

#include "backbone.h"
#include "batch.h"
#include "side_layout.h"
#include "taps.h"

/** The downsample modules' LayerNorm (torch's default). */
#define SIDE_LAYER_NORM_EPSILON 1e-5f

/** What the downsample module of one tap leaves for its backward pass. */
struct down_activations {
  void *low;          /**< [T, k] A · h (adapter, lora) */
  void *activated;    /**< [T, k] swish of it (adapter); the same memory as `low` for lora */
  void *reduced;      /**< [T, width] before the LayerNorm; NULL where the tap itself is that (pooling) */
  float *mean, *rstd; /**< [T] */
  void *out;          /**< [T, width] D(h) */
};

struct side_activations {
  struct down_activations down;
  void *u, *normed_u;      /**< [T, width] */
  void *qkv;               /**< [T, q + k + v] */
  void *attended;          /**< [T, heads · head_dim] */
  float *lse;              /**< [T, heads] */
  void *v, *normed_v;      /**< [T, width] */
  void *gate_up, *product; /**< [T, 2 ff], [T, ff] */
  void *s;                 /**< [T, width] */
  float *rstd_u, *rstd_v;  /**< [T] */
};

/** Sums of gradients over micro-batches, order-independent (kernels/device.h, fixed_add), one for each trained number,
 *  then one for the loss. Device memory. */
struct gradient_sums {
  int64_t *sums;   /**< [size + 1]: gradients in the layout's order, the loss in sums[size] */
  int64_t *faults; /**< [1] values that were not finite or too large */
  size_t size;
};

struct side {
  struct device *device;
  struct side_layout layout;
  struct rope_table rope;
  int capacity;
  bool training;
  /* parameters, by the layout */
  float *master;   /**< fp32 */
  void *weights;   /**< act copies, what matrices are multiplied with */
  float *gradient; /**< fp32 scratch; training only */
  /* activations: one set a layer in training, two in turn otherwise */
  struct side_activations *sets;
  struct down_activations embedding; /**< of h_0 */
  int set_count;
  void *block; /**< device memory of all sets */
  size_t block_bytes;
  /* gradients of activations, reused by all layers; training only */
  void *d_width, *d_wide, *d_product, *d_qkv, *d_attended, *d_low;
};

/** `positions`: longest sequence. Parameters are zero until side_upload(). */
int side_open(struct side *side, struct device *device, const struct model_config *config,
              const struct side_shape *shape, int capacity, int positions, bool training);
void side_close(struct side *side);

/** Sets the parameters from host fp32 [layout.size]. */
int side_upload(struct side *side, const float *flat);

/** *s_out: act [rows, width], s_L; valid until the next forward. */
int side_forward(struct side *side, const struct micro_batch *batch, const struct taps *taps, struct kv_cache *cache,
                 void **s_out);

/** ds: act [rows, width], the gradient of s_L; overwritten. Adds all gradients of the layers to `sums`. */
int side_backward(struct side *side, const struct micro_batch *batch, const struct taps *taps, void *ds,
                  struct gradient_sums *sums);

/** Parts of the flat buffers. */
static inline float *side_master(const struct side *side, int64_t offset) {
  return side->master + offset;
}
static inline void *side_weight(const struct side *side, int64_t offset) {
  return device_act_at(side->device, side->weights, (size_t)offset);
}
static inline float *side_gradient(const struct side *side, int64_t offset) {
  return side->gradient + offset;
}
/** Adds gradient[first, end) to the sums. */
int side_collect(struct side *side, int64_t first, int64_t end, struct gradient_sums *sums);

#endif
