/**
 * @file tokenizer.h
 * Text to token ids and back, id for id as Hugging Face `tokenizers` does it. Two kinds: byte-level BPE (GPT-2,
 * LLaMA 3, SmolLM2, Qwen2) and SentencePiece-style BPE with byte fallback (LLaMA 1/2, Mistral). Read from
 * tokenizer.json (+ tokenizer_config.json), from GGUF metadata, or from the image stored in a backbone file.
 * A tokenizer is immutable after loading; encoding may run on many threads at once.
 */
#ifndef QST_IO_TOKENIZER_H
#define QST_IO_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/memory.h"

struct tokenizer;

/** A growing list of token ids. Start from `{0}`. */
struct token_list {
  int32_t *ids;
  size_t size, capacity;
};
int token_list_append(struct token_list *list, int32_t id);
void token_list_free(struct token_list *list);

/** From the text of tokenizer.json and, where there is one (else NULL), of tokenizer_config.json (chat template,
 *  bos/eos). ERR_INPUT names the part that is unknown or damaged. */
int tokenizer_parse(const char *tokenizer_json, size_t size, const char *config_json, size_t config_size,
                    struct tokenizer **out);

/** What GGUF metadata holds of a tokenizer; arrays are borrowed for the call. */
struct gguf_vocabulary {
  const char *model; /**< tokenizer.ggml.model: "gpt2" (byte-level) or "llama" (SentencePiece) */
  const char *pre;   /**< tokenizer.ggml.pre: "smollm", "llama-bpe", "qwen2", "gpt-2", …; NULL if absent */
  size_t token_count;
  const char *const *tokens; /**< UTF-8 bytes */
  const size_t *token_sizes;
  const float *scores;  /**< NULL if absent */
  const int32_t *types; /**< 1 normal, 2 unknown, 3 control, 4 user-defined, 6 byte; NULL if absent */
  size_t merge_count;
  const char *const *merges; /**< "left right" */
  const size_t *merge_sizes;
  const char *chat_template;               /**< NULL if absent */
  int32_t bos, eos, unknown, pad;          /**< -1 if absent */
  bool add_bos, add_eos, add_space_prefix; /**< where the file does not say: model "llama": true, false, true; else:
                                                whether pre is "llama-bpe", false, false */
};
/** ERR_INPUT when the model or the pre-tokenizer is not one we know. */
int tokenizer_from_gguf(const struct gguf_vocabulary *vocabulary, struct tokenizer **out);

/** The tokenizer as one self-contained, versioned byte string (deterministic), and back. The image is untrusted
 *  input like any file: everything in it is checked. */
int tokenizer_save(const struct tokenizer *tokenizer, struct buffer *image);
int tokenizer_load(const void *image, size_t size, struct tokenizer **out);

void tokenizer_destroy(struct tokenizer **tokenizer);

enum {
  ENCODE_SPECIAL = 1 /**< text like "<|im_start|>" becomes the special token; otherwise plain text */,
  ENCODE_BOS_EOS = 2 /**< add what the tokenizer's post-processor adds (bos, eos) */
};

/** Appends the ids of `text` (bytes; invalid UTF-8 is first replaced as Python's bytes.decode("utf-8", "replace")
 *  does). */
int tokenizer_encode(const struct tokenizer *tokenizer, const char *text, size_t size, unsigned flags,
                     struct token_list *out);

/** Appends the text of `count` ids, valid UTF-8: bytes that form no character become U+FFFD. Special tokens are left out
 *  unless `keep_special`, and so are ids that the tokenizer does not have (a model's vocabulary may be padded). The text of a list is not the texts of its ids in a row
 *  (characters of several tokens, the space in front of the first word): to show ids as they come, use a stream. */
int tokenizer_decode(const struct tokenizer *tokenizer, const int32_t *ids, size_t count, bool keep_special,
                     struct buffer *out);

/** Text of ids that come one by one. Start from `{0}`. */
struct token_stream {
  struct token_list ids;
  size_t shown; /**< bytes of their text given out so far */
};
/** Appends the text that `id` completes, if it does; special tokens give none. */
int token_stream_add(struct token_stream *stream, const struct tokenizer *tokenizer, int32_t id, struct buffer *out);
/** Appends what is complete; `at_end`: also a last character that is not. */
int token_stream_flush(struct token_stream *stream, const struct tokenizer *tokenizer, bool at_end, struct buffer *out);
void token_stream_free(struct token_stream *stream);

/** The id of a token by its exact text, or -1. */
int32_t tokenizer_id(const struct tokenizer *tokenizer, const char *token);

int32_t tokenizer_bos(const struct tokenizer *tokenizer);               /**< -1 if none */
int32_t tokenizer_eos(const struct tokenizer *tokenizer);               /**< -1 if none */
size_t tokenizer_size(const struct tokenizer *tokenizer);               /**< number of ids */
const char *tokenizer_chat_template(const struct tokenizer *tokenizer); /**< Jinja text, NULL if none */

#endif
