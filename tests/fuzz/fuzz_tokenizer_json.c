/* A tokenizer.json, then what it makes of a text; its image gives the same tokenizer again. Up to the first 0 byte the
 * input is the file, after it the text. */
// SEEDS tests/fuzz/corpus/fuzz_tokenizer_json/*
#include <string.h>

#include "io/tokenizer.h"

int LLVMFuzzerTestOneInput(const unsigned char *bytes, size_t size);

static void check_image(const struct tokenizer *tokenizer, const struct token_list *ids, const char *text,
                        size_t size) {
  struct buffer image = {0};
  struct tokenizer *again = NULL;
  struct token_list same = {0};
  if (tokenizer_save(tokenizer, &image) != 0 || tokenizer_load(image.data, image.size, &again) != 0) __builtin_trap();
  if (tokenizer_encode(again, text, size, ENCODE_SPECIAL | ENCODE_BOS_EOS, &same) != 0) __builtin_trap();
  if (same.size != ids->size) __builtin_trap();
  for (size_t i = 0; i < same.size; i++)
    if (same.ids[i] != ids->ids[i]) __builtin_trap();
  token_list_free(&same);
  tokenizer_destroy(&again);
  buffer_free(&image);
}

static void use(const struct tokenizer *tokenizer, const char *text, size_t size) {
  struct token_list ids = {0};
  struct buffer decoded = {0};
  if (tokenizer_encode(tokenizer, text, size, ENCODE_SPECIAL | ENCODE_BOS_EOS, &ids) == 0) {
    if (tokenizer_decode(tokenizer, ids.ids, ids.size, true, &decoded) != 0) __builtin_trap();
    check_image(tokenizer, &ids, text, size);
  }
  token_list_free(&ids);
  buffer_free(&decoded);
}

int LLVMFuzzerTestOneInput(const unsigned char *bytes, size_t size) {
  const char *json = (const char *)bytes, *end = size ? memchr(json, 0, size) : NULL;
  size_t json_size = end ? (size_t)(end - json) : size;
  struct tokenizer *tokenizer = NULL;
  if (tokenizer_parse(json, json_size, NULL, 0, &tokenizer) != 0) return 0;
  use(tokenizer, end ? end + 1 : "a b", end ? size - json_size - 1 : 3);
  tokenizer_destroy(&tokenizer);
  return 0;
}
