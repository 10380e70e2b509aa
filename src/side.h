/**
 * @file side.h
 * The side network: one small decoder layer for each backbone layer, fed by its taps (Zhang et al. 2024, section 3).
 *
 *   s_0 = D_1(h_0)
 *   u_l = (1 − σ(z_l)) ⊙ D_l(h_l) + σ(z_l) ⊙ s_{l−1}
 *   v_l = u_l + Attention_l(norm(u_l))
 *   s_l = v_l + FeedForward_l(norm(v_l))                                      l = 1 … L
 *
 *   Its layers are of the backbone's family: RMSNorm, RoPE and SwiGLU, or LayerNorm, ReLU and biases (OPT, where positions
 *   come with h_0).
 *
 *   D(h) = LayerNorm(B · swish(A · h)) for adapter; lora leaves out the swish, linear is LayerNorm(W · h), maxpool and
 *   avgpool are LayerNorm(pool(h)), pca is LayerNorm(B · t) with the principal components t of h (principal.h): every variant
 *   ends in the same trained LayerNorm, which brings the residual stream's scale, growing from layer to layer, back to one.
 *
 * All activations are act [rows, …] with T = rows of the micro-batch. Gradients stop at the taps.
 */
#ifndef QST_SIDE_H
#define QST_SIDE_H

#include "backbone.h"
#include "batch.h"
#include "norm.h"
#include "side_layout.h"
#include "taps.h"

/** The downsample modules' LayerNorm (torch's default). */
#define SIDE_LAYER_NORM_EPSILON 1e-5f

/** What the downsample module of one tap leaves for its backward pass. */
struct down_activations {
  void *low;       /**< [T, k] A · h (adapter, lora) */
  void *activated; /**< [T, k] swish of it (adapter); the same memory as `low` for lora */
  void *reduced;   /**< [T, width] before the LayerNorm; NULL where the tap itself is that (pooling) */
  struct norm_moments moments;
  void *out; /**< [T, width] D(h) */
};

struct side_activations {
  struct down_activations down;
  void *u, *normed_u; /**< [T, width] */
  void *qkv;          /**< [T, q + k + v] */
  void *attended;     /**< [T, heads · head_dim] */
  float *lse;         /**< [T, heads] */
  void *v, *normed_v; /**< [T, width] */
  void *gate_up;      /**< [T, 2 ff]; NULL with ReLU */
  void *product;      /**< [T, ff] what goes into the last product */
  struct norm_moments moments_u, moments_v;
};

/** Sums of gradients over micro-batches, order-independent (kernels/device.h, fixed_add), one for each trained number of
 *  the stage. Device memory. */
struct gradient_sums {
  int64_t *sums;   /**< [size] in the layout's order from `begin` on */
  int64_t *loss;   /**< [1] */
  int64_t *faults; /**< [1] values that were not finite or too large */
  size_t begin, size;
};

/** What the forward pass of one micro-batch leaves for its backward pass, and what goes to and comes from the neighbouring
 *  stages. Between stages several micro-batches are on their way. */
struct side_frame {
  struct side_activations *sets;     /**< [set_count] one a layer, or one for all */
  void **s;                          /**< [depth][T, width] s of each layer */
  struct down_activations embedding; /**< of h_0; on the first stage */
  void *s_in;                        /**< [T, width] s of the layer before this stage's; not on the first */
  void *s_out;                       /**< [T, width] s of this stage's last layer */
  void *ds;                          /**< [T, width] gradient of s_out, then that of s_in; training only */
};

struct side {
  struct device *device;
  struct side_layout layout; /**< of the whole side network */
  struct stage stage;
  struct rope_table rope; /**< FAMILY_LLAMA alone */
  int capacity;
  bool training, recompute;
  /* parameters of the stage, by the layout from `begin` on */
  size_t begin, size; /**< floats */
  float *frozen;      /**< host: the pca directions of all layers (struct side_buffers); NULL but for pca */
  float *master;      /**< fp32 [size] */
  void *weights;      /**< act copies, what matrices are multiplied with */
  float *gradient;    /**< fp32 scratch; training only */
  /* activations */
  struct side_frame *frames; /**< [frame_count] */
  int frame_count, set_count;
  void *block; /**< device memory of all frames */
  size_t block_bytes;
  /* gradients of activations, reused by all layers; training only */
  void *d_width, *d_wide, *d_product, *d_qkv, *d_attended, *d_low;
};

/** How a side network is held. */
struct side_use {
  struct stage stage;
  int capacity;  /**< tokens of a micro-batch */
  int positions; /**< longest sequence */
  int frames;    /**< micro-batches between their forward and their backward pass */
  bool training;
  bool recompute; /**< the backward pass computes a layer's activations again from s and the taps: the same bits for a
                       third more work and, at r = 16, a tenth of the memory */
};

/** Parameters are zero until side_upload(). */
int side_open(struct side *side, struct device *device, const struct model_config *config,
              const struct side_shape *shape, const struct side_use *use);
void side_close(struct side *side);

/** Sets the stage's parameters from host fp32 [side->size]. */
int side_upload(struct side *side, const float *flat);

/** Runs the stage's layers: from the frame's s_in, on the first stage from tap 0, to its s_out. `cache` NULL but for
 *  decoding. */
int side_forward(struct side *side, struct side_frame *frame, const struct micro_batch *batch, const struct taps *taps,
                 struct kv_cache *cache);

/** Called when all that a micro-batch adds to sums [first, end) of the layout was given to the device. */
struct side_listener {
  int (*collected)(void *context, int64_t first, int64_t end);
  void *context;
};

/** From the gradient of s_out in the frame's ds to that of s_in there. Adds the gradients of the stage's layers to `sums`,
 *  the last layer first, and tells the listener, when there is one. */
int side_backward(struct side *side, struct side_frame *frame, const struct micro_batch *batch, const struct taps *taps,
                  struct gradient_sums *sums, const struct side_listener *listener);

/** The stage's trained numbers in parts: its layers, then on the last stage the head. `begin` and `end` in the layout. */
static inline int side_parts(const struct side *side) {
  return stage_depth(&side->stage) + stage_ends(&side->stage);
}
void side_part(const struct side *side, int part, int64_t *begin, int64_t *end);

/** Parts of the flat buffers, by the layout's offsets; NULL for what is absent. */
static inline float *side_master(const struct side *side, int64_t offset) {
  return offset == SIDE_ABSENT ? NULL : side->master + ((size_t)offset - side->begin);
}
static inline void *side_weight(const struct side *side, int64_t offset) {
  return device_act_at(side->device, side->weights, (size_t)offset - side->begin);
}
static inline float *side_gradient(const struct side *side, int64_t offset) {
  return offset == SIDE_ABSENT ? NULL : side->gradient + ((size_t)offset - side->begin);
}
/** A norm of the side network. */
static inline struct norm side_norm(const struct side *side, struct side_pair at, float epsilon) {
  return (struct norm){side_master(side, at.weight), side_master(side, at.bias), side->layout.shape.width, epsilon};
}
/** Adds gradient[first, end) to the sums. */
int side_collect(struct side *side, int64_t first, int64_t end, struct gradient_sums *sums);

#endif
