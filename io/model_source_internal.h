/**
 * @file model_source_internal.h
 * What model_source.c and the two kinds of source share: a folder (model_folder.c) and a GGUF file (model_gguf.c).
 */
#ifndef QST_IO_MODEL_SOURCE_INTERNAL_H
#define QST_IO_MODEL_SOURCE_INTERNAL_H

#include "io/model_source.h"

enum { MODEL_NAME = 96 }; /**< bytes of a tensor name, with its NUL */

struct source_operations {
  void (*close)(struct model_source *);
  /** False: no such tensor. */
  bool (*shape)(struct model_source *, const char *name, struct tensor_shape *out);
  /** Rows [first, first + count), which are within the shape. */
  int (*read)(struct model_source *, const char *name, int64_t first, int64_t count, float *out);
  int (*tokenizer)(struct model_source *, struct tokenizer **out);
  int (*describe)(struct model_source *, struct buffer *out);
  /** How many tensors there are, and whether the tensor by number belongs to no part of the model that we compute: then
   *  its name, otherwise NULL. */
  size_t (*count)(const struct model_source *);
  const char *(*stranger)(const struct model_source *, size_t index);
};

struct model_source {
  const struct source_operations *operations;
  struct model_config config;
  char *path;
  void *state; /**< the kind's own */
};

/** The kinds set operations, config and state; `path` is set. On error they leave nothing behind. */
int model_folder_open(struct model_source *source);
int model_gguf_open(struct model_source *source);

/** True when the model that `config` describes has a tensor of this Hugging Face name: its shape. */
bool model_tensor_shape(const struct model_config *config, const char *name, struct tensor_shape *out);

/** "model.layers.17.mlp.up_proj.weight" → 17 and "mlp.up_proj.weight"; false when it is not of that form or the model has no
 *  such layer. */
bool model_layer_name(const struct model_config *config, const char *name, int32_t *layer, const char **part);

#endif
