/**
 * @file rows.c
 * Rotary embedding and moving rows.
 */
#include "base/error.h"
#include "kernels/cpu/isa/isa.h"
#include "kernels/cpu/isa/vec.h"

static int check_positions(const struct rope_args *a) {
  for (int t = 0; t < a->rows; t++)
    if (a->positions[t] < 0 || a->positions[t] >= a->table_positions)
      return fail(ERR_INTERNAL, "row %d is at position %d of %d", t, a->positions[t], a->table_positions);
  return OK;
}

/** Rotates as many whole heads as fit the chunk. */
static void rotate_heads(float *x, int heads, int half, const float *cosines, const float *sines, float direction) {
  for (int head = 0; head < heads; head++) {
    float *low = x + (size_t)head * 2 * (size_t)half, *high = low + half;
#pragma omp simd
    for (int i = 0; i < half; i++) {
      float a = low[i], b = high[i], sine = direction * sines[i];
      low[i] = a * cosines[i] - b * sine;
      high[i] = b * cosines[i] + a * sine;
    }
  }
}

int ISA_NAME(cpu_rope)(struct device *device, const struct rope_args *a) {
  int half = a->head_dim / 2, at_once = CHUNK / a->head_dim;
  float direction = a->inverse ? -1.0f : 1.0f;
  if (at_once == 0) return fail(ERR_INTERNAL, "head dimension %d: at most %d", a->head_dim, CHUNK);
  TRY(check_positions(a));
#pragma omp parallel for num_threads(cpu_state(device)->threads) schedule(static)
  for (int t = 0; t < a->rows; t++) {
    float x[CHUNK];
    const float *cosines = a->cosines + (size_t)a->positions[t] * (size_t)half;
    const float *sines = a->sines + (size_t)a->positions[t] * (size_t)half;
    for (int head = 0; head < a->heads; head += at_once) {
      int heads = a->heads - head < at_once ? a->heads - head : at_once;
      size_t from = (size_t)t * (size_t)a->stride + (size_t)head * (size_t)a->head_dim;
      act_load(x, a->x, from, heads * a->head_dim, device->act);
      rotate_heads(x, heads, half, cosines, sines, direction);
      act_store(a->x, from, x, heads * a->head_dim, device->act);
    }
  }
  return OK;
}

int ISA_NAME(cpu_copy_rows)(struct device *device, const struct copy_rows_args *a) {
  size_t size = dtype_size(device->act), width = (size_t)a->cols * size;
  if (a->zero_rows > 0) memset(a->y, 0, (size_t)a->zero_rows * width);
#pragma omp parallel for num_threads(cpu_state(device)->threads) schedule(static)
  for (int i = 0; i < a->rows; i++) {
    size_t to = (size_t)(a->y_index ? a->y_index[i] : i), from = (size_t)(a->x_index ? a->x_index[i] : i);
    memcpy((char *)a->y + to * (size_t)a->y_stride * size, (const char *)a->x + from * (size_t)a->x_stride * size,
           width);
  }
  return OK;
}
