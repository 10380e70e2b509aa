#include "side_layout.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "base/random.h"
#include "base/text.h"
#include "principal.h"

/* ---- shape ---------------------------------------------------------------------------------------------- */

static bool reduction_works(const struct model_config *backbone, int heads, int reduction) {
  if (reduction < 1 || backbone->hidden % reduction != 0) return false;
  int width = backbone->hidden / reduction, head_dim = width / heads;
  bool even = head_dim % 2 == 0 || model_family(backbone) == FAMILY_OPT; /* RoPE turns pairs */
  return width % heads == 0 && head_dim > 1 && even && backbone->feed_forward / reduction > 0;
}

/* 0 when no reduction works with this number of heads. */
static int nearest_reduction(const struct model_config *backbone, int heads, int wanted) {
  int nearest = 0;
  for (int reduction = 1; reduction <= backbone->hidden; reduction++)
    if (reduction_works(backbone, heads, reduction) && (!nearest || abs(reduction - wanted) < abs(nearest - wanted)))
      nearest = reduction;
  return nearest;
}

static int check_reduction(const struct model_config *backbone, int heads, int reduction) {
  if (reduction_works(backbone, heads, reduction)) return OK;
  int nearest = nearest_reduction(backbone, heads, reduction);
  if (!nearest)
    return fail(ERR_USAGE, "no reduction factor works with %d heads in the side network: choose another --side-heads",
                heads);
  return fail(ERR_USAGE,
              "a side network of hidden size %d / %d cannot have %d heads of %s: the nearest that works is "
              "--reduction-factor %d",
              backbone->hidden, reduction, heads,
              model_family(backbone) == FAMILY_OPT ? "two or more each" : "an even size", nearest);
}

static const char *const downsample_names[] = {"adapter", "lora", "linear", "maxpool", "avgpool", "pca", NULL};
static const char *const mix_names[] = {"alpha", "gate", "residual", NULL};

static int choose(const char *option, const char *word, const char *const *names, int *out) {
  for (int i = 0; names[i]; i++)
    if (word && strcmp(word, names[i]) == 0) {
      *out = i;
      return OK;
    }
  return fail(ERR_USAGE, "%s '%s' is unknown", option, word ? word : "");
}

static int check_rank(const struct model_config *backbone, const struct options *options) {
  if (options->rank <= backbone->hidden) return OK;
  return fail(ERR_USAGE, "--rank %lld: hidden states of size %d have no more directions than that",
              (long long)options->rank, backbone->hidden);
}

int side_shape_make(struct side_shape *shape, const struct model_config *backbone, const struct options *options) {
  int heads = options->side_heads > 0 ? (int)options->side_heads : backbone->heads;
  int reduction = (int)options->reduction_factor;
  TRY(check_reduction(backbone, heads, reduction));
  int group = backbone->heads / backbone->kv_heads;
  int width = backbone->hidden / reduction, downsample = 0, mix = 0;
  TRY(choose("--downsample", options->downsample, downsample_names, &downsample));
  TRY(choose("--mix", options->mix, mix_names, &mix));
  if (downsample == DOWNSAMPLE_PCA) TRY(check_rank(backbone, options));
  *shape = (struct side_shape){.layers = backbone->layers,
                               .hidden = backbone->hidden,
                               .width = width,
                               .reduction = reduction,
                               .heads = heads,
                               .kv_heads = heads % group == 0 ? heads / group : heads,
                               .head_dim = width / heads,
                               .feed_forward = backbone->feed_forward / reduction,
                               .rank = (int)options->rank,
                               .downsample = (enum downsample)downsample,
                               .mix = (enum mix_kind)mix,
                               .family = model_family(backbone),
                               .attention_bias = backbone->attention_bias,
                               .norm_epsilon = backbone->norm_epsilon};
  return OK;
}

int side_taps_choose(const struct model_config *backbone, const struct options *options, enum tap_kind *kind,
                     int *cols) {
  int downsample, reduction = (int)options->reduction_factor;
  TRY(choose("--downsample", options->downsample, downsample_names, &downsample));
  if (backbone->hidden % reduction != 0)
    return fail(ERR_USAGE, "--reduction-factor %d does not divide the hidden size %d", reduction, backbone->hidden);
  if (downsample == DOWNSAMPLE_PCA) TRY(check_rank(backbone, options));
  struct side_shape shape = {.hidden = backbone->hidden,
                             .width = backbone->hidden / reduction,
                             .rank = (int)options->rank,
                             .downsample = (enum downsample)downsample};
  *kind = side_tap_kind(&shape);
  *cols = side_tap_cols(&shape);
  return OK;
}

/* ---- layout --------------------------------------------------------------------------------------------- */

enum { TENSORS_PER_LAYER = 22, TENSORS_OF_THE_HEAD = 5, GROUP_ALIGNMENT = 64 };

/* Where the families' names differ; the names of OPT's matrices are the reference's modeling_opt_qst.py. */
struct side_names {
  const char *prefix, *input_norm, *o, *post_norm, *down, *final_norm;
};
static const struct side_names names_of[] = {
    [FAMILY_LLAMA] = {"model.", "input_layernorm", "self_attn.o_proj", "post_attention_layernorm", "mlp.down_proj",
                      "norm_qst"},
    [FAMILY_OPT] = {"model.decoder.", "self_attn_layer_norm", "self_attn.out_proj", "final_layer_norm", "fc2",
                    "final_layer_norm_qst"}};

/* Appends a tensor; `grouped` ones follow the one before without a gap. Returns its offset. */
static int64_t add(struct side_layout *layout, const char *name, int64_t rows, int64_t cols, bool grouped) {
  struct side_tensor *tensor = &layout->tensors[layout->count++];
  if (!grouped) layout->size = (layout->size + GROUP_ALIGNMENT - 1) / GROUP_ALIGNMENT * GROUP_ALIGNMENT;
  *tensor = (struct side_tensor){.rows = rows, .cols = cols, .offset = layout->size};
  snprintf(tensor->name, sizeof tensor->name, "%s", name);
  layout->size += side_tensor_size(tensor);
  layout->parameters += side_tensor_size(tensor);
  return (int64_t)tensor->offset;
}

/* A part of the model by its module's name: "model.qst_layers.3.fc1" and ".weight". */
enum { MODULE_NAME = SIDE_NAME - 8 }; /* ".weight" comes behind it */
struct module {
  struct side_layout *layout;
  char name[MODULE_NAME];
};

static struct module module_of(struct side_layout *layout, const char *group, int layer, const char *name) {
  struct module module = {.layout = layout};
  snprintf(module.name, sizeof module.name, "%s%s.%d%s%s", names_of[layout->shape.family].prefix, group, layer,
           name ? "." : "", name ? name : "");
  return module;
}

static struct module module_of_layer(struct side_layout *layout, int layer, const char *name) {
  return module_of(layout, "qst_layers", layer, name);
}

static int64_t add_part(const struct module *module, const char *part, int64_t rows, int64_t cols, bool grouped) {
  char name[SIDE_NAME];
  snprintf(name, sizeof name, "%s.%s", module->name, part);
  return add(module->layout, name, rows, cols, grouped);
}

static struct side_pair add_norm(struct module module, bool biased) {
  int width = module.layout->shape.width;
  struct side_pair at = {.weight = add_part(&module, "weight", width, 0, false), .bias = SIDE_ABSENT};
  if (biased) at.bias = add_part(&module, "bias", width, 0, false);
  return at;
}

static struct side_pair add_linear(struct module module, int64_t rows, int64_t cols, bool biased) {
  struct side_pair at = {.weight = add_part(&module, "weight", rows, cols, false), .bias = SIDE_ABSENT};
  if (biased) at.bias = add_part(&module, "bias", rows, 0, false);
  return at;
}

static const struct side_pair absent = {SIDE_ABSENT, SIDE_ABSENT};

static void add_downsample(struct side_layout *layout, int l) {
  const struct side_shape *s = &layout->shape;
  struct side_layer_layout *at = &layout->layers[l];
  struct module a = module_of(layout, "downsample", l, "adapter_A"),
                b = module_of(layout, "downsample", l, "adapter_B");
  at->adapter_a = at->adapter_b = absent;
  if (s->downsample == DOWNSAMPLE_ADAPTER || s->downsample == DOWNSAMPLE_LORA) {
    at->adapter_a = add_linear(a, s->rank, s->hidden, false);
    at->adapter_b = add_linear(b, s->width, s->rank, false);
  } else if (s->downsample == DOWNSAMPLE_LINEAR) {
    at->adapter_a = add_linear(module_of(layout, "downsample", l, "linear"), s->width, s->hidden, false);
  } else if (s->downsample == DOWNSAMPLE_PCA) {
    at->adapter_b = add_linear(b, s->width, s->rank, false);
  }
  at->down_norm = add_norm(module_of(layout, "downsample", l, "post_layer_norm"), true);
  at->gate = add(layout, module_of(layout, "z", l, NULL).name, s->width, 0, false);
}

/* q, k and v as one matrix, and their biases as one vector. */
static struct side_pair add_qkv(struct side_layout *layout, int l) {
  const struct side_shape *s = &layout->shape;
  const struct module modules[] = {module_of_layer(layout, l, "self_attn.q_proj"),
                                   module_of_layer(layout, l, "self_attn.k_proj"),
                                   module_of_layer(layout, l, "self_attn.v_proj")};
  const int rows[] = {s->heads * s->head_dim, s->kv_heads * s->head_dim, s->kv_heads * s->head_dim};
  struct side_pair at = absent;
  for (int i = 0; i < 3; i++) {
    int64_t offset = add_part(&modules[i], "weight", rows[i], s->width, i > 0);
    if (i == 0) at.weight = offset;
  }
  for (int i = 0; s->attention_bias && i < 3; i++) {
    int64_t offset = add_part(&modules[i], "bias", rows[i], 0, i > 0);
    if (i == 0) at.bias = offset;
  }
  return at;
}

/* What goes into SwiGLU, or into ReLU. */
static struct side_pair add_up(struct side_layout *layout, int l) {
  const struct side_shape *s = &layout->shape;
  if (s->family == FAMILY_OPT) return add_linear(module_of_layer(layout, l, "fc1"), s->feed_forward, s->width, true);
  struct side_pair at = add_linear(module_of_layer(layout, l, "mlp.gate_proj"), s->feed_forward, s->width, false);
  struct module up = module_of_layer(layout, l, "mlp.up_proj");
  add_part(&up, "weight", s->feed_forward, s->width, true);
  return at;
}

static void add_layer(struct side_layout *layout, int l) {
  const struct side_shape *s = &layout->shape;
  const struct side_names *names = &names_of[s->family];
  struct side_layer_layout *at = &layout->layers[l];
  bool biased = s->family == FAMILY_OPT;
  add_downsample(layout, l);
  at->input_norm = add_norm(module_of_layer(layout, l, names->input_norm), biased);
  at->qkv = add_qkv(layout, l);
  at->o = add_linear(module_of_layer(layout, l, names->o), s->width, s->heads * s->head_dim, biased);
  at->post_norm = add_norm(module_of_layer(layout, l, names->post_norm), biased);
  at->up = add_up(layout, l);
  at->down = add_linear(module_of_layer(layout, l, names->down), s->width, s->feed_forward, biased);
}

void side_published_names(enum model_family family, char norm[SIDE_NAME], char adapter[SIDE_NAME]) {
  const struct side_names *names = &names_of[family];
  snprintf(norm, SIDE_NAME, "%s%s.weight", names->prefix, names->final_norm);
  snprintf(adapter, SIDE_NAME, "%sdownsample.0.adapter_A.weight", names->prefix);
}

static void add_head(struct side_layout *layout) {
  const struct side_shape *s = &layout->shape;
  struct module norm = {.layout = layout}, upsample = {.layout = layout, .name = "upsample"};
  snprintf(norm.name, sizeof norm.name, "%s%s", names_of[s->family].prefix, names_of[s->family].final_norm);
  layout->final_norm = add_norm(norm, s->family == FAMILY_OPT);
  layout->upsample = add_linear(upsample, s->hidden, s->width, true);
  layout->mix = SIDE_ABSENT;
  if (s->mix == MIX_ALPHA) layout->mix = add(layout, "lm_head_alpha", 1, 0, false);
  if (s->mix == MIX_GATE) layout->mix = add(layout, "lm_head_z", s->hidden, 0, false);
}

/* The directions and shifts of a module, as principal_solve() writes them; not trained, so not among the counted. */
static void add_frozen(struct side_layout *layout) {
  const struct side_shape *s = &layout->shape;
  for (int l = 0; l < s->layers; l++) {
    size_t offset = (size_t)l * principal_floats(s->hidden, s->rank);
    struct side_tensor *weight = &layout->tensors[layout->count + layout->frozen_count++];
    struct side_tensor *bias = &layout->tensors[layout->count + layout->frozen_count++];
    *weight = (struct side_tensor){.rows = s->rank, .cols = s->hidden, .offset = offset};
    *bias = (struct side_tensor){.rows = s->rank, .offset = offset + side_tensor_size(weight)};
    struct module module = module_of(layout, "downsample", l, "principal");
    snprintf(weight->name, sizeof weight->name, "%s.weight", module.name);
    snprintf(bias->name, sizeof bias->name, "%s.bias", module.name);
  }
}

int side_layout_open(struct side_layout *layout, const struct side_shape *shape) {
  *layout = (struct side_layout){.shape = *shape};
  size_t most = (size_t)shape->layers * TENSORS_PER_LAYER + TENSORS_OF_THE_HEAD;
  TRY(memory_array(&layout->tensors, most, sizeof *layout->tensors));
  TRY(memory_array(&layout->layers, (size_t)shape->layers, sizeof *layout->layers));
  for (int l = 0; l < shape->layers; l++) add_layer(layout, l);
  add_head(layout);
  if (shape->downsample == DOWNSAMPLE_PCA) add_frozen(layout);
  layout->size = (layout->size + GROUP_ALIGNMENT - 1) / GROUP_ALIGNMENT * GROUP_ALIGNMENT;
  return OK;
}

void side_layout_close(struct side_layout *layout) {
  free(layout->tensors);
  free(layout->layers);
  *layout = (struct side_layout){0};
}

/* ---- initial values ------------------------------------------------------------------------------------- */

static void set_all(float *values, size_t count, float value) {
  for (size_t i = 0; i < count; i++) values[i] = value;
}

static void initialize_vector(const struct side_tensor *tensor, float *values) {
  bool is_gate = strstr(tensor->name, ".z.") != NULL;
  bool is_bias = text_ends_with(tensor->name, ".bias");
  set_all(values, side_tensor_size(tensor), is_gate ? 0.5f : is_bias ? 0.0f : 1.0f);
}

static bool holds(const struct side_buffers *buffers, const struct side_tensor *tensor) {
  return tensor->offset >= buffers->begin && tensor->offset < buffers->begin + buffers->size;
}

void side_layout_initialize(const struct side_layout *layout, uint64_t seed, const struct side_buffers *buffers) {
  memset(buffers->flat, 0, buffers->size * sizeof *buffers->flat);
  for (int i = 0; i < layout->count; i++) {
    const struct side_tensor *tensor = &layout->tensors[i];
    if (!holds(buffers, tensor)) continue;
    float *values = buffers->flat + (tensor->offset - buffers->begin);
    bool zero = layout->shape.mix == MIX_RESIDUAL && (int64_t)tensor->offset == layout->upsample.weight;
    if (tensor->cols == 0) {
      initialize_vector(tensor, values);
    } else if (!zero) {
      struct random random = random_start(seed, RANDOM_SIDE_INIT, (uint64_t)i);
      for (size_t n = 0; n < side_tensor_size(tensor); n++) values[n] = (float)(0.02 * random_normal(&random));
    }
  }
}

void side_layout_views(const struct side_layout *layout, const struct side_buffers *buffers,
                       struct named_tensor *views) {
  for (int i = 0; i < side_tensor_count(layout); i++) {
    const struct side_tensor *tensor = &layout->tensors[i];
    views[i] = (struct named_tensor){.name = tensor->name, .rows = tensor->rows, .cols = tensor->cols};
    if (i >= layout->count && buffers->frozen) views[i].data = buffers->frozen + tensor->offset;
    if (i >= layout->count || !holds(buffers, tensor)) continue;
    size_t at = tensor->offset - buffers->begin;
    views[i].data = buffers->flat + at;
    if (buffers->m) views[i].m = buffers->m + at;
    if (buffers->v) views[i].v = buffers->v + at;
  }
}

void side_layout_span(const struct side_layout *layout, const struct stage *stage, size_t *begin, size_t *size) {
  size_t end = stage_ends(stage) ? layout->size : (size_t)side_layer_begin(layout, stage->end);
  *begin = (size_t)side_layer_begin(layout, stage->first);
  *size = end - *begin;
}
