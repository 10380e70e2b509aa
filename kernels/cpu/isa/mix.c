/**
 * @file mix.c
 * Where backbone and side network meet: the gates of the side layers and the mix before the head.
 */
#include "base/error.h"
#include "kernels/cpu/isa/isa.h"
#include "kernels/cpu/isa/vec.h"

int ISA_NAME(cpu_gate)(struct device *device, const struct gate_args *a) {
#pragma omp parallel for num_threads(cpu_state(device)->threads) schedule(static)
  for (int t = 0; t < a->rows; t++) {
    float d[CHUNK], s[CHUNK];
    for (int begin = 0; begin < a->cols; begin += CHUNK) {
      int count = chunk_length(begin, a->cols);
      size_t from = (size_t)t * (size_t)a->cols + (size_t)begin;
      const float *z = a->z + begin;
      act_load(d, a->d, from, count, device->act);
      act_load(s, a->s, from, count, device->act);
#pragma omp simd
      for (int i = 0; i < count; i++) {
        float open = row_sigmoid(z[i]);
        d[i] = (1.0f - open) * d[i] + open * s[i];
      }
      act_store(a->u, from, d, count, device->act);
    }
  }
  return OK;
}

static void gate_row_backward(float *dz, const struct gate_backward_args *a, int t, enum dtype act) {
  float du[CHUNK], d[CHUNK], s[CHUNK];
  for (int begin = 0; begin < a->cols; begin += CHUNK) {
    int count = chunk_length(begin, a->cols);
    size_t from = (size_t)t * (size_t)a->cols + (size_t)begin;
    const float *z = a->z + begin;
    float *dz_chunk = dz + begin;
    act_load(du, a->du, from, count, act);
    act_load(d, a->d, from, count, act);
    act_load(s, a->s, from, count, act);
#pragma omp simd
    for (int i = 0; i < count; i++) {
      float open = row_sigmoid(z[i]);
      dz_chunk[i] += open * (1.0f - open) * du[i] * (s[i] - d[i]);
      d[i] = (1.0f - open) * du[i];
      s[i] = open * du[i];
    }
    act_store(a->dd, from, d, count, act);
    act_store(a->ds, from, s, count, act);
  }
}

int ISA_NAME(cpu_gate_backward)(struct device *device, const struct gate_backward_args *a) {
  const struct cpu_state *state = cpu_state(device);
  int blocks = sum_blocks(a->rows);
  if (a->cols > state->sum_width) return fail(ERR_INTERNAL, "%d columns: more than the limits at opening", a->cols);
#pragma omp parallel for num_threads(state->threads) schedule(static)
  for (int block = 0; block < blocks; block++) {
    float *dz = sum_block(state, block);
    memset(dz, 0, (size_t)a->cols * sizeof *dz);
    for (int t = sum_block_start(a->rows, blocks, block); t < sum_block_start(a->rows, blocks, block + 1); t++)
      gate_row_backward(dz, a, t, device->act);
  }
  add_sum_blocks(a->dz, state, blocks, 0, a->cols);
  return OK;
}

/** How much of the backbone each of `count` columns keeps; unused for MIX_RESIDUAL. */
static void mix_share(float *share, const float *weight, enum mix_kind kind, int begin, int count) {
  for (int i = 0; i < count; i++) share[i] = kind == MIX_GATE ? row_sigmoid(weight[begin + i]) : weight[0];
}

int ISA_NAME(cpu_mix)(struct device *device, const struct mix_args *a) {
#pragma omp parallel for num_threads(cpu_state(device)->threads) schedule(static)
  for (int t = 0; t < a->rows; t++) {
    float h[CHUNK], side[CHUNK], share[CHUNK];
    for (int begin = 0; begin < a->cols; begin += CHUNK) {
      int count = chunk_length(begin, a->cols);
      size_t from = (size_t)t * (size_t)a->cols + (size_t)begin;
      act_load(h, a->h, from, count, device->act);
      act_load(side, a->side, from, count, device->act);
      if (a->kind == MIX_RESIDUAL) {
#pragma omp simd
        for (int i = 0; i < count; i++) h[i] += side[i];
      } else {
        mix_share(share, a->weight, a->kind, begin, count);
#pragma omp simd
        for (int i = 0; i < count; i++) h[i] = share[i] * h[i] + (1.0f - share[i]) * side[i];
      }
      act_store(a->y, from, h, count, device->act);
    }
  }
  return OK;
}

/** dside of a row, and dshare[column] += dy (h − side). */
static void mix_row_backward(float *dshare, const struct mix_backward_args *a, int t, enum dtype act) {
  float dy[CHUNK], h[CHUNK], side[CHUNK], share[CHUNK];
  for (int begin = 0; begin < a->cols; begin += CHUNK) {
    int count = chunk_length(begin, a->cols);
    size_t from = (size_t)t * (size_t)a->cols + (size_t)begin;
    float *dshare_chunk = dshare + begin;
    act_load(dy, a->dy, from, count, act);
    act_load(h, a->h, from, count, act);
    act_load(side, a->side, from, count, act);
    mix_share(share, a->weight, a->kind, begin, count);
#pragma omp simd
    for (int i = 0; i < count; i++) {
      dshare_chunk[i] += dy[i] * (h[i] - side[i]);
      dy[i] *= 1.0f - share[i];
    }
    act_store(a->dside, from, dy, count, act);
  }
}

/** From the gradients of the columns' shares to that of the weights. */
static void mix_weight_gradient(const struct mix_backward_args *a, const struct cpu_state *state, int blocks) {
  float chunk[CHUNK], share[CHUNK];
  double sum = 0;
  for (int begin = 0; begin < a->cols; begin += CHUNK) {
    int count = chunk_length(begin, a->cols);
    add_sum_blocks(chunk, state, blocks, begin, count);
    mix_share(share, a->weight, a->kind, begin, count);
    for (int i = 0; i < count; i++) {
      sum += (double)chunk[i];
      if (a->kind == MIX_GATE) a->dweight[begin + i] = share[i] * (1.0f - share[i]) * chunk[i];
    }
  }
  if (a->kind == MIX_ALPHA) a->dweight[0] = (float)sum;
}

static void mix_residual_backward(struct device *device, const struct mix_backward_args *a) {
  if (a->dside != a->dy) memcpy(a->dside, a->dy, device_act_bytes(device, (size_t)a->rows * (size_t)a->cols));
}

int ISA_NAME(cpu_mix_backward)(struct device *device, const struct mix_backward_args *a) {
  const struct cpu_state *state = cpu_state(device);
  int blocks = sum_blocks(a->rows);
  if (a->cols > state->sum_width) return fail(ERR_INTERNAL, "%d columns: more than the limits at opening", a->cols);
  if (a->kind == MIX_RESIDUAL) {
    if (a->rows > 0) mix_residual_backward(device, a);
    return OK;
  }
#pragma omp parallel for num_threads(state->threads) schedule(static)
  for (int block = 0; block < blocks; block++) {
    float *dshare = sum_block(state, block);
    memset(dshare, 0, (size_t)a->cols * sizeof *dshare);
    for (int t = sum_block_start(a->rows, blocks, block); t < sum_block_start(a->rows, blocks, block + 1); t++)
      mix_row_backward(dshare, a, t, device->act);
  }
  mix_weight_gradient(a, state, blocks);
  return OK;
}
