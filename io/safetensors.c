#include "io/safetensors.h"

#include <jansson.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/hash.h"
#include "base/memory.h"
#include "io/input_file.h"

enum { LENGTH_BYTES = 8, LARGEST_HEADER = 100000000 };

struct safetensors {
  struct input_file file; /* descriptor -1 when the header came from memory */
  json_t *root;           /* owns the names */
  const json_t *metadata;
  struct safetensors_tensor *tensors; /* by name */
  size_t count;
  struct hash_text hash;
};

struct element_type {
  const char *name;
  unsigned bits;
  enum safetensors_type type;
};

static const struct element_type element_types[] = {
    {"F32", 32, SAFETENSORS_F32},      {"F16", 16, SAFETENSORS_F16},      {"BF16", 16, SAFETENSORS_BF16},
    {"F64", 64, SAFETENSORS_OTHER},    {"I64", 64, SAFETENSORS_OTHER},    {"U64", 64, SAFETENSORS_OTHER},
    {"I32", 32, SAFETENSORS_OTHER},    {"U32", 32, SAFETENSORS_OTHER},    {"I16", 16, SAFETENSORS_OTHER},
    {"U16", 16, SAFETENSORS_OTHER},    {"I8", 8, SAFETENSORS_OTHER},      {"U8", 8, SAFETENSORS_OTHER},
    {"BOOL", 8, SAFETENSORS_OTHER},    {"F8_E4M3", 8, SAFETENSORS_OTHER}, {"F8_E5M2", 8, SAFETENSORS_OTHER},
    {"F8_E8M0", 8, SAFETENSORS_OTHER}, {"C64", 64, SAFETENSORS_OTHER},    {"F4", 4, SAFETENSORS_OTHER},
    {"F6_E2M3", 6, SAFETENSORS_OTHER}, {"F6_E3M2", 6, SAFETENSORS_OTHER},
};

static int parse_type(const json_t *value, struct safetensors_tensor *out, unsigned *bits) {
  const char *name = json_string_value(value);
  for (size_t i = 0; name && i < sizeof element_types / sizeof *element_types; i++)
    if (strcmp(name, element_types[i].name) == 0) {
      out->type = element_types[i].type;
      *bits = element_types[i].bits;
      memcpy(out->type_name, name, strlen(name) + 1);
      return OK;
    }
  return fail(ERR_INPUT, "the type \"%.20s\" is unknown", name ? name : "");
}

static int parse_shape(const json_t *shape, struct safetensors_tensor *out) {
  if (!json_is_array(shape)) return fail(ERR_INPUT, "it has no shape");
  if (json_array_size(shape) > SAFETENSORS_MAX_RANK)
    return fail(ERR_INPUT, "it has more than %d dimensions", SAFETENSORS_MAX_RANK);
  out->rank = (int)json_array_size(shape);
  out->rows = out->cols = 1;
  for (int i = 0; i < out->rank; i++) {
    const json_t *extent = json_array_get(shape, (size_t)i);
    if (!json_is_integer(extent) || json_integer_value(extent) < 0)
      return fail(ERR_INPUT, "an extent of its shape is not a natural number");
    out->shape[i] = json_integer_value(extent);
    if (__builtin_mul_overflow(i == 0 ? out->rows : out->cols, out->shape[i], i == 0 ? &out->rows : &out->cols))
      return fail(ERR_INPUT, "its shape overflows");
  }
  return OK;
}

static int parse_range(const json_t *range, uint64_t data_size, struct safetensors_tensor *out) {
  const json_t *begin = json_array_get(range, 0), *end = json_array_get(range, 1);
  if (json_array_size(range) != 2 || !json_is_integer(begin) || !json_is_integer(end))
    return fail(ERR_INPUT, "its data_offsets are not two integers");
  json_int_t first = json_integer_value(begin), last = json_integer_value(end);
  if (first < 0 || last < first || (uint64_t)last > data_size)
    return fail(ERR_INPUT, "its data_offsets [%lld, %lld] are not within the %llu bytes of data", (long long)first,
                (long long)last, (unsigned long long)data_size);
  out->offset = (uint64_t)first; /* from the start of the data, until all are checked */
  out->bytes = (uint64_t)(last - first);
  return OK;
}

static int parse_tensor(const json_t *entry, uint64_t data_size, struct safetensors_tensor *out) {
  unsigned bits = 0;
  int64_t elements;
  uint64_t total;
  if (!json_is_object(entry)) return fail(ERR_INPUT, "its entry is not an object");
  TRY(parse_type(json_object_get(entry, "dtype"), out, &bits));
  TRY(parse_shape(json_object_get(entry, "shape"), out));
  TRY(parse_range(json_object_get(entry, "data_offsets"), data_size, out));
  if (__builtin_mul_overflow(out->rows, out->cols, &elements) ||
      __builtin_mul_overflow((uint64_t)elements, (uint64_t)bits, &total))
    return fail(ERR_INPUT, "its shape overflows");
  if (total % CHAR_BIT || total / CHAR_BIT != out->bytes)
    return fail(ERR_INPUT, "its shape needs %llu bytes of %s, but it has %llu", (unsigned long long)(total / CHAR_BIT),
                out->type_name, (unsigned long long)out->bytes);
  return OK;
}

static int by_name(const void *a, const void *b) {
  return strcmp(((const struct safetensors_tensor *)a)->name, ((const struct safetensors_tensor *)b)->name);
}

/* Empty tensors first where several begin at one place. */
static int by_offset(const void *a, const void *b) {
  const struct safetensors_tensor *x = a, *y = b;
  if (x->offset != y->offset) return x->offset < y->offset ? -1 : 1;
  return x->bytes < y->bytes ? -1 : x->bytes > y->bytes;
}

/* The format asks for data without holes, so any overlap or gap is damage. */
static int check_coverage(struct safetensors *file, uint64_t data_size) {
  qsort(file->tensors, file->count, sizeof *file->tensors, by_offset);
  uint64_t end = 0;
  for (size_t i = 0; i < file->count; i++) {
    const struct safetensors_tensor *tensor = &file->tensors[i];
    if (tensor->offset != end)
      return fail(ERR_INPUT, "tensor \"%.80s\": its data %s", tensor->name,
                  tensor->offset < end ? "overlaps another's" : "leaves a gap before it");
    end += tensor->bytes;
  }
  if (end != data_size)
    return fail(ERR_INPUT, "the tensors end at byte %llu of the data, but there are %llu bytes",
                (unsigned long long)end, (unsigned long long)data_size);
  return OK;
}

static int check_metadata(const json_t *metadata) {
  const char *key;
  const json_t *value;
  if (!json_is_object(metadata)) return fail(ERR_INPUT, "__metadata__ is not an object");
  json_object_foreach((json_t *)metadata, key, value) {
    if (!json_is_string(value)) return fail(ERR_INPUT, "__metadata__ \"%.40s\" is not a text", key);
  }
  return OK;
}

static int parse_entries(struct safetensors *file, uint64_t data_size) {
  const char *name;
  const json_t *entry;
  TRY(memory_array(&file->tensors, json_object_size(file->root), sizeof *file->tensors));
  json_object_foreach(file->root, name, entry) {
    if (strcmp(name, "__metadata__") == 0) {
      TRY(check_metadata(entry));
      file->metadata = entry;
      continue;
    }
    struct safetensors_tensor *tensor = &file->tensors[file->count++];
    tensor->name = name;
    int status = parse_tensor(entry, data_size, tensor);
    if (status != OK) return fail_at(status, "tensor \"%.80s\"", name);
  }
  TRY(check_coverage(file, data_size));
  qsort(file->tensors, file->count, sizeof *file->tensors, by_name);
  return OK;
}

static int parse_header(struct safetensors *file, const char *json, size_t size, uint64_t data_size) {
  json_error_t error;
  file->hash = hash_bytes(json, size);
  file->root = json_loadb(json, size, JSON_REJECT_DUPLICATES, &error);
  if (!file->root) return fail(ERR_INPUT, "the header is not valid JSON: %.120s", error.text);
  if (!json_is_object(file->root)) return fail(ERR_INPUT, "the header is not a JSON object");
  TRY(parse_entries(file, data_size));
  for (size_t i = 0; i < file->count; i++) file->tensors[i].offset += LENGTH_BYTES + size;
  return OK;
}

static int create(struct safetensors **out) {
  TRY(memory_array(out, 1, sizeof **out));
  (*out)->file.descriptor = -1;
  return OK;
}

int safetensors_parse(struct safetensors **out, const char *where, const char *json, size_t size, uint64_t data_size) {
  *out = NULL;
  struct safetensors *file;
  TRY(create(&file));
  int status = parse_header(file, json, size, data_size);
  if (status != OK) {
    safetensors_close(&file);
    return fail_at(status, "%s", where);
  }
  *out = file;
  return OK;
}

static int read_length(const struct input_file *file, uint64_t *out) {
  uint8_t bytes[LENGTH_BYTES];
  if (file->size < LENGTH_BYTES) return fail(ERR_INPUT, "too short for a safetensors file");
  TRY(input_read(file, 0, bytes, sizeof bytes));
  *out = 0;
  for (int i = LENGTH_BYTES; i-- > 0;) *out = *out << CHAR_BIT | bytes[i];
  if (*out > LARGEST_HEADER || *out > file->size - LENGTH_BYTES)
    return fail(ERR_INPUT, "the header of %llu bytes does not fit a file of %llu; not a safetensors file, or cut short",
                (unsigned long long)*out, (unsigned long long)file->size);
  return OK;
}

static int open_header(struct safetensors *file, const char *path) {
  uint64_t length;
  TRY(input_open(&file->file, path));
  int status = read_length(&file->file, &length);
  if (status != OK) return fail_at(status, "%s", path);
  char *json;
  TRY(memory_array(&json, length, 1));
  status = input_read(&file->file, LENGTH_BYTES, json, length);
  if (status == OK)
    status = fail_at(parse_header(file, json, length, file->file.size - LENGTH_BYTES - length), "%s", path);
  free(json);
  return status;
}

int safetensors_open(struct safetensors **out, const char *path) {
  *out = NULL;
  struct safetensors *file;
  TRY(create(&file));
  int status = open_header(file, path);
  if (status == OK)
    *out = file;
  else
    safetensors_close(&file);
  return status;
}

void safetensors_close(struct safetensors **file) {
  if (!*file) return;
  input_close(&(*file)->file);
  json_decref((*file)->root);
  free((*file)->tensors);
  free(*file);
  *file = NULL;
}

const char *safetensors_path(const struct safetensors *file) {
  return file->file.path ? file->file.path : "";
}

uint64_t safetensors_size(const struct safetensors *file) {
  return file->file.size;
}

size_t safetensors_count(const struct safetensors *file) {
  return file->count;
}

const struct safetensors_tensor *safetensors_at(const struct safetensors *file, size_t index) {
  return &file->tensors[index];
}

const struct safetensors_tensor *safetensors_find(const struct safetensors *file, const char *name) {
  struct safetensors_tensor key = {.name = name};
  return file->count ? bsearch(&key, file->tensors, file->count, sizeof key, by_name) : NULL;
}

const char *safetensors_metadata(const struct safetensors *file, const char *key) {
  return json_string_value(json_object_get(file->metadata, key));
}

const char *safetensors_header_hash(const struct safetensors *file) {
  return file->hash.hex;
}

int safetensors_read(const struct safetensors *file, const struct safetensors_tensor *tensor, int64_t first,
                     int64_t count, float *out) {
  static const struct number_format *const formats[] = {
      [SAFETENSORS_F32] = &number_f32, [SAFETENSORS_F16] = &number_f16, [SAFETENSORS_BF16] = &number_bf16};
  if (tensor->type == SAFETENSORS_OTHER)
    return fail(ERR_INPUT, "%s: tensor \"%.80s\" is %s; only F32, F16 and BF16 can be read", safetensors_path(file),
                tensor->name, tensor->type_name);
  if (first < 0 || count < 0 || first > tensor->rows || count > tensor->rows - first)
    return fail(ERR_INTERNAL, "rows %lld to %lld of tensor \"%.80s\" with %lld rows", (long long)first,
                (long long)(first + count), tensor->name, (long long)tensor->rows);
  const struct number_format *format = formats[tensor->type];
  uint64_t offset = tensor->offset + (uint64_t)first * (uint64_t)tensor->cols * format->bytes;
  return input_decode(&file->file, format, offset, (uint64_t)count * (uint64_t)tensor->cols, out);
}
