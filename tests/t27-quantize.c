/* NF4 and FP4, with and without double quantization: bytes and dequantized values equal bitsandbytes' on matrices of odd
 * sizes, zeros, constants, subnormals, outliers and ties (tests/fixtures/make_quantized.py), whatever the number of threads. */
// RUN
// RUN args="3"
#include <omp.h>
#include <stdlib.h>

#include "base/hash.h"
#include "base/memory.h"
#include "check.h"
#include "io/safetensors.h"
#include "kernels/quantize.h"

struct expected {
  char name[32], format[4], codes[33], scales[33], scale_codes[33], scale_scales[33], mean[9], values[33];
  int double_quantized, rows, cols;
};

static void allocate(struct matrix *matrix) {
  CHECK_OK(memory_array(&matrix->codes, matrix_code_bytes(matrix), 1));
  CHECK_OK(memory_array(&matrix->scales, matrix_blocks(matrix), sizeof(float)));
  CHECK_OK(memory_array(&matrix->scale_codes, matrix_blocks(matrix), 1));
  CHECK_OK(memory_array(&matrix->scale_scales, matrix_scale_blocks(matrix), sizeof(float)));
}

static void release(struct matrix *matrix) {
  free(matrix->codes);
  free(matrix->scales);
  free(matrix->scale_codes);
  free(matrix->scale_scales);
}

/* The case is known from the lines around: say which part differs. */
static void check_part(const struct expected *want, const char *part, const char *hash, const void *bytes,
                       size_t size) {
  if (strcmp(hash, "-") == 0) return;
  int same = strcmp(hash_bytes(bytes, size).hex, hash) == 0;
  if (!same) fprintf(stderr, "%s %s %d: %s\n", want->name, want->format, want->double_quantized, part);
  CHECK(same);
}

static void check_values(const struct expected *want, const struct matrix *matrix) {
  float *values;
  size_t count = matrix_elements(matrix);
  CHECK_OK(memory_array(&values, count, sizeof *values));
  CHECK_OK(dequantize_matrix(values, matrix));
  for (size_t i = 0; i < count; i++) values[i] += 0.0f; /* -0 becomes 0: bitsandbytes' paths differ in that sign */
  check_part(want, "dequantized values", want->values, values, count * sizeof *values);
  free(values);
}

static void check_case(const struct expected *want, const float *weights) {
  struct matrix matrix = {.format = strcmp(want->format, "nf4") == 0 ? WEIGHT_NF4 : WEIGHT_FP4,
                          .double_quantized = want->double_quantized,
                          .rows = want->rows,
                          .cols = want->cols};
  allocate(&matrix);
  CHECK_OK(quantize_matrix(&matrix, weights));
  check_part(want, "codes", want->codes, matrix.codes, matrix_code_bytes(&matrix));
  if (want->double_quantized) {
    char mean[9];
    uint32_t bits;
    memcpy(&bits, &matrix.scale_mean, sizeof bits);
    snprintf(mean, sizeof mean, "%08x", bits);
    CHECK(strcmp(mean, want->mean) == 0);
    check_part(want, "scale codes", want->scale_codes, matrix.scale_codes, matrix_blocks(&matrix));
    check_part(want, "scale scales", want->scale_scales, matrix.scale_scales,
               matrix_scale_blocks(&matrix) * sizeof(float));
  } else {
    check_part(want, "scales", want->scales, matrix.scales, matrix_blocks(&matrix) * sizeof(float));
  }
  check_values(want, &matrix);
  release(&matrix);
}

static float *weights_of(const struct safetensors *file, const struct expected *want) {
  float *weights;
  size_t count = (size_t)want->rows * (size_t)want->cols;
  CHECK_OK(memory_array(&weights, count, sizeof *weights));
  if (strcmp(want->name, "generated") == 0) {
    for (size_t i = 0; i < count; i++) weights[i] = (float)((uint32_t)(i * 2654435761u) >> 8) * 0x1p-24f - 0.5f;
    return weights;
  }
  const struct safetensors_tensor *tensor = safetensors_find(file, want->name);
  CHECK(tensor && tensor->rows == want->rows && tensor->cols == want->cols);
  if (tensor) CHECK_OK(safetensors_read(file, tensor, 0, tensor->rows, weights));
  return weights;
}

static void check_all_cases(void) {
  struct safetensors *file;
  struct expected want;
  CHECK_OK(safetensors_open(&file, "tests/fixtures/quantized.safetensors"));
  FILE *list = fopen("tests/fixtures/quantized.txt", "r");
  CHECK(file && list);
  if (!file || !list) return;
  int cases = 0;
  while (fscanf(list, "%31s %3s %d %d %d %32s %32s %32s %32s %8s %32s", want.name, want.format, &want.double_quantized,
                &want.rows, &want.cols, want.codes, want.scales, want.scale_codes, want.scale_scales, want.mean,
                want.values) == 11) {
    float *weights = weights_of(file, &want);
    check_case(&want, weights);
    free(weights);
    cases++;
  }
  CHECK(cases == 84);
  fclose(list);
  safetensors_close(&file);
}

static void check_faults(void) {
  float weights[130] = {0};
  struct matrix matrix = {.format = WEIGHT_NF4, .rows = 2, .cols = 65, .double_quantized = true};
  allocate(&matrix);
  weights[3] = INFINITY;
  CHECK_FAILS(ERR_INPUT, "infinit", quantize_matrix(&matrix, weights));
  weights[3] = 0;
  weights[129] = NAN;
  CHECK_FAILS(ERR_INPUT, "NaN", quantize_matrix(&matrix, weights));
  release(&matrix);
}

static void check_bf16(void) {
  float weights[3] = {1.00390625f, -1.01171875f, 3e-40f}, values[3];
  bf16 codes[3];
  struct matrix matrix = {.format = WEIGHT_BF16, .rows = 1, .cols = 3, .codes = codes};
  CHECK_OK(quantize_matrix(&matrix, weights));
  CHECK_OK(dequantize_matrix(values, &matrix));
  CHECK(values[0] == 1.0f && values[1] == -1.015625f && values[2] > 0 && values[2] < 4e-40f);
}

int main(int count, char **arguments) {
  if (count > 1) omp_set_num_threads((int)strtol(arguments[1], NULL, 10));
  check_all_cases();
  check_faults();
  check_bf16();
  return check_result();
}
