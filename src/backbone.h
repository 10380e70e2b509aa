/**
 * @file backbone.h
 * The frozen model on a device, or one stage of it: tokens in, hidden states ("taps") out. Forward only; no gradient ever
 * enters.
 *
 * tap 0 is the embedding output h_0, tap l the residual stream h_l after layer l: act [rows, hidden] each. A stage of
 * layers first … end − 1 turns tap `first` into taps first + 1 … end.
 */
#ifndef QST_BACKBONE_H
#define QST_BACKBONE_H

#include "batch.h"
#include "io/backbone_file.h"
#include "kernels/device.h"
#include "norm.h"
#include "rope_table.h"
#include "stage.h"

struct backbone_layer {
  struct matrix matrices[MATRIX_COUNT];
  struct norm input_norm, post_norm;
  float *qkv_bias;                     /**< [q + k + v rows], or NULL */
  float *o_bias, *up_bias, *down_bias; /**< [rows], or NULL */
};

/** Keys and values of past tokens, a layer after the other: act [layers][slots · slot_rows][2 · kv_width] with the keys
 *  in the left half of a row and the values in the right. NULL pointer: training, no cache. */
struct kv_cache {
  void *rows;
  int slots, slot_rows, layers, kv_width;
};
int kv_cache_open(struct kv_cache *cache, struct device *device, int layers, int kv_width, int slots, int slot_rows);
void kv_cache_close(struct kv_cache *cache, struct device *device);
/** The rows of one layer. */
void *kv_cache_layer(const struct kv_cache *cache, const struct device *device, int layer);

struct backbone {
  struct device *device;
  struct model_config config; /**< of the whole model */
  struct stage stage;
  struct backbone_layer *layers; /**< [stage_depth] */
  struct matrix embedding;       /**< bf16; of the first stage */
  struct matrix positions;       /**< bf16; of the first stage of OPT */
  struct matrix head;            /**< bf16; of the last stage; the same memory as the embedding where both are here */
  struct norm final_norm;        /**< of the last stage */
  struct rope_table rope;        /**< FAMILY_LLAMA alone */
  int capacity;                  /**< rows of a micro-batch */
  /* workspace: act [capacity, …]; gate_up with SwiGLU alone */
  void *normed, *qkv, *attended, *gate_up, *product;
  size_t weight_bytes; /**< what load() allocated for weights */
};

static inline int backbone_qkv(const struct model_config *config) {
  return (config->heads + 2 * config->kv_heads) * config->head_dim;
}

/** Device limits a backbone needs for micro-batches of `rows`. */
struct device_limits backbone_limits(const struct model_config *config, int rows);

/** Reads the stage's layers from the file, tensor by tensor, into device memory; workspace for `capacity` rows and RoPE for
 *  `positions` positions. ERR_INPUT when a sequence may be longer than the model knows. */
int backbone_open(struct backbone *backbone, struct device *device, struct backbone_file *file,
                  const struct stage *stage, int capacity, int positions);
void backbone_close(struct backbone *backbone);

/** Layer `layer` of the stage's, from 0; all of them make its taps, and what else runs in between may use the workspace.
 *  taps: act [depth + 1][tap_rows][hidden], the stage's first tap and those it makes; tap_rows at least the batch's rows.
 *  The first stage makes its first tap itself, with its first layer; elsewhere it must be there. `cache` NULL in training. */
int backbone_layer_forward(struct backbone *backbone, const struct micro_batch *batch, int layer, void *taps,
                           int tap_rows, struct kv_cache *cache);

/** All layers of the stage, one after the other. */
int backbone_forward(struct backbone *backbone, const struct micro_batch *batch, void *taps, int tap_rows,
                     struct kv_cache *cache);

/** normed: act [label_count, hidden], norm_backbone(h_L) of the batch's label rows. After backbone_forward(), on the last
 *  stage. */
int backbone_output(struct backbone *backbone, const struct micro_batch *batch, const void *taps, int tap_rows,
                    void *normed);

#endif
