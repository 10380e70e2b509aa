#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "io/gguf_model.h"

int gguf_token(const struct gguf *file, const char *key, int32_t vocabulary, int32_t *out) {
  *out = -1;
  if (!gguf_has(file, key)) return OK;
  int64_t id;
  TRY(gguf_integer(file, key, &id));
  if (id >= 0 && id < vocabulary) *out = (int32_t)id;
  return OK;
}

struct vocabulary_memory {
  char *model, *pre, *chat_template;
  struct gguf_texts tokens, merges;
  float *scores;
  int32_t *types;
};

static void free_vocabulary(struct vocabulary_memory *memory) {
  free(memory->model);
  free(memory->pre);
  free(memory->chat_template);
  free(memory->tokens.texts);
  free(memory->tokens.sizes);
  free(memory->merges.texts);
  free(memory->merges.sizes);
  free(memory->scores);
  free(memory->types);
}

static int get_text(const struct gguf *file, const char *key, char **out) {
  return gguf_has(file, key) ? gguf_text(file, key, out) : OK;
}

static int get_truth(const struct gguf *file, const char *key, bool *out) {
  return gguf_has(file, key) ? gguf_truth(file, key, out) : OK;
}

static int check_length(const char *key, size_t length, size_t tokens) {
  return length == tokens ? OK : fail(ERR_INPUT, "\"%s\" has %zu entries for %zu tokens", key, length, tokens);
}

static int read_vocabulary_arrays(const struct gguf *file, struct vocabulary_memory *memory) {
  static const char scores[] = "tokenizer.ggml.scores", types[] = "tokenizer.ggml.token_type",
                    merges[] = "tokenizer.ggml.merges";
  size_t length;
  TRY(gguf_texts(file, "tokenizer.ggml.tokens", &memory->tokens));
  if (gguf_has(file, scores)) {
    TRY(gguf_floats(file, scores, &length, &memory->scores));
    TRY(check_length(scores, length, memory->tokens.count));
  }
  if (gguf_has(file, types)) {
    TRY(gguf_integers(file, types, &length, &memory->types));
    TRY(check_length(types, length, memory->tokens.count));
  }
  return gguf_has(file, merges) ? gguf_texts(file, merges, &memory->merges) : OK;
}

static int read_vocabulary_settings(const struct gguf *file, struct gguf_vocabulary *out) {
  int32_t count = out->token_count > INT32_MAX ? INT32_MAX : (int32_t)out->token_count;
  TRY(gguf_token(file, "tokenizer.ggml.bos_token_id", count, &out->bos));
  TRY(gguf_token(file, "tokenizer.ggml.eos_token_id", count, &out->eos));
  TRY(gguf_token(file, "tokenizer.ggml.unknown_token_id", count, &out->unknown));
  TRY(gguf_token(file, "tokenizer.ggml.padding_token_id", count, &out->pad));
  /* llama.cpp's defaults where a file does not say: SentencePiece vocabularies get a bos and a space in front, LLaMA 3 a bos. */
  out->add_space_prefix = strcmp(out->model, "llama") == 0;
  out->add_bos = out->add_space_prefix || (out->pre && strcmp(out->pre, "llama-bpe") == 0);
  TRY(get_truth(file, "tokenizer.ggml.add_bos_token", &out->add_bos));
  TRY(get_truth(file, "tokenizer.ggml.add_eos_token", &out->add_eos));
  return get_truth(file, "tokenizer.ggml.add_space_prefix", &out->add_space_prefix);
}

static int load_tokenizer(const struct gguf *file, struct vocabulary_memory *memory, struct tokenizer **out) {
  TRY(gguf_text(file, "tokenizer.ggml.model", &memory->model));
  TRY(get_text(file, "tokenizer.ggml.pre", &memory->pre));
  TRY(get_text(file, "tokenizer.chat_template", &memory->chat_template));
  TRY(read_vocabulary_arrays(file, memory));
  struct gguf_vocabulary vocabulary = {
      .model = memory->model,
      .pre = memory->pre,
      .token_count = memory->tokens.count,
      .tokens = memory->tokens.texts,
      .token_sizes = memory->tokens.sizes,
      .scores = memory->scores,
      .types = memory->types,
      .merge_count = memory->merges.count,
      .merges = memory->merges.texts,
      .merge_sizes = memory->merges.sizes,
      .chat_template = memory->chat_template,
  };
  TRY(read_vocabulary_settings(file, &vocabulary));
  return tokenizer_from_gguf(&vocabulary, out);
}

int gguf_tokenizer(const struct gguf *file, struct tokenizer **out) {
  struct vocabulary_memory memory = {0};
  *out = NULL;
  if (!gguf_has(file, "tokenizer.ggml.model")) return OK;
  int status = load_tokenizer(file, &memory, out);
  free_vocabulary(&memory);
  return status;
}
