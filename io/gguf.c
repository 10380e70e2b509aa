#include "io/gguf.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "io/gguf_blocks.h"
#include "io/gguf_internal.h"

/* The length of the header is not written anywhere: read so much, and twice as much each time it was not enough. */
enum { FIRST_GUESS = 1 << 20, LARGEST_HEADER = 1 << 30 };

static int create(struct gguf **out) {
  TRY(memory_array(out, 1, sizeof **out));
  (*out)->file.descriptor = -1;
  return OK;
}

int gguf_parse(struct gguf **out, const char *where, const void *bytes, size_t size, uint64_t file_size) {
  *out = NULL;
  struct gguf *file;
  bool starved;
  if (size > file_size) size = file_size;
  TRY(create(&file));
  int status = gguf_parse_header(file, bytes, size, file_size, &starved);
  if (status == OK)
    *out = file;
  else
    gguf_close(&file);
  return fail_at(status, "%s", where);
}

static int try_header(struct gguf *file, size_t size, bool *starved) {
  *starved = false;
  free(file->header);
  file->header = NULL;
  gguf_forget_header(file);
  TRY(memory_array(&file->header, size, 1));
  TRY(input_read(&file->file, 0, file->header, size));
  return fail_at(gguf_parse_header(file, (const uint8_t *)file->header, size, file->file.size, starved), "%s",
                 file->file.path);
}

static int open_header(struct gguf *file, const char *path) {
  TRY(input_open(&file->file, path));
  for (size_t guess = FIRST_GUESS;; guess *= 2) {
    bool starved;
    size_t size = guess < file->file.size ? guess : (size_t)file->file.size;
    int status = try_header(file, size, &starved);
    if (!starved || guess >= LARGEST_HEADER) return status;
  }
}

int gguf_open(struct gguf **out, const char *path) {
  *out = NULL;
  struct gguf *file;
  TRY(create(&file));
  int status = open_header(file, path);
  if (status == OK)
    *out = file;
  else
    gguf_close(&file);
  return status;
}

void gguf_close(struct gguf **file) {
  if (!*file) return;
  gguf_forget_header(*file);
  input_close(&(*file)->file);
  free((*file)->header);
  free(*file);
  *file = NULL;
}

const char *gguf_path(const struct gguf *file) {
  return file->file.path ? file->file.path : "";
}

uint64_t gguf_size(const struct gguf *file) {
  return file->file.size;
}

const char *gguf_header_hash(const struct gguf *file) {
  return file->hash.hex;
}

size_t gguf_count(const struct gguf *file) {
  return file->tensor_count;
}

const struct gguf_tensor *gguf_at(const struct gguf *file, size_t index) {
  return &file->tensors[index];
}

static int name_order(const void *key, const void *tensor) {
  return strcmp(key, ((const struct gguf_tensor *)tensor)->name);
}

const struct gguf_tensor *gguf_find(const struct gguf *file, const char *name) {
  if (file->tensor_count == 0) return NULL;
  return bsearch(name, file->tensors, file->tensor_count, sizeof *file->tensors, name_order);
}

int gguf_read(const struct gguf *file, const struct gguf_tensor *tensor, int64_t first, int64_t count, float *out) {
  const struct number_format *format = gguf_number_format(tensor->type);
  if (!format)
    return fail(ERR_INPUT,
                "%s: tensor \"%s\" is %s (type %u), which is not supported; choose a file with F32, F16, "
                "BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K or Q6_K",
                gguf_path(file), tensor->name, gguf_type_name(tensor->type), tensor->type);
  if (first < 0 || count < 0 || first > tensor->rows || count > tensor->rows - first)
    return fail(ERR_INTERNAL, "rows %lld to %lld of tensor \"%s\" with %lld rows", (long long)first,
                (long long)(first + count), tensor->name, (long long)tensor->rows);
  uint64_t row_blocks = (uint64_t)tensor->cols / format->elements;
  uint64_t offset = tensor->offset + (uint64_t)first * row_blocks * format->bytes;
  return input_decode(&file->file, format, offset, (uint64_t)count * row_blocks, out);
}
