/* What Hugging Face calls the parts of a backbone: transformers, modeling_llama.py (mistral, qwen2 alike) and
 * modeling_opt.py. A part that a family has not is NULL here. */
#include <stdio.h>

#include "io/backbone_file.h"

static const struct names {
  const char *layers;
  const char *matrices[MATRIX_COUNT], *vectors[VECTOR_COUNT];
  const char *tables[TABLE_COUNT], *finals[FINAL_COUNT];
} families[] = {
    [FAMILY_LLAMA] = {.layers = "model.layers.",
                      .matrices = {[MATRIX_Q] = "self_attn.q_proj.weight",
                                   [MATRIX_K] = "self_attn.k_proj.weight",
                                   [MATRIX_V] = "self_attn.v_proj.weight",
                                   [MATRIX_O] = "self_attn.o_proj.weight",
                                   [MATRIX_GATE] = "mlp.gate_proj.weight",
                                   [MATRIX_UP] = "mlp.up_proj.weight",
                                   [MATRIX_DOWN] = "mlp.down_proj.weight"},
                      .vectors = {[VECTOR_INPUT_NORM] = "input_layernorm.weight",
                                  [VECTOR_POST_NORM] = "post_attention_layernorm.weight",
                                  [VECTOR_Q_BIAS] = "self_attn.q_proj.bias",
                                  [VECTOR_K_BIAS] = "self_attn.k_proj.bias",
                                  [VECTOR_V_BIAS] = "self_attn.v_proj.bias"},
                      .tables = {[TABLE_EMBEDDING] = "model.embed_tokens.weight", [TABLE_HEAD] = "lm_head.weight"},
                      .finals = {[FINAL_NORM] = "model.norm.weight"}},
    [FAMILY_OPT] = {.layers = "model.decoder.layers.",
                    .matrices = {[MATRIX_Q] = "self_attn.q_proj.weight",
                                 [MATRIX_K] = "self_attn.k_proj.weight",
                                 [MATRIX_V] = "self_attn.v_proj.weight",
                                 [MATRIX_O] = "self_attn.out_proj.weight",
                                 [MATRIX_UP] = "fc1.weight",
                                 [MATRIX_DOWN] = "fc2.weight"},
                    .vectors = {[VECTOR_INPUT_NORM] = "self_attn_layer_norm.weight",
                                [VECTOR_POST_NORM] = "final_layer_norm.weight",
                                [VECTOR_Q_BIAS] = "self_attn.q_proj.bias",
                                [VECTOR_K_BIAS] = "self_attn.k_proj.bias",
                                [VECTOR_V_BIAS] = "self_attn.v_proj.bias",
                                [VECTOR_INPUT_NORM_BIAS] = "self_attn_layer_norm.bias",
                                [VECTOR_POST_NORM_BIAS] = "final_layer_norm.bias",
                                [VECTOR_O_BIAS] = "self_attn.out_proj.bias",
                                [VECTOR_UP_BIAS] = "fc1.bias",
                                [VECTOR_DOWN_BIAS] = "fc2.bias"},
                    .tables = {[TABLE_EMBEDDING] = "model.decoder.embed_tokens.weight",
                               [TABLE_HEAD] = "lm_head.weight",
                               [TABLE_POSITIONS] = "model.decoder.embed_positions.weight"},
                    .finals = {[FINAL_NORM] = "model.decoder.final_layer_norm.weight",
                               [FINAL_NORM_BIAS] = "model.decoder.final_layer_norm.bias"}},
};

const char *backbone_layers_name(enum model_family family) {
  return families[family].layers;
}

void backbone_matrix_name(enum model_family family, int layer, enum backbone_matrix which, char name[96]) {
  snprintf(name, 96, "%s%d.%s", families[family].layers, layer, families[family].matrices[which]);
}

void backbone_vector_name(enum model_family family, int layer, enum backbone_vector which, char name[96]) {
  snprintf(name, 96, "%s%d.%s", families[family].layers, layer, families[family].vectors[which]);
}

const char *backbone_table_name(enum model_family family, enum backbone_table table) {
  return families[family].tables[table];
}

const char *backbone_final_name(enum model_family family, enum backbone_final which) {
  return families[family].finals[which];
}

/* transformers, OPTLearnedPositionalEmbedding: "OPT is set up so that if padding_idx is specified then offset the embedding
 * ids by 2". */
int backbone_table_skip(enum backbone_table table) {
  return table == TABLE_POSITIONS ? 2 : 0;
}
