/**
 * @file norm.c
 * RMSNorm and LayerNorm with their backward passes, a row at a time; rows pass through fp32 chunks on the stack.
 */
#include <math.h>

#include "base/error.h"
#include "kernels/cpu/isa/isa.h"
#include "kernels/cpu/isa/vec.h"

static float mean_of_squares(const void *x, size_t from, int cols, enum dtype act) {
  float chunk[CHUNK], sum = 0;
  for (int begin = 0; begin < cols; begin += CHUNK) {
    int count = chunk_length(begin, cols);
    act_load(chunk, x, from + (size_t)begin, count, act);
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < count; i++) sum += chunk[i] * chunk[i];
  }
  return sum / (float)cols;
}

int ISA_NAME(cpu_rmsnorm)(struct device *device, const struct rmsnorm_args *a) {
#pragma omp parallel for num_threads(cpu_state(device)->threads) schedule(static)
  for (int t = 0; t < a->rows; t++) {
    float chunk[CHUNK];
    size_t row = (size_t)t * (size_t)a->cols;
    float rstd = 1.0f / sqrtf(mean_of_squares(a->x, row, a->cols, device->act) + a->epsilon);
    for (int begin = 0; begin < a->cols; begin += CHUNK) {
      int count = chunk_length(begin, a->cols);
      const float *w = a->w + begin;
      act_load(chunk, a->x, row + (size_t)begin, count, device->act);
#pragma omp simd
      for (int i = 0; i < count; i++) chunk[i] = w[i] * (chunk[i] * rstd);
      act_store(a->y, row + (size_t)begin, chunk, count, device->act);
    }
    if (a->rstd) a->rstd[t] = rstd;
  }
  return OK;
}

/** Σ w dy x of a row, and dw += dy x rstd. */
static float rmsnorm_row_sums(float *dw, const struct rmsnorm_backward_args *a, int t, enum dtype act) {
  float dy[CHUNK], x[CHUNK], sum = 0, rstd = a->rstd[t];
  size_t row = (size_t)t * (size_t)a->cols;
  for (int begin = 0; begin < a->cols; begin += CHUNK) {
    int count = chunk_length(begin, a->cols);
    const float *w = a->w + begin;
    float *dw_chunk = dw + begin;
    act_load(dy, a->dy, row + (size_t)begin, count, act);
    act_load(x, a->x, row + (size_t)begin, count, act);
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < count; i++) {
      float product = dy[i] * x[i];
      sum += w[i] * product;
      dw_chunk[i] += product * rstd;
    }
  }
  return sum;
}

static void rmsnorm_row_backward(const struct rmsnorm_backward_args *a, int t, float sum, enum dtype act) {
  float dy[CHUNK], x[CHUNK], dx[CHUNK], rstd = a->rstd[t];
  float pull = sum / (float)a->cols * rstd * rstd * rstd;
  size_t row = (size_t)t * (size_t)a->cols;
  for (int begin = 0; begin < a->cols; begin += CHUNK) {
    int count = chunk_length(begin, a->cols);
    const float *w = a->w + begin;
    size_t from = row + (size_t)begin;
    act_load(dy, a->dy, from, count, act);
    act_load(x, a->x, from, count, act);
    if (a->accumulate) act_load(dx, a->dx, from, count, act);
#pragma omp simd
    for (int i = 0; i < count; i++) dx[i] = (a->accumulate ? dx[i] : 0) + (rstd * (w[i] * dy[i]) - x[i] * pull);
    act_store(a->dx, from, dx, count, act);
  }
}

int ISA_NAME(cpu_rmsnorm_backward)(struct device *device, const struct rmsnorm_backward_args *a) {
  const struct cpu_state *state = cpu_state(device);
  int blocks = sum_blocks(a->rows);
  if (a->cols > state->sum_width) return fail(ERR_INTERNAL, "%d columns: more than the limits at opening", a->cols);
#pragma omp parallel for num_threads(state->threads) schedule(static)
  for (int block = 0; block < blocks; block++) {
    float *dw = sum_block(state, block);
    memset(dw, 0, (size_t)a->cols * sizeof *dw);
    for (int t = sum_block_start(a->rows, blocks, block); t < sum_block_start(a->rows, blocks, block + 1); t++) {
      float sum = rmsnorm_row_sums(dw, a, t, device->act);
      rmsnorm_row_backward(a, t, sum, device->act);
    }
  }
  add_sum_blocks(a->dw, state, blocks, 0, a->cols);
  return OK;
}

/** Mean of (x − shift) or of its square. */
static float mean_of_row(const void *x, size_t from, int cols, float shift, bool squared, enum dtype act) {
  float chunk[CHUNK], sum = 0;
  for (int begin = 0; begin < cols; begin += CHUNK) {
    int count = chunk_length(begin, cols);
    act_load(chunk, x, from + (size_t)begin, count, act);
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < count; i++) {
      float value = chunk[i] - shift;
      sum += squared ? value * value : value;
    }
  }
  return sum / (float)cols;
}

int ISA_NAME(cpu_layernorm)(struct device *device, const struct layernorm_args *a) {
#pragma omp parallel for num_threads(cpu_state(device)->threads) schedule(static)
  for (int t = 0; t < a->rows; t++) {
    float chunk[CHUNK];
    size_t row = (size_t)t * (size_t)a->cols;
    float mean = mean_of_row(a->x, row, a->cols, 0, false, device->act);
    float rstd = 1.0f / sqrtf(mean_of_row(a->x, row, a->cols, mean, true, device->act) + a->epsilon);
    for (int begin = 0; begin < a->cols; begin += CHUNK) {
      int count = chunk_length(begin, a->cols);
      const float *w = a->w + begin, *b = a->b + begin;
      act_load(chunk, a->x, row + (size_t)begin, count, device->act);
#pragma omp simd
      for (int i = 0; i < count; i++) chunk[i] = w[i] * ((chunk[i] - mean) * rstd) + b[i];
      act_store(a->y, row + (size_t)begin, chunk, count, device->act);
    }
    if (a->mean) a->mean[t] = mean;
    if (a->rstd) a->rstd[t] = rstd;
  }
  return OK;
}

struct layernorm_sums {
  float g, gx; /**< Σ w dy and Σ w dy x̂ of a row */
};

/** The row's sums, and dw += dy x̂, db += dy. */
static struct layernorm_sums layernorm_row_sums(float *dw, float *db, const struct layernorm_backward_args *a, int t,
                                                enum dtype act) {
  float dy[CHUNK], x[CHUNK], g = 0, gx = 0, rstd = a->rstd[t], mean = a->mean[t];
  size_t row = (size_t)t * (size_t)a->cols;
  for (int begin = 0; begin < a->cols; begin += CHUNK) {
    int count = chunk_length(begin, a->cols);
    const float *w = a->w + begin;
    float *dw_chunk = dw + begin, *db_chunk = db + begin;
    act_load(dy, a->dy, row + (size_t)begin, count, act);
    act_load(x, a->x, row + (size_t)begin, count, act);
#pragma omp simd reduction(+ : g, gx)
    for (int i = 0; i < count; i++) {
      float normed = (x[i] - mean) * rstd;
      g += w[i] * dy[i];
      gx += w[i] * dy[i] * normed;
      dw_chunk[i] += dy[i] * normed;
      db_chunk[i] += dy[i];
    }
  }
  return (struct layernorm_sums){g, gx};
}

static void layernorm_row_backward(const struct layernorm_backward_args *a, int t, struct layernorm_sums sums,
                                   enum dtype act) {
  float dy[CHUNK], x[CHUNK], dx[CHUNK], rstd = a->rstd[t], mean = a->mean[t];
  float g = sums.g / (float)a->cols, gx = sums.gx / (float)a->cols;
  size_t row = (size_t)t * (size_t)a->cols;
  for (int begin = 0; begin < a->cols; begin += CHUNK) {
    int count = chunk_length(begin, a->cols);
    const float *w = a->w + begin;
    size_t from = row + (size_t)begin;
    act_load(dy, a->dy, from, count, act);
    act_load(x, a->x, from, count, act);
    if (a->accumulate) act_load(dx, a->dx, from, count, act);
#pragma omp simd
    for (int i = 0; i < count; i++)
      dx[i] = (a->accumulate ? dx[i] : 0) + rstd * (w[i] * dy[i] - g - (x[i] - mean) * rstd * gx);
    act_store(a->dx, from, dx, count, act);
  }
}

int ISA_NAME(cpu_layernorm_backward)(struct device *device, const struct layernorm_backward_args *a) {
  const struct cpu_state *state = cpu_state(device);
  int blocks = sum_blocks(a->rows);
  if (a->cols > state->sum_width / 2) return fail(ERR_INTERNAL, "%d columns: more than the limits at opening", a->cols);
#pragma omp parallel for num_threads(state->threads) schedule(static)
  for (int block = 0; block < blocks; block++) {
    float *dw = sum_block(state, block), *db = dw + a->cols;
    memset(dw, 0, 2 * (size_t)a->cols * sizeof *dw);
    for (int t = sum_block_start(a->rows, blocks, block); t < sum_block_start(a->rows, blocks, block + 1); t++) {
      struct layernorm_sums sums = layernorm_row_sums(dw, db, a, t, device->act);
      layernorm_row_backward(a, t, sums, device->act);
    }
  }
  add_sum_blocks(a->dw, state, blocks, 0, a->cols);
  add_sum_blocks(a->db, state, blocks, a->cols, a->cols);
  return OK;
}
