#include "io/backbone_parts.h"

#include <stdio.h>
#include <string.h>

static const char *const matrix_names[MATRIX_COUNT] = {"q_proj",    "k_proj",  "v_proj",   "o_proj",
                                                       "gate_proj", "up_proj", "down_proj"};
static const char *const vector_names[VECTOR_COUNT] = {[VECTOR_INPUT_NORM] = "input_norm",
                                                       [VECTOR_POST_NORM] = "post_attention_norm",
                                                       [VECTOR_Q_BIAS] = "q_bias",
                                                       [VECTOR_K_BIAS] = "k_bias",
                                                       [VECTOR_V_BIAS] = "v_bias"};

void backbone_matrix_shape(const struct model_config *config, enum backbone_matrix which, int *rows, int *cols) {
  int q_width = config->heads * config->head_dim, kv_width = config->kv_heads * config->head_dim;
  *rows = config->hidden;
  *cols = config->hidden;
  switch (which) {
    case MATRIX_Q:
      *rows = q_width;
      break;
    case MATRIX_K:
    case MATRIX_V:
      *rows = kv_width;
      break;
    case MATRIX_O:
      *cols = q_width;
      break;
    case MATRIX_GATE:
    case MATRIX_UP:
      *rows = config->feed_forward;
      break;
    case MATRIX_DOWN:
      *cols = config->feed_forward;
      break;
    case MATRIX_COUNT:
      break;
  }
}

double backbone_layer_weights(const struct model_config *config) {
  double weights = 0;
  for (int which = 0; which < MATRIX_COUNT; which++) {
    int rows, cols;
    backbone_matrix_shape(config, (enum backbone_matrix)which, &rows, &cols);
    weights += (double)rows * cols;
  }
  return weights;
}

int backbone_vector_size(const struct model_config *config, enum backbone_vector which) {
  if (which == VECTOR_INPUT_NORM || which == VECTOR_POST_NORM) return config->hidden;
  if (!config->attention_bias) return 0;
  return (which == VECTOR_Q_BIAS ? config->heads : config->kv_heads) * config->head_dim;
}

void backbone_matrix_name(int layer, enum backbone_matrix which, char name[96]) {
  const char *block = which <= MATRIX_O ? "self_attn" : "mlp";
  snprintf(name, 96, "model.layers.%d.%s.%s.weight", layer, block, matrix_names[which]);
}

void backbone_vector_name(int layer, enum backbone_vector which, char name[96]) {
  static const char *const names[VECTOR_COUNT] = {[VECTOR_INPUT_NORM] = "input_layernorm.weight",
                                                  [VECTOR_POST_NORM] = "post_attention_layernorm.weight",
                                                  [VECTOR_Q_BIAS] = "self_attn.q_proj.bias",
                                                  [VECTOR_K_BIAS] = "self_attn.k_proj.bias",
                                                  [VECTOR_V_BIAS] = "self_attn.v_proj.bias"};
  snprintf(name, 96, "model.layers.%d.%s", layer, names[which]);
}

struct matrix backbone_matrix_of(const struct backbone_shape *shape, enum backbone_matrix which) {
  struct matrix matrix = {.format = shape->format, .double_quantized = shape->double_quantized};
  backbone_matrix_shape(&shape->config, which, &matrix.rows, &matrix.cols);
  return matrix;
}

static struct backbone_part matrix_part(int layer, enum backbone_matrix which, const char *what, enum h5_type type,
                                        uint64_t rows, uint64_t cols) {
  struct backbone_part part = {.type = type, .rows = rows, .cols = cols};
  snprintf(part.name, sizeof part.name, "/layers/%03d/%s/%s", layer, matrix_names[which], what);
  return part;
}

int backbone_matrix_parts(const struct matrix *m, int layer, enum backbone_matrix which,
                          struct backbone_part parts[MATRIX_PARTS], void *data[MATRIX_PARTS]) {
  data[0] = m->codes;
  if (m->format == WEIGHT_BF16) {
    parts[0] = matrix_part(layer, which, "codes", H5_U16, (uint64_t)m->rows, (uint64_t)m->cols);
    return 1;
  }
  parts[0] = matrix_part(layer, which, "codes", H5_U8, matrix_code_bytes(m), 0);
  if (!m->double_quantized) {
    parts[1] = matrix_part(layer, which, "scales", H5_F32, matrix_blocks(m), 0);
    data[1] = m->scales;
    return 2;
  }
  parts[1] = matrix_part(layer, which, "scale_codes", H5_U8, matrix_blocks(m), 0);
  data[1] = m->scale_codes;
  parts[2] = matrix_part(layer, which, "scale_scales", H5_F32, matrix_scale_blocks(m), 0);
  data[2] = m->scale_scales;
  return 3;
}

struct backbone_part backbone_vector_part(const struct backbone_shape *shape, int layer, enum backbone_vector which) {
  struct backbone_part part = {.type = H5_F32, .rows = (uint64_t)backbone_vector_size(&shape->config, which)};
  snprintf(part.name, sizeof part.name, "/layers/%03d/%s", layer, vector_names[which]);
  return part;
}

struct backbone_part backbone_table_part(const struct backbone_shape *shape, enum backbone_table table) {
  struct backbone_part part = {
      .type = H5_U16, .rows = (uint64_t)shape->config.vocabulary, .cols = (uint64_t)shape->config.hidden};
  strcpy(part.name, table == TABLE_EMBEDDING ? "/embedding" : "/head");
  return part;
}

struct backbone_part backbone_final_norm_part(const struct backbone_shape *shape) {
  return (struct backbone_part){.name = "/final_norm", .type = H5_F32, .rows = (uint64_t)shape->config.hidden};
}

struct visitor {
  int (*visit)(void *context, const struct backbone_part *part);
  void *context;
};

static int visit_layer(const struct backbone_shape *shape, int layer, const struct visitor *visitor) {
  for (int which = 0; which < VECTOR_COUNT; which++) {
    struct backbone_part part = backbone_vector_part(shape, layer, (enum backbone_vector)which);
    if (part.rows > 0) TRY(visitor->visit(visitor->context, &part));
  }
  for (int which = 0; which < MATRIX_COUNT; which++) {
    struct matrix matrix = backbone_matrix_of(shape, (enum backbone_matrix)which);
    struct backbone_part parts[MATRIX_PARTS];
    void *data[MATRIX_PARTS];
    int count = backbone_matrix_parts(&matrix, layer, (enum backbone_matrix)which, parts, data);
    for (int i = 0; i < count; i++) TRY(visitor->visit(visitor->context, &parts[i]));
  }
  return OK;
}

int backbone_each_part(const struct backbone_shape *shape,
                       int (*visit)(void *context, const struct backbone_part *part), void *context) {
  const struct visitor visitor = {visit, context};
  struct backbone_part part = backbone_table_part(shape, TABLE_EMBEDDING);
  TRY(visit(context, &part));
  for (int layer = 0; layer < shape->config.layers; layer++) TRY(visit_layer(shape, layer, &visitor));
  part = backbone_final_norm_part(shape);
  TRY(visit(context, &part));
  if (shape->config.tied_head) return OK;
  part = backbone_table_part(shape, TABLE_HEAD);
  return visit(context, &part);
}
