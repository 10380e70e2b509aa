#include "base/hash.h"

#include <stdio.h>
#include <xxhash.h>
#if defined(__x86_64__) && __has_include(<xxh_x86dispatch.h>)
#include <xxh_x86dispatch.h> /* the same functions, with the widest vectors the processor has: four times faster */
#endif

#include "base/error.h"

static struct hash_text to_text(XXH128_hash_t hash) {
  struct hash_text text;
  snprintf(text.hex, sizeof text.hex, "%016llx%016llx", (unsigned long long)hash.high64,
           (unsigned long long)hash.low64);
  return text;
}

struct hash_text hash_bytes(const void *bytes, size_t size) {
  return to_text(XXH3_128bits(bytes, size));
}

/* An XXH3 state under a name of ours, so that the header needs no xxhash.h. */
uint64_t hash_number(const void *bytes, size_t size) {
  return XXH3_64bits(bytes, size);
}

int hash_begin(struct hash_state **out) {
  XXH3_state_t *state = XXH3_createState();
  *out = (struct hash_state *)state;
  if (!state || XXH3_128bits_reset(state) != XXH_OK) {
    hash_end(out);
    return fail(ERR_MEMORY, "not enough memory for a checksum");
  }
  return OK;
}

void hash_more(struct hash_state *state, const void *bytes, size_t size) {
  if (size > 0) XXH3_128bits_update((XXH3_state_t *)state, bytes, size);
}

struct hash_text hash_digest(const struct hash_state *state) {
  return to_text(XXH3_128bits_digest((const XXH3_state_t *)state));
}

void hash_end(struct hash_state **state) {
  XXH3_freeState((XXH3_state_t *)*state);
  *state = NULL;
}
