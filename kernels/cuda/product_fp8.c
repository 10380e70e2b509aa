/* Products in 8-bit floats: both operands are rounded into the workspace, as many rows of the weights at a time as it holds. On
 * Hopper cuBLASLt scales rows and columns of a bf16 result itself; elsewhere, and with a bias, sums are left in fp32 and scaled
 * at the end. */
#include "base/error.h"
#include "kernels/cuda/product.h"
#include "kernels/cuda/task.h"

/** cuBLASLt's kernels for E4M3 want whole 16 bytes of every row. */
static const int GRAIN = 16;
static const int FEW_ROWS = 64;

struct operands {
  uint8_t *inputs;
  float *input_scales, *weight_scales;
};

static struct operands operands_of(const struct device *device) {
  const struct device_limits *limits = &cuda_state(device)->limits;
  uint8_t *inputs = cuda_products(device)->fp8;
  float *input_scales = (float *)(void *)(inputs + cuda_fp8_input_bytes(limits));
  return (struct operands){inputs, input_scales, input_scales + cuda_piece((size_t)limits->rows * sizeof(float)) / 4};
}

static int check(const struct device *device, const struct frozen_linear_args *a, int n) {
  const struct device_limits *limits = &cuda_state(device)->limits;
  if (a->rows > limits->rows || a->parts[0]->cols > limits->widest_input)
    return fail(ERR_INTERNAL, "an fp8 product of %d rows of %d: more than the limits at opening", a->rows,
                a->parts[0]->cols);
  if (n % GRAIN == 0 && a->parts[0]->cols % GRAIN == 0) return OK;
  return fail(ERR_INPUT,
              "--backbone-compute fp8: weights of %d x %d are not multiples of %d, which GPUs multiply: use bf16", n,
              a->parts[0]->cols, GRAIN);
}

/** Rows first .. last of the parts, one below the other. */
static int round_weights(struct device *device, const struct frozen_linear_args *a, float *scales, int first,
                         int last) {
  uint8_t *to = cuda_products(device)->weights;
  for (int i = 0, above = 0; above < last; above += a->parts[i++]->rows) {
    const struct matrix *part = a->parts[i];
    int from = first > above ? first - above : 0, end = last - above < part->rows ? last - above : part->rows;
    if (from >= end) continue;
    TRY(cuda_check(cuda_launch_fp8_weights(cuda_context(device), to, scales, part, from, end - from),
                   "rounding to fp8"));
    to += (size_t)(end - from) * (size_t)part->cols, scales += end - from;
  }
  return OK;
}

/** Whether cuBLASLt itself does: not asked again once it had no algorithm for an ordinary product of the kind. For few rows it
 *  may have none and yet do all others. */
static bool scales_rows(struct device *device, const struct task *task, const struct operands *o) {
  bool *asked = &cuda_state(device)->scales_rows[task->residual != NULL];
  struct task scaled = *task;
  if (!*asked || device->act != DTYPE_BF16) return false;
  scaled.a_scales = o->input_scales, scaled.b_scales = o->weight_scales;
  bool can = cuda_can_run(device, &scaled);
  *asked = can || task->m < FEW_ROWS;
  return can;
}

/** Columns first .. first + count of y. */
static int run_columns(struct device *device, const struct frozen_linear_args *a, const struct operands *o, int first,
                       int count, int all) {
  int k = a->parts[0]->cols;
  struct task task = {.a = o->inputs,
                      .b = cuda_products(device)->weights,
                      .residual = a->residual ? device_act_at(device, a->residual, (size_t)first) : NULL,
                      .c = device_act_at(device, a->y, (size_t)first),
                      .m = a->rows,
                      .n = count,
                      .k = k,
                      .lda = k,
                      .ldb = k,
                      .ldc = all,
                      .fp8 = true,
                      .c_type = device->act};
  TRY(round_weights(device, a, o->weight_scales, first, first + count));
  if (!a->bias && scales_rows(device, &task, o)) {
    task.a_scales = o->input_scales, task.b_scales = o->weight_scales;
    return cuda_run_task(device, &task);
  }
  return cuda_run_through_sums(
      device, &task,
      &(struct product_end){
          .bias = a->bias ? a->bias + first : NULL, .row_scales = o->input_scales, .col_scales = o->weight_scales});
}

int cuda_frozen_linear_fp8(struct device *device, const struct frozen_linear_args *a) {
  struct operands operands = operands_of(device);
  int n = 0, k = a->parts[0]->cols;
  for (int i = 0; i < a->part_count; i++) n += a->parts[i]->rows;
  TRY(check(device, a, n));
  size_t fit = device_act_bytes(device, cuda_weight_count(&cuda_state(device)->limits)) / (size_t)k;
  int most = (int)(fit < CUDA_FP8_WEIGHT_ROWS ? fit : CUDA_FP8_WEIGHT_ROWS) / GRAIN * GRAIN;
  if (most == 0) return fail(ERR_INTERNAL, "weights of %d columns: more than the workspace holds", k);
  TRY(cuda_check(
      cuda_launch_fp8_activations(cuda_context(device), operands.inputs, operands.input_scales, a->x, a->rows, k),
      "rounding to fp8"));
  for (int first = 0; first < n; first += most)
    TRY(run_columns(device, a, &operands, first, n - first < most ? n - first : most, n));
  return OK;
}
