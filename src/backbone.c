#include "backbone.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"

/* ---- key/value cache ------------------------------------------------------------------------------------ */

static size_t cache_layer_elements(const struct kv_cache *cache) {
  return (size_t)cache->slots * (size_t)cache->slot_rows * 2 * (size_t)cache->kv_width;
}

static size_t cache_bytes(const struct kv_cache *cache, const struct device *device) {
  return device_act_bytes(device, (size_t)cache->layers * cache_layer_elements(cache));
}

int kv_cache_open(struct kv_cache *cache, struct device *device, int layers, int kv_width, int slots, int slot_rows) {
  *cache = (struct kv_cache){.slots = slots, .slot_rows = slot_rows, .layers = layers, .kv_width = kv_width};
  return device_allocate(device, MEMORY_WORKSPACE, &cache->rows, cache_bytes(cache, device));
}

void kv_cache_close(struct kv_cache *cache, struct device *device) {
  device_release(device, MEMORY_WORKSPACE, &cache->rows, cache_bytes(cache, device));
}

void *kv_cache_layer(const struct kv_cache *cache, const struct device *device, int layer) {
  return device_act_at(device, cache->rows, (size_t)layer * cache_layer_elements(cache));
}

/* ---- loading -------------------------------------------------------------------------------------------- */

/* Moves arrays from host staging to freshly allocated device memory and counts them. */
static int place(struct backbone *backbone, void *out, const void *host, size_t bytes) {
  void *block;
  TRY(device_allocate(backbone->device, MEMORY_WEIGHTS, &block, bytes));
  memcpy(out, &block, sizeof block);
  backbone->weight_bytes += bytes;
  return device_upload(backbone->device, block, host, bytes);
}

static void shape_matrix(struct matrix *matrix, struct backbone_file *file, enum backbone_matrix which) {
  *matrix =
      (struct matrix){.format = backbone_file_format(file), .double_quantized = backbone_file_double_quantized(file)};
  backbone_matrix_shape(backbone_file_config(file), which, &matrix->rows, &matrix->cols);
}

static int stage_matrix(struct matrix *host) {
  if (matrix_code_bytes(host)) TRY(memory_array(&host->codes, matrix_code_bytes(host), 1));
  if (host->double_quantized) {
    TRY(memory_array(&host->scale_codes, matrix_blocks(host), 1));
    return memory_array(&host->scale_scales, matrix_scale_blocks(host), sizeof(float));
  }
  return matrix_blocks(host) ? memory_array(&host->scales, matrix_blocks(host), sizeof(float)) : OK;
}

static void free_staged(struct matrix *host) {
  free(host->codes);
  free(host->scales);
  free(host->scale_codes);
  free(host->scale_scales);
}

static int place_matrix(struct backbone *backbone, const struct matrix *host, struct matrix *out) {
  *out = *host;
  TRY(place(backbone, &out->codes, host->codes, matrix_code_bytes(host)));
  if (host->double_quantized) {
    TRY(place(backbone, &out->scale_codes, host->scale_codes, matrix_blocks(host)));
    return place(backbone, &out->scale_scales, host->scale_scales, matrix_scale_blocks(host) * sizeof(float));
  }
  if (matrix_blocks(host) == 0) return OK;
  return place(backbone, &out->scales, host->scales, matrix_blocks(host) * sizeof(float));
}

static int load_matrix(struct backbone *backbone, struct backbone_file *file, int layer, enum backbone_matrix which) {
  struct matrix host, *out = &backbone->layers[layer - backbone->stage.first].matrices[which];
  shape_matrix(&host, file, which);
  if (backbone->device->counts_only) return place_matrix(backbone, &host, out);
  int status;
  TRY_GOTO(status, cleanup, stage_matrix(&host));
  TRY_GOTO(status, cleanup, backbone_file_matrix(file, layer, which, &host));
  TRY_GOTO(status, cleanup, place_matrix(backbone, &host, out));
cleanup:
  free_staged(&host);
  return status;
}

/* Consecutive vectors of a layer as one (q, k and v biases); *out stays NULL when the model has none. */
static int load_vectors(struct backbone *backbone, struct backbone_file *file, int layer, enum backbone_vector first,
                        int count, float **out) {
  int total = 0;
  for (int i = 0; i < count; i++) total += backbone_vector_size(&backbone->config, first + (unsigned)i);
  if (total == 0) return OK;
  float *host;
  TRY(memory_array(&host, (size_t)total, sizeof *host));
  int status = OK, at = 0;
  for (int i = 0; i < count; i++) {
    enum backbone_vector which = first + (unsigned)i;
    TRY_GOTO(status, cleanup, backbone_file_vector(file, layer, which, host + at));
    at += backbone_vector_size(&backbone->config, which);
  }
  TRY_GOTO(status, cleanup, place(backbone, out, host, (size_t)total * sizeof(float)));
cleanup:
  free(host);
  return status;
}

static int load_layer(struct backbone *backbone, struct backbone_file *file, int l) {
  struct backbone_layer *layer = &backbone->layers[l - backbone->stage.first];
  for (int which = 0; which < MATRIX_COUNT; which++) TRY(load_matrix(backbone, file, l, (enum backbone_matrix)which));
  TRY(load_vectors(backbone, file, l, VECTOR_INPUT_NORM, 1, &layer->input_norm));
  TRY(load_vectors(backbone, file, l, VECTOR_POST_NORM, 1, &layer->post_norm));
  return load_vectors(backbone, file, l, VECTOR_Q_BIAS, 3, &layer->qkv_bias);
}

static int load_table(struct backbone *backbone, struct backbone_file *file,
                      int (*read)(struct backbone_file *, bf16 *), struct matrix *out) {
  const struct model_config *config = &backbone->config;
  struct matrix host = {.format = WEIGHT_BF16, .rows = config->vocabulary, .cols = config->hidden};
  if (backbone->device->counts_only) return place_matrix(backbone, &host, out);
  int status;
  TRY_GOTO(status, cleanup, stage_matrix(&host));
  TRY_GOTO(status, cleanup, read(file, host.codes));
  TRY_GOTO(status, cleanup, place_matrix(backbone, &host, out));
cleanup:
  free_staged(&host);
  return status;
}

static int load_final_norm(struct backbone *backbone, struct backbone_file *file) {
  size_t count = (size_t)backbone->config.hidden;
  float *host;
  TRY(memory_array(&host, count, sizeof *host));
  int status = backbone_file_final_norm(file, host);
  if (status == OK) status = place(backbone, &backbone->final_norm, host, count * sizeof *host);
  free(host);
  return status;
}

static int load(struct backbone *backbone, struct backbone_file *file) {
  const struct stage *stage = &backbone->stage;
  bool tied = backbone->config.tied_head;
  TRY(memory_array(&backbone->layers, (size_t)stage_depth(stage), sizeof *backbone->layers));
  for (int l = stage->first; l < stage->end; l++) TRY(load_layer(backbone, file, l));
  if (stage_begins(stage)) TRY(load_table(backbone, file, backbone_file_embedding, &backbone->embedding));
  if (!stage_ends(stage)) return OK;
  TRY(load_final_norm(backbone, file));
  backbone->head = backbone->embedding;
  if (tied && stage_begins(stage)) return OK;
  return load_table(backbone, file, tied ? backbone_file_embedding : backbone_file_head, &backbone->head);
}

/* ---- opening -------------------------------------------------------------------------------------------- */

struct device_limits backbone_limits(const struct model_config *config, int rows) {
  int64_t attention = (int64_t)backbone_qkv(config) * config->hidden;
  int64_t gate_up = (int64_t)2 * config->feed_forward * config->hidden;
  int attended = config->heads * config->head_dim, widest_input = config->feed_forward;
  if (attended > widest_input) widest_input = attended;
  if (config->hidden > widest_input) widest_input = config->hidden;
  return (struct device_limits){.rows = rows,
                                .widest_product = gate_up > attention ? gate_up : attention,
                                .vocabulary = config->vocabulary,
                                .hidden = config->hidden,
                                .widest_input = widest_input};
}

struct workspace_part {
  void **block;
  int cols;
};

/* The activations one layer needs, reused by all. */
static void workspace_parts(struct backbone *backbone, struct workspace_part parts[5]) {
  const struct model_config *c = &backbone->config;
  parts[0] = (struct workspace_part){&backbone->normed, c->hidden};
  parts[1] = (struct workspace_part){&backbone->qkv, backbone_qkv(c)};
  parts[2] = (struct workspace_part){&backbone->attended, c->heads * c->head_dim};
  parts[3] = (struct workspace_part){&backbone->gate_up, 2 * c->feed_forward};
  parts[4] = (struct workspace_part){&backbone->product, c->feed_forward};
}

static size_t part_bytes(const struct backbone *backbone, const struct workspace_part *part) {
  return device_act_bytes(backbone->device, (size_t)backbone->capacity * (size_t)part->cols);
}

static int open_workspace(struct backbone *backbone) {
  struct workspace_part parts[5];
  workspace_parts(backbone, parts);
  for (int i = 0; i < 5; i++)
    TRY(device_allocate(backbone->device, MEMORY_WORKSPACE, parts[i].block, part_bytes(backbone, &parts[i])));
  return OK;
}

int backbone_open(struct backbone *backbone, struct device *device, struct backbone_file *file,
                  const struct stage *stage, int capacity, int positions) {
  *backbone =
      (struct backbone){.device = device, .config = *backbone_file_config(file), .stage = *stage, .capacity = capacity};
  if (positions > backbone->config.max_positions)
    return fail(ERR_INPUT, "a sequence of %d tokens is longer than the %d positions the model knows", positions,
                backbone->config.max_positions);
  TRY(load(backbone, file));
  TRY(rope_table_open(&backbone->rope, device, &backbone->config, backbone->config.head_dim, positions));
  return open_workspace(backbone);
}

static void release_matrix(struct backbone *backbone, struct matrix *m) {
  struct device *device = backbone->device;
  device_release(device, MEMORY_WEIGHTS, &m->codes, matrix_code_bytes(m));
  device_release(device, MEMORY_WEIGHTS, &m->scales, matrix_blocks(m) * sizeof(float));
  device_release(device, MEMORY_WEIGHTS, &m->scale_codes, matrix_blocks(m));
  device_release(device, MEMORY_WEIGHTS, &m->scale_scales, matrix_scale_blocks(m) * sizeof(float));
}

void backbone_close(struct backbone *backbone) {
  struct device *device = backbone->device;
  if (!device) return;
  size_t hidden = (size_t)backbone->config.hidden * sizeof(float);
  for (int l = 0; backbone->layers && l < stage_depth(&backbone->stage); l++) {
    struct backbone_layer *layer = &backbone->layers[l];
    for (int which = 0; which < MATRIX_COUNT; which++) release_matrix(backbone, &layer->matrices[which]);
    device_release(device, MEMORY_WEIGHTS, &layer->input_norm, hidden);
    device_release(device, MEMORY_WEIGHTS, &layer->post_norm, hidden);
    device_release(device, MEMORY_WEIGHTS, &layer->qkv_bias, (size_t)backbone_qkv(&backbone->config) * sizeof(float));
  }
  free(backbone->layers);
  device_release(device, MEMORY_WEIGHTS, &backbone->final_norm, hidden);
  if (backbone->head.codes != backbone->embedding.codes) release_matrix(backbone, &backbone->head);
  release_matrix(backbone, &backbone->embedding);
  rope_table_close(&backbone->rope, device);
  struct workspace_part parts[5];
  workspace_parts(backbone, parts);
  for (int i = 0; i < 5; i++) device_release(device, MEMORY_WORKSPACE, parts[i].block, part_bytes(backbone, &parts[i]));
  *backbone = (struct backbone){0};
}

/* ---- forward -------------------------------------------------------------------------------------------- */

/* [q | k | v] = rotate(norm(h) · Wᵀ + bias), and the keys and values into the cache when there is one. */
static int project_qkv(struct backbone *b, const struct backbone_layer *layer, const struct micro_batch *batch,
                       const void *h, void *cached) {
  const struct model_config *c = &b->config;
  int qkv = backbone_qkv(c), q = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim;
  TRY(device_rmsnorm(b->device, &(struct rmsnorm_args){.y = b->normed,
                                                       .x = h,
                                                       .w = layer->input_norm,
                                                       .rows = batch->rows,
                                                       .cols = c->hidden,
                                                       .epsilon = c->norm_epsilon}));
  const struct matrix *m = layer->matrices;
  TRY(device_frozen_linear(b->device, &(struct frozen_linear_args){.y = b->qkv,
                                                                   .x = b->normed,
                                                                   .parts = {&m[MATRIX_Q], &m[MATRIX_K], &m[MATRIX_V]},
                                                                   .part_count = 3,
                                                                   .bias = layer->qkv_bias,
                                                                   .rows = batch->rows}));
  TRY(device_rope(b->device, &(struct rope_args){.x = b->qkv,
                                                 .positions = batch->positions,
                                                 .cosines = b->rope.cosines,
                                                 .sines = b->rope.sines,
                                                 .rows = batch->rows,
                                                 .stride = qkv,
                                                 .heads = c->heads + c->kv_heads,
                                                 .head_dim = c->head_dim,
                                                 .table_positions = b->rope.positions}));
  if (!cached) return OK;
  return device_copy_rows(b->device, &(struct copy_rows_args){.y = cached,
                                                              .x = device_act_at(b->device, b->qkv, (size_t)q),
                                                              .y_index = batch->cache_rows,
                                                              .rows = batch->rows,
                                                              .cols = 2 * kv,
                                                              .y_stride = 2 * kv,
                                                              .x_stride = qkv});
}

/* h' = h + attention(norm(h)) · Woᵀ */
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
                                                                      .residual = h,
                                                                      .rows = batch->rows});
}

/* h ← h + swiglu(norm(h) · [Wgate; Wup]ᵀ) · Wdownᵀ */
static int feed_forward_block(struct backbone *b, const struct backbone_layer *layer, int rows, void *h) {
  const struct model_config *c = &b->config;
  const struct matrix *m = layer->matrices;
  TRY(device_rmsnorm(
      b->device,
      &(struct rmsnorm_args){
          .y = b->normed, .x = h, .w = layer->post_norm, .rows = rows, .cols = c->hidden, .epsilon = c->norm_epsilon}));
  TRY(device_frozen_linear(
      b->device,
      &(struct frozen_linear_args){
          .y = b->gate_up, .x = b->normed, .parts = {&m[MATRIX_GATE], &m[MATRIX_UP]}, .part_count = 2, .rows = rows}));
  TRY(device_swiglu(b->device,
                    &(struct swiglu_args){.y = b->product, .x = b->gate_up, .rows = rows, .cols = c->feed_forward}));
  return device_frozen_linear(
      b->device,
      &(struct frozen_linear_args){
          .y = h, .x = b->product, .parts = {&m[MATRIX_DOWN]}, .part_count = 1, .residual = h, .rows = rows});
}

int backbone_layer_forward(struct backbone *b, const struct micro_batch *batch, int layer, void *taps, int tap_rows,
                           struct kv_cache *cache) {
  if (batch->rows > b->capacity || batch->rows > tap_rows)
    return fail(ERR_INTERNAL, "a micro-batch of %d rows in a backbone for %d", batch->rows, b->capacity);
  if (layer == 0 && stage_begins(&b->stage))
    TRY(device_embed(b->device, &(struct embed_args){
                                    .y = taps, .table = &b->embedding, .tokens = batch->tokens, .rows = batch->rows}));
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
  return device_rmsnorm(b->device, &(struct rmsnorm_args){.y = normed,
                                                          .x = b->normed,
                                                          .w = b->final_norm,
                                                          .rows = batch->label_count,
                                                          .cols = hidden,
                                                          .epsilon = b->config.norm_epsilon});
}
