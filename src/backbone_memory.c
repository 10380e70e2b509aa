/* The backbone's memory: what a stage holds of the file, its workspace, and the key/value caches. */
#include <stdlib.h>
#include <string.h>

#include "backbone.h"
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
  if (host.rows == 0) return OK; /* the model has none */
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

static int load_norm(struct backbone *backbone, struct backbone_file *file, int layer, enum backbone_vector weight,
                     enum backbone_vector bias, struct norm *out) {
  *out = (struct norm){.cols = backbone->config.hidden, .epsilon = backbone->config.norm_epsilon};
  TRY(load_vectors(backbone, file, layer, weight, 1, &out->weight));
  return load_vectors(backbone, file, layer, bias, 1, &out->bias);
}

static int load_layer(struct backbone *backbone, struct backbone_file *file, int l) {
  struct backbone_layer *layer = &backbone->layers[l - backbone->stage.first];
  for (int which = 0; which < MATRIX_COUNT; which++) TRY(load_matrix(backbone, file, l, (enum backbone_matrix)which));
  TRY(load_norm(backbone, file, l, VECTOR_INPUT_NORM, VECTOR_INPUT_NORM_BIAS, &layer->input_norm));
  TRY(load_norm(backbone, file, l, VECTOR_POST_NORM, VECTOR_POST_NORM_BIAS, &layer->post_norm));
  TRY(load_vectors(backbone, file, l, VECTOR_Q_BIAS, 3, &layer->qkv_bias));
  TRY(load_vectors(backbone, file, l, VECTOR_O_BIAS, 1, &layer->o_bias));
  TRY(load_vectors(backbone, file, l, VECTOR_UP_BIAS, 1, &layer->up_bias));
  return load_vectors(backbone, file, l, VECTOR_DOWN_BIAS, 1, &layer->down_bias);
}

static int load_table(struct backbone *backbone, struct backbone_file *file, enum backbone_table which,
                      struct matrix *out) {
  const struct model_config *config = &backbone->config;
  struct matrix host = {.format = WEIGHT_BF16, .rows = backbone_table_rows(config, which), .cols = config->hidden};
  if (host.rows == 0) return OK; /* the model has none */
  if (backbone->device->counts_only) return place_matrix(backbone, &host, out);
  int status;
  TRY_GOTO(status, cleanup, stage_matrix(&host));
  TRY_GOTO(status, cleanup, backbone_file_table(file, which, host.codes));
  TRY_GOTO(status, cleanup, place_matrix(backbone, &host, out));
cleanup:
  free_staged(&host);
  return status;
}

static int load_final(struct backbone *backbone, struct backbone_file *file, enum backbone_final which, float **out) {
  size_t count = (size_t)backbone_final_size(&backbone->config, which);
  if (count == 0) return OK; /* the model has none */
  float *host;
  TRY(memory_array(&host, count, sizeof *host));
  int status = backbone_file_final(file, which, host);
  if (status == OK) status = place(backbone, out, host, count * sizeof *host);
  free(host);
  return status;
}

static int load_end(struct backbone *backbone, struct backbone_file *file) {
  bool tied = backbone->config.tied_head;
  struct norm *norm = &backbone->final_norm;
  *norm = (struct norm){.cols = backbone->config.hidden, .epsilon = backbone->config.norm_epsilon};
  TRY(load_final(backbone, file, FINAL_NORM, &norm->weight));
  TRY(load_final(backbone, file, FINAL_NORM_BIAS, &norm->bias));
  backbone->head = backbone->embedding;
  if (tied && stage_begins(&backbone->stage)) return OK;
  return load_table(backbone, file, tied ? TABLE_EMBEDDING : TABLE_HEAD, &backbone->head);
}

static int load(struct backbone *backbone, struct backbone_file *file) {
  const struct stage *stage = &backbone->stage;
  TRY(memory_array(&backbone->layers, (size_t)stage_depth(stage), sizeof *backbone->layers));
  for (int l = stage->first; l < stage->end; l++) TRY(load_layer(backbone, file, l));
  if (stage_begins(stage)) {
    TRY(load_table(backbone, file, TABLE_EMBEDDING, &backbone->embedding));
    TRY(load_table(backbone, file, TABLE_POSITIONS, &backbone->positions));
  }
  return stage_ends(stage) ? load_end(backbone, file) : OK;
}

/* ---- opening -------------------------------------------------------------------------------------------- */

/* Columns of the first product of the feed-forward block: gate and up of SwiGLU, or what goes into ReLU. */
static int up_cols(const struct model_config *config) {
  return (model_family(config) == FAMILY_OPT ? 1 : 2) * config->feed_forward;
}

struct device_limits backbone_limits(const struct model_config *config, int rows) {
  int64_t attention = (int64_t)backbone_qkv(config) * config->hidden;
  int64_t up = (int64_t)up_cols(config) * config->hidden;
  int attended = config->heads * config->head_dim, widest_input = config->feed_forward;
  if (attended > widest_input) widest_input = attended;
  if (config->hidden > widest_input) widest_input = config->hidden;
  return (struct device_limits){.rows = rows,
                                .widest_product = up > attention ? up : attention,
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
  parts[3] = (struct workspace_part){&backbone->gate_up, model_family(c) == FAMILY_OPT ? 0 : up_cols(c)};
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
  if (model_family(&backbone->config) == FAMILY_LLAMA)
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

static void release_vector(struct backbone *backbone, float **vector, int size) {
  device_release(backbone->device, MEMORY_WEIGHTS, vector, (size_t)size * sizeof(float));
}

static void release_layer(struct backbone *backbone, struct backbone_layer *layer) {
  const struct model_config *c = &backbone->config;
  for (int which = 0; which < MATRIX_COUNT; which++) release_matrix(backbone, &layer->matrices[which]);
  release_vector(backbone, &layer->input_norm.weight, c->hidden);
  release_vector(backbone, &layer->input_norm.bias, c->hidden);
  release_vector(backbone, &layer->post_norm.weight, c->hidden);
  release_vector(backbone, &layer->post_norm.bias, c->hidden);
  release_vector(backbone, &layer->qkv_bias, backbone_qkv(c));
  release_vector(backbone, &layer->o_bias, c->hidden);
  release_vector(backbone, &layer->up_bias, c->feed_forward);
  release_vector(backbone, &layer->down_bias, c->hidden);
}

void backbone_close(struct backbone *backbone) {
  struct device *device = backbone->device;
  if (!device) return;
  for (int l = 0; backbone->layers && l < stage_depth(&backbone->stage); l++)
    release_layer(backbone, &backbone->layers[l]);
  free(backbone->layers);
  release_vector(backbone, &backbone->final_norm.weight, backbone->config.hidden);
  release_vector(backbone, &backbone->final_norm.bias, backbone->config.hidden);
  if (backbone->head.codes != backbone->embedding.codes) release_matrix(backbone, &backbone->head);
  release_matrix(backbone, &backbone->embedding);
  release_matrix(backbone, &backbone->positions);
  rope_table_close(&backbone->rope, device);
  struct workspace_part parts[5];
  workspace_parts(backbone, parts);
  for (int i = 0; i < 5; i++) device_release(device, MEMORY_WORKSPACE, parts[i].block, part_bytes(backbone, &parts[i]));
  *backbone = (struct backbone){0};
}
