/**
 * @file taps.h
 * Where the side network's input comes from. What the backbone says of a micro-batch is its taps: of each layer what the
 * downsample module reads of the hidden state, and of label rows the final normed hidden state, which the head reads.
 * They depend on the tokens alone, so there are two sources of them: the live backbone (here) and the store
 * (tap_store.h). The consumers see no difference.
 */
#ifndef QST_TAPS_H
#define QST_TAPS_H

#include "backbone.h"
#include "side_layout.h"

/** A view of the taps of a micro-batch; device memory. */
struct taps {
  const void *rows;   /**< act [layers + 1][stride][cols]: tap l of token t */
  const void *normed; /**< act [label_count, hidden]: norm_backbone(h_L) of the label rows */
  int stride;         /**< rows of memory a layer, at least the micro-batch's */
  int cols;           /**< hidden, or the side network's width where it only pools */
};

/** Tap l, act [stride, cols]. */
static inline const void *taps_layer(const struct taps *taps, const struct device *device, int l) {
  return device_act_at(device, taps->rows, (size_t)l * (size_t)taps->stride * (size_t)taps->cols);
}

/** The live source. */
struct tap_source {
  struct backbone *backbone;
  enum tap_kind kind;
  int cols, window, capacity;
  void *hidden;  /**< act [layers + 1][capacity][hidden] */
  void *reduced; /**< act [layers + 1][capacity][cols]; the same memory as `hidden` where nothing is reduced */
  void *normed;  /**< act [capacity, hidden] */
};

/** `cols` of a tap: the hidden size for TAPS_HIDDEN, otherwise that divided by the window to pool. */
int tap_source_open(struct tap_source *source, struct backbone *backbone, enum tap_kind kind, int cols);
void tap_source_close(struct tap_source *source);

/** Runs the backbone on the micro-batch. `cache` NULL but for decoding. */
int tap_source_run(struct tap_source *source, const struct micro_batch *batch, struct kv_cache *cache,
                   struct taps *out);

/** The source's own memory as a view, for whoever fills it instead. */
struct taps tap_source_view(const struct tap_source *source);

#endif
