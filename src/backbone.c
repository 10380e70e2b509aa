#include "backbone.h"

#include <math.h>

#include "base/error.h"

/* Turns queries and keys by their positions; OPT's came with h_0. */
static int rotate(struct backbone *b, const struct micro_batch *batch) {
  const struct model_config *c = &b->config;
  if (model_family(c) == FAMILY_OPT) return OK;
  return device_rope(b->device, &(struct rope_args){.x = b->qkv,
                                                    .positions = batch->positions,
                                                    .cosines = b->rope.cosines,
                                                    .sines = b->rope.sines,
                                                    .rows = batch->rows,
                                                    .stride = backbone_qkv(c),
                                                    .heads = c->heads + c->kv_heads,
                                                    .head_dim = c->head_dim,
                                                    .table_positions = b->rope.positions});
}

/* [q | k | v] = rotate(norm(h) · Wᵀ + bias), and the keys and values into the cache when there is one. */
static int project_qkv(struct backbone *b, const struct backbone_layer *layer, const struct micro_batch *batch,
                       const void *h, void *cached) {
  const struct model_config *c = &b->config;
  int qkv = backbone_qkv(c), q = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim;
  TRY(norm_forward(b->device, &layer->input_norm, b->normed, NULL, h, batch->rows));
  const struct matrix *m = layer->matrices;
  TRY(device_frozen_linear(b->device, &(struct frozen_linear_args){.y = b->qkv,
                                                                   .x = b->normed,
                                                                   .parts = {&m[MATRIX_Q], &m[MATRIX_K], &m[MATRIX_V]},
                                                                   .part_count = 3,
                                                                   .bias = layer->qkv_bias,
                                                                   .rows = batch->rows}));
  TRY(rotate(b, batch));
  if (!cached) return OK;
  return device_copy_rows(b->device, &(struct copy_rows_args){.y = cached,
                                                              .x = device_act_at(b->device, b->qkv, (size_t)q),
                                                              .y_index = batch->cache_rows,
                                                              .rows = batch->rows,
                                                              .cols = 2 * kv,
                                                              .y_stride = 2 * kv,
                                                              .x_stride = qkv});
}

/* h' = h + attention(norm(h)) · Woᵀ + bias */
static int attention_block(struct backbone *b, const struct backbone_layer *layer, const struct micro_batch *batch,
                           const void *h, void *h_next, void *cached) {
  const struct model_config *c = &b->config;
  int qkv = backbone_qkv(c), q = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim;
  TRY(project_qkv(b, layer, batch, h, cached));
  const void *keys = cached ? cached : device_act_at(b->device, b->qkv, (size_t)q);
  TRY(device_attention(b->device, &(struct attention_args){.o = b->attended,
                                                           .q = b->qkv,
                                                           .k = keys,
                                                           .v = device_act_at(b->device, keys, (size_t)kv),
                                                           .segments = batch->segments,
                                                           .rows = batch->rows,
                                                           .q_stride = qkv,
                                                           .kv_stride = cached ? 2 * kv : qkv,
                                                           .heads = c->heads,
                                                           .kv_heads = c->kv_heads,
                                                           .head_dim = c->head_dim,
                                                           .scale = 1.0f / sqrtf((float)c->head_dim)}));
  return device_frozen_linear(b->device, &(struct frozen_linear_args){.y = h_next,
                                                                      .x = b->attended,
                                                                      .parts = {&layer->matrices[MATRIX_O]},
                                                                      .part_count = 1,
                                                                      .bias = layer->o_bias,
                                                                      .residual = h,
                                                                      .rows = batch->rows});
}

/* product = swiglu(normed · [Wgate; Wup]ᵀ) */
static int swiglu(struct backbone *b, const struct backbone_layer *layer, int rows) {
  const struct matrix *m = layer->matrices;
  TRY(device_frozen_linear(
      b->device,
      &(struct frozen_linear_args){
          .y = b->gate_up, .x = b->normed, .parts = {&m[MATRIX_GATE], &m[MATRIX_UP]}, .part_count = 2, .rows = rows}));
  return device_swiglu(
      b->device, &(struct swiglu_args){.y = b->product, .x = b->gate_up, .rows = rows, .cols = b->config.feed_forward});
}

/* product = relu(normed · Wupᵀ + bias) */
static int relu(struct backbone *b, const struct backbone_layer *layer, int rows) {
  TRY(device_frozen_linear(b->device, &(struct frozen_linear_args){.y = b->product,
                                                                   .x = b->normed,
                                                                   .parts = {&layer->matrices[MATRIX_UP]},
                                                                   .part_count = 1,
                                                                   .bias = layer->up_bias,
                                                                   .rows = rows}));
  return device_relu(
      b->device, &(struct relu_args){.y = b->product, .x = b->product, .rows = rows, .cols = b->config.feed_forward});
}

/* h ← h + activated(norm(h)) · Wdownᵀ + bias */
static int feed_forward_block(struct backbone *b, const struct backbone_layer *layer, int rows, void *h) {
  TRY(norm_forward(b->device, &layer->post_norm, b->normed, NULL, h, rows));
  TRY(model_family(&b->config) == FAMILY_OPT ? relu(b, layer, rows) : swiglu(b, layer, rows));
  return device_frozen_linear(b->device, &(struct frozen_linear_args){.y = h,
                                                                      .x = b->product,
                                                                      .parts = {&layer->matrices[MATRIX_DOWN]},
                                                                      .part_count = 1,
                                                                      .bias = layer->down_bias,
                                                                      .residual = h,
                                                                      .rows = rows});
}

static int embed(struct backbone *b, const struct micro_batch *batch, void *taps) {
  bool learned = model_family(&b->config) == FAMILY_OPT;
  return device_embed(b->device, &(struct embed_args){.y = taps,
                                                      .table = &b->embedding,
                                                      .position_table = learned ? &b->positions : NULL,
                                                      .tokens = batch->tokens,
                                                      .positions = learned ? batch->positions : NULL,
                                                      .rows = batch->rows});
}

int backbone_layer_forward(struct backbone *b, const struct micro_batch *batch, int layer, void *taps, int tap_rows,
                           struct kv_cache *cache) {
  if (batch->rows > b->capacity || batch->rows > tap_rows)
    return fail(ERR_INTERNAL, "a micro-batch of %d rows in a backbone for %d", batch->rows, b->capacity);
  if (layer == 0 && stage_begins(&b->stage)) TRY(embed(b, batch, taps));
  size_t stride = (size_t)tap_rows * (size_t)b->config.hidden;
  const void *h = device_act_at(b->device, taps, (size_t)layer * stride);
  void *h_next = device_act_at(b->device, taps, (size_t)(layer + 1) * stride);
  void *cached = cache ? kv_cache_layer(cache, b->device, layer) : NULL;
  TRY(attention_block(b, &b->layers[layer], batch, h, h_next, cached));
  return feed_forward_block(b, &b->layers[layer], batch->rows, h_next);
}

int backbone_forward(struct backbone *b, const struct micro_batch *batch, void *taps, int tap_rows,
                     struct kv_cache *cache) {
  for (int layer = 0; layer < stage_depth(&b->stage); layer++)
    TRY(backbone_layer_forward(b, batch, layer, taps, tap_rows, cache));
  return OK;
}

int backbone_output(struct backbone *b, const struct micro_batch *batch, const void *taps, int tap_rows, void *normed) {
  int hidden = b->config.hidden;
  size_t last = (size_t)stage_depth(&b->stage) * (size_t)tap_rows * (size_t)hidden;
  TRY(device_copy_rows(b->device, &(struct copy_rows_args){.y = b->normed,
                                                           .x = device_act_at(b->device, taps, last),
                                                           .x_index = batch->label_rows,
                                                           .rows = batch->label_count,
                                                           .cols = hidden,
                                                           .y_stride = hidden,
                                                           .x_stride = hidden}));
  return norm_forward(b->device, &b->final_norm, normed, NULL, b->normed, batch->label_count);
}
