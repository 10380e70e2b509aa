/* A Hugging Face checkpoint: config.json, generation_config.json, tokenizer.json, tokenizer_config.json,
 * chat_template.jinja, and model.safetensors or model.safetensors.index.json with its shards. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file.h"
#include "base/hash.h"
#include "io/backbone_file.h"
#include "io/model_source_internal.h"
#include "io/safetensors.h"

enum { LARGEST_JSON = 256 << 20, LARGEST_CONFIG = 1 << 20, MAX_SHARDS = 4096 };

struct folder {
  struct safetensors **shards; /* in name order */
  int shard_count;
  size_t tensor_count; /* of all shards */
  bool bare;           /* the names of its tensors lack "model." */
  struct hash_text config_hash;
  size_t config_size;
};

/* *found = false and an empty buffer when the folder has no such file. */
static int read_optional(const char *folder, const char *name, uint64_t limit, struct buffer *out, bool *found) {
  char *path;
  TRY(file_join(folder, name, &path));
  *found = access(path, F_OK) == 0;
  int status = *found ? file_read(path, limit, out) : OK;
  free(path);
  return status;
}

static const char prefix[] = "model.";

static const struct safetensors_tensor *find_stored(const struct folder *folder, const char *name,
                                                    const struct safetensors **shard) {
  for (int i = 0; i < folder->shard_count; i++) {
    const struct safetensors_tensor *tensor = safetensors_find(folder->shards[i], name);
    *shard = folder->shards[i];
    if (tensor) return tensor;
  }
  return NULL;
}

static const struct safetensors_tensor *find(const struct folder *folder, const char *name,
                                             const struct safetensors **shard) {
  bool shorter = folder->bare && strncmp(name, prefix, sizeof prefix - 1) == 0;
  return find_stored(folder, shorter ? name + sizeof prefix - 1 : name, shard);
}

/* A model that was saved without a head (OPTModel rather than OPTForCausalLM) has no "model." in front of its names. */
static void find_prefix(struct model_source *source) {
  const char *name = backbone_table_name(model_family(&source->config), TABLE_EMBEDDING);
  struct folder *folder = source->state;
  const struct safetensors *shard;
  folder->bare = !find_stored(folder, name, &shard) && find_stored(folder, name + sizeof prefix - 1, &shard);
}

static void folder_close(struct model_source *source) {
  struct folder *folder = source->state;
  for (int i = 0; i < folder->shard_count; i++) safetensors_close(&folder->shards[i]);
  free(folder->shards);
  free(folder);
  source->state = NULL;
}

static bool folder_shape(struct model_source *source, const char *name, struct tensor_shape *out) {
  const struct safetensors *shard;
  const struct safetensors_tensor *tensor = find(source->state, name, &shard);
  if (!tensor || tensor->rank < 1 || tensor->rank > 2) return false;
  *out = (struct tensor_shape){tensor->rows, tensor->cols};
  return true;
}

static int folder_read(struct model_source *source, const char *name, int64_t first, int64_t count, float *out) {
  const struct safetensors *shard;
  const struct safetensors_tensor *tensor = find(source->state, name, &shard);
  if (!tensor) return fail(ERR_INTERNAL, "tensor \"%s\" was there when the model was opened", name);
  return safetensors_read(shard, tensor, first, count, out);
}

static size_t folder_count(const struct model_source *source) {
  return ((const struct folder *)source->state)->tensor_count;
}

/* Besides what the model uses, checkpoints carry RoPE's frequencies, and the head of tied models a second time. */
static const char *folder_stranger(const struct model_source *source, size_t index) {
  const struct folder *folder = source->state;
  int shard = 0;
  while (index >= safetensors_count(folder->shards[shard])) index -= safetensors_count(folder->shards[shard++]);
  const char *name = safetensors_at(folder->shards[shard], index)->name, *part;
  if (strcmp(name, "lm_head.weight") == 0) return NULL;
  char ours[2 * MODEL_NAME]; /* room to tell every name that is too long from those that are known */
  snprintf(ours, sizeof ours, "%s%s", folder->bare ? prefix : "", name);
  struct tensor_shape shape;
  int32_t layer;
  if (model_tensor_shape(&source->config, ours, &shape)) return NULL;
  bool frequencies =
      model_layer_name(&source->config, ours, &layer, &part) && strcmp(part, "self_attn.rotary_emb.inv_freq") == 0;
  return frequencies ? NULL : name;
}

/* transformers 5 keeps the chat template in a file of its own; the tokenizer expects it in tokenizer_config.json. */
static int insert_template(struct buffer *config, const struct buffer *template) {
  json_error_t error;
  json_t *root = config->size ? json_loadb(config->data, config->size, JSON_DECODE_INT_AS_REAL, &error) : json_object();
  json_t *text = json_stringn(template->data, template->size);
  char *merged = NULL;
  int status = OK;
  if (!json_is_object(root))
    status = fail(ERR_INPUT, "tokenizer_config.json: not a JSON object");
  else if (!text)
    status = fail(ERR_INPUT, "chat_template.jinja: not UTF-8 text");
  else if (json_object_set(root, "chat_template", text) != 0 || !(merged = json_dumps(root, JSON_COMPACT)))
    status = fail(ERR_MEMORY, "not enough memory for the tokenizer's configuration");
  buffer_clear(config);
  if (status == OK) status = buffer_append(config, merged, strlen(merged));
  free(merged);
  json_decref(text);
  json_decref(root);
  return status;
}

static int load_tokenizer(const char *path, struct buffer *vocabulary, struct buffer *config, struct buffer *template,
                          struct tokenizer **out) {
  bool found, has_config, has_template;
  TRY(read_optional(path, "tokenizer.json", LARGEST_JSON, vocabulary, &found));
  if (!found) return OK;
  TRY(read_optional(path, "tokenizer_config.json", LARGEST_JSON, config, &has_config));
  TRY(read_optional(path, "chat_template.jinja", LARGEST_CONFIG, template, &has_template));
  if (has_template) TRY(insert_template(config, template));
  bool any_config = has_config || has_template;
  return tokenizer_parse(vocabulary->data, vocabulary->size, any_config ? config->data : NULL,
                         any_config ? config->size : 0, out);
}

static int folder_tokenizer(struct model_source *source, struct tokenizer **out) {
  struct buffer vocabulary = {0}, config = {0}, template = {0};
  int status = load_tokenizer(source->path, &vocabulary, &config, &template, out);
  buffer_free(&template);
  buffer_free(&config);
  buffer_free(&vocabulary);
  return fail_at(status, "%s", source->path);
}

static const char *base_name(const char *path) {
  const char *slash = strrchr(path, '/');
  return slash ? slash + 1 : path;
}

static int folder_describe(struct model_source *source, struct buffer *out) {
  const struct folder *folder = source->state;
  TRY(buffer_print(out, "config.json %zu %s\n", folder->config_size, folder->config_hash.hex));
  for (int i = 0; i < folder->shard_count; i++)
    TRY(buffer_print(out, "%s %llu %s\n", base_name(safetensors_path(folder->shards[i])),
                     (unsigned long long)safetensors_size(folder->shards[i]),
                     safetensors_header_hash(folder->shards[i])));
  return OK;
}

static int read_config(struct model_source *source, struct buffer *text) {
  struct folder *folder = source->state;
  bool found;
  TRY(read_optional(source->path, "config.json", LARGEST_CONFIG, text, &found));
  if (!found) return fail(ERR_INPUT, "%s: no config.json in this folder", source->path);
  folder->config_hash = hash_bytes(text->data, text->size);
  folder->config_size = text->size;
  int status = model_config_parse(text->data, &source->config);
  if (status != OK) return fail_at(status, "%s/config.json", source->path);
  TRY(read_optional(source->path, "generation_config.json", LARGEST_CONFIG, text, &found));
  if (!found) return OK;
  return fail_at(model_config_parse_generation(text->data, &source->config), "%s/generation_config.json", source->path);
}

static int add_shard(struct model_source *source, const char *name) {
  struct folder *folder = source->state;
  char *path;
  TRY(file_join(source->path, name, &path));
  int status = safetensors_open(&folder->shards[folder->shard_count], path);
  free(path);
  if (status != OK) return status;
  folder->tensor_count += safetensors_count(folder->shards[folder->shard_count++]);
  return OK;
}

/* Names come from a file: they must stay in the folder. */
static bool is_shard_name(const char *name) {
  size_t length = name ? strlen(name) : 0;
  static const char end[] = ".safetensors";
  return length > sizeof end - 1 && strcmp(name + length - (sizeof end - 1), end) == 0 && !strchr(name, '/');
}

static int text_order(const void *a, const void *b) {
  return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* names[count] = file of each tensor, sorted. */
static int list_shards(const json_t *map, const char **names, size_t *count) {
  const char *tensor;
  const json_t *file;
  *count = 0;
  json_object_foreach((json_t *)map, tensor, file) {
    if (!is_shard_name(json_string_value(file)))
      return fail(ERR_INPUT, "weight_map gives no safetensors file of this folder for \"%.80s\"", tensor);
    names[(*count)++] = json_string_value(file);
  }
  qsort(names, *count, sizeof *names, text_order);
  return OK;
}

static int open_shards(struct model_source *source, const char **names, size_t count) {
  struct folder *folder = source->state;
  TRY(memory_array(&folder->shards, MAX_SHARDS, sizeof(struct safetensors *)));
  for (size_t i = 0; i < count; i++) {
    if (i > 0 && strcmp(names[i], names[i - 1]) == 0) continue;
    if (folder->shard_count == MAX_SHARDS) return fail(ERR_INPUT, "the index names more than %d files", MAX_SHARDS);
    TRY(add_shard(source, names[i]));
  }
  return OK;
}

static int check_index(const struct folder *folder, const json_t *map) {
  const char *tensor;
  const json_t *file;
  json_object_foreach((json_t *)map, tensor, file) {
    const struct safetensors *shard;
    if (!find_stored(folder, tensor, &shard) || strcmp(base_name(safetensors_path(shard)), json_string_value(file)))
      return fail(ERR_INPUT, "the index says that \"%.80s\" is in %.80s, but it is not", tensor,
                  json_string_value(file));
  }
  if (json_object_size(map) != folder->tensor_count)
    return fail(ERR_INPUT, "the index lists %zu tensors, but its files have %zu; they do not belong together",
                json_object_size(map), folder->tensor_count);
  return OK;
}

static int open_index(struct model_source *source, const json_t *map) {
  const char **names;
  size_t count;
  if (!json_is_object(map) || json_object_size(map) == 0) return fail(ERR_INPUT, "it has no weight_map");
  TRY(memory_array(&names, json_object_size(map), sizeof *names));
  int status = list_shards(map, names, &count);
  if (status == OK) status = open_shards(source, names, count);
  if (status == OK) status = check_index(source->state, map);
  free(names);
  return status;
}

static int open_weights(struct model_source *source, struct buffer *text) {
  static const char single[] = "model.safetensors", index[] = "model.safetensors.index.json";
  bool found;
  TRY(read_optional(source->path, index, LARGEST_JSON, text, &found));
  if (found) {
    json_error_t error;
    json_t *root = json_loadb(text->data, text->size, JSON_REJECT_DUPLICATES, &error);
    int status = root ? open_index(source, json_object_get(root, "weight_map"))
                      : fail(ERR_INPUT, "not valid JSON: line %d: %.120s", error.line, error.text);
    json_decref(root);
    return fail_at(status, "%s/%s", source->path, index);
  }
  char *path;
  TRY(file_join(source->path, single, &path));
  found = access(path, F_OK) == 0;
  free(path);
  if (!found)
    return fail(
        ERR_INPUT,
        "%s: neither %s nor %s in this folder; other weight formats are not read: load model and tokenizer with "
        "transformers and save_pretrained() them into a new folder, which writes safetensors",
        source->path, single, index);
  const char *name = single;
  return open_shards(source, &name, 1);
}

static const struct source_operations folder_operations = {
    .close = folder_close,
    .shape = folder_shape,
    .read = folder_read,
    .tokenizer = folder_tokenizer,
    .describe = folder_describe,
    .count = folder_count,
    .stranger = folder_stranger,
};

int model_folder_open(struct model_source *source) {
  struct buffer text = {0};
  TRY(memory_array(&source->state, 1, sizeof(struct folder)));
  source->operations = &folder_operations;
  int status = read_config(source, &text);
  if (status == OK) status = open_weights(source, &text);
  if (status == OK) find_prefix(source);
  buffer_free(&text);
  return status;
}
