#include "commands/data.h"

#include <string.h>

#include "base/error.h"
#include "base/hash.h"
#include "base/log.h"

int data_longest_row(const struct token_file *data, int64_t rows) {
  int64_t longest = 1;
  for (int64_t i = 0; i < rows; i++) {
    int64_t length = data->offsets[i + 1] - data->offsets[i];
    if (length > longest) longest = length;
  }
  return (int)longest;
}

static int tokenizer_hash(const struct engine *engine, struct hash_text *out) {
  struct buffer image = {0};
  int status = tokenizer_save(engine->tokenizer, &image);
  if (status == OK) *out = hash_bytes(image.data, image.size);
  buffer_free(&image);
  return status;
}

int data_check(const struct engine *engine, const struct token_file *data, const char *path) {
  int32_t vocabulary = engine->backbone.config.vocabulary;
  if (data->vocabulary > vocabulary)
    return fail(ERR_INPUT, "%s: was tokenized for a vocabulary of %d, the backbone has %d: tokenize it with --backbone",
                path, data->vocabulary, vocabulary);
  if (!engine->tokenizer || data->tokenizer[0] == 0) return OK;
  struct hash_text own;
  TRY(tokenizer_hash(engine, &own));
  if (strcmp(own.hex, data->tokenizer) == 0) return OK;
  return fail(ERR_INPUT, "%s: was tokenized with another tokenizer than the backbone's: tokenize it with --backbone",
              path);
}
