/* A GGUF file in memory: its header, and what a model is made of from it. */
// SEEDS tests/fuzz/corpus/fuzz_gguf/*
#include "io/gguf.h"
#include "io/gguf_model.h"

int LLVMFuzzerTestOneInput(const unsigned char *bytes, size_t size);

int LLVMFuzzerTestOneInput(const unsigned char *bytes, size_t size) {
  struct gguf *file;
  struct model_config config;
  struct tokenizer *tokenizer;
  if (gguf_parse(&file, "fuzz", bytes, size, size) != 0) return 0;
  for (size_t i = 0; i < gguf_count(file); i++) {
    const struct gguf_tensor *tensor = gguf_at(file, i);
    if (gguf_find(file, tensor->name) != tensor) __builtin_trap();
    if (tensor->offset > size || tensor->bytes > size - tensor->offset) __builtin_trap();
  }
  if (gguf_model_config(file, &config) == 0 && model_config_check(&config) != 0) __builtin_trap();
  if (gguf_tokenizer(file, &tokenizer) == 0 && tokenizer) tokenizer_destroy(&tokenizer);
  gguf_close(&file);
  return 0;
}
