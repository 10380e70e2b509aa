/**
 * @file operations.c
 * The device_NAME() wrappers: each operation's contract is checked once here, for every device.
 */
#include "base/error.h"
#include "kernels/device.h"

#define REQUIRE(condition) \
  if (!(condition)) return fail(ERR_INTERNAL, "not so: %s (a fault of this program, please report it)", #condition)

static bool is_frozen(const struct matrix *m) {
  if (!m || m->rows <= 0 || m->cols <= 0 || !m->codes) return false;
  if (m->format == WEIGHT_BF16) return true;
  return m->double_quantized ? m->scale_codes && m->scale_scales : m->scales != NULL;
}

static bool is_bf16(const struct matrix *m) {
  return is_frozen(m) && m->format == WEIGHT_BF16;
}

static int check_embed(const struct embed_args *a) {
  REQUIRE(a->rows >= 0 && is_bf16(a->table));
  REQUIRE(a->rows == 0 || (a->y && a->tokens));
  if (!a->position_table) {
    REQUIRE(!a->positions);
    return OK;
  }
  REQUIRE(is_bf16(a->position_table) && a->position_table->cols == a->table->cols);
  REQUIRE(a->rows == 0 || a->positions);
  return OK;
}

static int check_frozen_linear(const struct frozen_linear_args *a) {
  REQUIRE(a->part_count >= 1 && a->part_count <= FROZEN_PARTS);
  for (int i = 0; i < a->part_count; i++) {
    REQUIRE(is_frozen(a->parts[i]));
    REQUIRE(a->parts[i]->cols == a->parts[0]->cols);
  }
  REQUIRE(a->rows >= 0);
  REQUIRE(a->rows == 0 || (a->y && a->x && a->y != a->x));
  return OK;
}

static int check_frozen_logits(const struct frozen_logits_args *a) {
  REQUIRE(a->rows >= 0 && is_bf16(a->weight));
  REQUIRE(a->rows == 0 || (a->logits && a->x));
  return OK;
}

static int check_frozen_input_grad(const struct frozen_input_grad_args *a) {
  REQUIRE(a->rows >= 0 && is_bf16(a->weight));
  REQUIRE(a->rows == 0 || (a->dx && a->dy && a->dx != a->dy));
  return OK;
}

static int check_linear(const struct linear_args *a) {
  REQUIRE(a->rows >= 0 && a->n > 0 && a->k > 0 && a->w);
  REQUIRE(a->rows == 0 || (a->y && a->x && a->y != a->x));
  return OK;
}

static int check_linear_input_grad(const struct linear_input_grad_args *a) {
  REQUIRE(a->rows >= 0 && a->n > 0 && a->k > 0 && a->w);
  REQUIRE(a->rows == 0 || (a->dx && a->dy && a->dx != a->dy));
  return OK;
}

static int check_linear_weight_grad(const struct linear_weight_grad_args *a) {
  REQUIRE(a->rows >= 0 && a->n > 0 && a->k > 0 && a->dw);
  REQUIRE(a->rows == 0 || (a->dy && a->x));
  return OK;
}

static int check_rmsnorm(const struct rmsnorm_args *a) {
  REQUIRE(a->rows >= 0 && a->cols > 0 && a->w && a->epsilon >= 0);
  REQUIRE(a->rows == 0 || (a->y && a->x && a->y != a->x));
  return OK;
}

static int check_rmsnorm_backward(const struct rmsnorm_backward_args *a) {
  REQUIRE(a->rows >= 0 && a->cols > 0 && a->w && a->dw);
  REQUIRE(a->rows == 0 || (a->dx && a->dy && a->x && a->rstd));
  REQUIRE(a->rows == 0 || (a->dx != a->dy && a->dx != a->x));
  return OK;
}

static int check_layernorm(const struct layernorm_args *a) {
  REQUIRE(a->rows >= 0 && a->cols > 0 && a->w && a->b && a->epsilon >= 0);
  REQUIRE((a->mean == NULL) == (a->rstd == NULL));
  REQUIRE(a->rows == 0 || (a->y && a->x && a->y != a->x));
  return OK;
}

static int check_layernorm_backward(const struct layernorm_backward_args *a) {
  REQUIRE(a->rows >= 0 && a->cols > 0 && a->w && a->dw && a->db);
  REQUIRE(a->rows == 0 || (a->dx && a->dy && a->x && a->mean && a->rstd && a->dx != a->x));
  return OK;
}

static int check_rope(const struct rope_args *a) {
  REQUIRE(a->rows >= 0 && a->heads > 0 && a->head_dim > 0 && a->head_dim % 2 == 0);
  REQUIRE(a->stride / a->head_dim >= a->heads);
  REQUIRE(a->rows == 0 || (a->x && a->positions && a->cosines && a->sines && a->table_positions > 0));
  return OK;
}

enum { HEAD_DIM_MAX = 256 };

/** The shape that attention and its backward pass share. */
static int check_heads(int heads, int kv_heads, int head_dim, int q_stride, int kv_stride) {
  REQUIRE(head_dim >= 2 && head_dim <= HEAD_DIM_MAX);
  REQUIRE(kv_heads > 0 && heads >= kv_heads && heads % kv_heads == 0);
  REQUIRE(q_stride / head_dim >= heads && kv_stride / head_dim >= kv_heads);
  return OK;
}

static int check_segments(const struct segments *s, int rows) {
  REQUIRE(rows >= 0 && s->count >= 0);
  REQUIRE(rows == 0 || (s->count > 0 && s->q_start && s->k_start && s->k_length));
  REQUIRE(rows == 0 || (s->max_queries > 0 && s->max_keys >= 0));
  return OK;
}

static int check_attention(const struct attention_args *a) {
  TRY(check_heads(a->heads, a->kv_heads, a->head_dim, a->q_stride, a->kv_stride));
  TRY(check_segments(&a->segments, a->rows));
  REQUIRE(a->rows == 0 || (a->o && a->q && a->k && a->v && a->o != a->q));
  return OK;
}

static int check_attention_backward(const struct attention_backward_args *a) {
  TRY(check_heads(a->heads, a->kv_heads, a->head_dim, a->q_stride, a->kv_stride));
  TRY(check_segments(&a->segments, a->rows));
  REQUIRE(a->rows == 0 || (a->dq && a->dk && a->dv && a->d_o && a->o && a->lse && a->q && a->k && a->v));
  return OK;
}

static int check_swiglu(const struct swiglu_args *a) {
  REQUIRE(a->rows >= 0 && a->cols > 0);
  REQUIRE(a->rows == 0 || (a->y && a->x && a->y != a->x));
  return OK;
}

static int check_swiglu_backward(const struct swiglu_backward_args *a) {
  REQUIRE(a->rows >= 0 && a->cols > 0);
  REQUIRE(a->rows == 0 || (a->dx && a->dy && a->x && a->dx != a->dy && a->dx != a->x));
  return OK;
}

static int check_silu(const struct silu_args *a) {
  REQUIRE(a->rows >= 0 && a->cols > 0);
  REQUIRE(a->rows == 0 || (a->y && a->x));
  return OK;
}

static int check_silu_backward(const struct silu_backward_args *a) {
  REQUIRE(a->rows >= 0 && a->cols > 0);
  REQUIRE(a->rows == 0 || (a->dx && a->dy && a->x && a->dx != a->x));
  return OK;
}

static int check_relu(const struct relu_args *a) {
  REQUIRE(a->rows >= 0 && a->cols > 0);
  REQUIRE(a->rows == 0 || (a->y && a->x));
  return OK;
}

static int check_relu_backward(const struct relu_backward_args *a) {
  REQUIRE(a->rows >= 0 && a->cols > 0);
  REQUIRE(a->rows == 0 || (a->dx && a->dy && a->y && a->dx != a->y));
  return OK;
}

static int check_pool(const struct pool_args *a) {
  REQUIRE(a->rows >= 0 && a->cols > 0 && a->window > 0 && a->window <= POOL_WINDOW_MAX);
  REQUIRE(a->rows == 0 || (a->y && a->x && a->y != a->x));
  return OK;
}

static int check_gate(const struct gate_args *a) {
  REQUIRE(a->rows >= 0 && a->cols > 0 && a->z);
  REQUIRE(a->rows == 0 || (a->u && a->d && a->s && a->u != a->d && a->u != a->s));
  return OK;
}

static int check_gate_backward(const struct gate_backward_args *a) {
  REQUIRE(a->rows >= 0 && a->cols > 0 && a->z && a->dz);
  REQUIRE(a->rows == 0 || (a->dd && a->ds && a->du && a->d && a->s));
  REQUIRE(a->rows == 0 || (a->dd != a->ds && a->dd != a->du));
  return OK;
}

static bool is_mix(enum mix_kind kind, const float *weight) {
  return kind == MIX_RESIDUAL || ((kind == MIX_ALPHA || kind == MIX_GATE) && weight);
}

static int check_mix(const struct mix_args *a) {
  REQUIRE(a->rows >= 0 && a->cols > 0 && is_mix(a->kind, a->weight));
  REQUIRE(a->rows == 0 || (a->y && a->h && a->side && a->y != a->h));
  return OK;
}

static int check_mix_backward(const struct mix_backward_args *a) {
  REQUIRE(a->rows >= 0 && a->cols > 0 && is_mix(a->kind, a->weight) && is_mix(a->kind, a->dweight));
  REQUIRE(a->rows == 0 || (a->dside && a->dy && a->h && a->side));
  return OK;
}

static int check_copy_rows(const struct copy_rows_args *a) {
  REQUIRE(a->rows >= 0 && a->cols > 0 && a->y_stride >= a->cols && a->x_stride >= a->cols);
  REQUIRE(a->zero_rows == 0 || (a->zero_rows > 0 && a->y && a->y_stride == a->cols));
  REQUIRE(a->rows == 0 || (a->y && a->x && a->y != a->x));
  return OK;
}

static int check_to_act(const struct to_act_args *a) {
  REQUIRE(a->count == 0 || (a->y && a->x));
  return OK;
}

static int check_from_act(const struct from_act_args *a) {
  REQUIRE(a->count == 0 || (a->y && a->x));
  return OK;
}

static int check_cross_entropy(const struct cross_entropy_args *a) {
  REQUIRE(a->rows >= 0 && a->cols > 0);
  REQUIRE(a->rows == 0 || (a->loss && a->logits && a->labels));
  return OK;
}

static int check_argmax(const struct argmax_args *a) {
  REQUIRE(a->rows >= 0 && a->cols > 0);
  REQUIRE(a->rows == 0 || (a->index && a->logits));
  return OK;
}

static int check_fixed_add(const struct fixed_add_args *a) {
  REQUIRE(a->faults && (a->count == 0 || (a->sums && a->x)));
  return OK;
}

static int check_fixed_total(const struct fixed_total_args *a) {
  REQUIRE(a->sum && a->faults && (a->count == 0 || a->x));
  return OK;
}

static int check_fixed_get(const struct fixed_get_args *a) {
  REQUIRE(a->count == 0 || (a->y && a->sums));
  return OK;
}

static int check_sum_squares(const struct sum_squares_args *a) {
  REQUIRE(a->result && (a->count == 0 || a->x));
  return OK;
}

static int check_adamw(const struct adamw_args *a) {
  REQUIRE(a->step >= 1 && a->beta1 >= 0 && a->beta1 < 1 && a->beta2 >= 0 && a->beta2 < 1);
  REQUIRE(a->count == 0 || (a->master && a->m && a->v && a->gradient));
  return OK;
}

#define DEVICE_WRAPPER(name)                                                            \
  int device_##name(struct device *device, const struct name##_args *arguments) {       \
    TRY(fail_at(check_##name(arguments), "operation %s", #name));                       \
    return fail_at(device->operations->name(device, arguments), "operation %s", #name); \
  }
DEVICE_OPERATIONS(DEVICE_WRAPPER)
