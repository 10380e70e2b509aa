#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "io/gguf_blocks.h"
#include "io/gguf_internal.h"

/* Bounds no real file comes near; the smallest entry and tensor description in bytes bound their counts further. */
enum { MAX_ENTRIES = 1 << 16, MAX_TENSORS = 1 << 20, SMALLEST_ENTRY = 13, SMALLEST_TENSOR = 24 };
enum { DEFAULT_ALIGNMENT = 32, MAX_ALIGNMENT = 1 << 20 };

/* Invariant: position <= size <= file_size. */
struct cursor {
  const uint8_t *bytes;
  uint64_t position, size, file_size;
  bool *starved;
};

uint64_t gguf_little(const uint8_t *bytes, size_t size) {
  uint64_t value = 0;
  while (size-- > 0) value = value << 8 | bytes[size];
  return value;
}

size_t gguf_kind_size(enum gguf_kind kind) {
  static const uint8_t sizes[GGUF_KINDS] = {
      [GGUF_U8] = 1,  [GGUF_I8] = 1,  [GGUF_BOOL] = 1, [GGUF_U16] = 2, [GGUF_I16] = 2, [GGUF_U32] = 4,
      [GGUF_I32] = 4, [GGUF_F32] = 4, [GGUF_U64] = 8,  [GGUF_I64] = 8, [GGUF_F64] = 8,
  };
  return sizes[kind];
}

static int take(struct cursor *at, uint64_t size, const uint8_t **out) {
  if (size > at->file_size - at->position)
    return fail(ERR_INPUT, "the header goes beyond the end of the file at byte %llu", (unsigned long long)at->position);
  if (size > at->size - at->position) {
    *at->starved = true;
    return fail(ERR_INPUT, "the header is longer than %llu bytes", (unsigned long long)at->size);
  }
  *out = at->bytes + at->position;
  at->position += size;
  return OK;
}

static int take_u32(struct cursor *at, uint32_t *out) {
  const uint8_t *bytes;
  TRY(take(at, 4, &bytes));
  *out = (uint32_t)gguf_little(bytes, 4);
  return OK;
}

static int take_u64(struct cursor *at, uint64_t *out) {
  const uint8_t *bytes;
  TRY(take(at, 8, &bytes));
  *out = gguf_little(bytes, 8);
  return OK;
}

/* Keys and tensor names. */
static int take_name(struct cursor *at, char out[GGUF_NAME]) {
  uint64_t length;
  const uint8_t *bytes;
  TRY(take_u64(at, &length));
  if (length >= GGUF_NAME)
    return fail(ERR_INPUT, "a name of %llu bytes at byte %llu is too long", (unsigned long long)length,
                (unsigned long long)at->position);
  TRY(take(at, length, &bytes));
  if (memchr(bytes, 0, length)) return fail(ERR_INPUT, "a name contains a NUL byte");
  memcpy(out, bytes, length);
  out[length] = 0;
  return OK;
}

static int skip_text(struct cursor *at) {
  uint64_t length;
  const uint8_t *bytes;
  TRY(take_u64(at, &length));
  return take(at, length, &bytes);
}

static int take_kind(struct cursor *at, enum gguf_kind *out) {
  uint32_t kind;
  TRY(take_u32(at, &kind));
  if (kind >= GGUF_KINDS) return fail(ERR_INPUT, "the value type %u is unknown", kind);
  *out = (enum gguf_kind)kind;
  return OK;
}

static int take_payload(struct cursor *at, struct gguf_entry *entry) {
  uint64_t begin = at->position, total;
  if (entry->kind == GGUF_TEXT) {
    for (uint64_t i = 0; i < entry->count; i++) TRY(skip_text(at)); /* at least 8 bytes each: ends with the file */
  } else {
    const uint8_t *bytes;
    if (__builtin_mul_overflow(entry->count, (uint64_t)gguf_kind_size(entry->kind), &total))
      return fail(ERR_INPUT, "the array has an impossible length");
    TRY(take(at, total, &bytes));
  }
  entry->payload = at->bytes + begin;
  entry->payload_size = at->position - begin;
  return OK;
}

static int take_value(struct cursor *at, struct gguf_entry *entry) {
  entry->count = 1;
  TRY(take_kind(at, &entry->kind));
  if (entry->kind == GGUF_ARRAY) {
    entry->array = true;
    TRY(take_kind(at, &entry->kind));
    if (entry->kind == GGUF_ARRAY) return fail(ERR_INPUT, "arrays of arrays are not supported");
    TRY(take_u64(at, &entry->count));
  }
  return take_payload(at, entry);
}

static int take_entry(struct cursor *at, struct gguf_entry *entry) {
  TRY(take_name(at, entry->key));
  return fail_at(take_value(at, entry), "metadata \"%s\"", entry->key);
}

static int check_blocks(struct gguf_tensor *tensor) {
  const struct number_format *format = gguf_number_format(tensor->type);
  uint64_t elements;
  tensor->readable = format != NULL;
  if (__builtin_mul_overflow((uint64_t)tensor->rows, (uint64_t)tensor->cols, &elements) || elements > INT64_MAX / 8)
    return fail(ERR_INPUT, "its shape overflows");
  if (!format) return OK;
  if (tensor->cols % format->elements)
    return fail(ERR_INPUT, "its rows of %lld are not whole %s blocks of %u", (long long)tensor->cols, format->name,
                format->elements);
  tensor->bytes = elements / format->elements * format->bytes;
  return OK;
}

static int take_shape(struct cursor *at, struct gguf_tensor *tensor) {
  uint32_t rank;
  TRY(take_u32(at, &rank));
  if (rank < 1 || rank > GGUF_MAX_RANK) return fail(ERR_INPUT, "it has %u dimensions, expected 1 to 4", rank);
  tensor->rank = (int)rank;
  tensor->rows = tensor->cols = 1;
  for (uint32_t i = 0; i < rank; i++) {
    uint64_t extent;
    TRY(take_u64(at, &extent));
    if (extent < 1 || extent > INT64_MAX) return fail(ERR_INPUT, "its shape is impossible");
    int64_t *product = i == 0 ? &tensor->cols : &tensor->rows;
    if (__builtin_mul_overflow(*product, (int64_t)extent, product)) return fail(ERR_INPUT, "its shape overflows");
  }
  return OK;
}

static int take_description(struct cursor *at, struct gguf_tensor *tensor) {
  TRY(take_shape(at, tensor));
  TRY(take_u32(at, &tensor->type));
  TRY(take_u64(at, &tensor->offset));
  return check_blocks(tensor);
}

static int take_tensor(struct cursor *at, struct gguf_tensor *tensor) {
  TRY(take_name(at, tensor->name));
  return fail_at(take_description(at, tensor), "tensor \"%s\"", tensor->name);
}

static int by_key(const void *a, const void *b) {
  return strcmp(((const struct gguf_entry *)a)->key, ((const struct gguf_entry *)b)->key);
}

static int by_name(const void *a, const void *b) {
  return strcmp(((const struct gguf_tensor *)a)->name, ((const struct gguf_tensor *)b)->name);
}

static int by_offset(const void *a, const void *b) {
  uint64_t x = ((const struct gguf_tensor *)a)->offset, y = ((const struct gguf_tensor *)b)->offset;
  return x < y ? -1 : x > y;
}

static int sort_entries(struct gguf *file) {
  qsort(file->entries, file->entry_count, sizeof *file->entries, by_key);
  for (size_t i = 1; i < file->entry_count; i++)
    if (by_key(&file->entries[i - 1], &file->entries[i]) == 0)
      return fail(ERR_INPUT, "the metadata \"%s\" is there twice", file->entries[i].key);
  return OK;
}

static int sort_tensors(struct gguf *file) {
  qsort(file->tensors, file->tensor_count, sizeof *file->tensors, by_name);
  for (size_t i = 1; i < file->tensor_count; i++)
    if (by_name(&file->tensors[i - 1], &file->tensors[i]) == 0)
      return fail(ERR_INPUT, "the tensor \"%s\" is there twice", file->tensors[i].name);
  return OK;
}

/* Makes offsets absolute. */
static int place_tensors(struct gguf *file, uint64_t data, uint64_t alignment, uint64_t file_size) {
  qsort(file->tensors, file->tensor_count, sizeof *file->tensors, by_offset);
  uint64_t end = data;
  for (size_t i = 0; i < file->tensor_count; i++) {
    struct gguf_tensor *tensor = &file->tensors[i];
    uint64_t room = data > file_size ? 0 : file_size - data;
    if (tensor->offset % alignment)
      return fail(ERR_INPUT, "tensor \"%s\": its data is not aligned to %llu bytes", tensor->name,
                  (unsigned long long)alignment);
    if (tensor->offset > room || tensor->bytes > room - tensor->offset)
      return fail(ERR_INPUT,
                  "tensor \"%s\": its data goes beyond the end of the file; the file is cut short or damaged",
                  tensor->name);
    tensor->offset += data;
    if (tensor->offset < end) return fail(ERR_INPUT, "tensor \"%s\": its data overlaps another's", tensor->name);
    end = tensor->offset + tensor->bytes;
  }
  return OK;
}

static int read_alignment(const struct gguf *file, uint64_t *out) {
  static const char key[] = "general.alignment";
  *out = DEFAULT_ALIGNMENT;
  if (!gguf_has(file, key)) return OK;
  int64_t value;
  TRY(gguf_integer(file, key, &value));
  if (value < 8 || value > MAX_ALIGNMENT || value % 8)
    return fail(ERR_INPUT, "%s is %lld, expected a multiple of 8", key, (long long)value);
  *out = (uint64_t)value;
  return OK;
}

static int take_counts(struct cursor *at, uint64_t *tensors, uint64_t *entries) {
  const uint8_t *magic;
  uint32_t version;
  TRY(take(at, 4, &magic));
  if (memcmp(magic, "GGUF", 4)) return fail(ERR_INPUT, "not a GGUF file");
  TRY(take_u32(at, &version));
  if (version >= 1 << 24) return fail(ERR_INPUT, "a big-endian GGUF file, which is not supported");
  if (version < 2 || version > 3) return fail(ERR_INPUT, "GGUF version %u is not supported, only 2 and 3", version);
  TRY(take_u64(at, tensors));
  TRY(take_u64(at, entries));
  uint64_t room = at->file_size - at->position;
  if (*tensors > MAX_TENSORS || *entries > MAX_ENTRIES || *tensors > room / SMALLEST_TENSOR ||
      *entries > room / SMALLEST_ENTRY)
    return fail(ERR_INPUT, "it says it has %llu tensors and %llu metadata entries, which cannot be",
                (unsigned long long)*tensors, (unsigned long long)*entries);
  return OK;
}

int gguf_parse_header(struct gguf *out, const uint8_t *bytes, size_t size, uint64_t file_size, bool *starved) {
  struct cursor at = {.bytes = bytes, .size = size, .file_size = file_size, .starved = starved};
  uint64_t tensors, entries, alignment;
  *starved = false;
  TRY(take_counts(&at, &tensors, &entries));
  TRY(memory_array(&out->entries, entries, sizeof *out->entries));
  TRY(memory_array(&out->tensors, tensors, sizeof *out->tensors));
  for (; out->entry_count < entries; out->entry_count++) TRY(take_entry(&at, &out->entries[out->entry_count]));
  for (; out->tensor_count < tensors; out->tensor_count++) TRY(take_tensor(&at, &out->tensors[out->tensor_count]));
  TRY(sort_entries(out));
  TRY(read_alignment(out, &alignment));
  uint64_t data = (at.position + alignment - 1) / alignment * alignment;
  TRY(place_tensors(out, data, alignment, file_size));
  out->hash = hash_bytes(bytes, at.position);
  return sort_tensors(out);
}

void gguf_forget_header(struct gguf *file) {
  free(file->entries);
  free(file->tensors);
  file->entries = NULL;
  file->tensors = NULL;
  file->entry_count = file->tensor_count = 0;
}
