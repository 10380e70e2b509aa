/**
 * @file model_config.h
 * The shape of a decoder-only transformer of the LLaMA family (LLaMA 1/2/3, SmolLM2, Mistral without a window, Qwen2) or
 * the OPT family, as published in config.json (Hugging Face) or GGUF metadata (LLaMA alone).
 */
#ifndef QST_IO_MODEL_CONFIG_H
#define QST_IO_MODEL_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

enum rope_scaling { ROPE_PLAIN, ROPE_LINEAR, ROPE_LLAMA3 };

/** What the layers are made of. */
enum model_family {
  FAMILY_LLAMA, /**< RMSNorm, RoPE, SwiGLU; of biases at most those of q, k and v */
  FAMILY_OPT    /**< LayerNorm, learned positions, ReLU; a bias in every linear layer and norm (Zhang et al. 2022) */
};

enum { MODEL_MAX_EOS = 8 };

struct model_config {
  char architecture[16]; /**< "llama", "mistral", "qwen2" or "opt" */
  int32_t layers, hidden, heads, kv_heads, head_dim, feed_forward, vocabulary, max_positions;
  float norm_epsilon;
  double rope_theta; /**< this and all else of RoPE: FAMILY_LLAMA alone */
  enum rope_scaling rope_scaling;
  double rope_factor;                             /**< linear, llama3 */
  double rope_low_frequency, rope_high_frequency; /**< llama3 */
  int32_t rope_original_positions;                /**< llama3 */
  bool tied_head;                                 /**< the LM head is the embedding */
  bool attention_bias;                            /**< q, k and v have a bias (Qwen2, OPT) */
  int32_t bos, pad;                               /**< token ids; -1 = none */
  int32_t eos[MODEL_MAX_EOS], eos_count;
};

/** By the architecture. */
enum model_family model_family(const struct model_config *config);

/** ERR_INPUT with one line when a field is out of range or the fields contradict each other. */
int model_config_check(const struct model_config *config);

/** Parses the text of a config.json. ERR_INPUT names the field: unknown architecture (with those we know), a
 *  sliding window that is in use, an unknown rope scaling, biases we do not compute, an OPT that norms after its blocks
 *  or projects its embedding (opt-350m), a missing field. */
int model_config_parse(const char *text, struct model_config *out);

/** Takes the eos tokens of the text of a generation_config.json, which may list more than config.json does (LLaMA 3). */
int model_config_parse_generation(const char *text, struct model_config *config);

#endif
