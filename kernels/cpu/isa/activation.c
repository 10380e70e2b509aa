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

int ISA_NAME(cpu_silu)(struct device *device, const struct silu_args *a) {
  int64_t elements = (int64_t)a->rows * a->cols;
#pragma omp parallel for num_threads(cpu_state(device)->threads) schedule(static)
  for (int64_t begin = 0; begin < elements; begin += CHUNK) {
    float x[CHUNK];
    int count = elements - begin < CHUNK ? (int)(elements - begin) : CHUNK;
    act_load(x, a->x, (size_t)begin, count, device->act);
    for (int i = 0; i < count; i += LANES) {
      vec v = vec_load(x + i);
      vec_store(x + i, v * vec_sigmoid(v));
    }
    act_store(a->y, (size_t)begin, x, count, device->act);
  }
  return OK;
}

int ISA_NAME(cpu_silu_backward)(struct device *device, const struct silu_backward_args *a) {
  int64_t elements = (int64_t)a->rows * a->cols;
#pragma omp parallel for num_threads(cpu_state(device)->threads) schedule(static)
  for (int64_t begin = 0; begin < elements; begin += CHUNK) {
    float x[CHUNK], dy[CHUNK];
    int count = elements - begin < CHUNK ? (int)(elements - begin) : CHUNK;
    act_load(x, a->x, (size_t)begin, count, device->act);
    act_load(dy, a->dy, (size_t)begin, count, device->act);
    for (int i = 0; i < count; i += LANES) {
      vec v = vec_load(x + i), sigmoid = vec_sigmoid(v);
      vec_store(dy + i, vec_load(dy + i) * (sigmoid * (1.0f + v * (1.0f - sigmoid))));
    }
    act_store(a->dx, (size_t)begin, dy, count, device->act);
  }
  return OK;
}

int ISA_NAME(cpu_relu)(struct device *device, const struct relu_args *a) {
  int64_t elements = (int64_t)a->rows * a->cols;
#pragma omp parallel for num_threads(cpu_state(device)->threads) schedule(static)
  for (int64_t begin = 0; begin < elements; begin += CHUNK) {
    float x[CHUNK];
    int count = elements - begin < CHUNK ? (int)(elements - begin) : CHUNK;
    act_load(x, a->x, (size_t)begin, count, device->act);
    for (int i = 0; i < count; i += LANES) vec_store(x + i, vec_max(vec_set(0), vec_load(x + i))); /* a NaN stays one */
    act_store(a->y, (size_t)begin, x, count, device->act);
  }
  return OK;
}

int ISA_NAME(cpu_relu_backward)(struct device *device, const struct relu_backward_args *a) {
  int64_t elements = (int64_t)a->rows * a->cols;
#pragma omp parallel for num_threads(cpu_state(device)->threads) schedule(static)
  for (int64_t begin = 0; begin < elements; begin += CHUNK) {
    float y[CHUNK], dy[CHUNK];
    int count = elements - begin < CHUNK ? (int)(elements - begin) : CHUNK;
    act_load(y, a->y, (size_t)begin, count, device->act);
    act_load(dy, a->dy, (size_t)begin, count, device->act);
    for (int i = 0; i < count; i += LANES) {
      vec_int passes = vec_load(y + i) > vec_set(0);
      vec_store(dy + i, (vec)(passes & (vec_int)vec_load(dy + i)));
    }
    act_store(a->dx, (size_t)begin, dy, count, device->act);
  }
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
