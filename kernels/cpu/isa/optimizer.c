/**
 * @file optimizer.c
 * Order-independent sums in 64-bit fixed point, the gradient norm, and AdamW.
 */
#include <math.h>

#include "base/error.h"
#include "kernels/cpu/isa/isa.h"
#include "kernels/cpu/isa/vec.h"

static const double fixed_one = (double)((int64_t)1 << FIXED_FRACTION_BITS);
static const float fixed_limit = (float)((int64_t)1 << (62 - FIXED_FRACTION_BITS));

int ISA_NAME(cpu_fixed_add)(struct device *device, const struct fixed_add_args *a) {
  int64_t faults = 0;
  int64_t *restrict sums = a->sums;
  const float *restrict x = a->x;
#pragma omp parallel for num_threads(cpu_state(device)->threads) schedule(static) reduction(+ : faults)
  for (size_t i = 0; i < a->count; i++) {
    bool fits = fabsf(x[i]) < fixed_limit; /* a NaN does not */
    sums[i] += (int64_t)rint((fits ? (double)x[i] : 0.0) * fixed_one);
    faults += !fits;
  }
  *a->faults += faults;
  return OK;
}

int ISA_NAME(cpu_fixed_total)(struct device *device, const struct fixed_total_args *a) {
  int64_t faults = 0, sum = 0;
  const float *restrict x = a->x;
#pragma omp parallel for num_threads(cpu_state(device)->threads) schedule(static) reduction(+ : faults, sum)
  for (size_t i = 0; i < a->count; i++) {
    bool fits = fabsf(x[i]) < fixed_limit;
    sum += (int64_t)rint((fits ? (double)x[i] : 0.0) * fixed_one);
    faults += !fits;
  }
  *a->sum += sum;
  *a->faults += faults;
  return OK;
}

int ISA_NAME(cpu_fixed_get)(struct device *device, const struct fixed_get_args *a) {
  double unit = a->scale / fixed_one;
#pragma omp parallel for num_threads(cpu_state(device)->threads) schedule(static)
  for (size_t i = 0; i < a->count; i++) a->y[i] = (float)((double)a->sums[i] * unit);
  return OK;
}

enum { SQUARE_BLOCKS = 256 };

int ISA_NAME(cpu_sum_squares)(struct device *device, const struct sum_squares_args *a) {
  double sums[SQUARE_BLOCKS], total = 0;
  size_t length = (a->count + SQUARE_BLOCKS - 1) / SQUARE_BLOCKS;
#pragma omp parallel for num_threads(cpu_state(device)->threads) schedule(static)
  for (int block = 0; block < SQUARE_BLOCKS; block++) {
    size_t begin = length * (size_t)block, end = begin + length < a->count ? begin + length : a->count;
    const float *restrict x = a->x;
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (size_t i = begin; i < end; i++) sum += (double)x[i] * (double)x[i];
    sums[block] = sum;
  }
  for (int block = 0; block < SQUARE_BLOCKS; block++) total += sums[block];
  *a->result = total;
  return OK;
}

static void adamw_chunk(const struct adamw_args *a, size_t begin, int count, float correction1, float correction2) {
  float *restrict master = a->master + begin, *restrict m = a->m + begin, *restrict v = a->v + begin;
  const float *restrict gradient = a->gradient + begin;
  float beta1 = a->beta1, beta2 = a->beta2, lr = a->lr, epsilon = a->epsilon, decay = a->decay;
  float scale = a->gradient_scale;
#pragma omp simd
  for (int i = 0; i < count; i++) {
    float g = gradient[i] * scale;
    m[i] = beta1 * m[i] + (1.0f - beta1) * g;
    v[i] = beta2 * v[i] + (1.0f - beta2) * g * g;
    float step = (m[i] * correction1) / (sqrtf(v[i] * correction2) + epsilon);
    master[i] -= lr * (step + decay * master[i]);
  }
}

int ISA_NAME(cpu_adamw)(struct device *device, const struct adamw_args *a) {
  float correction1 = (float)(1.0 / (1.0 - pow((double)a->beta1, (double)a->step)));
  float correction2 = (float)(1.0 / (1.0 - pow((double)a->beta2, (double)a->step)));
  int64_t elements = (int64_t)a->count;
#pragma omp parallel for num_threads(cpu_state(device)->threads) schedule(static)
  for (int64_t begin = 0; begin < elements; begin += CHUNK) {
    int count = elements - begin < CHUNK ? (int)(elements - begin) : CHUNK;
    adamw_chunk(a, (size_t)begin, count, correction1, correction2);
    if (a->weights) act_store(a->weights, (size_t)begin, a->master + begin, count, device->act);
  }
  return OK;
}
