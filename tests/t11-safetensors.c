/* The safetensors reader: what a header must not say, types and scalars, damaged files. The values of tensors are checked by
 * t15. */
#include "damage.h"
#include "io/safetensors.h"
#include "scratch.h"

static int parse(const char *json, uint64_t data_size) {
  struct safetensors *file;
  int status = safetensors_parse(&file, "header", json, strlen(json), data_size);
  safetensors_close(&file);
  return status;
}

#define TENSOR(type, shape, offsets) "{\"dtype\":\"" type "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"
#define ONE(type, shape, offsets)    "{\"a\":" TENSOR(type, shape, offsets) "}"

static void check_headers(void) {
  CHECK_OK(parse("{}", 0));
  CHECK_OK(parse(ONE("F32", "[2,3]", "[0,24]") "   ", 24));
  CHECK_OK(parse(ONE("I64", "[]", "[0,8]"), 8));
  CHECK_OK(parse(ONE("F4", "[3,2]", "[0,3]"), 3));
  CHECK_OK(parse(ONE("BF16", "[0,7]", "[0,0]"), 0));
  CHECK_OK(parse("{\"__metadata__\":{\"k\":\"v\"}}", 0));
  CHECK_FAILS(ERR_INPUT, "header: the header is not valid JSON", parse("{", 0));
  CHECK_FAILS(ERR_INPUT, "not a JSON object", parse("[]", 0));
  CHECK_FAILS(ERR_INPUT, "not valid JSON",
              parse("{\"a\":" TENSOR("F32", "[1]", "[0,4]") ",\"a\":" TENSOR("F32", "[1]", "[4,8]") "}", 8));
  CHECK_FAILS(ERR_INPUT, "is not a text", parse("{\"__metadata__\":{\"k\":1}}", 0));
  CHECK_FAILS(ERR_INPUT, "not an object", parse("{\"__metadata__\":7}", 0));
  CHECK_FAILS(ERR_INPUT, "\"a\": its entry is not an object", parse("{\"a\":7}", 0));
  CHECK_FAILS(ERR_INPUT, "type \"F33\" is unknown", parse(ONE("F33", "[1]", "[0,4]"), 4));
  CHECK_FAILS(ERR_INPUT, "no shape", parse("{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4));
  CHECK_FAILS(ERR_INPUT, "more than 8", parse(ONE("F32", "[1,1,1,1,1,1,1,1,1]", "[0,4]"), 4));
  CHECK_FAILS(ERR_INPUT, "not a natural number", parse(ONE("F32", "[-1]", "[0,4]"), 4));
  CHECK_FAILS(ERR_INPUT, "not a natural number", parse(ONE("F32", "[1.0]", "[0,4]"), 4));
  CHECK_FAILS(ERR_INPUT, "overflows", parse(ONE("F32", "[1,4294967296,4294967296]", "[0,4]"), 4));
  CHECK_FAILS(ERR_INPUT, "overflows", parse(ONE("F32", "[4294967296,4294967296]", "[0,4]"), 4));
  CHECK_FAILS(ERR_INPUT, "overflows", parse(ONE("F32", "[4611686018427387904]", "[0,0]"), 0));
  CHECK_FAILS(ERR_INPUT, "not two integers", parse(ONE("F32", "[1]", "[0]"), 4));
  CHECK_FAILS(ERR_INPUT, "not two integers", parse(ONE("F32", "[1]", "[0,\"4\"]"), 4));
  CHECK_FAILS(ERR_INPUT, "not within", parse(ONE("F32", "[1]", "[0,4]"), 3));
  CHECK_FAILS(ERR_INPUT, "not within", parse(ONE("F32", "[1]", "[4,0]"), 4));
  CHECK_FAILS(ERR_INPUT, "not within", parse(ONE("F32", "[1]", "[-4,0]"), 4));
  CHECK_FAILS(ERR_INPUT, "needs 8 bytes of F32, but it has 4", parse(ONE("F32", "[2]", "[0,4]"), 4));
  CHECK_FAILS(ERR_INPUT, "needs", parse(ONE("F4", "[3]", "[0,1]"), 1));
  CHECK_FAILS(ERR_INPUT, "leaves a gap", parse(ONE("F32", "[1]", "[4,8]"), 8));
  CHECK_FAILS(ERR_INPUT, "end at byte 4", parse(ONE("F32", "[1]", "[0,4]"), 8));
  CHECK_FAILS(ERR_INPUT, "overlaps",
              parse("{\"a\":" TENSOR("F32", "[2]", "[0,8]") ",\"b\":" TENSOR("F32", "[2]", "[4,12]") "}", 12));
}

static void check_line_is_one(void) {
  CHECK(parse("{\"a\\nb\\u001b[31m\":7}", 0) == ERR_INPUT);
  CHECK(!strpbrk(fail_message(), "\n\033"));
}

static void check_reading(void) {
  static const char json[] = "{\"i\":" TENSOR("I32", "[1]", "[4,8]") ",\"s\":" TENSOR("F32", "[]", "[0,4]") "}";
  char *path = scratch_path("x.safetensors");
  struct {
    uint64_t length;
    char json[sizeof json - 1];
    float value;
    int32_t integer;
  } __attribute__((packed)) content = {.length = sizeof json - 1, .value = 2.5f};
  memcpy(content.json, json, sizeof content.json);
  scratch_fill(path, &content, sizeof content);
  struct safetensors *file;
  CHECK_OK(safetensors_open(&file, path));
  const struct safetensors_tensor *scalar = safetensors_find(file, "s"), *integer = safetensors_find(file, "i");
  float value = 0;
  CHECK(safetensors_count(file) == 2 && scalar && integer && scalar->rank == 0 && scalar->rows == 1);
  CHECK(safetensors_at(file, 0) == integer && !safetensors_find(file, "t") && !safetensors_metadata(file, "k"));
  CHECK_OK(safetensors_read(file, scalar, 0, 1, &value));
  CHECK(value == 2.5f);
  CHECK_FAILS(ERR_INPUT, "\"i\" is I32", safetensors_read(file, integer, 0, 1, &value));
  CHECK_FAILS(ERR_INTERNAL, "rows", safetensors_read(file, scalar, 0, 2, &value));
  CHECK(truncate(path, sizeof content - 6) == 0);
  CHECK_FAILS(ERR_INPUT, "the file ends before", safetensors_read(file, scalar, 0, 1, &value));
  safetensors_close(&file);
  free(path);
}

static int read_all(const char *path) {
  struct safetensors *file;
  TRY(safetensors_open(&file, path));
  int status = OK;
  for (size_t i = 0; i < safetensors_count(file) && status == OK; i++) {
    const struct safetensors_tensor *tensor = safetensors_at(file, i);
    float *values = malloc((size_t)(tensor->rows * tensor->cols) * sizeof *values);
    if (tensor->type != SAFETENSORS_OTHER) status = safetensors_read(file, tensor, 0, tensor->rows, values);
    free(values);
  }
  safetensors_close(&file);
  return status;
}

static void check_damage(void) {
  static const char path[] = "tests/fixtures/formats/mistral-bf16/model-00001-of-00003.safetensors";
  CHECK_FAILS(ERR_INPUT, "No such file", read_all("/nowhere.safetensors"));
  CHECK_FAILS(ERR_INPUT, "not a file", read_all("tests"));
  damage_bits(path, 4096, read_all);
  damage_length(path, read_all);
}

int main(void) {
  scratch_make();
  check_headers();
  check_line_is_one();
  check_reading();
  check_damage();
  scratch_remove();
  return check_result();
}
