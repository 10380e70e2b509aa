/**
 * @file tensor_list.h
 * The "tensor rows cols hash" lines that tests/fixtures/make_formats.py writes beside each file of tensors.
 */
#ifndef QST_TESTS_TENSOR_LIST_H
#define QST_TESTS_TENSOR_LIST_H

#include <stdlib.h>

#include "base/hash.h"
#include "base/memory.h"
#include "check.h"

struct listed_tensor {
  char name[96], hash[33];
  int64_t rows, cols;
};

/** Calls `visit` for each line of tests/fixtures/formats/NAME.tensors; returns how many there were. */
static inline int tensor_list_each(const char *name, void (*visit)(void *context, const struct listed_tensor *want),
                                   void *context) {
  char path[256];
  struct listed_tensor want;
  long long rows, cols;
  int lines = 0;
  snprintf(path, sizeof path, "tests/fixtures/formats/%s.tensors", name);
  FILE *list = fopen(path, "r");
  CHECK(list != NULL);
  while (list && fscanf(list, "%95s %lld %lld %32s", want.name, &rows, &cols, want.hash) == 4) {
    want.rows = rows;
    want.cols = cols;
    visit(context, &want);
    lines++;
  }
  if (list) fclose(list);
  return lines;
}

/** Whether these are the tensor's values, bit for bit; says which tensor when not. */
static inline void tensor_list_check(const struct listed_tensor *want, const float *values) {
  size_t size = (size_t)(want->rows * want->cols) * sizeof *values;
  int same = strcmp(hash_bytes(values, size).hex, want->hash) == 0;
  if (!same) fprintf(stderr, "%s differs\n", want->name);
  CHECK(same);
}

#endif
