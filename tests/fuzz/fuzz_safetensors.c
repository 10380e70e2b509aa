/* The header of a safetensors file: two bytes say how much data follows it. */
// SEEDS tests/fuzz/corpus/fuzz_safetensors/*
#include <string.h>

#include "io/safetensors.h"

int LLVMFuzzerTestOneInput(const unsigned char *bytes, size_t size);

int LLVMFuzzerTestOneInput(const unsigned char *bytes, size_t size) {
  struct safetensors *file;
  if (size < 2) return 0;
  uint64_t data_size = (uint64_t)bytes[0] | (uint64_t)bytes[1] << 8;
  if (safetensors_parse(&file, "fuzz", (const char *)bytes + 2, size - 2, data_size) != 0) return 0;
  uint64_t total = 0;
  for (size_t i = 0; i < safetensors_count(file); i++) {
    const struct safetensors_tensor *tensor = safetensors_at(file, i);
    if (safetensors_find(file, tensor->name) != tensor) __builtin_trap();
    total += tensor->bytes;
  }
  if (total != data_size) __builtin_trap();
  safetensors_metadata(file, "format");
  safetensors_close(&file);
  return 0;
}
