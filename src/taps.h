/**
 * @file taps.h
 * Where the side network's input comes from. What the backbone says of a micro-batch is its taps: of each layer what the
 * downsample module reads of the hidden state, and of label rows the final normed hidden state, which the head reads.
 * They depend on the tokens alone, so there are two sources of them: the live backbone (here) and the store
 * (tap_store.h). The consumers see no difference.
 *
 * Of pca it is the frozen half of the module (principal.h): k numbers a tap.
 *
 * A source has a ring of slots, each with the memory of one micro-batch's taps: the backbone may fill the next ones while
 * the side network still reads the first.
 */
#ifndef QST_TAPS_H
#define QST_TAPS_H

#include "backbone.h"
#include "side_layout.h"

/** A view of the taps of a micro-batch; device memory. Of a stage: taps first … end, the first of which only the first
 *  stage's side network reads. */
struct taps {
  const void *rows;   /**< act [depth + 1][stride][cols]: tap first + i of token t */
  const void *normed; /**< act [label_count, hidden]: norm_backbone(h_L) of the label rows; on the last stage */
  int stride;         /**< rows of memory a layer, at least the micro-batch's */
  int cols;           /**< hidden, or the side network's width where it only pools */
};

/** Tap first + i, act [stride, cols]. */
static inline void *taps_at(const struct taps *taps, const struct device *device, int i) {
  return device_act_at(device, taps->rows, (size_t)i * (size_t)taps->stride * (size_t)taps->cols);
}

/** Device memory of one micro-batch's taps. */
struct tap_slot {
  void *
      hidden; /**< act [depth + 1][capacity][hidden]; one for all slots where taps are reduced and nobody waits for it */
  void *reduced; /**< act [depth + 1][capacity][cols]; the same memory as `hidden` where nothing is reduced */
  void *normed;  /**< act [capacity, hidden]; on the last stage */
  void *output;  /**< act [capacity, hidden]; NULL without tap_source_separate_output() */
};

/** The live source. */
struct tap_source {
  struct backbone *backbone;
  enum tap_kind kind;
  int cols, window, capacity;
  int slot_count;
  struct tap_slot *slots;        /**< [slot_count] */
  struct projection *projection; /**< of pca */
};

/** `cols` of a tap: the hidden size for TAPS_HIDDEN, the number of directions for TAPS_PCA, otherwise the hidden size divided by
 *  the window to pool. */
int tap_source_open(struct tap_source *source, struct backbone *backbone, enum tap_kind kind, int cols, int slots);
void tap_source_close(struct tap_source *source);

/** Sets the directions of TAPS_PCA: `frozen` are those of all layers (struct side_buffers). Before the first run. */
int tap_source_project(struct tap_source *source, const float *frozen);

/** Runs the backbone on the micro-batch. `cache` NULL but for decoding. A stage but the first finds its first tap in
 *  tap_source_input(). */
int tap_source_run(struct tap_source *source, int slot, const struct micro_batch *batch, struct kv_cache *cache,
                   struct taps *out);
/** The same a layer of the stage at a time, so that other work can go in between; `*out` is there after the last. */
int tap_source_layer(struct tap_source *source, int slot, const struct micro_batch *batch, int layer, struct taps *out);

/** act [capacity, hidden]: the stage's first tap, which the stage before sends; its last one, which the next receives. */
void *tap_source_input(const struct tap_source *source, int slot);
void *tap_source_output(const struct tap_source *source, int slot);

/** For whoever changes the taps that the side network reads, before the first run: the next stage receives the last tap as the
 *  backbone made it, from memory of its own. Nothing where it does so anyway. */
int tap_source_separate_output(struct tap_source *source);

/** A slot's memory as a view, for whoever fills it instead. */
struct taps tap_source_view(const struct tap_source *source, int slot);

#endif
