/* config.json and generation_config.json. */
// SEEDS tests/fuzz/corpus/fuzz_config/*
#include <stdlib.h>
#include <string.h>

#include "io/model_config.h"

int LLVMFuzzerTestOneInput(const unsigned char *bytes, size_t size);

int LLVMFuzzerTestOneInput(const unsigned char *bytes, size_t size) {
  struct model_config config;
  char *text = malloc(size + 1);
  if (!text) return 0;
  memcpy(text, bytes, size);
  text[size] = 0;
  if (model_config_parse(text, &config) == 0) {
    if (model_config_check(&config) != 0) __builtin_trap();
    model_config_parse_generation(text, &config);
    if (model_config_check(&config) != 0) __builtin_trap();
  }
  free(text);
  return 0;
}
