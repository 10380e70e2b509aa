/**
 * @file model_shapes.h
 * The shapes of published models by name, for planning without a checkpoint: what their config.json says.
 */
#ifndef QST_IO_MODEL_SHAPES_H
#define QST_IO_MODEL_SHAPES_H

#include "io/model_config.h"

/** ERR_USAGE with the closest name, or with all of them. */
int model_shape_find(const char *name, struct model_config *out);
/** The name of shape i; NULL after the last. */
const char *model_shape_name(int i);

#endif
