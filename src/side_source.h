/**
 * @file side_source.h
 * A side network from a file into the program: a checkpoint, a run folder or safetensors, ours or the reference
 * implementation's.
 */
#ifndef QST_SIDE_SOURCE_H
#define QST_SIDE_SOURCE_H

#include "io/checkpoint.h"
#include "side_layout.h"

/** The shape the file's tensors and settings say, checked against the model. Files without our settings are taken as the
 *  reference implementation's: adapter, gate. `path` for messages. */
int side_source_shape(struct checkpoint *source, const char *path, const struct model_config *config,
                      struct side_shape *shape);

/** Reads the parameters that the buffers are for, zero in the gaps, and the moments where they have room for them. The
 *  file must have all tensors of the layout. */
int side_source_read(struct checkpoint *source, const struct side_layout *layout, const struct side_buffers *buffers);

/** ERR_INPUT when the side network was trained on another backbone. Files that do not say are accepted. */
int side_source_check_backbone(struct checkpoint *source, const char *path, const char *digest);

#endif
