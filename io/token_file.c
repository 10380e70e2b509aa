#include "io/token_file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "io/chat.h"
#include "io/h5.h"

enum { TOKEN_VERSION = 1 };

/* The sums in the header, by the rows themselves: a loss can be taken on a label whose token has a predecessor. */
static int64_t count_labels(const struct token_file *data) {
  int64_t count = 0;
  for (int64_t row = 0; row < data->rows; row++)
    for (int64_t i = data->offsets[row] + 1; i < data->offsets[row + 1]; i++) count += data->labels[i] != LABEL_NONE;
  return count;
}

static int write_header(struct h5_file *file, const struct token_file *data) {
  TRY(h5_set_integer(file, "/", "rows", data->rows));
  TRY(h5_set_integer(file, "/", "tokens", data->total));
  TRY(h5_set_integer(file, "/", "label_tokens", count_labels(data)));
  TRY(h5_set_integer(file, "/", "truncated", data->truncated));
  TRY(h5_set_integer(file, "/", "vocabulary", data->vocabulary));
  TRY(h5_set_text(file, "/", "template", data->template_name));
  TRY(h5_set_text(file, "/", "source", data->source));
  return h5_set_text(file, "/", "tokenizer", data->tokenizer);
}

static int write_rows(struct h5_file *file, const struct token_file *data) {
  uint64_t rows = (uint64_t)data->rows, total = (uint64_t)data->total;
  TRY(h5_write(file, "/tokens", H5_I32, total, 0, data->tokens));
  TRY(h5_write(file, "/labels", H5_I32, total, 0, data->labels));
  TRY(h5_write(file, "/offsets", H5_I64, rows + 1, 0, data->offsets));
  return h5_write(file, "/completions", H5_I32, rows, 0, data->completions);
}

int token_file_write(const char *path, const struct token_file *data) {
  struct h5_file *file;
  TRY(h5_create(&file, path, "qst-tokens", TOKEN_VERSION));
  int status = write_header(file, data);
  if (status == OK) status = write_rows(file, data);
  if (status == OK) return h5_publish(&file);
  h5_close(&file);
  return status;
}

static int length_of(struct h5_file *file, const char *name, int64_t *out) {
  enum h5_type type;
  uint64_t rows, cols;
  TRY(h5_shape(file, name, &type, &rows, &cols));
  if (cols != 0 || rows > INT64_MAX / 8) return fail(ERR_INPUT, "%s: %s is no list", h5_path(file), name);
  *out = (int64_t)rows;
  return OK;
}

static int read_text(struct h5_file *file, const char *name, char *out, size_t size) {
  char *text;
  TRY(h5_get_text(file, "/", name, &text));
  snprintf(out, size, "%s", text);
  free(text);
  return OK;
}

static int read_header(struct h5_file *file, struct token_file *out) {
  int64_t rows, total, vocabulary;
  TRY(h5_get_integer(file, "/", "rows", &rows));
  TRY(h5_get_integer(file, "/", "tokens", &total));
  TRY(h5_get_integer(file, "/", "label_tokens", &out->label_tokens));
  TRY(h5_get_integer(file, "/", "truncated", &out->truncated));
  TRY(h5_get_integer(file, "/", "vocabulary", &vocabulary));
  TRY(read_text(file, "template", out->template_name, sizeof out->template_name));
  TRY(read_text(file, "source", out->source, sizeof out->source));
  TRY(read_text(file, "tokenizer", out->tokenizer, sizeof out->tokenizer));
  TRY(length_of(file, "/completions", &out->rows));
  TRY(length_of(file, "/tokens", &out->total));
  out->vocabulary = (int32_t)vocabulary;
  if (rows != out->rows || total != out->total || vocabulary < 1 || vocabulary > INT32_MAX || rows < 1)
    return fail(ERR_INPUT, "%s: %lld rows of %lld tokens, vocabulary %lld: these do not fit its datasets",
                h5_path(file), (long long)rows, (long long)total, (long long)vocabulary);
  return OK;
}

static int read_rows(struct h5_file *file, struct token_file *out) {
  uint64_t rows = (uint64_t)out->rows, total = (uint64_t)out->total;
  TRY(memory_array(&out->tokens, total, sizeof *out->tokens));
  TRY(memory_array(&out->labels, total, sizeof *out->labels));
  TRY(memory_array(&out->offsets, rows + 1, sizeof *out->offsets));
  TRY(memory_array(&out->completions, rows, sizeof *out->completions));
  TRY(h5_read(file, "/tokens", H5_I32, total, 0, out->tokens));
  TRY(h5_read(file, "/labels", H5_I32, total, 0, out->labels));
  TRY(h5_read(file, "/offsets", H5_I64, rows + 1, 0, out->offsets));
  return h5_read(file, "/completions", H5_I32, rows, 0, out->completions);
}

static int make_digest(struct h5_file *file, struct token_file *out) {
  static const char *const names[] = {"/tokens", "/labels", "/offsets", "/completions"};
  struct buffer text = {0};
  int status = buffer_print(&text, "vocabulary = %d\n", out->vocabulary);
  for (int i = 0; status == OK && i < 4; i++) {
    struct hash_text checksum;
    status = h5_checksum(file, names[i], &checksum);
    if (status == OK) status = buffer_print(&text, "%s %s\n", names[i], checksum.hex);
  }
  if (status == OK) memcpy(out->digest, hash_bytes(text.data, text.size).hex, sizeof out->digest);
  buffer_free(&text);
  return status;
}

static int check_row(const char *path, const struct token_file *data, int64_t row) {
  int64_t begin = data->offsets[row], end = data->offsets[row + 1];
  if (begin >= end || end > data->total || end - begin > INT32_MAX)
    return fail(ERR_INPUT, "%s: row %lld is empty or lies outside of the tokens", path, (long long)row + 1);
  if (data->completions[row] < -1 || data->completions[row] >= end - begin)
    return fail(ERR_INPUT, "%s: the completion of row %lld lies outside of it", path, (long long)row + 1);
  for (int64_t i = begin; i < end; i++) {
    if (data->tokens[i] < 0 || data->tokens[i] >= data->vocabulary)
      return fail(ERR_INPUT, "%s: row %lld has the token %d, the vocabulary is %d", path, (long long)row + 1,
                  data->tokens[i], data->vocabulary);
    if (data->labels[i] != LABEL_NONE && data->labels[i] != data->tokens[i])
      return fail(ERR_INPUT, "%s: row %lld has a label that is not its token", path, (long long)row + 1);
  }
  return OK;
}

static int check_rows(const char *path, const struct token_file *data) {
  if (data->offsets[0] != 0 || data->offsets[data->rows] != data->total)
    return fail(ERR_INPUT, "%s: the offsets of its rows do not cover its tokens", path);
  for (int64_t row = 0; row < data->rows; row++) TRY(check_row(path, data, row));
  if (data->truncated < 0 || data->truncated > data->rows || data->label_tokens != count_labels(data))
    return fail(ERR_INPUT, "%s: the counts in its header do not hold", path);
  return OK;
}

int token_file_read(const char *path, struct token_file *out) {
  *out = (struct token_file){0};
  struct h5_file *file;
  TRY(h5_open(&file, path, "qst-tokens", TOKEN_VERSION));
  int status = read_header(file, out);
  if (status == OK) status = read_rows(file, out);
  if (status == OK) status = make_digest(file, out);
  if (status == OK) status = check_rows(path, out);
  h5_close(&file);
  if (status != OK) token_file_free(out);
  return status;
}

void token_file_free(struct token_file *data) {
  free(data->tokens);
  free(data->labels);
  free(data->offsets);
  free(data->completions);
  data->tokens = data->labels = data->completions = NULL;
  data->offsets = NULL;
}
