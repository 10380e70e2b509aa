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
  int width = backbone->hidden / reduction;
  return width % (2 * heads) == 0 && backbone->feed_forward / reduction > 0;
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
              "a side network of hidden size %d / %d cannot have %d heads of an even size: the nearest that works is "
              "--reduction-factor %d",
              backbone->hidden, reduction, heads, nearest);
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

enum { TENSORS_PER_LAYER = 19, TENSORS_OF_THE_HEAD = 4, GROUP_ALIGNMENT = 64 };

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

static int64_t add_of_layer(struct side_layout *layout, const char *format, int layer, int64_t rows, int64_t cols,
                            bool grouped) {
  char name[SIDE_NAME];
  const char *number = strstr(format, "%d");
  snprintf(name, sizeof name, "%.*s%d%s", (int)(number - format), format, layer, number + 2);
  return add(layout, name, rows, cols, grouped);
}

static void add_downsample(struct side_layout *layout, int l) {
  const struct side_shape *s = &layout->shape;
  struct side_layer_layout *at = &layout->layers[l];
  at->adapter_a = at->adapter_b = SIDE_ABSENT;
  if (s->downsample == DOWNSAMPLE_ADAPTER || s->downsample == DOWNSAMPLE_LORA) {
    at->adapter_a = add_of_layer(layout, "model.downsample.%d.adapter_A.weight", l, s->rank, s->hidden, false);
    at->adapter_b = add_of_layer(layout, "model.downsample.%d.adapter_B.weight", l, s->width, s->rank, false);
  } else if (s->downsample == DOWNSAMPLE_LINEAR) {
    at->adapter_a = add_of_layer(layout, "model.downsample.%d.linear.weight", l, s->width, s->hidden, false);
  } else if (s->downsample == DOWNSAMPLE_PCA) {
    at->adapter_b = add_of_layer(layout, "model.downsample.%d.adapter_B.weight", l, s->width, s->rank, false);
  }
  at->down_norm_w = add_of_layer(layout, "model.downsample.%d.post_layer_norm.weight", l, s->width, 0, false);
  at->down_norm_b = add_of_layer(layout, "model.downsample.%d.post_layer_norm.bias", l, s->width, 0, false);
  at->gate = add_of_layer(layout, "model.z.%d", l, s->width, 0, false);
}

static void add_attention(struct side_layout *layout, int l) {
  const struct side_shape *s = &layout->shape;
  struct side_layer_layout *at = &layout->layers[l];
  int q = s->heads * s->head_dim, kv = s->kv_heads * s->head_dim;
  at->input_norm = add_of_layer(layout, "model.qst_layers.%d.input_layernorm.weight", l, s->width, 0, false);
  at->qkv = add_of_layer(layout, "model.qst_layers.%d.self_attn.q_proj.weight", l, q, s->width, false);
  add_of_layer(layout, "model.qst_layers.%d.self_attn.k_proj.weight", l, kv, s->width, true);
  add_of_layer(layout, "model.qst_layers.%d.self_attn.v_proj.weight", l, kv, s->width, true);
  at->qkv_bias = SIDE_ABSENT;
  if (s->attention_bias) {
    at->qkv_bias = add_of_layer(layout, "model.qst_layers.%d.self_attn.q_proj.bias", l, q, 0, false);
    add_of_layer(layout, "model.qst_layers.%d.self_attn.k_proj.bias", l, kv, 0, true);
    add_of_layer(layout, "model.qst_layers.%d.self_attn.v_proj.bias", l, kv, 0, true);
  }
  at->o = add_of_layer(layout, "model.qst_layers.%d.self_attn.o_proj.weight", l, s->width, q, false);
}

static void add_feed_forward(struct side_layout *layout, int l) {
  const struct side_shape *s = &layout->shape;
  struct side_layer_layout *at = &layout->layers[l];
  at->post_norm = add_of_layer(layout, "model.qst_layers.%d.post_attention_layernorm.weight", l, s->width, 0, false);
  at->gate_up = add_of_layer(layout, "model.qst_layers.%d.mlp.gate_proj.weight", l, s->feed_forward, s->width, false);
  add_of_layer(layout, "model.qst_layers.%d.mlp.up_proj.weight", l, s->feed_forward, s->width, true);
  at->down = add_of_layer(layout, "model.qst_layers.%d.mlp.down_proj.weight", l, s->width, s->feed_forward, false);
}

static void add_head(struct side_layout *layout) {
  const struct side_shape *s = &layout->shape;
  layout->final_norm = add(layout, "model.norm_qst.weight", s->width, 0, false);
  layout->upsample = add(layout, "upsample.weight", s->hidden, s->width, false);
  layout->upsample_bias = add(layout, "upsample.bias", s->hidden, 0, false);
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
    snprintf(weight->name, sizeof weight->name, "model.downsample.%d.principal.weight", l);
    snprintf(bias->name, sizeof bias->name, "model.downsample.%d.principal.bias", l);
  }
}

int side_layout_open(struct side_layout *layout, const struct side_shape *shape) {
  *layout = (struct side_layout){.shape = *shape};
  size_t most = (size_t)shape->layers * TENSORS_PER_LAYER + TENSORS_OF_THE_HEAD;
  TRY(memory_array(&layout->tensors, most, sizeof *layout->tensors));
  TRY(memory_array(&layout->layers, (size_t)shape->layers, sizeof *layout->layers));
  for (int l = 0; l < shape->layers; l++) {
    add_downsample(layout, l);
    add_attention(layout, l);
    add_feed_forward(layout, l);
  }
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
  bool is_gate = strncmp(tensor->name, "model.z.", 8) == 0;
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
    bool zero = layout->shape.mix == MIX_RESIDUAL && (int64_t)tensor->offset == layout->upsample;
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
