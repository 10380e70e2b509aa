/* The table of operations: own kernels through their launchers, matrix products through product.h. */
#include "base/error.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/product.h"

static int check_limits(const struct cuda_context *context, const struct attention_backward_args *a) {
  if ((size_t)a->rows * (size_t)a->heads * (size_t)a->head_dim <= context->delta_size) return OK;
  return fail(ERR_INTERNAL, "%d rows of %d heads of %d: more than the limits at opening", a->rows, a->heads,
              a->head_dim);
}

#define CUDA_OPERATION(name)                                                            \
  static int run_##name(struct device *device, const struct name##_args *arguments) {   \
    return cuda_check(cuda_launch_##name(cuda_context(device), arguments), "a kernel"); \
  }
CUDA_KERNEL_OPERATIONS(CUDA_OPERATION)
#undef CUDA_OPERATION

static int run_checked_attention_backward(struct device *device, const struct attention_backward_args *arguments) {
  TRY(check_limits(cuda_context(device), arguments));
  return run_attention_backward(device, arguments);
}

const struct device_operations cuda_operations = {
    .embed = run_embed,
    .frozen_linear = cuda_frozen_linear,
    .frozen_logits = cuda_frozen_logits,
    .frozen_input_grad = cuda_frozen_input_grad,
    .linear = cuda_linear,
    .linear_input_grad = cuda_linear_input_grad,
    .linear_weight_grad = cuda_linear_weight_grad,
    .rmsnorm = run_rmsnorm,
    .rmsnorm_backward = run_rmsnorm_backward,
    .layernorm = run_layernorm,
    .layernorm_backward = run_layernorm_backward,
    .rope = run_rope,
    .attention = run_attention,
    .attention_backward = run_checked_attention_backward,
    .swiglu = run_swiglu,
    .swiglu_backward = run_swiglu_backward,
    .silu = run_silu,
    .silu_backward = run_silu_backward,
    .relu = run_relu,
    .relu_backward = run_relu_backward,
    .pool = run_pool,
    .gate = run_gate,
    .gate_backward = run_gate_backward,
    .mix = run_mix,
    .mix_backward = run_mix_backward,
    .copy_rows = run_copy_rows,
    .to_act = run_to_act,
    .from_act = run_from_act,
    .cross_entropy = run_cross_entropy,
    .argmax = run_argmax,
    .fixed_add = run_fixed_add,
    .fixed_total = run_fixed_total,
    .fixed_get = run_fixed_get,
    .sum_squares = run_sum_squares,
    .adamw = run_adamw,
};
