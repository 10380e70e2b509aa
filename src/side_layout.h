/**
 * @file side_layout.h
 * The shape of a side network and the list of its trained tensors, which all live in one flat fp32 buffer (and likewise
 * their gradients, moments and activation-typed copies). Names are the reference implementation's
 * (YouAreSpecialToMe/QST); it has one downsample module a layer, shared by the embedding and layer 1.
 *
 * Tensors that are multiplied together lie back to back: q, k, v are one [q + k + v rows, width] matrix, gate and up
 * of SwiGLU one [2 · feed_forward, width] matrix.
 */
#ifndef QST_SIDE_LAYOUT_H
#define QST_SIDE_LAYOUT_H

#include "base/options.h"
#include "io/checkpoint.h"
#include "io/model_config.h"
#include "kernels/device.h"
#include "stage.h"

enum downsample {
  DOWNSAMPLE_ADAPTER,
  DOWNSAMPLE_LORA,
  DOWNSAMPLE_LINEAR,
  DOWNSAMPLE_MAXPOOL,
  DOWNSAMPLE_AVGPOOL,
  DOWNSAMPLE_PCA
};

/** What a side network reads of a hidden state: all of it, or what its gradient-free downsample (of pca: that half of it)
 *  makes of it. */
enum tap_kind { TAPS_HIDDEN, TAPS_MAXPOOL, TAPS_AVGPOOL, TAPS_PCA };

/** d hidden size of the backbone, width = d / r, head_dim = width / heads. */
struct side_shape {
  int layers, hidden, width, reduction;
  int heads, kv_heads, head_dim, feed_forward;
  int rank; /**< k of adapter, lora and pca */
  enum downsample downsample;
  enum mix_kind mix;
  enum model_family family; /**< the backbone's */
  bool attention_bias;
  float norm_epsilon;
};

/** Rows of the q, k, v product. */
static inline int side_qkv(const struct side_shape *shape) {
  return (shape->heads + 2 * shape->kv_heads) * shape->head_dim;
}

/** Rows of the first product of the feed-forward block: gate and up of SwiGLU, or what goes into ReLU. */
static inline int side_up(const struct side_shape *shape) {
  return shape->family == FAMILY_OPT ? shape->feed_forward : 2 * shape->feed_forward;
}

static inline enum tap_kind side_tap_kind(const struct side_shape *shape) {
  return shape->downsample == DOWNSAMPLE_MAXPOOL   ? TAPS_MAXPOOL
         : shape->downsample == DOWNSAMPLE_AVGPOOL ? TAPS_AVGPOOL
         : shape->downsample == DOWNSAMPLE_PCA     ? TAPS_PCA
                                                   : TAPS_HIDDEN;
}
static inline int side_tap_cols(const struct side_shape *shape) {
  enum tap_kind kind = side_tap_kind(shape);
  return kind == TAPS_HIDDEN ? shape->hidden : kind == TAPS_PCA ? shape->rank : shape->width;
}

/** Key/value heads: the backbone's number with its heads, otherwise the same number of queries a key where that divides.
 *  ERR_USAGE names the nearest reduction factor or number of heads that works. */
int side_shape_make(struct side_shape *shape, const struct model_config *backbone, const struct options *options);

/** The same of options that only say what taps are wanted. */
int side_taps_choose(const struct model_config *backbone, const struct options *options, enum tap_kind *kind,
                     int *cols);

enum { SIDE_NAME = 80 };

struct side_tensor {
  char name[SIDE_NAME];
  int64_t rows, cols; /**< cols = 0: a vector */
  size_t offset;      /**< floats from the start of the flat buffer */
};

enum { SIDE_ABSENT = -1 };

/** Offsets of the tensors of a linear layer or a norm; SIDE_ABSENT where it has none. */
struct side_pair {
  int64_t weight, bias;
};

struct side_layer_layout {
  struct side_pair adapter_a, adapter_b, down_norm; /**< a variant may lack an adapter */
  int64_t gate;
  struct side_pair input_norm;
  struct side_pair
      qkv; /**< of OPT soft-max does not see the keys' bias, which no RoPE turns: its gradient is rounding */
  struct side_pair o, post_norm, up, down;
};

struct side_layout {
  struct side_shape shape;
  struct side_layer_layout *layers; /**< [shape.layers] */
  struct side_pair final_norm, upsample;
  int64_t mix;
  struct side_tensor *tensors; /**< [count + frozen_count], ascending offsets; the frozen ones last */
  int count;                   /**< trained */
  int frozen_count;            /**< of pca: directions of each module; their offsets count in a buffer of their own */
  size_t size;                 /**< floats of the flat buffer, the gaps between tensors included */
  size_t parameters;           /**< trained numbers */
};

/** By which a side network without settings is known: "model.norm_qst.weight", whose size is the width, and
 *  "model.downsample.0.adapter_A.weight", which has as many rows as the rank. */
void side_published_names(enum model_family family, char norm[SIDE_NAME], char adapter[SIDE_NAME]);

int side_layout_open(struct side_layout *layout, const struct side_shape *shape);
void side_layout_close(struct side_layout *layout);

/** The span of a layer's tensors; those of its downsample module come first, then the gate. */
static inline int64_t side_layer_begin(const struct side_layout *layout, int l) {
  const struct side_layer_layout *at = &layout->layers[l];
  if (at->adapter_a.weight != SIDE_ABSENT) return at->adapter_a.weight;
  return at->adapter_b.weight != SIDE_ABSENT ? at->adapter_b.weight : at->down_norm.weight;
}
/** The head's tensors, mix and all, are the last. */
static inline int64_t side_head_begin(const struct side_layout *layout) {
  return layout->final_norm.weight;
}
static inline int64_t side_layer_end(const struct side_layout *layout, int l) {
  return l + 1 < layout->shape.layers ? side_layer_begin(layout, l + 1) : side_head_begin(layout);
}

/** The part of the flat buffer that a stage holds: the tensors of its layers, on the last stage also the head's. */
void side_layout_span(const struct side_layout *layout, const struct stage *stage, size_t *begin, size_t *size);

static inline int side_tensor_count(const struct side_layout *layout) {
  return layout->count + layout->frozen_count;
}
static inline size_t side_tensor_size(const struct side_tensor *tensor) {
  return (size_t)tensor->rows * (size_t)(tensor->cols ? tensor->cols : 1);
}

/** Flat host buffers of the numbers from `begin` on; m and v may be NULL. */
struct side_buffers {
  float *flat, *m, *v; /**< [size] */
  float *frozen;       /**< [layers][principal_floats(hidden, rank)] of all layers; NULL but for pca */
  size_t begin, size;
};

/** Initial values into buffers->flat: matrices normal with standard deviation 0.02 (the upsample zero with
 *  MIX_RESIDUAL), norms 1, biases 0, gates 0.5, mix weight 1. Depends on the seed and the tensor alone. */
void side_layout_initialize(const struct side_layout *layout, uint64_t seed, const struct side_buffers *buffers);

/** Views of all tensors, as checkpoints want them; those outside of the buffers get no data.
 *  views: [side_tensor_count(layout)]. */
void side_layout_views(const struct side_layout *layout, const struct side_buffers *buffers,
                       struct named_tensor *views);

#endif
