/* The side network's memory: one device block for all activations, cut into frames, and these into the pieces of each
 * layer. */
#include <stdlib.h>

#include "base/error.h"
#include "base/memory.h"
#include "principal.h"
#include "side.h"

/* Walks over the block; with block = NULL it only measures. */
struct cutter {
  char *block;
  size_t used;
};

static void *cut(struct cutter *cutter, size_t bytes) {
  void *piece = cutter->block ? cutter->block + cutter->used : NULL;
  cutter->used += (bytes + 63) / 64 * 64;
  return piece;
}

static void *cut_act(struct cutter *cutter, const struct side *side, int cols) {
  return cut(cutter, device_act_bytes(side->device, (size_t)side->capacity * (size_t)cols));
}

static float *cut_float(struct cutter *cutter, const struct side *side, int cols) {
  return cut(cutter, (size_t)side->capacity * (size_t)cols * sizeof(float));
}

static struct norm_moments cut_moments(struct cutter *cutter, const struct side *side, bool layernorm) {
  float *mean = layernorm ? cut_float(cutter, side, 1) : NULL;
  return (struct norm_moments){.mean = mean, .rstd = cut_float(cutter, side, 1)};
}

static bool is_pooled(const struct side_shape *shape) {
  enum tap_kind kind = side_tap_kind(shape);
  return kind == TAPS_MAXPOOL || kind == TAPS_AVGPOOL;
}

static void cut_down(struct cutter *cutter, const struct side *side, struct down_activations *down) {
  const struct side_shape *shape = &side->layout.shape;
  bool low_rank = shape->downsample == DOWNSAMPLE_ADAPTER || shape->downsample == DOWNSAMPLE_LORA;
  down->low = low_rank ? cut_act(cutter, side, shape->rank) : NULL;
  down->activated = shape->downsample == DOWNSAMPLE_ADAPTER ? cut_act(cutter, side, shape->rank) : down->low;
  down->reduced = is_pooled(shape) ? NULL : cut_act(cutter, side, shape->width);
  down->moments = cut_moments(cutter, side, true);
  down->out = cut_act(cutter, side, shape->width);
}

static void cut_set(struct cutter *cutter, const struct side *side, struct side_activations *set) {
  const struct side_shape *shape = &side->layout.shape;
  bool relu = shape->family == FAMILY_OPT; /* and LayerNorm */
  cut_down(cutter, side, &set->down);
  set->u = cut_act(cutter, side, shape->width);
  set->normed_u = cut_act(cutter, side, shape->width);
  set->qkv = cut_act(cutter, side, side_qkv(shape));
  set->attended = cut_act(cutter, side, shape->heads * shape->head_dim);
  set->lse = cut_float(cutter, side, shape->heads);
  set->v = cut_act(cutter, side, shape->width);
  set->normed_v = cut_act(cutter, side, shape->width);
  set->gate_up = relu ? NULL : cut_act(cutter, side, side_up(shape));
  set->product = cut_act(cutter, side, shape->feed_forward);
  set->moments_u = cut_moments(cutter, side, relu);
  set->moments_v = cut_moments(cutter, side, relu);
}

static void cut_gradients(struct cutter *cutter, struct side *side) {
  const struct side_shape *shape = &side->layout.shape;
  side->d_width = cut_act(cutter, side, shape->width);
  side->d_wide = shape->family == FAMILY_OPT ? NULL : cut_act(cutter, side, side_up(shape));
  side->d_product = cut_act(cutter, side, shape->feed_forward);
  side->d_qkv = cut_act(cutter, side, side_qkv(shape));
  side->d_attended = cut_act(cutter, side, shape->heads * shape->head_dim);
  side->d_low = cut_act(cutter, side, shape->rank);
}

static void cut_frame(struct cutter *cutter, const struct side *side, struct side_frame *frame) {
  int width = side->layout.shape.width;
  if (stage_begins(&side->stage))
    cut_down(cutter, side, &frame->embedding);
  else
    frame->s_in = cut_act(cutter, side, width);
  for (int i = 0; i < side->set_count; i++) cut_set(cutter, side, &frame->sets[i]);
  bool in_turn = !side->training; /* each is read by the next layer alone */
  for (int i = 0; i < stage_depth(&side->stage); i++)
    frame->s[i] = in_turn && i > 1 ? frame->s[i - 2] : cut_act(cutter, side, width);
  frame->s_out = frame->s[stage_depth(&side->stage) - 1];
  if (side->training) frame->ds = cut_act(cutter, side, width);
}

static void cut_all(struct cutter *cutter, struct side *side) {
  for (int i = 0; i < side->frame_count; i++) cut_frame(cutter, side, &side->frames[i]);
  if (side->training) cut_gradients(cutter, side);
}

static int open_activations(struct side *side) {
  TRY(memory_array(&side->frames, (size_t)side->frame_count, sizeof *side->frames));
  for (int i = 0; i < side->frame_count; i++) {
    TRY(memory_array(&side->frames[i].sets, (size_t)side->set_count, sizeof *side->frames[i].sets));
    TRY(memory_array(&side->frames[i].s, (size_t)stage_depth(&side->stage), sizeof *side->frames[i].s));
  }
  struct cutter measure = {0};
  cut_all(&measure, side);
  side->block_bytes = measure.used;
  TRY(device_allocate(side->device, MEMORY_SIDE, &side->block, side->block_bytes));
  struct cutter cutter = {.block = side->block};
  cut_all(&cutter, side);
  return OK;
}

int side_open(struct side *side, struct device *device, const struct model_config *config,
              const struct side_shape *shape, const struct side_use *use) {
  *side = (struct side){.device = device,
                        .stage = use->stage,
                        .capacity = use->capacity,
                        .training = use->training,
                        .recompute = use->recompute,
                        .frame_count = use->frames};
  TRY(side_layout_open(&side->layout, shape));
  if (shape->downsample == DOWNSAMPLE_PCA)
    TRY(memory_array(&side->frozen, (size_t)shape->layers * principal_floats(shape->hidden, shape->rank),
                     sizeof *side->frozen));
  side_layout_span(&side->layout, &side->stage, &side->begin, &side->size);
  side->set_count = side->training && !side->recompute ? stage_depth(&side->stage) : 1;
  if (shape->family == FAMILY_LLAMA) TRY(rope_table_open(&side->rope, device, config, shape->head_dim, use->positions));
  TRY(device_allocate(device, MEMORY_OPTIMIZER, &side->master, side->size * sizeof(float)));
  TRY(device_allocate(device, MEMORY_OPTIMIZER, &side->weights, device_act_bytes(device, side->size)));
  if (side->training) TRY(device_allocate(device, MEMORY_OPTIMIZER, &side->gradient, side->size * sizeof(float)));
  return open_activations(side);
}

void side_close(struct side *side) {
  struct device *device = side->device;
  if (!device) return;
  device_release(device, MEMORY_SIDE, &side->block, side->block_bytes);
  device_release(device, MEMORY_OPTIMIZER, &side->master, side->size * sizeof(float));
  device_release(device, MEMORY_OPTIMIZER, &side->weights, device_act_bytes(device, side->size));
  device_release(device, MEMORY_OPTIMIZER, &side->gradient, side->size * sizeof(float));
  rope_table_close(&side->rope, device);
  free(side->frozen);
  for (int i = 0; side->frames && i < side->frame_count; i++) {
    free(side->frames[i].sets);
    free(side->frames[i].s);
  }
  free(side->frames);
  side_layout_close(&side->layout);
  *side = (struct side){0};
}

int side_upload(struct side *side, const float *flat) {
  TRY(device_upload(side->device, side->master, flat, side->size * sizeof(float)));
  return device_to_act(side->device, &(struct to_act_args){.y = side->weights, .x = side->master, .count = side->size});
}

void side_part(const struct side *side, int part, int64_t *begin, int64_t *end) {
  const struct side_layout *layout = &side->layout;
  int l = side->stage.first + part;
  bool head = l == layout->shape.layers;
  *begin = head ? side_head_begin(layout) : side_layer_begin(layout, l);
  *end = head ? (int64_t)layout->size : side_layer_end(layout, l);
}
