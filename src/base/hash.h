/**
 * @file hash.h
 * Checksums of files and data: XXH3, 128 bits, canonical (big-endian) form as 32 hex digits — what
 * `xxh128sum` and Python's `xxhash.xxh3_128_hexdigest` print.
 */
#ifndef QST_BASE_HASH_H
#define QST_BASE_HASH_H

#include <stddef.h>

struct hash_text {
  char hex[33];
};

struct hash_text hash_bytes(const void *bytes, size_t size);

#endif
