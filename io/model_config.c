#include "io/model_config.h"

#include <jansson.h>
#include <math.h>
#include <string.h>

#include "base/error.h"

/* Bounds that every published model keeps by far and that keep products of two of them within 62 bits. */
enum { MAX_LAYERS = 4096, MAX_WIDTH = 1 << 20, MAX_HEADS = 4096, MAX_HEAD_DIM = 4096, MAX_VOCABULARY = 1 << 24 };
enum { MAX_POSITIONS = 1 << 30, DEFAULT_POSITIONS = 2048 };

#define KNOWN_ARCHITECTURES "known are llama, mistral, qwen2 and opt"

static const struct architecture {
  const char *name;
  enum model_family family;
} architectures[] = {
    {.name = "llama", .family = FAMILY_LLAMA},
    {.name = "mistral", .family = FAMILY_LLAMA},
    {.name = "qwen2", .family = FAMILY_LLAMA},
    {.name = "opt", .family = FAMILY_OPT},
};

static const struct architecture *find_architecture(const char *name) {
  for (size_t i = 0; i < sizeof architectures / sizeof *architectures; i++)
    if (strcmp(name, architectures[i].name) == 0) return &architectures[i];
  return NULL;
}

enum model_family model_family(const struct model_config *config) {
  const struct architecture *found = find_architecture(config->architecture);
  return found ? found->family : FAMILY_LLAMA;
}

static int check_range(const char *name, int64_t value, int64_t least, int64_t most) {
  if (value >= least && value <= most) return OK;
  return fail(ERR_INPUT, "%s is %lld, expected %lld to %lld", name, (long long)value, (long long)least,
              (long long)most);
}

static int check_positive(const char *name, double value) {
  return isfinite(value) && value > 0 ? OK : fail(ERR_INPUT, "%s is %g, expected a positive number", name, value);
}

static int check_sizes(const struct model_config *config) {
  TRY(check_range("the number of layers", config->layers, 1, MAX_LAYERS));
  TRY(check_range("the hidden size", config->hidden, 1, MAX_WIDTH));
  TRY(check_range("the number of heads", config->heads, 1, MAX_HEADS));
  TRY(check_range("the number of key/value heads", config->kv_heads, 1, config->heads));
  TRY(check_range("the head dimension", config->head_dim, 2, MAX_HEAD_DIM));
  TRY(check_range("the feed-forward size", config->feed_forward, 1, MAX_WIDTH));
  TRY(check_range("the vocabulary", config->vocabulary, 1, MAX_VOCABULARY));
  TRY(check_range("the number of positions", config->max_positions, 1, MAX_POSITIONS));
  if (config->heads % config->kv_heads)
    return fail(ERR_INPUT, "%d heads cannot be shared among %d key/value heads", config->heads, config->kv_heads);
  return OK;
}

static int check_llama(const struct model_config *config) {
  if (config->head_dim % 2)
    return fail(ERR_INPUT, "the head dimension %d is odd, but RoPE turns pairs", config->head_dim);
  TRY(check_positive("the RMSNorm epsilon", (double)config->norm_epsilon));
  TRY(check_positive("the RoPE base", config->rope_theta));
  if (config->rope_scaling == ROPE_PLAIN) return OK;
  TRY(check_positive("the RoPE scaling factor", config->rope_factor));
  if (config->rope_scaling != ROPE_LLAMA3) return OK;
  TRY(check_positive("low_freq_factor of the RoPE scaling", config->rope_low_frequency));
  TRY(check_positive("high_freq_factor of the RoPE scaling", config->rope_high_frequency));
  TRY(check_range("original_max_position_embeddings", config->rope_original_positions, 1, MAX_POSITIONS));
  if (config->rope_high_frequency <= config->rope_low_frequency)
    return fail(ERR_INPUT, "high_freq_factor %g of the RoPE scaling is not above low_freq_factor %g",
                config->rope_high_frequency, config->rope_low_frequency);
  return OK;
}

static int check_opt(const struct model_config *config) {
  if (!config->attention_bias) return fail(ERR_INPUT, "attention_bias is false, but q, k and v of OPT have a bias");
  return check_positive("the LayerNorm epsilon", (double)config->norm_epsilon);
}

static int check_token(const struct model_config *config, const char *name, int32_t id, int32_t least) {
  return check_range(name, id, least, config->vocabulary - 1);
}

int model_config_check(const struct model_config *config) {
  if (!find_architecture(config->architecture))
    return fail(ERR_INPUT, "the architecture \"%s\" is not supported; " KNOWN_ARCHITECTURES, config->architecture);
  TRY(check_sizes(config));
  TRY(model_family(config) == FAMILY_OPT ? check_opt(config) : check_llama(config));
  TRY(check_token(config, "the bos token", config->bos, -1));
  TRY(check_token(config, "the pad token", config->pad, -1));
  TRY(check_range("the number of eos tokens", config->eos_count, 0, MODEL_MAX_EOS));
  for (int i = 0; i < config->eos_count; i++) TRY(check_token(config, "an eos token", config->eos[i], 0));
  return OK;
}

/* A field that is absent or null keeps `*out`. */
static int get_integer(const json_t *object, const char *name, int32_t *out) {
  const json_t *value = json_object_get(object, name);
  if (!value || json_is_null(value)) return OK;
  if (!json_is_integer(value)) return fail(ERR_INPUT, "\"%s\" is not an integer", name);
  json_int_t number = json_integer_value(value);
  if (number < INT32_MIN || number > INT32_MAX)
    return fail(ERR_INPUT, "\"%s\" is %lld, which is out of range", name, (long long)number);
  *out = (int32_t)number;
  return OK;
}

static int need_integer(const json_t *object, const char *name, int32_t *out) {
  const json_t *value = json_object_get(object, name);
  if (!value || json_is_null(value)) return fail(ERR_INPUT, "the field \"%s\" is missing", name);
  return get_integer(object, name, out);
}

static int get_number(const json_t *object, const char *name, double *out) {
  const json_t *value = json_object_get(object, name);
  if (!value || json_is_null(value)) return OK;
  if (!json_is_number(value)) return fail(ERR_INPUT, "\"%s\" is not a number", name);
  *out = json_number_value(value);
  return OK;
}

static int get_truth(const json_t *object, const char *name, bool *out) {
  const json_t *value = json_object_get(object, name);
  if (!value || json_is_null(value)) return OK;
  if (!json_is_boolean(value)) return fail(ERR_INPUT, "\"%s\" is neither true nor false", name);
  *out = json_is_true(value);
  return OK;
}

static int parse_architecture(const json_t *root, struct model_config *out) {
  const char *type = json_string_value(json_object_get(root, "model_type"));
  const struct architecture *found = type ? find_architecture(type) : NULL;
  if (!found)
    return fail(ERR_INPUT, "the architecture \"%.40s\" (model_type) is not supported; " KNOWN_ARCHITECTURES,
                type ? type : "");
  memcpy(out->architecture, found->name, strlen(found->name) + 1);
  return OK;
}

/* As many key/value heads as heads, each of hidden / heads. */
static int parse_sizes(const json_t *root, const char *feed_forward, struct model_config *out) {
  TRY(need_integer(root, "num_hidden_layers", &out->layers));
  TRY(need_integer(root, "hidden_size", &out->hidden));
  TRY(need_integer(root, "num_attention_heads", &out->heads));
  TRY(need_integer(root, feed_forward, &out->feed_forward));
  TRY(need_integer(root, "vocab_size", &out->vocabulary));
  TRY(check_range("\"num_attention_heads\"", out->heads, 1, MAX_HEADS));
  out->kv_heads = out->heads;
  out->head_dim = out->hidden / out->heads;
  return OK;
}

/* LLaMA 1 files have no num_key_value_heads; head_dim is only given where it is not hidden / heads. */
static int parse_llama_sizes(const json_t *root, struct model_config *out) {
  TRY(parse_sizes(root, "intermediate_size", out));
  TRY(get_integer(root, "num_key_value_heads", &out->kv_heads));
  bool given = json_is_integer(json_object_get(root, "head_dim"));
  TRY(get_integer(root, "head_dim", &out->head_dim));
  if (!given && out->hidden % out->heads)
    return fail(ERR_INPUT, "hidden_size %d is not a multiple of num_attention_heads %d and there is no head_dim",
                out->hidden, out->heads);
  out->max_positions = DEFAULT_POSITIONS;
  TRY(get_integer(root, "max_position_embeddings", &out->max_positions));
  double epsilon = 1e-6;
  TRY(get_number(root, "rms_norm_eps", &epsilon));
  out->norm_epsilon = (float)epsilon;
  return OK;
}

static int parse_scaling(const json_t *scaling, struct model_config *out) {
  const char *type = json_string_value(json_object_get(scaling, "rope_type"));
  if (!type) type = json_string_value(json_object_get(scaling, "type")); /* before transformers 4.43 */
  if (!type || strcmp(type, "default") == 0) return OK;
  out->rope_factor = 1;
  TRY(get_number(scaling, "factor", &out->rope_factor));
  if (strcmp(type, "linear") == 0) {
    out->rope_scaling = ROPE_LINEAR;
    return OK;
  }
  if (strcmp(type, "llama3"))
    return fail(ERR_INPUT, "the RoPE scaling \"%.40s\" is not supported; known are linear and llama3", type);
  out->rope_scaling = ROPE_LLAMA3;
  TRY(get_number(scaling, "low_freq_factor", &out->rope_low_frequency));
  TRY(get_number(scaling, "high_freq_factor", &out->rope_high_frequency));
  out->rope_original_positions = out->max_positions;
  return get_integer(scaling, "original_max_position_embeddings", &out->rope_original_positions);
}

/* Up to transformers 4: rope_theta beside rope_scaling; from 5: both in rope_parameters. */
static int parse_rope(const json_t *root, struct model_config *out) {
  out->rope_theta = 10000;
  TRY(get_number(root, "rope_theta", &out->rope_theta));
  const char *const names[] = {"rope_scaling", "rope_parameters"};
  for (int i = 0; i < 2; i++) {
    const json_t *rope = json_object_get(root, names[i]);
    if (!rope || json_is_null(rope)) continue;
    if (!json_is_object(rope)) return fail(ERR_INPUT, "\"%s\" is not an object", names[i]);
    if (json_is_object(json_object_iter_value(json_object_iter((json_t *)rope))))
      return fail(ERR_INPUT, "\"%s\" differs between layers, which is not supported", names[i]);
    TRY(get_number(rope, "rope_theta", &out->rope_theta));
    double partial = 1;
    TRY(get_number(rope, "partial_rotary_factor", &partial));
    if (partial != 1) return fail(ERR_INPUT, "partial_rotary_factor %g is not supported, only 1", partial);
    TRY(parse_scaling(rope, out));
  }
  return OK;
}

/* Qwen2 gives the window's size also where use_sliding_window is false; what counts is layer_types, where it is there. */
static int check_window(const json_t *root, const struct model_config *config) {
  const json_t *window = json_object_get(root, "sliding_window");
  bool used = window && !json_is_null(window);
  if (strcmp(config->architecture, "qwen2") == 0) {
    used = false;
    TRY(get_truth(root, "use_sliding_window", &used));
  }
  const json_t *types = json_object_get(root, "layer_types"), *type;
  size_t i;
  json_array_foreach(types, i, type) {
    if (!json_is_string(type) || strcmp(json_string_value(type), "full_attention"))
      return fail(ERR_INPUT, "layer %zu has an attention other than \"full_attention\", which is not supported", i);
  }
  return used ? fail(ERR_INPUT, "the model uses a sliding window, which is not supported") : OK;
}

static int check_no_bias(const json_t *root, const char *name) {
  bool has = false;
  TRY(get_truth(root, name, &has));
  return has ? fail(ERR_INPUT, "\"%s\" is true, but such biases are not supported", name) : OK;
}

static int check_activation(const json_t *root, const char *field, const char *supported, const char *alias) {
  const char *name = json_string_value(json_object_get(root, field));
  if (!name || strcmp(name, supported) == 0 || (alias && strcmp(name, alias) == 0)) return OK;
  return fail(ERR_INPUT, "the activation \"%.40s\" (%s) is not supported, only %s", name, field, supported);
}

/* LLaMA's attention_bias would put biases on all four projections, which no published model of the family does. */
static int parse_llama(const json_t *root, struct model_config *out) {
  TRY(parse_llama_sizes(root, out));
  TRY(parse_rope(root, out));
  TRY(check_window(root, out));
  TRY(check_no_bias(root, "attention_bias"));
  TRY(check_no_bias(root, "mlp_bias"));
  TRY(check_activation(root, "hidden_act", "silu", "swish"));
  out->attention_bias = strcmp(out->architecture, "qwen2") == 0;
  return OK;
}

static int check_truth(const json_t *root, const char *name, bool supported) {
  bool value = supported;
  TRY(get_truth(root, name, &value));
  return value == supported ? OK
                            : fail(ERR_INPUT, "\"%s\" is %s, but only models where it is %s are supported", name,
                                   value ? "true" : "false", supported ? "true" : "false");
}

/* What the models of the paper share but opt-350m, which norms after its blocks and projects its embedding, and what
 * Galactica's OPT changed. */
static int check_opt_features(const json_t *root, const struct model_config *config) {
  int32_t width = config->hidden;
  TRY(check_truth(root, "do_layer_norm_before", true));
  TRY(check_truth(root, "enable_bias", true));
  TRY(check_truth(root, "layer_norm_elementwise_affine", true));
  TRY(check_truth(root, "_remove_final_layer_norm", false));
  TRY(check_activation(root, "activation_function", "relu", NULL));
  TRY(get_integer(root, "word_embed_proj_dim", &width));
  if (width == config->hidden) return OK;
  return fail(ERR_INPUT, "\"word_embed_proj_dim\" is %d, but only models where it is the hidden size %d are supported",
              width, config->hidden);
}

/* Flags and tokens that are not given are those of transformers' OPTConfig; the epsilon is PyTorch's, as no field gives it. */
static int parse_opt(const json_t *root, struct model_config *out) {
  TRY(parse_sizes(root, "ffn_dim", out));
  if (out->hidden % out->heads)
    return fail(ERR_INPUT, "hidden_size %d is not a multiple of num_attention_heads %d", out->hidden, out->heads);
  TRY(need_integer(root, "max_position_embeddings", &out->max_positions));
  TRY(check_opt_features(root, out));
  out->norm_epsilon = 1e-5f;
  out->attention_bias = out->tied_head = true;
  out->pad = 1;
  out->bos = out->eos[0] = 2;
  out->eos_count = 1;
  return OK;
}

static int check_unquantized(const json_t *root) {
  const json_t *quantized = json_object_get(root, "quantization_config");
  if (!quantized || json_is_null(quantized)) return OK;
  return fail(ERR_INPUT, "the weights are quantized already (quantization_config); give the original checkpoint");
}

static int add_eos(const json_t *id, struct model_config *out) {
  if (!json_is_integer(id)) return fail(ERR_INPUT, "\"eos_token_id\" holds something other than ids");
  if (out->eos_count == MODEL_MAX_EOS) return fail(ERR_INPUT, "\"eos_token_id\" lists more than %d ids", MODEL_MAX_EOS);
  json_int_t value = json_integer_value(id);
  if (value < 0 || value >= out->vocabulary)
    return fail(ERR_INPUT, "the eos token %lld is outside the vocabulary of %d", (long long)value, out->vocabulary);
  out->eos[out->eos_count++] = (int32_t)value;
  return OK;
}

static int parse_eos(const json_t *value, struct model_config *out) {
  out->eos_count = 0;
  if (!value || json_is_null(value)) return OK;
  if (!json_is_array(value)) return add_eos(value, out);
  size_t i;
  const json_t *id;
  json_array_foreach(value, i, id) TRY(add_eos(id, out));
  return OK;
}

static int parse_tokens(const json_t *root, struct model_config *out) {
  TRY(get_integer(root, "bos_token_id", &out->bos));
  TRY(get_integer(root, "pad_token_id", &out->pad));
  /* LLaMA 1 and 2 checkpoints write -1 or an id at the end of the vocabulary for "no padding". */
  if (out->pad < 0 || out->pad >= out->vocabulary) out->pad = -1;
  if (out->bos < 0 || out->bos >= out->vocabulary) out->bos = -1;
  const json_t *eos = json_object_get(root, "eos_token_id");
  return eos ? parse_eos(eos, out) : OK;
}

static int parse_root(const json_t *root, struct model_config *out) {
  out->bos = out->pad = -1;
  TRY(parse_architecture(root, out));
  TRY(model_family(out) == FAMILY_OPT ? parse_opt(root, out) : parse_llama(root, out));
  TRY(check_unquantized(root));
  TRY(get_truth(root, "tie_word_embeddings", &out->tied_head));
  TRY(parse_tokens(root, out));
  return model_config_check(out);
}

static int load_object(const char *text, json_t **out) {
  json_error_t error;
  *out = json_loads(text, JSON_REJECT_DUPLICATES, &error);
  if (!*out) return fail(ERR_INPUT, "not valid JSON: line %d: %.120s", error.line, error.text);
  if (json_is_object(*out)) return OK;
  json_decref(*out);
  return fail(ERR_INPUT, "not a JSON object");
}

int model_config_parse(const char *text, struct model_config *out) {
  memset(out, 0, sizeof *out);
  json_t *root;
  TRY(load_object(text, &root));
  int status = parse_root(root, out);
  json_decref(root);
  return status;
}

int model_config_parse_generation(const char *text, struct model_config *config) {
  json_t *root;
  TRY(load_object(text, &root));
  struct model_config updated = *config; /* stays as it was on error */
  const json_t *eos = json_object_get(root, "eos_token_id");
  int status = eos && !json_is_null(eos) ? parse_eos(eos, &updated) : OK;
  json_decref(root);
  if (status == OK) status = model_config_check(&updated);
  if (status == OK) *config = updated;
  return status;
}
