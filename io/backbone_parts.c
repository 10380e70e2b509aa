#include "io/backbone_parts.h"

#include <stdio.h>
#include <string.h>

static const char *const matrix_names[MATRIX_COUNT] = {"q_proj",    "k_proj",  "v_proj",   "o_proj",
                                                       "gate_proj", "up_proj", "down_proj"};
static const char *const vector_names[VECTOR_COUNT] = {[VECTOR_INPUT_NORM] = "input_norm",
                                                       [VECTOR_POST_NORM] = "post_attention_norm",
                                                       [VECTOR_Q_BIAS] = "q_bias",
                                                       [VECTOR_K_BIAS] = "k_bias",
                                                       [VECTOR_V_BIAS] = "v_bias",
                                                       [VECTOR_INPUT_NORM_BIAS] = "input_norm_bias",
                                                       [VECTOR_POST_NORM_BIAS] = "post_attention_norm_bias",
                                                       [VECTOR_O_BIAS] = "o_bias",
                                                       [VECTOR_UP_BIAS] = "up_bias",
                                                       [VECTOR_DOWN_BIAS] = "down_bias"};
static const char *const table_names[TABLE_COUNT] = {
    [TABLE_EMBEDDING] = "/embedding", [TABLE_HEAD] = "/head", [TABLE_POSITIONS] = "/positions"};
static const char *const final_names[FINAL_COUNT] = {
    [FINAL_NORM] = "/final_norm", [FINAL_NORM_BIAS] = "/final_norm_bias"};

void backbone_matrix_shape(const struct model_config *config, enum backbone_matrix which, int *rows, int *cols) {
  int q_width = config->heads * config->head_dim, kv_width = config->kv_heads * config->head_dim;
  bool opt = model_family(config) == FAMILY_OPT;
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
      *rows = opt ? 0 : config->feed_forward;
      *cols = opt ? 0 : config->hidden;
      break;
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
  bool opt = model_family(config) == FAMILY_OPT;
  switch (which) {
    case VECTOR_INPUT_NORM:
    case VECTOR_POST_NORM:
      return config->hidden;
    case VECTOR_Q_BIAS:
      return config->attention_bias ? config->heads * config->head_dim : 0;
    case VECTOR_K_BIAS:
    case VECTOR_V_BIAS:
      return config->attention_bias ? config->kv_heads * config->head_dim : 0;
    case VECTOR_INPUT_NORM_BIAS:
    case VECTOR_POST_NORM_BIAS:
    case VECTOR_O_BIAS:
    case VECTOR_DOWN_BIAS:
      return opt ? config->hidden : 0;
    case VECTOR_UP_BIAS:
      return opt ? config->feed_forward : 0;
    case VECTOR_COUNT:
      break;
  }
  return 0;
}

int backbone_table_rows(const struct model_config *config, enum backbone_table table) {
  if (table == TABLE_EMBEDDING) return config->vocabulary;
  if (table == TABLE_HEAD) return config->tied_head ? 0 : config->vocabulary;
  return model_family(config) == FAMILY_OPT ? config->max_positions : 0;
}

int backbone_final_size(const struct model_config *config, enum backbone_final which) {
  return which == FINAL_NORM || model_family(config) == FAMILY_OPT ? config->hidden : 0;
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
  struct backbone_part part = {.type = H5_U16,
                               .rows = (uint64_t)backbone_table_rows(&shape->config, table),
                               .cols = (uint64_t)shape->config.hidden};
  strcpy(part.name, table_names[table]);
  return part;
}

struct backbone_part backbone_final_part(const struct backbone_shape *shape, enum backbone_final which) {
  struct backbone_part part = {.type = H5_F32, .rows = (uint64_t)backbone_final_size(&shape->config, which)};
  strcpy(part.name, final_names[which]);
  return part;
}

struct visitor {
  int (*visit)(void *context, const struct backbone_part *part);
  void *context;
};

/* A part that the model has not is none of its datasets. */
static int visit_part(const struct visitor *visitor, const struct backbone_part *part) {
  return part->rows > 0 ? visitor->visit(visitor->context, part) : OK;
}

static int visit_layer(const struct backbone_shape *shape, int layer, const struct visitor *visitor) {
  for (int which = 0; which < VECTOR_COUNT; which++) {
    struct backbone_part part = backbone_vector_part(shape, layer, (enum backbone_vector)which);
    TRY(visit_part(visitor, &part));
  }
  for (int which = 0; which < MATRIX_COUNT; which++) {
    struct matrix matrix = backbone_matrix_of(shape, (enum backbone_matrix)which);
    struct backbone_part parts[MATRIX_PARTS];
    void *data[MATRIX_PARTS];
    int count = backbone_matrix_parts(&matrix, layer, (enum backbone_matrix)which, parts, data);
    for (int i = 0; i < count; i++) TRY(visit_part(visitor, &parts[i]));
  }
  return OK;
}

static int visit_table(const struct backbone_shape *shape, enum backbone_table table, const struct visitor *visitor) {
  struct backbone_part part = backbone_table_part(shape, table);
  return visit_part(visitor, &part);
}

int backbone_each_part(const struct backbone_shape *shape,
                       int (*visit)(void *context, const struct backbone_part *part), void *context) {
  const struct visitor visitor = {.visit = visit, .context = context};
  TRY(visit_table(shape, TABLE_EMBEDDING, &visitor));
  TRY(visit_table(shape, TABLE_POSITIONS, &visitor));
  for (int layer = 0; layer < shape->config.layers; layer++) TRY(visit_layer(shape, layer, &visitor));
  for (int which = 0; which < FINAL_COUNT; which++) {
    struct backbone_part part = backbone_final_part(shape, (enum backbone_final)which);
    TRY(visit_part(&visitor, &part));
  }
  return visit_table(shape, TABLE_HEAD, &visitor);
}
