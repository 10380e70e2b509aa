#include "taps.h"

#include <stdlib.h>

#include "base/error.h"
#include "base/memory.h"
#include "projection.h"

/* ---- memory --------------------------------------------------------------------------------------------- */

static size_t layer_elements(const struct tap_source *source, int cols) {
  return (size_t)source->capacity * (size_t)cols;
}

static size_t block_bytes(const struct tap_source *source, int cols) {
  const struct backbone *backbone = source->backbone;
  size_t taps = (size_t)stage_depth(&backbone->stage) + 1;
  return device_act_bytes(backbone->device, taps * layer_elements(source, cols));
}

/* Of a hidden state: the final one's, and what goes to the next stage. */
static size_t state_bytes(const struct tap_source *source) {
  return device_act_bytes(source->backbone->device, layer_elements(source, source->backbone->config.hidden));
}

/* Hidden states are kept for the side network to read, or for the next stage to receive. */
static bool keeps_hidden(const struct tap_source *source) {
  const struct stage *stage = &source->backbone->stage;
  return source->kind == TAPS_HIDDEN || stage_depth(stage) < stage->layers;
}

static int open_slot(struct tap_source *source, int i) {
  struct device *device = source->backbone->device;
  struct tap_slot *slot = &source->slots[i];
  if (i == 0 || keeps_hidden(source))
    TRY(device_allocate(device, MEMORY_TAPS, &slot->hidden, block_bytes(source, source->backbone->config.hidden)));
  else
    slot->hidden = source->slots[0].hidden;
  if (stage_ends(&source->backbone->stage))
    TRY(device_allocate(device, MEMORY_TAPS, &slot->normed, state_bytes(source)));
  if (source->kind != TAPS_HIDDEN)
    return device_allocate(device, MEMORY_TAPS, &slot->reduced, block_bytes(source, source->cols));
  slot->reduced = slot->hidden;
  return OK;
}

static void close_slot(struct tap_source *source, int i) {
  struct device *device = source->backbone->device;
  struct tap_slot *slot = &source->slots[i];
  device_release(device, MEMORY_TAPS, &slot->output, state_bytes(source));
  if (source->kind != TAPS_HIDDEN)
    device_release(device, MEMORY_TAPS, &slot->reduced, block_bytes(source, source->cols));
  device_release(device, MEMORY_TAPS, &slot->normed, state_bytes(source));
  if (i == 0 || keeps_hidden(source))
    device_release(device, MEMORY_TAPS, &slot->hidden, block_bytes(source, source->backbone->config.hidden));
}

int tap_source_open(struct tap_source *source, struct backbone *backbone, enum tap_kind kind, int cols, int slots) {
  *source = (struct tap_source){.backbone = backbone,
                                .kind = kind,
                                .cols = cols,
                                .window = kind == TAPS_PCA ? 1 : backbone->config.hidden / cols,
                                .capacity = backbone->capacity,
                                .slot_count = slots};
  TRY(memory_array(&source->slots, (size_t)slots, sizeof *source->slots));
  for (int i = 0; i < slots; i++) TRY(open_slot(source, i));
  return kind == TAPS_PCA ? projection_open(&source->projection, backbone, cols) : OK;
}

void tap_source_close(struct tap_source *source) {
  for (int i = source->slots ? source->slot_count - 1 : -1; i >= 0; i--) close_slot(source, i);
  free(source->slots);
  projection_close(&source->projection);
  *source = (struct tap_source){0};
}

int tap_source_project(struct tap_source *source, const float *frozen) {
  return projection_set(source->projection, frozen);
}

void *tap_source_input(const struct tap_source *source, int slot) {
  return source->slots[slot].hidden;
}

static void *last_tap(const struct tap_source *source, int slot) {
  const struct backbone *backbone = source->backbone;
  size_t before = (size_t)stage_depth(&backbone->stage) * layer_elements(source, backbone->config.hidden);
  return device_act_at(backbone->device, source->slots[slot].hidden, before);
}

void *tap_source_output(const struct tap_source *source, int slot) {
  void *output = source->slots[slot].output;
  return output ? output : last_tap(source, slot);
}

int tap_source_separate_output(struct tap_source *source) {
  if (source->kind != TAPS_HIDDEN || stage_ends(&source->backbone->stage)) return OK;
  for (int i = 0; i < source->slot_count; i++)
    TRY(device_allocate(source->backbone->device, MEMORY_TAPS, &source->slots[i].output, state_bytes(source)));
  return OK;
}

struct taps tap_source_view(const struct tap_source *source, int slot) {
  return (struct taps){.rows = source->slots[slot].reduced,
                       .normed = source->slots[slot].normed,
                       .stride = source->capacity,
                       .cols = source->cols};
}

/* ---- running -------------------------------------------------------------------------------------------- */

/* What the gradient-free downsample modules read of tap `i` of the stage. */
static int reduce(struct tap_source *source, int i, void *y, const void *x, int rows) {
  if (source->kind == TAPS_PCA) return projection_run(source->projection, i, y, x, rows);
  return device_pool(source->backbone->device, &(struct pool_args){.y = y,
                                                                   .x = x,
                                                                   .rows = rows,
                                                                   .cols = source->cols,
                                                                   .window = source->window,
                                                                   .maximum = source->kind == TAPS_MAXPOOL});
}

static int reduce_all(struct tap_source *source, const struct tap_slot *slot, int rows) {
  const struct backbone *backbone = source->backbone;
  for (int i = stage_begins(&backbone->stage) ? 0 : 1; i <= stage_depth(&backbone->stage); i++) {
    size_t at = (size_t)i * (size_t)source->capacity;
    TRY(reduce(source, i, device_act_at(backbone->device, slot->reduced, at * (size_t)source->cols),
               device_act_at(backbone->device, slot->hidden, at * (size_t)backbone->config.hidden), rows));
  }
  return OK;
}

static int save_output(const struct tap_source *source, int slot, int rows) {
  int hidden = source->backbone->config.hidden;
  void *output = source->slots[slot].output;
  if (!output) return OK;
  return device_copy_rows(source->backbone->device, &(struct copy_rows_args){.y = output,
                                                                             .x = last_tap(source, slot),
                                                                             .rows = rows,
                                                                             .cols = hidden,
                                                                             .y_stride = hidden,
                                                                             .x_stride = hidden});
}

static int run_layer(struct tap_source *source, int slot, const struct micro_batch *batch, int layer,
                     struct kv_cache *cache, struct taps *out) {
  const struct tap_slot *at = &source->slots[slot];
  struct backbone *backbone = source->backbone;
  TRY(backbone_layer_forward(backbone, batch, layer, at->hidden, source->capacity, cache));
  if (layer + 1 < stage_depth(&backbone->stage)) return OK;
  if (stage_ends(&backbone->stage)) TRY(backbone_output(backbone, batch, at->hidden, source->capacity, at->normed));
  if (source->kind != TAPS_HIDDEN) TRY(reduce_all(source, at, batch->rows));
  TRY(save_output(source, slot, batch->rows));
  *out = tap_source_view(source, slot);
  return OK;
}

int tap_source_layer(struct tap_source *source, int slot, const struct micro_batch *batch, int layer,
                     struct taps *out) {
  return run_layer(source, slot, batch, layer, NULL, out);
}

int tap_source_run(struct tap_source *source, int slot, const struct micro_batch *batch, struct kv_cache *cache,
                   struct taps *out) {
  for (int layer = 0; layer < stage_depth(&source->backbone->stage); layer++)
    TRY(run_layer(source, slot, batch, layer, cache, out));
  return OK;
}
