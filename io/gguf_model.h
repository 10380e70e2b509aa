/**
 * @file gguf_model.h
 * What the metadata of a GGUF file says of the model: its shape and its tokenizer.
 */
#ifndef QST_IO_GGUF_MODEL_H
#define QST_IO_GGUF_MODEL_H

#include "io/gguf.h"
#include "io/model_config.h"
#include "io/tokenizer.h"

/** Divisors of RoPE's frequencies, which llama.cpp writes for LLaMA 3 in place of the parameters they came from. */
#define GGUF_ROPE_FACTORS "rope_freqs.weight"

/** Checked (model_config_check()). ERR_INPUT names what is missing, unknown or not supported. */
int gguf_model_config(const struct gguf *file, struct model_config *out);

/** *out = NULL when the file has none. Caller destroys. */
int gguf_tokenizer(const struct gguf *file, struct tokenizer **out);

/** A token id of the metadata; -1 when it is absent or outside the vocabulary. */
int gguf_token(const struct gguf *file, const char *key, int32_t vocabulary, int32_t *out);

#endif
