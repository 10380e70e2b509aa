/**
 * @file vocabulary.h
 * Byte strings to ids: an open-addressing hash table that is filled once.
 */
#ifndef QST_IO_VOCABULARY_H
#define QST_IO_VOCABULARY_H

#include <stddef.h>
#include <stdint.h>

struct vocabulary_entry {
  const char *text; /**< borrowed */
  uint32_t size;
  int32_t id;
};

struct vocabulary {
  struct vocabulary_entry *entries; /**< [mask + 1]; text NULL: free */
  size_t mask;
};

/** Room for `count` strings. */
int vocabulary_start(struct vocabulary *vocabulary, size_t count);
/** A string that is there already gets the new id. */
void vocabulary_put(struct vocabulary *vocabulary, const char *text, size_t size, int32_t id);
/** -1 when it is not there. */
int32_t vocabulary_get(const struct vocabulary *vocabulary, const char *text, size_t size);
void vocabulary_free(struct vocabulary *vocabulary);

#endif
