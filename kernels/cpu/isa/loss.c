/**
 * @file loss.c
 * Cross entropy and argmax over rows of fp32 logits.
 */
#include <math.h>

#include "base/error.h"
#include "kernels/cpu/isa/isa.h"
#include "kernels/cpu/isa/vec.h"

static float highest_of(const float *x, int count) {
  vec high = vec_set(-INFINITY);
  int i = 0;
  for (; i + LANES <= count; i += LANES) high = vec_max(high, vec_load(x + i));
  float highest = vec_highest(high);
  for (; i < count; i++) highest = x[i] > highest ? x[i] : highest;
  return highest;
}

/** Σ exp(x − shift), a chunk at a time: fp32 within a chunk, double across them. */
static double sum_of_exp(const float *x, int cols, float shift) {
  double total = 0;
  for (int begin = 0; begin < cols; begin += CHUNK) {
    int count = chunk_length(begin, cols);
    const float *chunk = x + begin;
    vec sums = vec_set(0);
    int i = 0;
    for (; i + LANES <= count; i += LANES) sums += vec_exp(vec_load(chunk + i) - shift);
    float sum = vec_sum(sums);
    for (; i < count; i++) sum += row_exp(chunk[i] - shift);
    total += (double)sum;
  }
  return total;
}

/** softmax − one-hot; lse = log Σ exp(x). */
static void loss_gradient(void *dlogits, size_t row, const float *x, int cols, float lse, int label, enum dtype act) {
  float chunk[CHUNK];
  for (int begin = 0; begin < cols; begin += CHUNK) {
    int count = chunk_length(begin, cols);
    const float *in = x + begin;
    int i = 0;
    for (; i + LANES <= count; i += LANES) vec_store(chunk + i, vec_exp(vec_load(in + i) - lse));
    for (; i < count; i++) chunk[i] = row_exp(in[i] - lse);
    if (label >= begin && label < begin + count) chunk[label - begin] -= 1.0f;
    act_store(dlogits, row + (size_t)begin, chunk, count, act);
  }
}

static int check_labels(const struct cross_entropy_args *a) {
  for (int t = 0; t < a->rows; t++)
    if (a->labels[t] < 0 || a->labels[t] >= a->cols)
      return fail(ERR_INTERNAL, "row %d has label %d of %d", t, a->labels[t], a->cols);
  return OK;
}

int ISA_NAME(cpu_cross_entropy)(struct device *device, const struct cross_entropy_args *a) {
  TRY(check_labels(a));
#pragma omp parallel for num_threads(cpu_state(device)->threads) schedule(static)
  for (int t = 0; t < a->rows; t++) {
    size_t row = (size_t)t * (size_t)a->cols;
    const float *x = a->logits + row;
    float highest = highest_of(x, a->cols);
    double log_sum = log(sum_of_exp(x, a->cols, highest));
    a->loss[t] = (float)(log_sum + ((double)highest - (double)x[a->labels[t]]));
    if (a->dlogits)
      loss_gradient(a->dlogits, row, x, a->cols, (float)((double)highest + log_sum), a->labels[t], device->act);
  }
  return OK;
}

int ISA_NAME(cpu_argmax)(struct device *device, const struct argmax_args *a) {
#pragma omp parallel for num_threads(cpu_state(device)->threads) schedule(static)
  for (int t = 0; t < a->rows; t++) {
    const float *x = a->logits + (size_t)t * (size_t)a->cols;
    float highest = highest_of(x, a->cols);
    int index = 0;
    while (index < a->cols - 1 && !(x[index] == highest)) index++;
    a->index[t] = index;
  }
  return OK;
}
