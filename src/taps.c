#include "taps.h"

#include "base/error.h"

static size_t layer_elements(const struct tap_source *source, int cols) {
  return (size_t)source->capacity * (size_t)cols;
}

static size_t block_bytes(const struct tap_source *source, int cols) {
  const struct backbone *backbone = source->backbone;
  return device_act_bytes(backbone->device, ((size_t)backbone->config.layers + 1) * layer_elements(source, cols));
}

static size_t normed_bytes(const struct tap_source *source) {
  return device_act_bytes(source->backbone->device, layer_elements(source, source->backbone->config.hidden));
}

int tap_source_open(struct tap_source *source, struct backbone *backbone, enum tap_kind kind, int cols) {
  struct device *device = backbone->device;
  int hidden = backbone->config.hidden;
  *source = (struct tap_source){
      .backbone = backbone, .kind = kind, .cols = cols, .window = hidden / cols, .capacity = backbone->capacity};
  TRY(device_allocate(device, MEMORY_TAPS, &source->hidden, block_bytes(source, hidden)));
  TRY(device_allocate(device, MEMORY_TAPS, &source->normed, normed_bytes(source)));
  if (source->kind != TAPS_HIDDEN)
    return device_allocate(device, MEMORY_TAPS, &source->reduced, block_bytes(source, source->cols));
  source->reduced = source->hidden;
  return OK;
}

void tap_source_close(struct tap_source *source) {
  if (!source->backbone) return;
  struct device *device = source->backbone->device;
  if (source->kind != TAPS_HIDDEN)
    device_release(device, MEMORY_TAPS, &source->reduced, block_bytes(source, source->cols));
  device_release(device, MEMORY_TAPS, &source->normed, normed_bytes(source));
  device_release(device, MEMORY_TAPS, &source->hidden, block_bytes(source, source->backbone->config.hidden));
  *source = (struct tap_source){0};
}

/* What the gradient-free downsample modules read of each tap. */
static int pool(struct tap_source *source, int rows) {
  const struct backbone *backbone = source->backbone;
  for (int l = 0; l <= backbone->config.layers; l++) {
    size_t at = (size_t)l * (size_t)source->capacity;
    TRY(device_pool(
        backbone->device,
        &(struct pool_args){.y = device_act_at(backbone->device, source->reduced, at * (size_t)source->cols),
                            .x = device_act_at(backbone->device, source->hidden, at * (size_t)backbone->config.hidden),
                            .rows = rows,
                            .cols = source->cols,
                            .window = source->window,
                            .maximum = source->kind == TAPS_MAXPOOL}));
  }
  return OK;
}

struct taps tap_source_view(const struct tap_source *source) {
  return (struct taps){
      .rows = source->reduced, .normed = source->normed, .stride = source->capacity, .cols = source->cols};
}

int tap_source_run(struct tap_source *source, const struct micro_batch *batch, struct kv_cache *cache,
                   struct taps *out) {
  TRY(backbone_forward(source->backbone, batch, source->hidden, source->capacity, cache));
  TRY(backbone_output(source->backbone, batch, source->hidden, source->capacity, source->normed));
  if (source->kind != TAPS_HIDDEN) TRY(pool(source, batch->rows));
  *out = tap_source_view(source);
  return OK;
}
