/**
 * @file memory.h
 * Host memory with checked sizes, and a growing byte buffer.
 */
#ifndef QST_BASE_MEMORY_H
#define QST_BASE_MEMORY_H

#include <stddef.h>

/** `*out` = zeroed array of `count` elements of `size` bytes (64-byte aligned; never NULL on OK, free() it).
 *  ERR_MEMORY when it does not fit or count * size overflows. */
int memory_array(void *out, size_t count, size_t size);

/** A byte string that grows; `data[size]` is always 0, so text can be read as a C string.
 *  Start from `{0}`; buffer_free() resets it to that. */
struct buffer {
  char *data;
  size_t size, capacity;
};

int buffer_append(struct buffer *buffer, const void *bytes, size_t size);
int buffer_print(struct buffer *buffer, const char *format, ...) __attribute__((format(printf, 2, 3)));
/** Keeps the memory, forgets the content. */
void buffer_clear(struct buffer *buffer);
void buffer_free(struct buffer *buffer);

#endif
