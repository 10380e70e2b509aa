/**
 * @file stage.h
 * The part of the model that a rank holds: some consecutive layers of the backbone and the side layers of the same
 * numbers. The first stage has the embedding, the last the final norm, the mix and the head.
 */
#ifndef QST_STAGE_H
#define QST_STAGE_H

#include "io/model_config.h"

struct stage {
  int first, end; /**< layers first … end − 1, counted from 0 */
  int layers;     /**< of the whole model */
};

static inline bool stage_begins(const struct stage *stage) {
  return stage->first == 0;
}
static inline bool stage_ends(const struct stage *stage) {
  return stage->end == stage->layers;
}
static inline int stage_depth(const struct stage *stage) {
  return stage->end - stage->first;
}

/** All of it, on one rank. */
static inline struct stage stage_whole(int layers) {
  return (struct stage){.end = layers, .layers = layers};
}

/** Stage `index` of `stages` ≤ layers, such that the costliest is as cheap as can be: every layer costs the same, and the
 *  head as many layers as its products say when `label_share` of all tokens have a label. */
struct stage stage_share(const struct model_config *config, double label_share, int stages, int index);

#endif
