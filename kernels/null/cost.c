#include "kernels/null/cost.h"

#include <string.h>

#include "kernels/null/hardware.h"

/* Notation: T rows, n and k the rows and columns of a weight, c columns, a bytes of an activation. 64-bit sums are 8 bytes,
 * fp32 numbers 4. */

typedef struct cost cost;

static cost moves(double bytes) {
  return (cost){.bytes = bytes};
}

/* Codes and scales as they are stored. */
static double stored(const struct matrix *m) {
  double scales = m->double_quantized ? (double)matrix_blocks(m) + 4.0 * (double)matrix_scale_blocks(m)
                                      : 4.0 * (double)matrix_blocks(m);
  return (double)matrix_code_bytes(m) + scales;
}

/* 2 T n k; x, w and y once, the residual, the bias */
static cost product(double rows, double n, double k, double act, double weights, bool residual, bool bias) {
  return (cost){.flops = 2 * rows * n * k,
                .bytes = act * rows * (k + n + (residual ? n : 0)) + weights + (bias ? 4 * n : 0)};
}

/* T c a: the result; T c 2 of each bf16 table, one or two, and 4 T: the numbers of its rows */
static cost embed_cost(const struct embed_args *a, double act) {
  double tables = a->position_table ? 2 : 1;
  return moves((double)a->rows * (a->table->cols * (2 * tables + act) + 4 * tables));
}

static cost frozen_linear_cost(const struct frozen_linear_args *a, double act) {
  double n = 0, weights = 0, unpacked = 0;
  for (int i = 0; i < a->part_count; i++) {
    n += a->parts[i]->rows;
    weights += stored(a->parts[i]);
    if (a->parts[i]->format != WEIGHT_BF16) unpacked += act * (double)matrix_elements(a->parts[i]);
  }
  cost out = product(a->rows, n, a->parts[0]->cols, act, weights, a->residual != NULL, a->bias != NULL);
  out.unpacked = unpacked;
  return out;
}

/* logits are fp32: 4 T n */
static cost frozen_logits_cost(const struct frozen_logits_args *a, double act) {
  double rows = a->rows, n = a->weight->rows, k = a->weight->cols;
  return (cost){.flops = 2 * rows * n * k, .bytes = act * rows * k + stored(a->weight) + 4 * rows * n};
}

static cost frozen_input_grad_cost(const struct frozen_input_grad_args *a, double act) {
  return product(a->rows, a->weight->cols, a->weight->rows, act, stored(a->weight), false, false);
}

static cost linear_cost(const struct linear_args *a, double act) {
  return product(a->rows, a->n, a->k, act, act * a->n * (double)a->k, a->residual != NULL, a->bias != NULL);
}

/* dx is read as well where it is added to */
static cost linear_input_grad_cost(const struct linear_input_grad_args *a, double act) {
  return product(a->rows, a->k, a->n, act, act * a->n * (double)a->k, a->accumulate, false);
}

/* dw is fp32: 4 n k; dbias 4 n */
static cost linear_weight_grad_cost(const struct linear_weight_grad_args *a, double act) {
  double weights = (double)a->n * a->k;
  return (cost){.flops = 2 * a->rows * weights,
                .bytes = act * a->rows * ((double)a->n + a->k) + 4 * weights + (a->dbias ? 4.0 * a->n : 0)};
}

/* `tensors` of T c activations, `vectors` of c and `columns` of T fp32 numbers */
static cost rows_cost(int rows, int cols, double act, double tensors, double vectors, double columns) {
  return moves(act * tensors * rows * cols + 4 * (vectors * cols + columns * rows));
}

static cost rmsnorm_cost(const struct rmsnorm_args *a, double act) {
  return rows_cost(a->rows, a->cols, act, 2, 1, a->rstd ? 1 : 0);
}
static cost rmsnorm_backward_cost(const struct rmsnorm_backward_args *a, double act) {
  return rows_cost(a->rows, a->cols, act, a->accumulate ? 4 : 3, 2, 1);
}
static cost layernorm_cost(const struct layernorm_args *a, double act) {
  return rows_cost(a->rows, a->cols, act, 2, 2, a->rstd ? 2 : 0);
}
static cost layernorm_backward_cost(const struct layernorm_backward_args *a, double act) {
  return rows_cost(a->rows, a->cols, act, a->accumulate ? 4 : 3, 3, 2);
}

/* The rotated heads are read and written; a row's position, cosines and sines: 4 (1 + head_dim) */
static cost rope_cost(const struct rope_args *a, double act) {
  return moves((double)a->rows * (2 * act * a->heads * a->head_dim + 4.0 * (1 + a->head_dim)));
}

/* Two products of `pairs` queries and keys a head, scores and values: 4 pairs heads head_dim. q, o: T heads head_dim; k, v:
 * T kv_heads head_dim each, which in training is all of them; lse 4 T heads */
static cost attention_cost(const struct attention_args *a, double act) {
  double width = (double)a->heads * a->head_dim, keys = (double)a->kv_heads * a->head_dim;
  return (cost){.flops = 4 * (double)a->segments.pairs * width,
                .bytes = a->rows * (act * 2 * (width + keys) + (a->lse ? 4.0 * a->heads : 0)),
                .narrow = a->head_dim < MATRIX_HEAD_DIM};
}

/* Five products (Dao et al. 2022): scores again, dv, dp, dq, dk. q, k, v, their gradients, o, do; lse */
static cost attention_backward_cost(const struct attention_backward_args *a, double act) {
  double width = (double)a->heads * a->head_dim, keys = (double)a->kv_heads * a->head_dim;
  return (cost){.flops = 10 * (double)a->segments.pairs * width,
                .bytes = a->rows * (act * 4 * (width + keys) + 4.0 * a->heads),
                .narrow = a->head_dim < MATRIX_HEAD_DIM};
}

static cost swiglu_cost(const struct swiglu_args *a, double act) {
  return rows_cost(a->rows, a->cols, act, 3, 0, 0);
}
static cost swiglu_backward_cost(const struct swiglu_backward_args *a, double act) {
  return rows_cost(a->rows, a->cols, act, 5, 0, 0);
}
static cost silu_cost(const struct silu_args *a, double act) {
  return rows_cost(a->rows, a->cols, act, 2, 0, 0);
}
static cost silu_backward_cost(const struct silu_backward_args *a, double act) {
  return rows_cost(a->rows, a->cols, act, 3, 0, 0);
}
static cost relu_cost(const struct relu_args *a, double act) {
  return rows_cost(a->rows, a->cols, act, 2, 0, 0);
}
static cost relu_backward_cost(const struct relu_backward_args *a, double act) {
  return rows_cost(a->rows, a->cols, act, 3, 0, 0);
}
static cost pool_cost(const struct pool_args *a, double act) {
  return rows_cost(a->rows, a->cols, act, 1.0 + a->window, 0, 0);
}
static cost gate_cost(const struct gate_args *a, double act) {
  return rows_cost(a->rows, a->cols, act, 3, 1, 0);
}
static cost gate_backward_cost(const struct gate_backward_args *a, double act) {
  return rows_cost(a->rows, a->cols, act, 5, 2, 0);
}

/* The mix weight: one number or c of them */
static double mix_vectors(enum mix_kind kind) {
  return kind == MIX_GATE ? 1 : 0;
}
static cost mix_cost(const struct mix_args *a, double act) {
  return rows_cost(a->rows, a->cols, act, 3, mix_vectors(a->kind), 0);
}
/* dy and dside; h, and the side's part, only where a weight has a gradient */
static cost mix_backward_cost(const struct mix_backward_args *a, double act) {
  return rows_cost(a->rows, a->cols, act, a->kind == MIX_RESIDUAL ? 2 : 4, 2 * mix_vectors(a->kind), 0);
}

/* Read, written; zeroed rows are written once more; 4 T for each index */
static cost copy_rows_cost(const struct copy_rows_args *a, double act) {
  double indices = (a->x_index ? 1.0 : 0) + (a->y_index ? 1.0 : 0);
  return moves(act * a->cols * (2.0 * a->rows + a->zero_rows) + 4 * indices * a->rows);
}

static cost to_act_cost(const struct to_act_args *a, double act) {
  return moves((double)a->count * (4 + act));
}
static cost from_act_cost(const struct from_act_args *a, double act) {
  return moves((double)a->count * (4 + act));
}
/* fp32 logits in, gradients out; a label and a loss a row */
static cost cross_entropy_cost(const struct cross_entropy_args *a, double act) {
  return moves((double)a->rows * (a->cols * (4 + (a->dlogits ? act : 0)) + 8));
}
static cost argmax_cost(const struct argmax_args *a, double act) {
  (void)act;
  return moves((double)a->rows * (4.0 * a->cols + 4));
}

/* A sum is read and written: 16 bytes a number and 4 of its own */
static cost fixed_add_cost(const struct fixed_add_args *a, double act) {
  (void)act;
  return moves(20.0 * (double)a->count);
}
static cost fixed_total_cost(const struct fixed_total_args *a, double act) {
  (void)act;
  return moves(4.0 * (double)a->count + 16);
}
static cost fixed_get_cost(const struct fixed_get_args *a, double act) {
  (void)act;
  return moves(12.0 * (double)a->count);
}
static cost sum_squares_cost(const struct sum_squares_args *a, double act) {
  (void)act;
  return moves(4.0 * (double)a->count + 8);
}
/* master, m and v are read and written, the gradient read: 28; the activation-typed copy */
static cost adamw_cost(const struct adamw_args *a, double act) {
  return moves((double)a->count * (28 + (a->weights ? act : 0)));
}

struct entry {
  const char *name;
  cost (*of)(const void *arguments, double act);
};

#define WITH_ANY_ARGUMENTS(name)                                    \
  static cost name##_of(const void *arguments, double act) {        \
    return name##_cost((const struct name##_args *)arguments, act); \
  }
DEVICE_OPERATIONS(WITH_ANY_ARGUMENTS)
#undef WITH_ANY_ARGUMENTS

#define ENTRY(operation) [OPERATION_##operation] = {.name = #operation, .of = operation##_of},
static const struct entry entries[OPERATION_COUNT] = {DEVICE_OPERATIONS(ENTRY)};
#undef ENTRY

const char *operation_name(enum operation operation) {
  return entries[operation].name;
}

enum operation operation_find(const char *name) {
  int found = 0;
  while (found < OPERATION_COUNT && strcmp(entries[found].name, name) != 0) found++;
  return (enum operation)found;
}

struct cost operation_cost(enum operation operation, const void *arguments, enum dtype act) {
  return entries[operation].of(arguments, (double)dtype_size(act));
}
