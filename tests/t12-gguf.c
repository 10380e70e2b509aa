/* The GGUF reader: every number format decoded bit for bit as gguf.quants.dequantize does it
 * (tests/fixtures/make_formats.py), metadata, what a header must not say, damaged files. */
#include "damage.h"
#include "io/gguf.h"
#include "io/gguf_blocks.h"
#include "scratch.h"
#include "tensor_list.h"

static void check_blocks(void *context, const struct listed_tensor *want) {
  const struct gguf *file = context;
  const struct gguf_tensor *tensor = gguf_find(file, want->name);
  CHECK(tensor && tensor->rows == want->rows && tensor->cols == want->cols && tensor->readable);
  if (!tensor) return;
  CHECK(strcmp(gguf_type_name(tensor->type), want->name) == 0);
  float *values = malloc((size_t)(want->rows * want->cols) * sizeof *values);
  CHECK_OK(gguf_read(file, tensor, 0, tensor->rows, values));
  tensor_list_check(want, values);
  free(values);
}

static void check_formats(void) {
  struct gguf *file;
  CHECK_OK(gguf_open(&file, "tests/fixtures/formats/blocks.gguf"));
  if (!file) return;
  CHECK(tensor_list_each("blocks", check_blocks, file) == 9);
  CHECK(gguf_count(file) == 9 && !gguf_find(file, "Q2_K"));
  gguf_close(&file);
  CHECK(half_to_float(0x7c00) == INFINITY && half_to_float(0xfc00) == -INFINITY && isnan(half_to_float(0x7e01)));
  CHECK(half_to_float(1) == 0x1p-24f && signbit(half_to_float(0x8000)));
}

/* ---- headers written here ---- */

static struct buffer header;

static void put(const void *bytes, size_t size) {
  CHECK_OK(buffer_append(&header, bytes, size));
}
static void put32(uint32_t value) {
  put(&value, sizeof value);
}
static void put64(uint64_t value) {
  put(&value, sizeof value);
}
static void put_text(const char *text) {
  put64(strlen(text));
  put(text, strlen(text));
}
static void begin(uint64_t tensors, uint64_t entries) {
  buffer_clear(&header);
  put("GGUF", 4);
  put32(3);
  put64(tensors);
  put64(entries);
}
enum { U8, I8, U16, I16, U32, I32, F32, BOOL, TEXT, ARRAY, U64, I64, F64 };
static void put_key(const char *key, uint32_t kind) {
  put_text(key);
  put32(kind);
}
static void put_tensor(const char *name, uint32_t rank, const uint64_t *extents, uint32_t type, uint64_t offset) {
  put_text(name);
  put32(rank);
  for (uint32_t i = 0; i < rank && i < 4; i++) put64(extents[i]);
  put32(type);
  put64(offset);
}

/* The header as written so far, padded, in a file with `data` bytes after it. */
static int parse(uint64_t data, struct gguf **out) {
  while (header.size % 32) put("", 1);
  return gguf_parse(out, "header", header.data, header.size, header.size + data);
}

static int try_header(uint64_t data) {
  struct gguf *file;
  int status = parse(data, &file);
  gguf_close(&file);
  return status;
}

static int try_tensor(uint32_t rank, const uint64_t *extents, uint32_t type, uint64_t offset, uint64_t data) {
  begin(1, 0);
  put_tensor("t", rank, extents, type, offset);
  return try_header(data);
}

static void check_metadata(void) {
  struct gguf *file;
  begin(0, 9);
  put_key("byte", I8), put("\xfe", 1);
  put_key("big", U64), put64(UINT64_MAX);
  put_key("half", F32), put(&(float){0.5f}, 4);
  put_key("double", F64), put(&(double){0.1}, 8);
  put_key("truth", BOOL), put("\1", 1);
  put_key("text", TEXT), put_text("hello");
  put_key("nul", TEXT), put64(3), put("a\0b", 3);
  put_key("texts", ARRAY), put32(TEXT), put64(2), put_text(""), put_text("xy");
  put_key("numbers", ARRAY), put32(I16), put64(2), put("\xff\xff\x02\x00", 4);
  CHECK_OK(parse(0, &file));
  if (!file) return;
  int64_t integer;
  double number;
  bool truth;
  char *text;
  struct gguf_texts texts;
  size_t count;
  int32_t *integers;
  float *floats;
  CHECK_OK(gguf_integer(file, "byte", &integer));
  CHECK(integer == -2);
  CHECK_OK(gguf_number(file, "half", &number));
  CHECK(number == 0.5);
  CHECK_OK(gguf_number(file, "double", &number));
  CHECK(number == 0.1);
  CHECK_OK(gguf_number(file, "byte", &number));
  CHECK(number == -2);
  CHECK_OK(gguf_truth(file, "truth", &truth));
  CHECK(truth);
  CHECK_OK(gguf_text(file, "text", &text));
  CHECK(strcmp(text, "hello") == 0);
  free(text);
  CHECK_OK(gguf_texts(file, "texts", &texts));
  CHECK(texts.count == 2 && texts.sizes[0] == 0 && texts.sizes[1] == 2 && memcmp(texts.texts[1], "xy", 2) == 0);
  free(texts.texts);
  free(texts.sizes);
  CHECK_OK(gguf_integers(file, "numbers", &count, &integers));
  CHECK(count == 2 && integers[0] == -1 && integers[1] == 2);
  free(integers);
  CHECK_FAILS(ERR_INPUT, "\"nothing\" is missing", gguf_integer(file, "nothing", &integer));
  CHECK_FAILS(ERR_INPUT, "\"big\" is not an integer", gguf_integer(file, "big", &integer));
  CHECK_FAILS(ERR_INPUT, "is not an integer", gguf_integer(file, "half", &integer));
  CHECK_FAILS(ERR_INPUT, "is an array", gguf_integer(file, "numbers", &integer));
  CHECK_FAILS(ERR_INPUT, "is not an array", gguf_texts(file, "text", &texts));
  CHECK_FAILS(ERR_INPUT, "without NUL", gguf_text(file, "nul", &text));
  CHECK_FAILS(ERR_INPUT, "array of numbers", gguf_floats(file, "numbers", &count, &floats));
  CHECK_FAILS(ERR_INPUT, "true or false", gguf_truth(file, "text", &truth));
  gguf_close(&file);
}

static void check_counts(void) {
  begin(0, 0);
  header.data[0] = 'X';
  CHECK_FAILS(ERR_INPUT, "header: not a GGUF file", try_header(0));
  begin(0, 0);
  header.data[4] = 1;
  CHECK_FAILS(ERR_INPUT, "version 1 is not supported", try_header(0));
  begin(0, 0);
  memcpy(header.data + 4, "\0\0\0\3", 4);
  CHECK_FAILS(ERR_INPUT, "big-endian", try_header(0));
  begin(UINT64_MAX, 0);
  CHECK_FAILS(ERR_INPUT, "which cannot be", try_header(1 << 20));
  begin(0, 1 << 16);
  CHECK_FAILS(ERR_INPUT, "which cannot be", try_header(1024));
  begin(0, 1);
  CHECK_FAILS(ERR_INPUT, "which cannot be", try_header(0));
}

static void check_entries(void) {
  begin(0, 1), put_key("k", 13), put64(0);
  CHECK_FAILS(ERR_INPUT, "metadata \"k\": the value type 13 is unknown", try_header(0));
  begin(0, 1), put_key("k", TEXT), put64(UINT64_MAX);
  CHECK_FAILS(ERR_INPUT, "beyond the end of the file", try_header(0));
  begin(0, 1), put_key("k", ARRAY), put32(F64), put64(UINT64_MAX / 4);
  CHECK_FAILS(ERR_INPUT, "impossible length", try_header(0));
  begin(0, 1), put_key("k", ARRAY), put32(TEXT), put64(UINT64_MAX);
  CHECK_FAILS(ERR_INPUT, "beyond the end of the file", try_header(0));
  begin(0, 1), put_key("k", ARRAY), put32(ARRAY), put64(1);
  CHECK_FAILS(ERR_INPUT, "arrays of arrays", try_header(0));
  begin(0, 2), put_key("k", BOOL), put("", 1), put_key("k", BOOL), put("", 1);
  CHECK_FAILS(ERR_INPUT, "\"k\" is there twice", try_header(0));
  begin(0, 1), put64(4), put("a\0bc", 4), put32(BOOL), put("\1", 1);
  CHECK_FAILS(ERR_INPUT, "NUL", try_header(0));
  begin(0, 1), put64(1 << 20);
  CHECK_FAILS(ERR_INPUT, "too long", try_header(1 << 21));
  begin(0, 1), put_key("general.alignment", U32), put32(0);
  CHECK_FAILS(ERR_INPUT, "general.alignment is 0", try_header(0));
}

static void check_tensors(void) {
  enum { TYPE_F32 = 0, TYPE_Q4_0 = 2, TYPE_Q2_K = 10 };
  CHECK_OK(try_tensor(2, (uint64_t[]){32, 2}, TYPE_Q4_0, 0, 36));
  CHECK_OK(try_tensor(1, (uint64_t[]){256}, TYPE_Q2_K, 0, 84));
  CHECK_FAILS(ERR_INPUT, "tensor \"t\": it has 0 dimensions", try_tensor(0, NULL, TYPE_F32, 0, 64));
  CHECK_FAILS(ERR_INPUT, "5 dimensions", try_tensor(5, (uint64_t[]){1, 1, 1, 1}, TYPE_F32, 0, 64));
  CHECK_FAILS(ERR_INPUT, "impossible", try_tensor(1, (uint64_t[]){0}, TYPE_F32, 0, 64));
  CHECK_FAILS(ERR_INPUT, "impossible", try_tensor(1, (uint64_t[]){UINT64_MAX}, TYPE_F32, 0, 64));
  CHECK_FAILS(ERR_INPUT, "overflows", try_tensor(3, (uint64_t[]){1, 1ull << 40, 1ull << 40}, TYPE_F32, 0, 64));
  CHECK_FAILS(ERR_INPUT, "overflows", try_tensor(2, (uint64_t[]){1ull << 40, 1ull << 40}, TYPE_F32, 0, 64));
  CHECK_FAILS(ERR_INPUT, "not whole Q4_0 blocks", try_tensor(1, (uint64_t[]){33}, TYPE_Q4_0, 0, 64));
  CHECK_FAILS(ERR_INPUT, "beyond the end", try_tensor(1, (uint64_t[]){16}, TYPE_F32, 0, 63));
  CHECK_FAILS(ERR_INPUT, "beyond the end", try_tensor(1, (uint64_t[]){16}, TYPE_F32, 32, 64));
  CHECK_FAILS(ERR_INPUT, "beyond the end", try_tensor(1, (uint64_t[]){16}, TYPE_F32, UINT64_MAX - 31, 64));
  CHECK_FAILS(ERR_INPUT, "not aligned", try_tensor(1, (uint64_t[]){16}, TYPE_F32, 4, 128));
  begin(2, 0);
  put_tensor("a", 1, (uint64_t[]){16}, TYPE_F32, 0);
  put_tensor("b", 1, (uint64_t[]){8}, TYPE_F32, 32);
  CHECK_FAILS(ERR_INPUT, "overlaps", try_header(64));
  begin(2, 0);
  put_tensor("a", 1, (uint64_t[]){8}, TYPE_F32, 0);
  put_tensor("a", 1, (uint64_t[]){8}, TYPE_F32, 32);
  CHECK_FAILS(ERR_INPUT, "\"a\" is there twice", try_header(64));
}

static void check_unreadable(void) {
  struct gguf *file;
  float value;
  begin(1, 0);
  put_tensor("t", 1, (uint64_t[]){256}, 10, 0);
  CHECK_OK(parse(84, &file));
  CHECK(!gguf_at(file, 0)->readable);
  CHECK_FAILS(ERR_INPUT, "is Q2_K (type 10), which is not supported", gguf_read(file, gguf_at(file, 0), 0, 1, &value));
  gguf_close(&file);
}

/* A header longer than the reader's first guess. */
static void check_long_header(void) {
  char *path = scratch_path("long.gguf");
  struct gguf *file;
  struct gguf_texts texts;
  begin(0, 1);
  put_key("texts", ARRAY), put32(TEXT), put64(300000);
  for (int i = 0; i < 300000; i++) put_text("token");
  scratch_fill(path, header.data, header.size);
  CHECK_OK(gguf_open(&file, path));
  CHECK_OK(gguf_texts(file, "texts", &texts));
  CHECK(texts.count == 300000 && memcmp(texts.texts[299999], "token", 5) == 0);
  free(texts.texts);
  free(texts.sizes);
  gguf_close(&file);
  CHECK(truncate(path, (off_t)header.size - 1) == 0);
  CHECK_FAILS(ERR_INPUT, "beyond the end of the file", gguf_open(&file, path));
  free(path);
}

static int read_all(const char *path) {
  struct gguf *file;
  TRY(gguf_open(&file, path));
  int status = OK;
  for (size_t i = 0; i < gguf_count(file) && status == OK; i++) {
    const struct gguf_tensor *tensor = gguf_at(file, i);
    if (!tensor->readable) continue;
    float *values = malloc((size_t)(tensor->rows * tensor->cols) * sizeof *values);
    status = gguf_read(file, tensor, 0, tensor->rows, values);
    free(values);
  }
  gguf_close(&file);
  return status;
}

int main(void) {
  scratch_make();
  check_formats();
  check_metadata();
  check_counts();
  check_entries();
  check_tensors();
  check_unreadable();
  check_long_header();
  damage_bits("tests/fixtures/formats/llama.gguf", 4096, read_all);
  damage_length("tests/fixtures/formats/llama.gguf", read_all);
  buffer_free(&header);
  scratch_remove();
  return check_result();
}
