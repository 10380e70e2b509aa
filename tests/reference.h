/**
 * @file reference.h
 * Reference data of tests/fixtures/make_qst.py: tensors by name, rows, settings. Every failure is a failed check, so that
 * test programs go on in straight lines.
 */
#ifndef QST_TESTS_REFERENCE_H
#define QST_TESTS_REFERENCE_H

#include <stdlib.h>

#include "check.h"
#include "io/chat.h"
#include "io/safetensors.h"
#include "io/token_file.h"

static inline struct safetensors *reference_open(const char *name) {
  char path[256];
  struct safetensors *file = NULL;
  snprintf(path, sizeof path, "tests/fixtures/qst/%s.safetensors", name);
  CHECK_OK(safetensors_open(&file, path));
  return file;
}

/** The numbers of a tensor, which must have `count` of them; the caller frees them. */
static inline float *reference_read(const struct safetensors *file, const char *prefix, const char *name,
                                    size_t count) {
  char full[160];
  snprintf(full, sizeof full, "%s%s", prefix, name);
  const struct safetensors_tensor *tensor = safetensors_find(file, full);
  float *values = calloc(count ? count : 1, sizeof *values);
  bool fits = tensor && (size_t)(tensor->rows * tensor->cols) == count;
  if (!fits) fprintf(stderr, "%s: no '%s' of %zu numbers\n", safetensors_path(file), full, count);
  CHECK(fits && values);
  if (fits && values) CHECK_OK(safetensors_read(file, tensor, 0, tensor->rows, values));
  return values;
}

static inline size_t reference_count(const struct safetensors *file, const char *name) {
  const struct safetensors_tensor *tensor = safetensors_find(file, name);
  CHECK(tensor != NULL);
  return tensor ? (size_t)(tensor->rows * tensor->cols) : 0;
}

static inline const char *reference_text(const struct safetensors *file, const char *key) {
  const char *text = safetensors_metadata(file, key);
  CHECK(text != NULL);
  return text ? text : "";
}

static inline double reference_number(const struct safetensors *file, const char *key) {
  return strtod(reference_text(file, key), NULL);
}

/** Tokens, labels and offsets as a token file in memory; token_file_free() frees it. */
static inline struct token_file reference_rows(const struct safetensors *file) {
  size_t total = reference_count(file, "tokens"), ends = reference_count(file, "offsets");
  struct token_file rows = {.rows = (int64_t)ends - 1, .total = (int64_t)total, .vocabulary = 150};
  rows.tokens = calloc(total, sizeof *rows.tokens);
  rows.labels = calloc(total, sizeof *rows.labels);
  rows.offsets = calloc(ends, sizeof *rows.offsets);
  float *tokens = reference_read(file, "", "tokens", total), *labels = reference_read(file, "", "labels", total);
  float *offsets = reference_read(file, "", "offsets", ends);
  for (size_t i = 0; i < total; i++) {
    rows.tokens[i] = (int32_t)tokens[i];
    rows.labels[i] = (int32_t)labels[i];
  }
  for (size_t i = 0; i < ends; i++) rows.offsets[i] = (int64_t)offsets[i];
  free(tokens);
  free(labels);
  free(offsets);
  return rows;
}

/** The largest relative error of a row, by norm; NaN counts as infinite. */
static inline double worst_row(const float *got, const float *want, size_t rows, size_t cols) {
  double worst = 0;
  for (size_t i = 0; i < rows; i++) {
    double error = relative_error(got + i * cols, want + i * cols, cols);
    if (!(error <= worst)) worst = isnan(error) ? INFINITY : error;
  }
  return worst;
}

#endif
