/* A stored tokenizer (io/tokenizer_image.c), and texts and ids given to what loads. */
// SEEDS tests/fuzz/corpus/fuzz_tokenizer_image/*
#include "io/tokenizer.h"

int LLVMFuzzerTestOneInput(const unsigned char *bytes, size_t size);

int LLVMFuzzerTestOneInput(const unsigned char *bytes, size_t size) {
  static const char text[] = "Hello  w\xC3\xB6rld 123\n<s>e\xCC\x81 \xF0\x9F\x98\x80 \xFF x";
  struct tokenizer *tokenizer = NULL;
  struct token_list ids = {0};
  struct buffer decoded = {0}, again = {0};
  if (tokenizer_load(bytes, size, &tokenizer) != 0) return 0;
  if (tokenizer_encode(tokenizer, text, sizeof text - 1, ENCODE_SPECIAL | ENCODE_BOS_EOS, &ids) == 0) {
    for (size_t i = 0; i < ids.size; i++)
      if (ids.ids[i] < 0 || (size_t)ids.ids[i] >= tokenizer_size(tokenizer)) __builtin_trap();
    if (tokenizer_decode(tokenizer, ids.ids, ids.size, true, &decoded) != 0) __builtin_trap();
  }
  if (tokenizer_save(tokenizer, &again) != 0) __builtin_trap();
  token_list_free(&ids);
  buffer_free(&decoded);
  buffer_free(&again);
  tokenizer_destroy(&tokenizer);
  return 0;
}
