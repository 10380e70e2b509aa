/**
 * @file table.c
 * The operations of the cpu device for one instruction set.
 */
#include "kernels/cpu/isa/isa.h"
#include "kernels/cpu/product.h"

const struct device_operations ISA_NAME(cpu_operations) = {
    .embed = cpu_embed,
    .frozen_linear = cpu_frozen_linear,
    .frozen_logits = cpu_frozen_logits,
    .frozen_input_grad = cpu_frozen_input_grad,
    .linear = cpu_linear,
    .linear_input_grad = cpu_linear_input_grad,
    .linear_weight_grad = cpu_linear_weight_grad,
    .rmsnorm = ISA_NAME(cpu_rmsnorm),
    .rmsnorm_backward = ISA_NAME(cpu_rmsnorm_backward),
    .layernorm = ISA_NAME(cpu_layernorm),
    .layernorm_backward = ISA_NAME(cpu_layernorm_backward),
    .rope = ISA_NAME(cpu_rope),
    .attention = ISA_NAME(cpu_attention),
    .attention_backward = ISA_NAME(cpu_attention_backward),
    .swiglu = ISA_NAME(cpu_swiglu),
    .swiglu_backward = ISA_NAME(cpu_swiglu_backward),
    .silu = ISA_NAME(cpu_silu),
    .silu_backward = ISA_NAME(cpu_silu_backward),
    .relu = ISA_NAME(cpu_relu),
    .relu_backward = ISA_NAME(cpu_relu_backward),
    .pool = ISA_NAME(cpu_pool),
    .gate = ISA_NAME(cpu_gate),
    .gate_backward = ISA_NAME(cpu_gate_backward),
    .mix = ISA_NAME(cpu_mix),
    .mix_backward = ISA_NAME(cpu_mix_backward),
    .copy_rows = ISA_NAME(cpu_copy_rows),
    .to_act = ISA_NAME(cpu_to_act),
    .from_act = ISA_NAME(cpu_from_act),
    .cross_entropy = ISA_NAME(cpu_cross_entropy),
    .argmax = ISA_NAME(cpu_argmax),
    .fixed_add = ISA_NAME(cpu_fixed_add),
    .fixed_total = ISA_NAME(cpu_fixed_total),
    .fixed_get = ISA_NAME(cpu_fixed_get),
    .sum_squares = ISA_NAME(cpu_sum_squares),
    .adamw = ISA_NAME(cpu_adamw),
};
