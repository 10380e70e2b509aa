#include "io/model_source.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/error.h"
#include "base/text.h"
#include "io/backbone_file.h"
#include "io/model_source_internal.h"

bool model_layer_name(const struct model_config *config, const char *name, int32_t *layer, const char **part) {
  const char *prefix = backbone_layers_name(model_family(config));
  if (strncmp(name, prefix, strlen(prefix))) return false;
  const char *digits = name + strlen(prefix);
  size_t length = strspn(digits, "0123456789");
  if (length == 0 || length > 6 || digits[length] != '.' || (digits[0] == '0' && length > 1)) return false;
  *layer = (int32_t)strtol(digits, NULL, 10);
  *part = digits + length + 1;
  return *layer < config->layers;
}

static bool layer_tensor_shape(const struct model_config *config, int32_t layer, const char *name,
                               struct tensor_shape *out) {
  enum model_family family = model_family(config);
  char known[MODEL_NAME];
  for (int which = 0; which < MATRIX_COUNT; which++) {
    int rows, cols;
    backbone_matrix_shape(config, which, &rows, &cols);
    if (rows == 0) continue;
    backbone_matrix_name(family, layer, which, known);
    *out = (struct tensor_shape){rows, cols};
    if (strcmp(name, known) == 0) return true;
  }
  for (int which = 0; which < VECTOR_COUNT; which++) {
    *out = (struct tensor_shape){backbone_vector_size(config, which), 1};
    if (out->rows == 0) continue;
    backbone_vector_name(family, layer, which, known);
    if (strcmp(name, known) == 0) return true;
  }
  return false;
}

bool model_tensor_shape(const struct model_config *config, const char *name, struct tensor_shape *out) {
  enum model_family family = model_family(config);
  int32_t layer;
  const char *part;
  if (model_layer_name(config, name, &layer, &part)) return layer_tensor_shape(config, layer, name, out);
  for (int table = 0; table < TABLE_COUNT; table++) {
    int rows = backbone_table_rows(config, table);
    *out = (struct tensor_shape){rows + backbone_table_skip(table), config->hidden};
    if (rows > 0 && strcmp(name, backbone_table_name(family, table)) == 0) return true;
  }
  for (int which = 0; which < FINAL_COUNT; which++) {
    *out = (struct tensor_shape){backbone_final_size(config, which), 1};
    if (out->rows > 0 && strcmp(name, backbone_final_name(family, which)) == 0) return true;
  }
  return false;
}

static int check_tensor(struct model_source *source, const char *name) {
  struct tensor_shape expected, found;
  model_tensor_shape(&source->config, name, &expected);
  if (!source->operations->shape(source, name, &found))
    return fail(ERR_INPUT, "%s: the tensor \"%s\" is missing", source->path, name);
  if (found.rows != expected.rows || found.cols != expected.cols)
    return fail(ERR_INPUT, "%s: the tensor \"%s\" is %lld x %lld, but the configuration asks for %lld x %lld",
                source->path, name, (long long)found.rows, (long long)found.cols, (long long)expected.rows,
                (long long)expected.cols);
  return OK;
}

static int check_layer(struct model_source *source, int32_t layer) {
  enum model_family family = model_family(&source->config);
  char name[MODEL_NAME];
  for (int which = 0; which < MATRIX_COUNT; which++) {
    int rows, cols;
    backbone_matrix_shape(&source->config, which, &rows, &cols);
    if (rows == 0) continue;
    backbone_matrix_name(family, layer, which, name);
    TRY(check_tensor(source, name));
  }
  for (int which = 0; which < VECTOR_COUNT; which++) {
    if (backbone_vector_size(&source->config, which) == 0) continue;
    backbone_vector_name(family, layer, which, name);
    TRY(check_tensor(source, name));
  }
  return OK;
}

/* Every tensor of the model is there in its shape, and nothing else: what we do not know of, we would not compute. */
static int check_tensors(struct model_source *source) {
  enum model_family family = model_family(&source->config);
  for (int table = 0; table < TABLE_COUNT; table++)
    if (backbone_table_rows(&source->config, table) > 0) TRY(check_tensor(source, backbone_table_name(family, table)));
  for (int which = 0; which < FINAL_COUNT; which++)
    if (backbone_final_size(&source->config, which) > 0) TRY(check_tensor(source, backbone_final_name(family, which)));
  for (int32_t layer = 0; layer < source->config.layers; layer++) TRY(check_layer(source, layer));
  for (size_t i = 0; i < source->operations->count(source); i++) {
    const char *name = source->operations->stranger(source, i);
    if (name)
      return fail(ERR_INPUT, "%s: the tensor \"%.80s\" is no part of the architecture %s with %d layers as known here",
                  source->path, name, source->config.architecture, source->config.layers);
  }
  return OK;
}

static int open_kind(struct model_source *source) {
  struct stat about;
  if (stat(source->path, &about) != 0) return fail(ERR_INPUT, "%s: %s", source->path, strerror(errno));
  if (S_ISDIR(about.st_mode)) return model_folder_open(source);
  if (text_ends_with(source->path, ".gguf")) return model_gguf_open(source);
  return fail(ERR_INPUT, "%s: give a folder with config.json and safetensors, or a .gguf file", source->path);
}

int model_source_open(struct model_source **out, const char *path) {
  *out = NULL;
  struct model_source *source;
  TRY(memory_array(&source, 1, sizeof *source));
  int status = (source->path = strdup(path)) ? open_kind(source) : fail(ERR_MEMORY, "not enough memory for a path");
  if (status == OK) status = check_tensors(source);
  if (status == OK)
    *out = source;
  else
    model_source_close(&source);
  return status;
}

void model_source_close(struct model_source **source) {
  if (!*source) return;
  if ((*source)->operations) (*source)->operations->close(*source);
  free((*source)->path);
  free(*source);
  *source = NULL;
}

const struct model_config *model_source_config(const struct model_source *source) {
  return &source->config;
}

bool model_source_has(struct model_source *source, const char *name) {
  struct tensor_shape shape;
  return model_tensor_shape(&source->config, name, &shape);
}

int model_source_shape(struct model_source *source, const char *name, struct tensor_shape *out) {
  if (model_tensor_shape(&source->config, name, out)) return OK;
  return fail(ERR_INPUT, "%s: the model has no tensor \"%.80s\"", source->path, name);
}

int model_source_read(struct model_source *source, const char *name, int64_t first, int64_t count, float *out) {
  struct tensor_shape shape;
  TRY(model_source_shape(source, name, &shape));
  if (first < 0 || count < 0 || first > shape.rows || count > shape.rows - first)
    return fail(ERR_INTERNAL, "rows %lld to %lld of tensor \"%s\" with %lld rows", (long long)first,
                (long long)(first + count), name, (long long)shape.rows);
  return source->operations->read(source, name, first, count, out);
}

int model_source_tokenizer(struct model_source *source, struct tokenizer **out) {
  *out = NULL;
  return source->operations->tokenizer(source, out);
}

int model_source_describe(struct model_source *source, struct buffer *out) {
  return source->operations->describe(source, out);
}
