/* A model in a GGUF file, under Hugging Face's names and in its layout. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/text.h"
#include "io/gguf.h"
#include "io/gguf_model.h"
#include "io/model_source_internal.h"

struct gguf_model {
  struct gguf *file;
  bool permuted; /* rows of q and k are in llama.cpp's order of LLaMA */
};

/* llama.cpp's names (gguf-py, constants.py) of what model_tensor_shape() knows. */
static const struct {
  const char *ours, *theirs;
} layer_parts[] = {
    {"input_layernorm.weight", "attn_norm.weight"}, {"post_attention_layernorm.weight", "ffn_norm.weight"},
    {"self_attn.q_proj.weight", "attn_q.weight"},   {"self_attn.k_proj.weight", "attn_k.weight"},
    {"self_attn.v_proj.weight", "attn_v.weight"},   {"self_attn.o_proj.weight", "attn_output.weight"},
    {"mlp.gate_proj.weight", "ffn_gate.weight"},    {"mlp.up_proj.weight", "ffn_up.weight"},
    {"mlp.down_proj.weight", "ffn_down.weight"},    {"self_attn.q_proj.bias", "attn_q.bias"},
    {"self_attn.k_proj.bias", "attn_k.bias"},       {"self_attn.v_proj.bias", "attn_v.bias"},
};
static const struct {
  const char *ours, *theirs;
} model_parts[] = {
    {"model.embed_tokens.weight", "token_embd.weight"},
    {"model.norm.weight", "output_norm.weight"},
    {"lm_head.weight", "output.weight"},
};
enum { LAYER_PARTS = sizeof layer_parts / sizeof *layer_parts, MODEL_PARTS = sizeof model_parts / sizeof *model_parts };

static const struct gguf_tensor *find(const struct model_source *source, const char *name) {
  const struct gguf_model *model = source->state;
  int32_t layer;
  const char *part;
  char theirs[MODEL_NAME];
  for (size_t i = 0; i < MODEL_PARTS; i++)
    if (strcmp(name, model_parts[i].ours) == 0) return gguf_find(model->file, model_parts[i].theirs);
  if (!model_layer_name(&source->config, name, &layer, &part)) return NULL;
  for (size_t i = 0; i < LAYER_PARTS; i++) {
    if (strcmp(part, layer_parts[i].ours)) continue;
    snprintf(theirs, sizeof theirs, "blk.%d.%s", layer, layer_parts[i].theirs);
    return gguf_find(model->file, theirs);
  }
  return NULL;
}

static void model_close(struct model_source *source) {
  struct gguf_model *model = source->state;
  gguf_close(&model->file);
  free(model);
  source->state = NULL;
}

static bool model_shape(struct model_source *source, const char *name, struct tensor_shape *out) {
  const struct gguf_tensor *tensor = find(source, name);
  if (!tensor || tensor->rank > 2) return false;
  *out = tensor->rank == 1 ? (struct tensor_shape){tensor->cols, 1} : (struct tensor_shape){tensor->rows, tensor->cols};
  return true;
}

/* Elements of a vector are the columns of its one row. */
static int read_vector(const struct gguf *file, const struct gguf_tensor *tensor, int64_t first, int64_t count,
                       float *out) {
  float *all;
  TRY(memory_array(&all, (size_t)tensor->cols, sizeof *all));
  int status = gguf_read(file, tensor, 0, 1, all);
  if (status == OK) memcpy(out, all + first, (size_t)count * sizeof *out);
  free(all);
  return status;
}

/* In a head, llama.cpp's row 2 i + p is Hugging Face's row p * head_dim / 2 + i: the pairs that RoPE turns together lie
 * side by side there and half a head apart here. Rows are read head by head. */
static int read_permuted(const struct gguf *file, const struct gguf_tensor *tensor, int32_t head_dim, int64_t first,
                         int64_t count, float *out) {
  float *head;
  int status = memory_array(&head, (size_t)(head_dim * tensor->cols), sizeof *head);
  int64_t in_memory = -1;
  for (int64_t row = first; status == OK && row < first + count; row++) {
    int64_t place = row % head_dim, half = head_dim / 2;
    if (row / head_dim != in_memory) {
      in_memory = row / head_dim;
      status = gguf_read(file, tensor, in_memory * head_dim, head_dim, head);
      if (status != OK) break;
    }
    const float *from = head + (2 * (place % half) + place / half) * tensor->cols;
    memcpy(out + (row - first) * tensor->cols, from, (size_t)tensor->cols * sizeof *out);
  }
  free(head);
  return status;
}

static int model_read(struct model_source *source, const char *name, int64_t first, int64_t count, float *out) {
  const struct gguf_model *model = source->state;
  const struct gguf_tensor *tensor = find(source, name);
  if (!tensor) return fail(ERR_INTERNAL, "tensor \"%s\" was there when the model was opened", name);
  if (tensor->rank == 1) return read_vector(model->file, tensor, first, count, out);
  if (model->permuted && (text_ends_with(name, "q_proj.weight") || text_ends_with(name, "k_proj.weight")))
    return read_permuted(model->file, tensor, source->config.head_dim, first, count, out);
  return gguf_read(model->file, tensor, first, count, out);
}

static size_t model_count(const struct model_source *source) {
  return gguf_count(((const struct gguf_model *)source->state)->file);
}

/* A tensor belongs when some name of ours finds it. */
static const char *model_stranger(const struct model_source *source, size_t index) {
  const struct gguf_tensor *tensor = gguf_at(((const struct gguf_model *)source->state)->file, index);
  char ours[2 * GGUF_NAME] = "";
  struct tensor_shape shape;
  if (strcmp(tensor->name, GGUF_ROPE_FACTORS) == 0) return NULL;
  for (size_t i = 0; i < MODEL_PARTS; i++)
    if (strcmp(tensor->name, model_parts[i].theirs) == 0) return NULL;
  const char *part = strncmp(tensor->name, "blk.", 4) == 0 ? strchr(tensor->name + 4, '.') : NULL;
  for (size_t i = 0; part && i < LAYER_PARTS; i++)
    if (strcmp(part + 1, layer_parts[i].theirs) == 0)
      snprintf(ours, sizeof ours, "model.layers.%.*s.%s", (int)(part - tensor->name - 4), tensor->name + 4,
               layer_parts[i].ours);
  return model_tensor_shape(&source->config, ours, &shape) ? NULL : tensor->name;
}

static int refuse_split(const struct gguf *file) {
  int64_t parts = 1;
  if (gguf_has(file, "split.count")) TRY(gguf_integer(file, "split.count", &parts));
  return parts > 1 ? fail(ERR_INPUT, "one of %lld parts of a model; join them with llama-gguf-split --merge first",
                          (long long)parts)
                   : OK;
}

static int model_tokenizer(struct model_source *source, struct tokenizer **out) {
  const struct gguf *file = ((const struct gguf_model *)source->state)->file;
  return fail_at(gguf_tokenizer(file, out), "%s", source->path);
}

static int model_describe(struct model_source *source, struct buffer *out) {
  const struct gguf *file = ((const struct gguf_model *)source->state)->file;
  const char *slash = strrchr(source->path, '/');
  return buffer_print(out, "%s %llu %s\n", slash ? slash + 1 : source->path, (unsigned long long)gguf_size(file),
                      gguf_header_hash(file));
}

static const struct source_operations gguf_operations = {
    .close = model_close,
    .shape = model_shape,
    .read = model_read,
    .tokenizer = model_tokenizer,
    .describe = model_describe,
    .count = model_count,
    .stranger = model_stranger,
};

int model_gguf_open(struct model_source *source) {
  struct gguf_model *model;
  TRY(memory_array(&model, 1, sizeof *model));
  source->state = model;
  source->operations = &gguf_operations;
  TRY(gguf_open(&model->file, source->path));
  int status = refuse_split(model->file);
  if (status == OK) status = gguf_model_config(model->file, &source->config);
  model->permuted = strcmp(source->config.architecture, "llama") == 0;
  return fail_at(status, "%s", source->path);
}
