#include "io/vocabulary.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/error.h"
#include "base/memory.h"

int vocabulary_start(struct vocabulary *vocabulary, size_t count) {
  size_t capacity = 16;
  while (capacity < 2 * count) capacity *= 2;
  vocabulary->mask = capacity - 1;
  return memory_array(&vocabulary->entries, capacity, sizeof *vocabulary->entries);
}

static struct vocabulary_entry *find(const struct vocabulary *vocabulary, const char *text, size_t size) {
  size_t slot = (size_t)XXH3_64bits(text, size) & vocabulary->mask;
  for (;; slot = (slot + 1) & vocabulary->mask) {
    struct vocabulary_entry *entry = &vocabulary->entries[slot];
    if (!entry->text || (entry->size == size && memcmp(entry->text, text, size) == 0)) return entry;
  }
}

void vocabulary_put(struct vocabulary *vocabulary, const char *text, size_t size, int32_t id) {
  *find(vocabulary, text, size) = (struct vocabulary_entry){text, (uint32_t)size, id};
}

int32_t vocabulary_get(const struct vocabulary *vocabulary, const char *text, size_t size) {
  const struct vocabulary_entry *entry = find(vocabulary, text, size);
  return entry->text ? entry->id : -1;
}

void vocabulary_free(struct vocabulary *vocabulary) {
  free(vocabulary->entries);
  *vocabulary = (struct vocabulary){0};
}
