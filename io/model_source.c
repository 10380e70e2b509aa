#include "io/model_source.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/error.h"
#include "base/text.h"
#include "io/backbone_file.h"
#include "io/model_source_internal.h"

bool model_layer_name(const char *name, int32_t layers, int32_t *layer, const char **part) {
  static const char prefix[] = "model.layers.";
  if (strncmp(name, prefix, sizeof prefix - 1)) return false;
  const char *digits = name + sizeof prefix - 1;
  size_t length = strspn(digits, "0123456789");
  if (length == 0 || length > 6 || digits[length] != '.' || (digits[0] == '0' && length > 1)) return false;
  *layer = (int32_t)strtol(digits, NULL, 10);
  *part = digits + length + 1;
  return *layer < layers;
}

static bool layer_tensor_shape(const struct model_config *config, int32_t layer, const char *name,
                               struct tensor_shape *out) {
  char known[MODEL_NAME];
  for (int which = 0; which < MATRIX_COUNT; which++) {
    int rows, cols;
    backbone_matrix_name(layer, which, known);
    if (strcmp(name, known)) continue;
    backbone_matrix_shape(config, which, &rows, &cols);
    *out = (struct tensor_shape){rows, cols};
    return true;
  }
  for (int which = 0; which < VECTOR_COUNT; which++) {
    backbone_vector_name(layer, which, known);
    if (strcmp(name, known)) continue;
    *out = (struct tensor_shape){backbone_vector_size(config, which), 1};
    return out->rows > 0;
  }
  return false;
}

bool model_tensor_shape(const struct model_config *config, const char *name, struct tensor_shape *out) {
  int32_t layer;
  const char *part;
  if (model_layer_name(name, config->layers, &layer, &part)) return layer_tensor_shape(config, layer, name, out);
  *out = (struct tensor_shape){config->vocabulary, config->hidden};
  if (strcmp(name, "model.embed_tokens.weight") == 0) return true;
  if (strcmp(name, "lm_head.weight") == 0) return !config->tied_head;
  *out = (struct tensor_shape){config->hidden, 1};
  return strcmp(name, "model.norm.weight") == 0;
}

static int check_tensor(struct model_source *source, const char *name) {
  struct tensor_shape expected, found;
  model_tensor_shape(&source->config, name, &expected);
  if (!source->operations->shape(source, name, &found))
    return fail(ERR_INPUT, "%s: the tensor \"%s\" is missing", source->path, name);
  if (found.rows != expected.rows || found.cols != expected.cols)
    return fail(ERR_INPUT, "%s: the tensor \"%s\" is %lld x %lld, but the configuration says %lld x %lld", source->path,
                name, (long long)found.rows, (long long)found.cols, (long long)expected.rows, (long long)expected.cols);
  return OK;
}

static int check_layer(struct model_source *source, int32_t layer) {
  char name[MODEL_NAME];
  for (int which = 0; which < MATRIX_COUNT; which++) {
    backbone_matrix_name(layer, which, name);
    TRY(check_tensor(source, name));
  }
  for (int which = 0; which < VECTOR_COUNT; which++) {
    if (backbone_vector_size(&source->config, which) == 0) continue;
    backbone_vector_name(layer, which, name);
    TRY(check_tensor(source, name));
  }
  return OK;
}

/* Every tensor of the model is there in its shape, and nothing else: what we do not know of, we would not compute. */
static int check_tensors(struct model_source *source) {
  TRY(check_tensor(source, "model.embed_tokens.weight"));
  TRY(check_tensor(source, "model.norm.weight"));
  if (!source->config.tied_head) TRY(check_tensor(source, "lm_head.weight"));
  for (int32_t layer = 0; layer < source->config.layers; layer++) TRY(check_layer(source, layer));
  for (size_t i = 0; i < source->operations->count(source); i++) {
    const char *name = source->operations->stranger(source, i);
    if (name)
      return fail(ERR_INPUT, "%s: the tensor \"%.80s\" is no part of a %s model of %d layers as known here",
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
