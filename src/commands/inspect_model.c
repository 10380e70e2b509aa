/* inspect for published models and side networks in other formats. */
#include <string.h>

#include "base/error.h"
#include "commands/inspect.h"
#include "io/checkpoint.h"
#include "io/gguf.h"
#include "io/gguf_blocks.h"
#include "io/model_source.h"
#include "io/safetensors.h"

static void count_type(json_t *types, const char *name, int64_t bytes) {
  json_t *type = json_object_get(types, name);
  if (!type) {
    type = json_pack("{s:i, s:i}", "tensors", 0, "bytes", 0);
    json_object_set_new(types, name, type);
  }
  inspect_set_integer(type, "tensors", json_integer_value(json_object_get(type, "tensors")) + 1);
  inspect_set_integer(type, "bytes", json_integer_value(json_object_get(type, "bytes")) + bytes);
}

static json_t *shape_of(const int64_t *shape, int rank) {
  json_t *out = json_array();
  for (int i = 0; i < rank; i++) json_array_append_new(out, json_integer(shape[i]));
  return out;
}

static void add_tensor(json_t *out, const char *name, const char *type, json_t *shape, uint64_t bytes) {
  json_t *entry = json_pack("{s:s, s:o, s:I}", "type", type, "shape", shape, "bytes", (json_int_t)bytes);
  inspect_set_text(entry, "name", name);
  json_array_append_new(json_object_get(out, "tensors"), entry);
  count_type(json_object_get(out, "types"), type, (int64_t)bytes);
}

static void start_tensors(json_t *out, const char *format, const char *header_hash) {
  inspect_set_text(out, "format", format);
  inspect_set_text(out, "header_xxh3", header_hash);
  json_object_set_new(out, "types", json_object());
  json_object_set_new(out, "tensors", json_array());
}

/* Of our own side networks: what the metadata says. */
static void add_side_metadata(const struct safetensors *file, json_t *out) {
  static const char *const keys[] = {"format", "qst_format", "qst_step", "qst_backbone", "qst_settings"};
  json_t *metadata = json_object();
  for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
    const char *text = safetensors_metadata(file, keys[i]);
    if (text) inspect_set_text(metadata, keys[i], text);
  }
  json_object_set_new(out, "metadata", metadata);
}

int inspect_safetensors(const char *path, json_t *out) {
  struct safetensors *file;
  TRY(safetensors_open(&file, path));
  start_tensors(out, "safetensors", safetensors_header_hash(file));
  int64_t parameters = 0;
  for (size_t i = 0; i < safetensors_count(file); i++) {
    const struct safetensors_tensor *tensor = safetensors_at(file, i);
    add_tensor(out, tensor->name, tensor->type_name, shape_of(tensor->shape, tensor->rank), tensor->bytes);
    parameters += tensor->rows * tensor->cols;
  }
  inspect_set_integer(out, "parameters", parameters);
  add_side_metadata(file, out);
  safetensors_close(&file);
  return OK;
}

static int add_config(const char *path, json_t *out) {
  struct model_source *source;
  struct buffer lines = {0};
  TRY(model_source_open(&source, path));
  json_object_set_new(out, "config", inspect_model_config(model_source_config(source)));
  int status = model_source_describe(source, &lines);
  if (status == OK) inspect_set_text(out, "files", lines.data);
  buffer_free(&lines);
  model_source_close(&source);
  return status;
}

int inspect_gguf(const char *path, json_t *out) {
  struct gguf *file;
  TRY(gguf_open(&file, path));
  start_tensors(out, "gguf", gguf_header_hash(file));
  int64_t parameters = 0;
  for (size_t i = 0; i < gguf_count(file); i++) {
    const struct gguf_tensor *tensor = gguf_at(file, i);
    const int64_t shape[2] = {tensor->rows, tensor->cols};
    bool matrix = tensor->rank > 1;
    add_tensor(out, tensor->name, gguf_type_name(tensor->type), shape_of(shape + !matrix, 1 + matrix), tensor->bytes);
    parameters += tensor->rows * tensor->cols;
  }
  inspect_set_integer(out, "parameters", parameters);
  gguf_close(&file);
  return add_config(path, out);
}

int inspect_model_folder(const char *path, json_t *out) {
  inspect_set_text(out, "format", "model folder");
  return add_config(path, out);
}

json_t *inspect_model_config(const struct model_config *config) {
  static const char *const scalings[] = {"plain", "linear", "llama3"};
  json_t *out =
      json_pack("{s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:f}", "architecture", config->architecture, "layers",
                config->layers, "hidden", config->hidden, "heads", config->heads, "kv_heads", config->kv_heads,
                "head_dim", config->head_dim, "feed_forward", config->feed_forward, "vocabulary", config->vocabulary,
                "max_positions", config->max_positions, "norm_epsilon", (double)config->norm_epsilon);
  if (model_family(config) == FAMILY_LLAMA) {
    json_object_set_new(out, "rope_theta", json_real(config->rope_theta));
    inspect_set_text(out, "rope_scaling", scalings[config->rope_scaling]);
  }
  json_object_set_new(out, "tied_head", json_boolean(config->tied_head));
  json_object_set_new(out, "attention_bias", json_boolean(config->attention_bias));
  return out;
}
