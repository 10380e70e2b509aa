#include "base/memory.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

int memory_array(void *out, size_t count, size_t size) {
  if (size != 0 && count > (SIZE_MAX - 64) / size)
    return fail(ERR_MEMORY, "an array of %zu x %zu bytes is larger than any memory", count, size);
  size_t bytes = (count * size + 63) / 64 * 64;
  if (bytes == 0) bytes = 64;
  void *block = aligned_alloc(64, bytes);
  if (!block) return fail(ERR_MEMORY, "not enough memory: %zu MB could not be had", bytes >> 20);
  memset(block, 0, bytes);
  memcpy(out, &block, sizeof block);
  return OK;
}

static int reserve(struct buffer *buffer, size_t more) {
  if (more > SIZE_MAX / 4 || buffer->size > SIZE_MAX / 4)
    return fail(ERR_MEMORY, "a text of %zu bytes is larger than any memory", more);
  size_t needed = buffer->size + more + 1;
  if (needed <= buffer->capacity) return OK;
  size_t capacity = buffer->capacity ? buffer->capacity : 256;
  while (capacity < needed) capacity *= 2;
  char *data = realloc(buffer->data, capacity);
  if (!data) return fail(ERR_MEMORY, "not enough memory: %zu MB could not be had", capacity >> 20);
  buffer->data = data;
  buffer->capacity = capacity;
  return OK;
}

int buffer_append(struct buffer *buffer, const void *bytes, size_t size) {
  TRY(reserve(buffer, size));
  if (size) memcpy(buffer->data + buffer->size, bytes, size);
  buffer->size += size;
  buffer->data[buffer->size] = 0;
  return OK;
}

int buffer_print(struct buffer *buffer, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  va_list again;
  va_copy(again, arguments);
  int length = vsnprintf(NULL, 0, format, arguments);
  va_end(arguments);
  int status =
      length < 0 ? fail(ERR_INTERNAL, "a text could not be formatted: %s", format) : reserve(buffer, (size_t)length);
  if (status == OK) {
    vsnprintf(buffer->data + buffer->size, (size_t)length + 1, format, again);
    buffer->size += (size_t)length;
  }
  va_end(again);
  return status;
}

void buffer_clear(struct buffer *buffer) {
  buffer->size = 0;
  if (buffer->data) buffer->data[0] = 0;
}

void buffer_free(struct buffer *buffer) {
  free(buffer->data);
  *buffer = (struct buffer){0};
}
