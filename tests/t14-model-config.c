/* config.json as published, old and new, and what must be refused. Sizes are those of the models named; fields that no
 * reader needs are left out. */
#include <stdlib.h>

#include "check.h"
#include "io/backbone_file.h"
#include "io/model_shapes.h"

static struct model_config parse(const char *text) {
  struct model_config config;
  CHECK_OK(model_config_parse(text, &config));
  return config;
}

static void check_llama(void) {
  struct model_config one =
      parse(/* LLaMA 1: no kv heads, pad -1 */
            "{\"architectures\":[\"LlamaForCausalLM\"],\"bos_token_id\":1,\"eos_token_id\":2,\"hidden_act\":\"silu\","
            "\"hidden_size\":4096,\"intermediate_size\":11008,\"max_sequence_length\":2048,\"model_type\":\"llama\","
            "\"num_attention_heads\":32,\"num_hidden_layers\":32,\"pad_token_id\":-1,\"rms_norm_eps\":1e-06,\"vocab_"
            "size\":32000}");
  CHECK(one.layers == 32 && one.kv_heads == 32 && one.head_dim == 128 && one.rope_theta == 10000 && one.pad == -1);
  CHECK(one.norm_epsilon == 1e-6f && one.max_positions == 2048 && !one.tied_head && !one.attention_bias);
  struct model_config two =
      parse(/* LLaMA 2 70B */
            "{\"bos_token_id\":1,\"eos_token_id\":2,\"hidden_act\":\"silu\",\"hidden_size\":8192,\"intermediate_size\":"
            "28672,"
            "\"max_position_embeddings\":4096,\"model_type\":\"llama\",\"num_attention_heads\":64,\"num_hidden_"
            "layers\":80,"
            "\"num_key_value_heads\":8,\"pretraining_tp\":1,\"rms_norm_eps\":1e-05,\"rope_scaling\":null,"
            "\"tie_word_embeddings\":false,\"vocab_size\":32000}");
  CHECK(two.kv_heads == 8 && two.rope_scaling == ROPE_PLAIN && two.max_positions == 4096 && two.eos[0] == 2);
  struct model_config three =
      parse(/* LLaMA 3.2 1B */
            "{\"attention_bias\":false,\"bos_token_id\":128000,\"eos_token_id\":[128001,128008,128009],\"head_dim\":64,"
            "\"hidden_act\":\"silu\",\"hidden_size\":2048,\"intermediate_size\":8192,\"max_position_embeddings\":"
            "131072,"
            "\"mlp_bias\":false,\"model_type\":\"llama\",\"num_attention_heads\":32,\"num_hidden_layers\":16,"
            "\"num_key_value_heads\":8,\"rms_norm_eps\":1e-05,\"rope_scaling\":{\"factor\":32.0,\"high_freq_factor\":4."
            "0,"
            "\"low_freq_factor\":1.0,\"original_max_position_embeddings\":8192,\"rope_type\":\"llama3\"},"
            "\"rope_theta\":500000.0,\"tie_word_embeddings\":true,\"vocab_size\":128256}");
  CHECK(three.rope_scaling == ROPE_LLAMA3 && three.rope_factor == 32 && three.rope_low_frequency == 1);
  CHECK(three.rope_high_frequency == 4 && three.rope_original_positions == 8192 && three.rope_theta == 500000);
  CHECK(three.tied_head && three.eos_count == 3 && three.eos[2] == 128009 && three.head_dim == 64);
}

#define SMALL \
  "\"hidden_size\":8,\"intermediate_size\":16,\"num_attention_heads\":4,\"num_hidden_layers\":2,\"vocab_size\":10"

static void check_others(void) {
  struct model_config linear =
      parse("{\"model_type\":\"llama\",\"rope_scaling\":{\"type\":\"linear\",\"factor\":2}," SMALL "}");
  CHECK(linear.rope_scaling == ROPE_LINEAR && linear.rope_factor == 2 && linear.bos == -1 && linear.eos_count == 0);
  struct model_config newer = parse(
      "{\"model_type\":\"mistral\",\"sliding_window\":null,\"head_dim\":16,\"rope_parameters\":{\"rope_type\":"
      "\"default\","
      "\"rope_theta\":1e6}," SMALL "}");
  CHECK(newer.rope_theta == 1e6 && newer.head_dim == 16 && newer.rope_scaling == ROPE_PLAIN);
  struct model_config qwen = parse(
      "{\"model_type\":\"qwen2\",\"sliding_window\":32768,\"use_sliding_window\":false,\"max_window_layers\":21,"
      "\"layer_types\":[\"full_attention\",\"full_attention\"],\"head_dim\":null,\"pad_token_id\":99," SMALL "}");
  CHECK(qwen.attention_bias && qwen.head_dim == 2 && qwen.pad == -1);
}

#define SMALL_OPT                                                                                              \
  "\"model_type\":\"opt\",\"hidden_size\":8,\"ffn_dim\":16,\"num_attention_heads\":4,\"num_hidden_layers\":2," \
  "\"vocab_size\":10,\"max_position_embeddings\":32"

static void check_opt(void) {
  struct model_config published =
      parse(/* OPT 125M */
            "{\"activation_dropout\":0.0,\"activation_function\":\"relu\",\"architectures\":[\"OPTForCausalLM\"],"
            "\"bos_token_id\":2,\"do_layer_norm_before\":true,\"eos_token_id\":2,\"ffn_dim\":3072,\"hidden_size\":768,"
            "\"max_position_embeddings\":2048,\"model_type\":\"opt\",\"num_attention_heads\":12,\"num_hidden_layers\":"
            "12,"
            "\"pad_token_id\":1,\"prefix\":\"</s>\",\"vocab_size\":50272,\"word_embed_proj_dim\":768}");
  CHECK(strcmp(published.architecture, "opt") == 0 && model_family(&published) == FAMILY_OPT);
  CHECK(published.layers == 12 && published.heads == 12 && published.kv_heads == 12 && published.head_dim == 64);
  CHECK(published.hidden == 768 && published.feed_forward == 3072 && published.vocabulary == 50272);
  CHECK(published.max_positions == 2048 && published.norm_epsilon == 1e-5f && published.rope_theta == 0);
  CHECK(published.tied_head && published.attention_bias && published.bos == 2 && published.pad == 1);
  CHECK(published.eos_count == 1 && published.eos[0] == 2);
  struct model_config bare = parse("{" SMALL_OPT "}");
  CHECK(bare.tied_head && bare.bos == 2 && bare.pad == 1 && bare.eos_count == 1 && bare.eos[0] == 2);
  struct model_config other = parse(
      "{\"tie_word_embeddings\":false,\"bos_token_id\":0,\"pad_token_id\":3,\"eos_token_id\":[4,5],"
      "\"word_embed_proj_dim\":null," SMALL_OPT "}");
  CHECK(!other.tied_head && other.bos == 0 && other.pad == 3 && other.eos_count == 2 && other.eos[1] == 5);
  CHECK(model_family(&(struct model_config){.architecture = "qwen2"}) == FAMILY_LLAMA);
}

static void check_generation(void) {
  struct model_config config = parse("{\"model_type\":\"llama\",\"eos_token_id\":1," SMALL "}");
  CHECK_OK(model_config_parse_generation("{\"eos_token_id\":[1,5],\"do_sample\":true}", &config));
  CHECK(config.eos_count == 2 && config.eos[1] == 5);
  CHECK_OK(model_config_parse_generation("{}", &config));
  CHECK(config.eos_count == 2);
  CHECK_FAILS(ERR_INPUT, "outside the vocabulary", model_config_parse_generation("{\"eos_token_id\":10}", &config));
  CHECK(config.eos_count == 2 && config.eos[1] == 5);
}

static int refused(const char *fields) {
  char text[1024];
  struct model_config config;
  snprintf(text, sizeof text, "{%s}", fields);
  return model_config_parse(text, &config);
}

static void check_refused(void) {
  struct model_config config;
  CHECK_FAILS(ERR_INPUT, "not valid JSON", model_config_parse("", &config));
  CHECK_FAILS(ERR_INPUT, "not a JSON object", model_config_parse("[]", &config));
  CHECK_FAILS(ERR_INPUT, "\"gpt2\" (model_type) is not supported; known are",
              refused("\"model_type\":\"gpt2\"," SMALL));
  CHECK_FAILS(ERR_INPUT, "\"\" (model_type)", refused(SMALL));
  CHECK_FAILS(ERR_INPUT, "\"num_hidden_layers\" is missing", refused("\"model_type\":\"llama\""));
  CHECK_FAILS(ERR_INPUT, "not valid JSON", refused("\"model_type\":\"llama\",\"model_type\":\"llama\"," SMALL));
#define LLAMA(fields) refused("\"model_type\":\"llama\"," fields "," SMALL)
  CHECK_FAILS(ERR_INPUT, "sliding window", refused("\"model_type\":\"mistral\",\"sliding_window\":4096," SMALL));
  CHECK_FAILS(ERR_INPUT, "sliding window", refused("\"model_type\":\"qwen2\",\"use_sliding_window\":true," SMALL));
  CHECK_FAILS(ERR_INPUT, "layer 1 has an attention other",
              LLAMA("\"layer_types\":[\"full_attention\",\"sliding_attention\"]"));
  CHECK_FAILS(ERR_INPUT, "\"yarn\" is not supported", LLAMA("\"rope_scaling\":{\"type\":\"yarn\",\"factor\":2}"));
  CHECK_FAILS(ERR_INPUT, "low_freq_factor", LLAMA("\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8}"));
  CHECK_FAILS(ERR_INPUT, "not an object", LLAMA("\"rope_scaling\":7"));
  CHECK_FAILS(ERR_INPUT, "differs between layers", LLAMA("\"rope_parameters\":{\"full_attention\":{}}"));
  CHECK_FAILS(ERR_INPUT, "partial_rotary_factor 0.5", LLAMA("\"rope_parameters\":{\"partial_rotary_factor\":0.5}"));
  CHECK_FAILS(ERR_INPUT, "\"attention_bias\" is true", LLAMA("\"attention_bias\":true"));
  CHECK_FAILS(ERR_INPUT, "\"mlp_bias\" is true", LLAMA("\"mlp_bias\":true"));
  CHECK_FAILS(ERR_INPUT, "\"gelu\" (hidden_act)", LLAMA("\"hidden_act\":\"gelu\""));
  CHECK_FAILS(ERR_INPUT, "quantized already", LLAMA("\"quantization_config\":{}"));
  CHECK_FAILS(ERR_INPUT, "4 heads cannot be shared among 3", LLAMA("\"num_key_value_heads\":3"));
  CHECK_FAILS(ERR_INPUT, "head dimension 3 is odd", LLAMA("\"head_dim\":3"));
  CHECK_FAILS(ERR_INPUT, "head dimension is -2", LLAMA("\"head_dim\":-2"));
  CHECK_FAILS(ERR_INPUT, "RMSNorm epsilon is 0", LLAMA("\"rms_norm_eps\":0"));
  CHECK_FAILS(ERR_INPUT, "RoPE base is -1", LLAMA("\"rope_theta\":-1"));
  CHECK_FAILS(ERR_INPUT, "eos token 10 is outside", LLAMA("\"eos_token_id\":10"));
  CHECK_FAILS(ERR_INPUT, "eos token 4294967296 is outside", LLAMA("\"eos_token_id\":4294967296"));
  CHECK_FAILS(ERR_INPUT, "more than 8 ids", LLAMA("\"eos_token_id\":[1,1,1,1,1,1,1,1,1]"));
  CHECK_FAILS(ERR_INPUT, "other than ids", LLAMA("\"eos_token_id\":[\"x\"]"));
  CHECK_FAILS(ERR_INPUT, "neither true nor false", LLAMA("\"tie_word_embeddings\":1"));
  CHECK_FAILS(ERR_INPUT, "\"bos_token_id\" is 99999999999, which is out of range",
              LLAMA("\"bos_token_id\":99999999999"));
#define SIZES(hidden, heads)                                                                   \
  refused("\"model_type\":\"llama\",\"hidden_size\":" hidden ",\"num_attention_heads\":" heads \
          ",\"intermediate_size\":16,\"num_hidden_layers\":2,\"vocab_size\":10")
  CHECK_FAILS(ERR_INPUT, "\"num_attention_heads\" is 0", SIZES("8", "0"));
  CHECK_FAILS(ERR_INPUT, "hidden_size 9 is not a multiple", SIZES("9", "4"));
  CHECK_FAILS(ERR_INPUT, "hidden size is 2097152", SIZES("2097152", "4"));
  CHECK_FAILS(ERR_INPUT, "\"hidden_size\" is not an integer", SIZES("\"8\"", "4"));
}

static void check_opt_refused(void) {
#define OPT(fields) refused(fields "," SMALL_OPT)
  CHECK_FAILS(ERR_INPUT, "\"do_layer_norm_before\" is false", OPT("\"do_layer_norm_before\":false"));
  CHECK_FAILS(ERR_INPUT, "\"word_embed_proj_dim\" is 4", OPT("\"word_embed_proj_dim\":4"));
  CHECK_FAILS(ERR_INPUT, "\"gelu\" (activation_function)", OPT("\"activation_function\":\"gelu\""));
  CHECK_FAILS(ERR_INPUT, "\"enable_bias\" is false", OPT("\"enable_bias\":false"));
  CHECK_FAILS(ERR_INPUT, "\"layer_norm_elementwise_affine\" is false", OPT("\"layer_norm_elementwise_affine\":false"));
  CHECK_FAILS(ERR_INPUT, "\"_remove_final_layer_norm\" is true", OPT("\"_remove_final_layer_norm\":true"));
  CHECK_FAILS(ERR_INPUT, "quantized already", OPT("\"quantization_config\":{}"));
#define OPT_SIZES(hidden, heads, rest)                                             \
  refused("\"model_type\":\"opt\",\"num_hidden_layers\":2,\"hidden_size\":" hidden \
          ",\"num_attention_heads\":" heads rest)
  CHECK_FAILS(ERR_INPUT, "\"ffn_dim\" is missing", OPT_SIZES("8", "4", ",\"intermediate_size\":16"));
  CHECK_FAILS(ERR_INPUT, "\"max_position_embeddings\" is missing",
              OPT_SIZES("8", "4", ",\"ffn_dim\":16,\"vocab_size\":10"));
#define OPT_REST ",\"ffn_dim\":16,\"vocab_size\":10,\"max_position_embeddings\":8"
  CHECK_FAILS(ERR_INPUT, "hidden_size 9 is not a multiple", OPT_SIZES("9", "4", OPT_REST));
  CHECK_FAILS(ERR_INPUT, "\"num_attention_heads\" is 0", OPT_SIZES("8", "0", OPT_REST));
}

/* What no config.json says, but a damaged backbone file may. */
static void check_contradictions(void) {
  struct model_config good = parse("{" SMALL_OPT "}"), bad = good;
  bad.attention_bias = false;
  CHECK_FAILS(ERR_INPUT, "attention_bias is false", model_config_check(&bad));
  bad = good;
  bad.norm_epsilon = 0;
  CHECK_FAILS(ERR_INPUT, "LayerNorm epsilon is 0", model_config_check(&bad));
  bad = good;
  bad.architecture[2] = 'u';
  CHECK_FAILS(ERR_INPUT, "\"opu\" is not supported; known are llama, mistral, qwen2 and opt", model_config_check(&bad));
}

static int64_t parameters(const struct model_config *config) {
  int64_t layer = 0, total = 0;
  for (int which = 0; which < MATRIX_COUNT; which++) {
    int rows, cols;
    backbone_matrix_shape(config, (enum backbone_matrix)which, &rows, &cols);
    layer += (int64_t)rows * cols;
  }
  for (int which = 0; which < VECTOR_COUNT; which++) layer += backbone_vector_size(config, (enum backbone_vector)which);
  for (int which = 0; which < FINAL_COUNT; which++) total += backbone_final_size(config, (enum backbone_final)which);
  for (int table = 0; table < TABLE_COUNT; table++)
    total += (int64_t)backbone_table_rows(config, (enum backbone_table)table) * config->hidden;
  return total + config->layers * layer;
}

/* Shapes by name are whole. What transformers counts of OPTForCausalLM includes two rows more of positions. */
static void check_shapes(void) {
  static const struct {
    const char *name;
    int64_t parameters;
  } counts[] = {{"opt-125m", 125239296},  {"opt-1.3b", 1315758080}, {"opt-2.7b", 2651596800}, {"opt-6.7b", 6658473984},
                {"opt-13b", 12853473280}, {"opt-30b", 29974540288}, {"opt-66b", 65719701504}};
  struct model_config config;
  for (int i = 0; model_shape_name(i); i++) {
    CHECK_OK(model_shape_find(model_shape_name(i), &config));
    CHECK_OK(model_config_check(&config));
  }
  for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
    CHECK_OK(model_shape_find(counts[i].name, &config));
    CHECK(model_family(&config) == FAMILY_OPT && config.tied_head && config.vocabulary == 50272);
    CHECK(parameters(&config) + 2 * config.hidden == counts[i].parameters);
  }
  CHECK_FAILS(ERR_USAGE, "did you mean opt-6.7b", model_shape_find("opt-6.8b", &config));
}

int main(void) {
  check_llama();
  check_others();
  check_opt();
  check_generation();
  check_refused();
  check_opt_refused();
  check_contradictions();
  check_shapes();
  return check_result();
}
