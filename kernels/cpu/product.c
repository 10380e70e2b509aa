#include "kernels/cpu/product.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/fp8.h"
#include "kernels/cpu/multiply.h"

/** Below this many multiplications a product is done by one thread: waking the others would take longer. */
static const int64_t SMALL_PRODUCT = 1 << 18;

struct product {
  int threads;
  uint32_t *memory;
  size_t bytes;
  struct fp8 fp8;
  struct multiply_scratch *scratch; /**< [threads] */
};

static const struct {
  int64_t (*units)(const struct multiply *);
  void (*run)(const struct multiply *, struct multiply_scratch *, int64_t, int64_t);
} implementations[CPU_ISAS] = {
    [CPU_PLAIN] = {multiply_units_plain, multiply_run_plain},
    [CPU_AVX2] = {multiply_units_avx2, multiply_run_avx2},
    [CPU_AVX512] = {multiply_units_avx512, multiply_run_avx512},
};

/* ---- workspace ------------------------------------------------------------------------------------------ */

enum { THREAD_WORDS = PANEL_WORDS + PANEL_SLACK + SUM_WORDS + TILE_WORDS + STAGE_WORDS };

static void share_out(struct product *product) {
  for (int t = 0; t < product->threads; t++) {
    uint32_t *memory = product->memory + (size_t)t * THREAD_WORDS;
    float *sums = (float *)(memory + PANEL_WORDS + PANEL_SLACK);
    uint32_t *tile = memory + PANEL_WORDS + PANEL_SLACK + SUM_WORDS;
    product->scratch[t] = (struct multiply_scratch){memory, sums, tile, tile + TILE_WORDS};
  }
}

static size_t scratch_bytes(int threads) {
  return 4 * (size_t)THREAD_WORDS * (size_t)threads;
}

size_t product_bytes(const struct device_limits *limits, int threads) {
  return scratch_bytes(threads) + fp8_bytes(limits);
}

int product_open(struct device *device, const struct device_options *options) {
  struct cpu_state *state = cpu_state(device);
  struct product *product;
  TRY(memory_array(&product, 1, sizeof *product));
  state->product = product;
  product->threads = state->threads;
  product->bytes = scratch_bytes(product->threads);
  int status;
  TRY_GOTO(status, failed, memory_array(&product->memory, (size_t)THREAD_WORDS * product->threads, 4));
  TRY_GOTO(status, failed, memory_array(&product->scratch, product->threads, sizeof *product->scratch));
  share_out(product);
  device->allocated[MEMORY_WORKSPACE] += product->bytes;
  return fp8_open(&product->fp8, device, &options->limits);
failed:
  product->bytes = 0;
  product_close(device);
  return fail_at(status, "workspace of the matrix products");
}

void product_close(struct device *device) {
  struct cpu_state *state = cpu_state(device);
  if (!state || !state->product) return;
  fp8_close(&state->product->fp8, device);
  device->allocated[MEMORY_WORKSPACE] -= state->product->bytes;
  free(state->product->memory);
  free(state->product->scratch);
  free(state->product);
  state->product = NULL;
}

static int run(struct device *device, const struct multiply *task) {
  struct cpu_state *state = cpu_state(device);
  if (task->m == 0 || task->n == 0) return OK;
  int64_t units = implementations[state->isa].units(task);
  bool small = (int64_t)task->m * task->n * task->k < SMALL_PRODUCT;
#pragma omp parallel num_threads(small ? 1 : state->threads)
  {
    int thread = omp_get_thread_num(), threads = omp_get_num_threads();
    implementations[state->isa].run(task, &state->product->scratch[thread], units * thread / threads,
                                    units * (thread + 1) / threads);
  }
  return OK;
}

/* ---- frozen weights ------------------------------------------------------------------------------------- */

/** y = the token's row, plus that of its position where there is one. */
static void embed_row(void *y, enum dtype act, const bf16 *token, const bf16 *position, int cols) {
  if (act == DTYPE_BF16 && !position) {
    memcpy(y, token, 2 * (size_t)cols);
    return;
  }
  for (int i = 0; i < cols; i++) {
    float value = bf16_to_float(token[i]);
    if (position) value += bf16_to_float(position[i]);
    if (act == DTYPE_BF16)
      ((bf16 *)y)[i] = float_to_bf16(value);
    else
      ((float *)y)[i] = value;
  }
}

int cpu_embed(struct device *device, const struct embed_args *arguments) {
  const struct matrix *table = arguments->table, *position_table = arguments->position_table;
  size_t cols = (size_t)table->cols;
  for (int t = 0; t < arguments->rows; t++) {
    int32_t token = arguments->tokens[t], position = position_table ? arguments->positions[t] : 0;
    if (token < 0 || token >= table->rows)
      return fail(ERR_INTERNAL, "embed: token %d is not in the vocabulary of %d", token, table->rows);
    if (position_table && (position < 0 || position >= position_table->rows))
      return fail(ERR_INTERNAL, "embed: row %d is at position %d of %d", t, position, position_table->rows);
    embed_row((char *)arguments->y + t * device_act_bytes(device, cols), device->act,
              (const bf16 *)table->codes + token * cols,
              position_table ? (const bf16 *)position_table->codes + position * cols : NULL, table->cols);
  }
  return OK;
}

int cpu_frozen_linear(struct device *device, const struct frozen_linear_args *arguments) {
  int n = 0, k = arguments->parts[0]->cols;
  for (int i = 0; i < arguments->part_count; i++) n += arguments->parts[i]->rows;
  struct multiply task = {
      .m = arguments->rows,
      .n = n,
      .k = k,
      .a = {arguments->x, device->act, k, 1},
      .parts = arguments->parts,
      .part_count = arguments->part_count,
      .c = arguments->y,
      .c_type = device->act,
      .bias = arguments->bias,
      .residual = arguments->residual,
  };
  struct fp8 *fp8 = &cpu_state(device)->product->fp8;
  if (fp8->weights) {
    TRY(fp8_operands(fp8, device, arguments, n, k));
    task.a.data = fp8->inputs;
    task.b = (struct operand){fp8->weights, device->act, k, 1};
    task.parts = NULL, task.part_count = 0;
  }
  return run(device, &task);
}

int cpu_frozen_logits(struct device *device, const struct frozen_logits_args *arguments) {
  const struct matrix *weight = arguments->weight;
  return run(device, &(struct multiply){
                         .m = arguments->rows,
                         .n = weight->rows,
                         .k = weight->cols,
                         .a = {arguments->x, device->act, weight->cols, 1},
                         .parts = &weight,
                         .part_count = 1,
                         .c = arguments->logits,
                         .c_type = DTYPE_F32,
                     });
}

int cpu_frozen_input_grad(struct device *device, const struct frozen_input_grad_args *arguments) {
  const struct matrix *weight = arguments->weight;
  return run(device, &(struct multiply){
                         .m = arguments->rows,
                         .n = weight->cols,
                         .k = weight->rows,
                         .a = {arguments->dy, device->act, weight->rows, 1},
                         .b = {weight->codes, DTYPE_BF16, 1, weight->cols},
                         .c = arguments->dx,
                         .c_type = device->act,
                     });
}

/* ---- trained weights ------------------------------------------------------------------------------------ */

int cpu_linear(struct device *device, const struct linear_args *arguments) {
  return run(device, &(struct multiply){
                         .m = arguments->rows,
                         .n = arguments->n,
                         .k = arguments->k,
                         .a = {arguments->x, device->act, arguments->k, 1},
                         .b = {arguments->w, device->act, arguments->k, 1},
                         .c = arguments->y,
                         .c_type = device->act,
                         .bias = arguments->bias,
                         .residual = arguments->residual,
                     });
}

int cpu_linear_input_grad(struct device *device, const struct linear_input_grad_args *arguments) {
  return run(device, &(struct multiply){
                         .m = arguments->rows,
                         .n = arguments->k,
                         .k = arguments->n,
                         .a = {arguments->dy, device->act, arguments->n, 1},
                         .b = {arguments->w, device->act, 1, arguments->k},
                         .c = arguments->dx,
                         .c_type = device->act,
                         .residual = arguments->accumulate ? arguments->dx : NULL,
                     });
}

/** Columns first .. last of dbias, each a sum over the rows in order. */
static void sum_columns(const struct linear_weight_grad_args *arguments, enum dtype act, int first, int last) {
  memset(arguments->dbias + first, 0, (size_t)(last - first) * sizeof(float));
  for (int t = 0; t < arguments->rows; t++) {
    size_t row = (size_t)t * arguments->n;
    if (act == DTYPE_BF16)
      for (int j = first; j < last; j++) arguments->dbias[j] += bf16_to_float(((const bf16 *)arguments->dy)[row + j]);
    else
      for (int j = first; j < last; j++) arguments->dbias[j] += ((const float *)arguments->dy)[row + j];
  }
}

int cpu_linear_weight_grad(struct device *device, const struct linear_weight_grad_args *arguments) {
  TRY(run(device, &(struct multiply){
                      .m = arguments->n,
                      .n = arguments->k,
                      .k = arguments->rows,
                      .a = {arguments->dy, device->act, 1, arguments->n},
                      .b = {arguments->x, device->act, 1, arguments->k},
                      .c = arguments->dw,
                      .c_type = DTYPE_F32,
                  }));
  if (!arguments->dbias) return OK;
  enum { COLUMNS = 64 };
  int blocks = (arguments->n + COLUMNS - 1) / COLUMNS;
#pragma omp parallel for num_threads(cpu_state(device)->threads) schedule(static) if (blocks > 1)
  for (int b = 0; b < blocks; b++) {
    int last = (b + 1) * COLUMNS;
    sum_columns(arguments, device->act, b * COLUMNS, last < arguments->n ? last : arguments->n);
  }
  return OK;
}
