#include "kernels/cuda/product.h"

#include "base/error.h"
#include "kernels/cuda/task.h"

/* ---- workspace ------------------------------------------------------------------------------------------- */

struct cuda_products *cuda_products(const struct device *device) {
  struct cuda_state *state = cuda_state(device);
  return &state->products[state->lane];
}

static size_t weight_bytes(const struct device *device) {
  return device_act_bytes(device, cuda_weight_count(&cuda_state(device)->limits));
}

static size_t sum_bytes(const struct device *device) {
  return cuda_sum_count(&cuda_state(device)->limits) * sizeof(float);
}

int cuda_product_open(struct device *device) {
  struct cuda_state *state = cuda_state(device);
  TRY(cuda_blas_open(device));
  for (enum lane lane = 0; lane < LANE_COUNT; lane++) {
    struct cuda_products *products = &state->products[lane];
    TRY(device_allocate(device, MEMORY_WORKSPACE, &products->weights, weight_bytes(device)));
    TRY(device_allocate(device, MEMORY_WORKSPACE, &products->sums, sum_bytes(device)));
    if (!state->limits.fp8) continue;
    TRY(device_allocate(device, MEMORY_WORKSPACE, &products->fp8, cuda_fp8_bytes(&state->limits)));
  }
  return OK;
}

void cuda_product_close(struct device *device) {
  struct cuda_state *state = cuda_state(device);
  for (enum lane lane = 0; lane < LANE_COUNT; lane++) {
    struct cuda_products *products = &state->products[lane];
    device_release(device, MEMORY_WORKSPACE, &products->weights, weight_bytes(device));
    device_release(device, MEMORY_WORKSPACE, &products->sums, sum_bytes(device));
    device_release(device, MEMORY_WORKSPACE, &products->fp8, cuda_fp8_bytes(&state->limits));
  }
  cuda_blas_close(device);
}

/* ---- through sums ---------------------------------------------------------------------------------------- */

int cuda_run_through_sums(struct device *device, const struct task *whole, const struct product_end *end) {
  float *sums = cuda_products(device)->sums;
  size_t input = whole->fp8 ? 1 : device_act_bytes(device, 1);
  int most = (int)(cuda_sum_count(&cuda_state(device)->limits) / (size_t)whole->n);
  if (most == 0) return fail(ERR_INTERNAL, "a product of %d columns: more than its workspace holds", whole->n);
  for (int row = 0; row < whole->m; row += most) {
    struct task part = *whole;
    size_t at = (size_t)row * (size_t)whole->ldc;
    part.m = whole->m - row < most ? whole->m - row : most;
    part.a = (const char *)whole->a + (size_t)row * (size_t)whole->lda * input;
    part.c = sums, part.c_type = DTYPE_F32, part.ldc = whole->n, part.residual = NULL;
    TRY(cuda_run_task(device, &part));
    struct finish_args finish = {.y = device_act_at(device, whole->c, at),
                                 .sums = sums,
                                 .row_scales = end->row_scales ? end->row_scales + row : NULL,
                                 .col_scales = end->col_scales,
                                 .bias = end->bias,
                                 .residual = whole->residual ? device_act_at(device, whole->residual, at) : NULL,
                                 .rows = part.m,
                                 .cols = whole->n,
                                 .y_stride = whole->ldc};
    TRY(cuda_check(cuda_launch_finish(cuda_context(device), &finish), "the end of a product"));
  }
  return OK;
}

/* ---- frozen weights -------------------------------------------------------------------------------------- */

/** Rows of a stack of matrices, as activations. */
struct frozen_rows {
  const struct matrix *const *parts;
  int first, last; /**< of the stack */
};

/** Fills the workspace with rows first .. last of the parts, one below the other. */
static int dequantize_rows(struct device *device, const struct frozen_rows *rows) {
  char *weights = cuda_products(device)->weights;
  size_t filled = 0;
  int above = 0;
  for (int i = 0; above < rows->last; above += rows->parts[i++]->rows) {
    const struct matrix *part = rows->parts[i];
    int first = rows->first > above ? rows->first - above : 0;
    int last = rows->last - above < part->rows ? rows->last - above : part->rows;
    if (first >= last) continue;
    size_t cols = (size_t)part->cols, count = (size_t)(last - first) * cols;
    TRY(cuda_check(cuda_launch_dequantize(cuda_context(device), device_act_at(device, weights, filled), part,
                                          (size_t)first * cols, count),
                   "dequantization"));
    filled += count;
  }
  return OK;
}

/** Columns first .. of the result with the same number of weights, which start at b. */
static struct task columns_of(const struct device *device, const struct task *whole, const void *b, int first,
                              int count) {
  struct task part = *whole;
  size_t elements = (size_t)first;
  part.b = b, part.n = count;
  part.c = (char *)whole->c + elements * dtype_size(whole->c_type);
  if (whole->residual) part.residual = device_act_at(device, whole->residual, elements);
  return part;
}

/** Whether the parts of a stack of `rows` rows are activations already. */
static bool in_place(const struct device *device, const struct matrix *const *parts, int rows) {
  bool all = device->act == DTYPE_BF16;
  for (int i = 0, above = 0; above < rows; above += parts[i++]->rows) all = all && parts[i]->format == WEIGHT_BF16;
  return all;
}

/** Rows of a weight of `cols` columns that are dequantized at a time: whole tiles, so that what follows begins aligned. */
static int rows_at_a_time(const struct device *device, int cols) {
  const int tile = 256;
  int most = (int)(cuda_weight_count(&cuda_state(device)->limits) / (size_t)cols);
  return most > tile ? most / tile * tile : most;
}

static int run_columns(struct device *device, const struct task *columns, const float *bias) {
  if (!bias) return cuda_run_task(device, columns);
  return cuda_run_through_sums(device, columns, &(struct product_end){.bias = bias});
}

/** C = A · [parts]ᵀ + bias: weights that are activations already are used where they are, others are dequantized as many rows
 *  at a time as the workspace holds. */
static int run_frozen(struct device *device, const struct task *whole, const struct matrix *const *parts,
                      const float *bias) {
  if (in_place(device, parts, whole->n)) {
    for (int i = 0, above = 0; above < whole->n; above += parts[i++]->rows) {
      struct task part = columns_of(device, whole, parts[i]->codes, above, parts[i]->rows);
      TRY(run_columns(device, &part, bias ? bias + above : NULL));
    }
    return OK;
  }
  int most = rows_at_a_time(device, whole->k);
  if (most == 0) return fail(ERR_INTERNAL, "weights of %d columns: more than the workspace holds", whole->k);
  for (int first = 0; first < whole->n; first += most) {
    int count = whole->n - first < most ? whole->n - first : most;
    TRY(dequantize_rows(device, &(struct frozen_rows){parts, first, first + count}));
    struct task part = columns_of(device, whole, cuda_products(device)->weights, first, count);
    TRY(run_columns(device, &part, bias ? bias + first : NULL));
  }
  return OK;
}

int cuda_frozen_linear(struct device *device, const struct frozen_linear_args *a) {
  if (cuda_products(device)->fp8) return cuda_frozen_linear_fp8(device, a);
  int n = 0, k = a->parts[0]->cols;
  for (int i = 0; i < a->part_count; i++) n += a->parts[i]->rows;
  struct task task = {.a = a->x,
                      .residual = a->residual,
                      .c = a->y,
                      .m = a->rows,
                      .n = n,
                      .k = k,
                      .lda = k,
                      .ldb = k,
                      .ldc = n,
                      .c_type = device->act};
  return run_frozen(device, &task, a->parts, a->bias);
}

int cuda_frozen_logits(struct device *device, const struct frozen_logits_args *a) {
  int n = a->weight->rows, k = a->weight->cols;
  struct task task = {
      .a = a->x, .c = a->logits, .m = a->rows, .n = n, .k = k, .lda = k, .ldb = k, .ldc = n, .c_type = DTYPE_F32};
  return run_frozen(device, &task, &a->weight, NULL);
}

/** The inner dimension is the vocabulary: pieces of it are added up in order. */
int cuda_frozen_input_grad(struct device *device, const struct frozen_input_grad_args *a) {
  const struct matrix *w = a->weight;
  bool direct = in_place(device, &a->weight, w->rows);
  int most = direct ? w->rows : rows_at_a_time(device, w->cols);
  if (most == 0) return fail(ERR_INTERNAL, "weights of %d columns: more than the workspace holds", w->cols);
  for (int first = 0; first < w->rows; first += most) {
    int count = w->rows - first < most ? w->rows - first : most;
    if (!direct) TRY(dequantize_rows(device, &(struct frozen_rows){&a->weight, first, first + count}));
    TRY(cuda_run_task(device, &(struct task){.a = device_act_at(device, a->dy, (size_t)first),
                                             .b = direct ? w->codes : cuda_products(device)->weights,
                                             .residual = first > 0 ? a->dx : NULL,
                                             .c = a->dx,
                                             .m = a->rows,
                                             .n = w->cols,
                                             .k = count,
                                             .lda = w->rows,
                                             .ldb = w->cols,
                                             .ldc = w->cols,
                                             .b_by_step = true,
                                             .c_type = device->act}));
  }
  return OK;
}

/* ---- trained weights ------------------------------------------------------------------------------------- */

int cuda_linear(struct device *device, const struct linear_args *a) {
  struct task task = {.a = a->x,
                      .b = a->w,
                      .residual = a->residual,
                      .c = a->y,
                      .m = a->rows,
                      .n = a->n,
                      .k = a->k,
                      .lda = a->k,
                      .ldb = a->k,
                      .ldc = a->n,
                      .c_type = device->act};
  return run_columns(device, &task, a->bias);
}

int cuda_linear_input_grad(struct device *device, const struct linear_input_grad_args *a) {
  return cuda_run_task(device, &(struct task){.a = a->dy,
                                              .b = a->w,
                                              .residual = a->accumulate ? a->dx : NULL,
                                              .c = a->dx,
                                              .m = a->rows,
                                              .n = a->k,
                                              .k = a->n,
                                              .lda = a->n,
                                              .ldb = a->k,
                                              .ldc = a->k,
                                              .b_by_step = true,
                                              .c_type = device->act});
}

int cuda_linear_weight_grad(struct device *device, const struct linear_weight_grad_args *a) {
  if (a->rows == 0) {
    TRY(device_zero(device, a->dw, (size_t)a->n * (size_t)a->k * sizeof(float)));
    return a->dbias ? device_zero(device, a->dbias, (size_t)a->n * sizeof(float)) : OK;
  }
  TRY(cuda_run_task(device, &(struct task){.a = a->dy,
                                           .b = a->x,
                                           .c = a->dw,
                                           .m = a->n,
                                           .n = a->k,
                                           .k = a->rows,
                                           .lda = a->n,
                                           .ldb = a->k,
                                           .ldc = a->k,
                                           .a_by_step = true,
                                           .b_by_step = true,
                                           .c_type = DTYPE_F32}));
  if (!a->dbias) return OK;
  return cuda_check(cuda_launch_column_sums(cuda_context(device), a->dbias, a->dy, a->rows, a->n), "sums of columns");
}
