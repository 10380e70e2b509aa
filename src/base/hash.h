/**
 * @file hash.h
 * Checksums of files and data: XXH3, 128 bits, canonical (big-endian) form as 32 hex digits — what
 * `xxh128sum` and Python's `xxhash.xxh3_128_hexdigest` print.
 */
#ifndef QST_BASE_HASH_H
#define QST_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

struct hash_text {
  char hex[33];
};

struct hash_text hash_bytes(const void *bytes, size_t size);

/** Its 64-bit sister as a number, for tables in memory. */
uint64_t hash_number(const void *bytes, size_t size);

/** The same hash of data that comes in pieces. Begin gives a state that hash_end() frees (NULL-safe, resets the
 *  pointer) and whose digest may be asked for at any time. */
struct hash_state;
int hash_begin(struct hash_state **out);
void hash_more(struct hash_state *state, const void *bytes, size_t size);
struct hash_text hash_digest(const struct hash_state *state);
void hash_end(struct hash_state **state);

#endif
