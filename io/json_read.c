#include "io/json_read.h"

#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "io/utf8.h"

static int read_as(const char *text, size_t size, size_t flags, json_t **out) {
  static const char mark[] = "\xef\xbb\xbf";
  *out = NULL;
  struct buffer repaired = {0};
  if (size >= 3 && memcmp(text, mark, 3) == 0) {
    text += 3;
    size -= 3;
  }
  if (!utf8_valid(text, size)) {
    int status = utf8_replace(text, size, &repaired);
    if (status != OK) {
      buffer_free(&repaired);
      return status;
    }
    text = repaired.data;
    size = repaired.size;
  }
  json_error_t error;
  *out = json_loadb(text, size, flags | JSON_ALLOW_NUL | JSON_REJECT_DUPLICATES, &error);
  buffer_free(&repaired);
  if (*out) return OK;
  return fail(ERR_INPUT, "not valid JSON at line %d, column %d: %s", error.line, error.column, error.text);
}

int json_read(const char *text, size_t size, json_t **out) {
  return read_as(text, size, 0, out);
}

int json_read_reals(const char *text, size_t size, json_t **out) {
  return read_as(text, size, JSON_DECODE_INT_AS_REAL, out);
}

int json_read_file(const char *path, uint64_t limit, json_t **out) {
  struct buffer text = {0};
  *out = NULL;
  int status = file_read(path, limit, &text);
  if (status == OK) status = fail_at(json_read(text.data, text.size, out), "%s", path);
  buffer_free(&text);
  return status;
}

const char *json_text(const json_t *object, const char *key) {
  return json_string_value(json_object_get(object, key));
}

bool json_flag(const json_t *object, const char *key, bool otherwise) {
  const json_t *value = json_object_get(object, key);
  return json_is_boolean(value) ? json_is_true(value) : otherwise;
}
