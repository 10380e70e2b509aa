#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "io/gguf_model.h"

/* Keys of gguf-py, constants.py. */

struct reader {
  const struct gguf *file;
  const char *architecture; /* prefix of the keys */
};

static const char *full_key(const struct reader *from, const char *key, char out[GGUF_NAME]) {
  snprintf(out, GGUF_NAME, "%s.%s", from->architecture, key);
  return out;
}

static int need_count(const struct reader *from, const char *key, int32_t *out) {
  char name[GGUF_NAME];
  int64_t value;
  TRY(gguf_integer(from->file, full_key(from, key, name), &value));
  if (value < 0 || value > INT32_MAX)
    return fail(ERR_INPUT, "the metadata \"%s\" is %lld, which is out of range", name, (long long)value);
  *out = (int32_t)value;
  return OK;
}

/* Keeps `*out` when the key is absent. */
static int get_count(const struct reader *from, const char *key, int32_t *out) {
  char name[GGUF_NAME];
  return gguf_has(from->file, full_key(from, key, name)) ? need_count(from, key, out) : OK;
}

static int get_number(const struct reader *from, const char *key, double *out) {
  char name[GGUF_NAME];
  return gguf_has(from->file, full_key(from, key, name)) ? gguf_number(from->file, name, out) : OK;
}

static int refuse_count(const struct reader *from, const char *key, const char *what) {
  int32_t value = 0;
  TRY(get_count(from, key, &value));
  return value ? fail(ERR_INPUT, "the model has %s (%s.%s is %d), which is not supported", what, from->architecture,
                      key, value)
               : OK;
}

static int read_sizes(const struct reader *from, struct model_config *out) {
  double epsilon = 1e-5;
  TRY(need_count(from, "block_count", &out->layers));
  TRY(need_count(from, "embedding_length", &out->hidden));
  TRY(need_count(from, "feed_forward_length", &out->feed_forward));
  TRY(need_count(from, "attention.head_count", &out->heads));
  TRY(need_count(from, "context_length", &out->max_positions));
  TRY(get_number(from, "attention.layer_norm_rms_epsilon", &epsilon));
  out->norm_epsilon = (float)epsilon;
  out->kv_heads = out->heads;
  TRY(get_count(from, "attention.head_count_kv", &out->kv_heads));
  if (out->heads < 1) return fail(ERR_INPUT, "the model has no attention heads");
  out->head_dim = out->hidden / out->heads;
  TRY(get_count(from, "attention.key_length", &out->head_dim));
  int32_t value_dim = out->head_dim, turned = out->head_dim;
  TRY(get_count(from, "attention.value_length", &value_dim));
  TRY(get_count(from, "rope.dimension_count", &turned));
  if (value_dim != out->head_dim || turned != out->head_dim)
    return fail(ERR_INPUT, "heads of %d with values of %d and RoPE over %d are not supported; all must be equal",
                out->head_dim, value_dim, turned);
  TRY(refuse_count(from, "expert_count", "experts"));
  return refuse_count(from, "attention.sliding_window", "a sliding window");
}

static int read_scaling(const struct reader *from, struct model_config *out) {
  char name[GGUF_NAME], *type;
  out->rope_theta = 10000;
  TRY(get_number(from, "rope.freq_base", &out->rope_theta));
  out->rope_factor = 0;
  TRY(get_number(from, "rope.scale_linear", &out->rope_factor)); /* before there was rope.scaling */
  if (out->rope_factor != 0 && out->rope_factor != 1) out->rope_scaling = ROPE_LINEAR;
  if (!gguf_has(from->file, full_key(from, "rope.scaling.type", name))) return OK;
  TRY(gguf_text(from->file, name, &type));
  bool linear = strcmp(type, "linear") == 0, none = strcmp(type, "none") == 0;
  int status = linear || none ? OK : fail(ERR_INPUT, "the RoPE scaling \"%.40s\" is not supported", type);
  free(type);
  if (status != OK || none) return status;
  out->rope_scaling = ROPE_LINEAR;
  return get_number(from, "rope.scaling.factor", &out->rope_factor);
}

/* What rope_freqs.weight holds of LLaMA 3: the divisor of each frequency (convert_hf_to_gguf.py, LlamaModel). */
static double llama3_divisor(const struct model_config *config, int pair) {
  double frequency = pow(config->rope_theta, -2.0 * pair / config->head_dim);
  double turns = config->rope_original_positions * frequency / (2 * 3.14159265358979323846);
  if (turns > config->rope_high_frequency) return 1;
  if (turns < config->rope_low_frequency) return config->rope_factor;
  double smooth = (turns - config->rope_low_frequency) / (config->rope_high_frequency - config->rope_low_frequency);
  return 1 / ((1 - smooth) / config->rope_factor + smooth);
}

/* llama.cpp keeps the divisors but not the parameters they came from. All published models use low 1, high 4 and 8192
 * positions; whether this one does shows in the divisors. */
static int recognize_llama3(const float *divisors, struct model_config *out) {
  int pairs = out->head_dim / 2;
  out->rope_scaling = ROPE_LLAMA3;
  out->rope_factor = (double)divisors[pairs - 1];
  out->rope_low_frequency = 1;
  out->rope_high_frequency = 4;
  out->rope_original_positions = 8192;
  for (int i = 0; i < pairs; i++)
    if (!(fabs((double)divisors[i] / llama3_divisor(out, i) - 1) < 1e-4))
      return fail(ERR_INPUT, "%s holds RoPE divisors that are not LLaMA 3's; this scaling is not supported",
                  GGUF_ROPE_FACTORS);
  return OK;
}

static int read_rope_factors(const struct gguf *file, struct model_config *out) {
  const struct gguf_tensor *tensor = gguf_find(file, GGUF_ROPE_FACTORS);
  if (!tensor) return OK;
  if (tensor->rows != 1 || tensor->cols != out->head_dim / 2 || out->rope_scaling != ROPE_PLAIN)
    return fail(ERR_INPUT, "%s does not fit heads of %d or another RoPE scaling", GGUF_ROPE_FACTORS, out->head_dim);
  float *divisors;
  TRY(memory_array(&divisors, (size_t)tensor->cols, sizeof *divisors));
  int status = gguf_read(file, tensor, 0, 1, divisors);
  if (status == OK) status = recognize_llama3(divisors, out);
  free(divisors);
  return status;
}

/* Chat models end an answer with a token of its own (eot) that may differ from eos. */
static int read_tokens(const struct gguf *file, struct model_config *out) {
  static const char *const ends[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"};
  TRY(gguf_token(file, "tokenizer.ggml.bos_token_id", out->vocabulary, &out->bos));
  TRY(gguf_token(file, "tokenizer.ggml.padding_token_id", out->vocabulary, &out->pad));
  for (int i = 0; i < 2; i++) {
    int32_t id;
    TRY(gguf_token(file, ends[i], out->vocabulary, &id));
    if (id >= 0 && (out->eos_count == 0 || out->eos[0] != id)) out->eos[out->eos_count++] = id;
  }
  return OK;
}

static int read_config(const struct gguf *file, struct model_config *out) {
  static const char embedding_name[] = "token_embd.weight";
  const struct reader from = {.file = file, .architecture = out->architecture};
  const struct gguf_tensor *embedding = gguf_find(file, embedding_name);
  if (!embedding || embedding->rank != 2 || embedding->rows > INT32_MAX)
    return fail(ERR_INPUT, "the tensor \"%s\" is missing or misshapen", embedding_name);
  out->vocabulary = (int32_t)embedding->rows;
  out->tied_head = !gguf_find(file, "output.weight");
  out->attention_bias = strcmp(out->architecture, "qwen2") == 0;
  TRY(read_sizes(&from, out));
  TRY(read_scaling(&from, out));
  TRY(read_tokens(file, out));
  TRY(model_config_check(out));
  TRY(read_rope_factors(file, out));
  return model_config_check(out);
}

static int read_architecture(const struct gguf *file, struct model_config *out) {
  char *name;
  TRY(gguf_text(file, "general.architecture", &name));
  int status = OK;
  if (strcmp(name, "llama") == 0 || strcmp(name, "qwen2") == 0)
    memcpy(out->architecture, name, strlen(name) + 1);
  else
    status = fail(ERR_INPUT,
                  "the architecture \"%.40s\" is not supported; known are llama (also Mistral's) and qwen2; opt comes "
                  "in a folder",
                  name);
  free(name);
  return status;
}

int gguf_model_config(const struct gguf *file, struct model_config *out) {
  memset(out, 0, sizeof *out);
  TRY(read_architecture(file, out));
  return read_config(file, out);
}
