#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "io/gguf_internal.h"

static const struct gguf_entry *find(const struct gguf *file, const char *key) {
  size_t low = 0, high = file->entry_count;
  while (low < high) {
    size_t middle = low + (high - low) / 2;
    int order = strcmp(key, file->entries[middle].key);
    if (order == 0) return &file->entries[middle];
    if (order < 0)
      high = middle;
    else
      low = middle + 1;
  }
  return NULL;
}

bool gguf_has(const struct gguf *file, const char *key) {
  return find(file, key) != NULL;
}

static int need(const struct gguf *file, const char *key, bool array, const struct gguf_entry **out) {
  *out = find(file, key);
  if (!*out) return fail(ERR_INPUT, "the metadata \"%s\" is missing", key);
  if ((*out)->array != array) return fail(ERR_INPUT, "the metadata \"%s\" is %s array", key, array ? "not an" : "an");
  return OK;
}

static int wrong_kind(const char *key, const char *expected) {
  return fail(ERR_INPUT, "the metadata \"%s\" is not %s", key, expected);
}

static bool is_integer(enum gguf_kind kind) {
  return kind != GGUF_F32 && kind != GGUF_F64 && kind != GGUF_BOOL && kind != GGUF_TEXT;
}

/* False: beyond int64. */
static bool integer_at(const struct gguf_entry *entry, uint64_t index, int64_t *out) {
  size_t size = gguf_kind_size(entry->kind);
  uint64_t bits = gguf_little(entry->payload + index * size, size);
  bool has_sign = entry->kind == GGUF_I8 || entry->kind == GGUF_I16 || entry->kind == GGUF_I32;
  if (has_sign && bits >> (8 * size - 1)) bits |= UINT64_MAX << (8 * size);
  memcpy(out, &bits, sizeof *out);
  return entry->kind != GGUF_U64 || bits <= INT64_MAX;
}

static double number_at(const struct gguf_entry *entry, uint64_t index) {
  float single;
  double value;
  size_t size = gguf_kind_size(entry->kind);
  if (entry->kind == GGUF_F32) {
    memcpy(&single, entry->payload + index * size, sizeof single);
    return (double)single;
  }
  memcpy(&value, entry->payload + index * size, sizeof value);
  return value;
}

int gguf_integer(const struct gguf *file, const char *key, int64_t *out) {
  const struct gguf_entry *entry;
  TRY(need(file, key, false, &entry));
  return is_integer(entry->kind) && integer_at(entry, 0, out) ? OK : wrong_kind(key, "an integer");
}

int gguf_number(const struct gguf *file, const char *key, double *out) {
  const struct gguf_entry *entry;
  TRY(need(file, key, false, &entry));
  if (entry->kind == GGUF_F32 || entry->kind == GGUF_F64) {
    *out = number_at(entry, 0);
    return OK;
  }
  int64_t whole;
  TRY(gguf_integer(file, key, &whole));
  *out = (double)whole;
  return OK;
}

int gguf_truth(const struct gguf *file, const char *key, bool *out) {
  const struct gguf_entry *entry;
  TRY(need(file, key, false, &entry));
  if (entry->kind != GGUF_BOOL) return wrong_kind(key, "true or false");
  *out = entry->payload[0] != 0;
  return OK;
}

int gguf_text(const struct gguf *file, const char *key, char **out) {
  const struct gguf_entry *entry;
  TRY(need(file, key, false, &entry));
  if (entry->kind != GGUF_TEXT) return wrong_kind(key, "a text");
  size_t size = (size_t)(entry->payload_size - 8);
  const uint8_t *text = entry->payload + 8;
  if (memchr(text, 0, size)) return wrong_kind(key, "a text without NUL bytes");
  TRY(memory_array(out, size + 1, 1));
  memcpy(*out, text, size);
  return OK;
}

int gguf_texts(const struct gguf *file, const char *key, struct gguf_texts *out) {
  *out = (struct gguf_texts){0};
  const struct gguf_entry *entry;
  TRY(need(file, key, true, &entry));
  if (entry->kind != GGUF_TEXT) return wrong_kind(key, "an array of texts");
  TRY(memory_array(&out->texts, entry->count, sizeof *out->texts));
  int status = memory_array(&out->sizes, entry->count, sizeof *out->sizes);
  if (status != OK) {
    free(out->texts);
    out->texts = NULL;
    return status;
  }
  const uint8_t *at = entry->payload;
  for (; out->count < entry->count; out->count++) {
    size_t size = (size_t)gguf_little(at, 8);
    out->sizes[out->count] = size;
    out->texts[out->count] = (const char *)at + 8;
    at += 8 + size;
  }
  return OK;
}

int gguf_floats(const struct gguf *file, const char *key, size_t *count, float **out) {
  const struct gguf_entry *entry;
  TRY(need(file, key, true, &entry));
  if (entry->kind != GGUF_F32 && entry->kind != GGUF_F64) return wrong_kind(key, "an array of numbers");
  TRY(memory_array(out, entry->count, sizeof **out));
  *count = entry->count;
  for (uint64_t i = 0; i < entry->count; i++) (*out)[i] = (float)number_at(entry, i);
  return OK;
}

int gguf_integers(const struct gguf *file, const char *key, size_t *count, int32_t **out) {
  const struct gguf_entry *entry;
  TRY(need(file, key, true, &entry));
  if (!is_integer(entry->kind)) return wrong_kind(key, "an array of integers");
  TRY(memory_array(out, entry->count, sizeof **out));
  *count = entry->count;
  for (uint64_t i = 0; i < entry->count; i++) {
    int64_t value;
    if (!integer_at(entry, i, &value) || value < INT32_MIN || value > INT32_MAX) {
      free(*out);
      *out = NULL;
      return wrong_kind(key, "an array of 32-bit integers");
    }
    (*out)[i] = (int32_t)value;
  }
  return OK;
}
