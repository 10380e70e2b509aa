/**
 * @file activation.c
 * SwiGLU, SiLU, ReLU, pooling and rounding to the activation type.
 */
#include "base/error.h"
#include "kernels/cpu/isa/isa.h"
#include "kernels/cpu/isa/vec.h"

int ISA_NAME(cpu_swiglu)(struct device *device, const struct swiglu_args *a) {
#pragma omp parallel for num_threads(cpu_state(device)->threads) schedule(static)
  for (int t = 0; t < a->rows; t++) {
    float gate[CHUNK], up[CHUNK];
    size_t row = (size_t)t * (size_t)a->cols;
    for (int begin = 0; begin < a->cols; begin += CHUNK) {
      int count = chunk_length(begin, a->cols);
      act_load(gate, a->x, 2 * row + (size_t)begin, count, device->act);
      act_load(up, a->x, 2 * row + (size_t)(a->cols + begin), count, device->act);
      for (int i = 0; i < count; i += LANES) {
        vec x = vec_load(gate + i);
        vec_store(up + i, vec_load(up + i) * (x * vec_sigmoid(x)));
      }
      act_store(a->y, row + (size_t)begin, up, count, device->act);
    }
  }
  return OK;
}

int ISA_NAME(cpu_swiglu_backward)(struct device *device, const struct swiglu_backward_args *a) {
#pragma omp parallel for num_threads(cpu_state(device)->threads) schedule(static)
  for (int t = 0; t < a->rows; t++) {
    float gate[CHUNK], up[CHUNK], dy[CHUNK];
    size_t row = (size_t)t * (size_t)a->cols;
    for (int begin = 0; begin < a->cols; begin += CHUNK) {
      int count = chunk_length(begin, a->cols);
      size_t gate_from = 2 * row + (size_t)begin, up_from = gate_from + (size_t)a->cols;
      act_load(gate, a->x, gate_from, count, device->act);
      act_load(up, a->x, up_from, count, device->act);
      act_load(dy, a->dy, row + (size_t)begin, count, device->act);
      for (int i = 0; i < count; i += LANES) {
        vec x = vec_load(gate + i), sigmoid = vec_sigmoid(x), d = vec_load(dy + i);
        vec_store(gate + i, d * vec_load(up + i) * (sigmoid * (1.0f + x * (1.0f - sigmoid))));
        vec_store(up + i, d * (x * sigmoid));
      }
      act_store(a->dx, gate_from, gate, count, device->act);
      act_store(a->dx, up_from, up, count, device->act);
    }
  }
  return OK;
}

/* A function of one number, and what its gradient makes of dy where its input (SiLU) or its result (ReLU) is v. */
typedef vec (*value_function)(vec x);
typedef vec (*gradient_function)(vec v, vec dy);

static inline vec silu(vec x) {
  return x * vec_sigmoid(x);
}
static inline vec silu_gradient(vec v, vec dy) {
  vec sigmoid = vec_sigmoid(v);
  return dy * (sigmoid * (1.0f + v * (1.0f - sigmoid)));
}
static inline vec relu(vec x) {
  return vec_max(vec_set(0), x); /* a NaN stays one */
}
static inline vec relu_gradient(vec v, vec dy) {
  vec_int passes = v > vec_set(0);
  return (vec)(passes & (vec_int)dy);
}

static inline int chunk_at(int64_t begin, int64_t elements) {
  return elements - begin < CHUNK ? (int)(elements - begin) : CHUNK;
}

/* Inlined into the loops of each function: a call a vector would cost more than it computes. */
static inline __attribute__((always_inline)) void values(void *y, const void *x, int64_t begin, int count,
                                                         enum dtype act, value_function f) {
  float v[CHUNK];
  act_load(v, x, (size_t)begin, count, act);
  for (int i = 0; i < count; i += LANES) vec_store(v + i, f(vec_load(v + i)));
  act_store(y, (size_t)begin, v, count, act);
}

static inline __attribute__((always_inline)) void gradients(void *dx, const void *dy, const void *at, int64_t begin,
                                                            int count, enum dtype act, gradient_function f) {
  float v[CHUNK], d[CHUNK];
  act_load(v, at, (size_t)begin, count, act);
  act_load(d, dy, (size_t)begin, count, act);
  for (int i = 0; i < count; i += LANES) vec_store(d + i, f(vec_load(v + i), vec_load(d + i)));
  act_store(dx, (size_t)begin, d, count, act);
}

int ISA_NAME(cpu_silu)(struct device *device, const struct silu_args *a) {
  int64_t elements = (int64_t)a->rows * a->cols;
#pragma omp parallel for num_threads(cpu_state(device)->threads) schedule(static)
  for (int64_t begin = 0; begin < elements; begin += CHUNK)
    values(a->y, a->x, begin, chunk_at(begin, elements), device->act, silu);
  return OK;
}

int ISA_NAME(cpu_silu_backward)(struct device *device, const struct silu_backward_args *a) {
  int64_t elements = (int64_t)a->rows * a->cols;
#pragma omp parallel for num_threads(cpu_state(device)->threads) schedule(static)
  for (int64_t begin = 0; begin < elements; begin += CHUNK)
    gradients(a->dx, a->dy, a->x, begin, chunk_at(begin, elements), device->act, silu_gradient);
  return OK;
}

int ISA_NAME(cpu_relu)(struct device *device, const struct relu_args *a) {
  int64_t elements = (int64_t)a->rows * a->cols;
#pragma omp parallel for num_threads(cpu_state(device)->threads) schedule(static)
  for (int64_t begin = 0; begin < elements; begin += CHUNK)
    values(a->y, a->x, begin, chunk_at(begin, elements), device->act, relu);
  return OK;
}

int ISA_NAME(cpu_relu_backward)(struct device *device, const struct relu_backward_args *a) {
  int64_t elements = (int64_t)a->rows * a->cols;
#pragma omp parallel for num_threads(cpu_state(device)->threads) schedule(static)
  for (int64_t begin = 0; begin < elements; begin += CHUNK)
    gradients(a->dx, a->dy, a->y, begin, chunk_at(begin, elements), device->act, relu_gradient);
  return OK;
}

static float pool_window(const float *x, int window, bool maximum) {
  float result = x[0];
  for (int i = 1; i < window; i++) {
    if (maximum) {
      result = x[i] > result ? x[i] : result;
    } else {
      result += x[i];
    }
  }
  return maximum ? result : result / (float)window;
}

int ISA_NAME(cpu_pool)(struct device *device, const struct pool_args *a) {
  int at_once = POOL_WINDOW_MAX / a->window; /* windows that fit the buffer */
#pragma omp parallel for num_threads(cpu_state(device)->threads) schedule(static)
  for (int t = 0; t < a->rows; t++) {
    float x[POOL_WINDOW_MAX], y[POOL_WINDOW_MAX];
    size_t row = (size_t)t * (size_t)a->cols;
    for (int begin = 0; begin < a->cols; begin += at_once) {
      int count = a->cols - begin < at_once ? a->cols - begin : at_once;
      size_t from = row + (size_t)begin;
      act_load(x, a->x, from * (size_t)a->window, count * a->window, device->act);
      for (int i = 0; i < count; i++) y[i] = pool_window(x + i * a->window, a->window, a->maximum);
      act_store(a->y, from, y, count, device->act);
    }
  }
  return OK;
}

int ISA_NAME(cpu_to_act)(struct device *device, const struct to_act_args *a) {
  int64_t elements = (int64_t)a->count;
#pragma omp parallel for num_threads(cpu_state(device)->threads) schedule(static)
  for (int64_t begin = 0; begin < elements; begin += CHUNK) {
    int count = elements - begin < CHUNK ? (int)(elements - begin) : CHUNK;
    act_store(a->y, (size_t)begin, a->x + begin, count, device->act);
  }
  return OK;
}

int ISA_NAME(cpu_from_act)(struct device *device, const struct from_act_args *a) {
  int64_t elements = (int64_t)a->count;
#pragma omp parallel for num_threads(cpu_state(device)->threads) schedule(static)
  for (int64_t begin = 0; begin < elements; begin += CHUNK) {
    int count = elements - begin < CHUNK ? (int)(elements - begin) : CHUNK;
    act_load(a->y + begin, a->x, (size_t)begin, count, device->act);
  }
  return OK;
}
