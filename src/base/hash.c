#include "base/hash.h"

#include <stdio.h>
#include <xxhash.h>

struct hash_text hash_bytes(const void *bytes, size_t size) {
  XXH128_hash_t hash = XXH3_128bits(bytes, size);
  struct hash_text text;
  snprintf(text.hex, sizeof text.hex, "%016llx%016llx", (unsigned long long)hash.high64,
           (unsigned long long)hash.low64);
  return text;
}
