/* The cpu device's products in 8-bit floats (kernels/fp8.h): operands rounded to what 8 bits hold, then multiplied as ever. */
#include "kernels/fp8.h"

#include <omp.h>
#include <string.h>

#include "base/error.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/fp8.h"
#include "kernels/cpu/multiply.h"

static size_t weight_count(const struct device_limits *limits) {
  return limits->fp8 ? (size_t)limits->widest_product : 0;
}

static size_t input_count(const struct device_limits *limits) {
  return limits->fp8 ? (size_t)limits->rows * (size_t)limits->widest_input : 0;
}

size_t fp8_bytes(const struct device_limits *limits) {
  return (weight_count(limits) + input_count(limits)) * sizeof(float);
}

int fp8_open(struct fp8 *fp8, struct device *device, const struct device_limits *limits) {
  fp8->weight_count = weight_count(limits), fp8->input_count = input_count(limits);
  if (!limits->fp8) return OK;
  TRY(device_allocate(device, MEMORY_WORKSPACE, &fp8->weights, fp8->weight_count * sizeof(float)));
  return device_allocate(device, MEMORY_WORKSPACE, &fp8->inputs, fp8->input_count * sizeof(float));
}

void fp8_close(struct fp8 *fp8, struct device *device) {
  device_release(device, MEMORY_WORKSPACE, &fp8->weights, fp8->weight_count * sizeof(float));
  device_release(device, MEMORY_WORKSPACE, &fp8->inputs, fp8->input_count * sizeof(float));
}

/** out = the row, rounded; `out` holds activations. */
static void round_row(void *out, enum dtype type, const float *row, int cols) {
  float highest = 0;
#pragma omp simd reduction(max : highest)
  for (int i = 0; i < cols; i++) highest = fmaxf(highest, fabsf(row[i]));
  float scale = fp8_scale(highest);
  if (type == DTYPE_BF16)
    for (int i = 0; i < cols; i++) ((bf16 *)out)[i] = float_to_bf16(fp8_round(row[i], scale));
  else
    for (int i = 0; i < cols; i++) ((float *)out)[i] = fp8_round(row[i], scale);
}

static void widen(float *out, const bf16 *x, int count) {
  for (int i = 0; i < count; i++) out[i] = bf16_to_float(x[i]);
}

static void matrix_row(enum cpu_isa isa, float *out, const struct matrix *matrix, int row) {
  size_t first = (size_t)row * (size_t)matrix->cols;
  if (matrix->format == WEIGHT_BF16)
    widen(out, (const bf16 *)matrix->codes + first, matrix->cols);
  else if (isa == CPU_AVX512)
    dequantize_avx512(out, DTYPE_F32, matrix, first, matrix->cols);
  else
    dequantize_plain(out, DTYPE_F32, matrix, first, matrix->cols);
}

static float *scratch_of_thread(const struct cpu_state *state) {
  return state->scratch + (size_t)omp_get_thread_num() * CPU_THREAD_SCRATCH;
}

static void round_matrix(struct device *device, char *out, const struct matrix *matrix) {
  struct cpu_state *state = cpu_state(device);
#pragma omp parallel for num_threads(state->threads) schedule(static)
  for (int row = 0; row < matrix->rows; row++) {
    float *values = scratch_of_thread(state);
    matrix_row(state->isa, values, matrix, row);
    round_row(out + device_act_bytes(device, (size_t)row * (size_t)matrix->cols), device->act, values, matrix->cols);
  }
}

static void round_inputs(struct device *device, char *out, const char *x, int rows, int cols) {
  struct cpu_state *state = cpu_state(device);
  size_t pitch = device_act_bytes(device, (size_t)cols);
#pragma omp parallel for num_threads(state->threads) schedule(static)
  for (int row = 0; row < rows; row++) {
    float *values = scratch_of_thread(state);
    if (device->act == DTYPE_BF16)
      widen(values, (const bf16 *)(const void *)(x + (size_t)row * pitch), cols);
    else
      memcpy(values, x + (size_t)row * pitch, pitch);
    round_row(out + (size_t)row * pitch, device->act, values, cols);
  }
}

int fp8_operands(struct fp8 *fp8, struct device *device, const struct frozen_linear_args *a, int n, int k) {
  bool fits = (size_t)n * (size_t)k <= fp8->weight_count && (size_t)a->rows * (size_t)k <= fp8->input_count;
  if (!fits || k > CPU_THREAD_SCRATCH)
    return fail(ERR_INTERNAL, "an fp8 product of %d x %d x %d: more than the limits at opening", a->rows, n, k);
  size_t above = 0;
  for (int i = 0; i < a->part_count; above += matrix_elements(a->parts[i++]))
    round_matrix(device, (char *)fp8->weights + device_act_bytes(device, above), a->parts[i]);
  round_inputs(device, fp8->inputs, a->x, a->rows, k);
  return OK;
}
