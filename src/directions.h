/**
 * @file directions.h
 * Where the frozen directions of the pca downsample (principal.h) come from, and their file: a checkpoint (io/checkpoint.h)
 * with no tensors but those, as `calibrate` writes it.
 */
#ifndef QST_DIRECTIONS_H
#define QST_DIRECTIONS_H

#include "base/hash.h"
#include "calibrate.h"
#include "engine.h"

/** Fills frozen [layers][principal_floats(hidden, options->rank)] (struct side_buffers), the same on all ranks: from
 *  options->directions where that is given; otherwise from the file that an earlier run left in the folder of the tap store;
 *  otherwise by calibrating on `data`, and then leaves it there. ERR_INPUT for a file of another backbone or rank. The
 *  engine's lanes must be idle. Collective. */
int directions_get(struct engine *engine, const struct options *options, const struct token_file *data, float *frozen);

/** Calibrates on `data` (calibrate.h). Collective. */
int directions_make(struct engine *engine, const struct options *options, const struct token_file *data, float *frozen);
/** Writes them; on one rank. */
int directions_write(const char *path, const struct engine *engine, const struct options *options,
                     const struct token_file *data, const float *frozen);

/** Tells them from others; "-" where there are none (NULL). */
struct hash_text directions_digest(const struct engine *engine, int64_t rank, const float *frozen);

#endif
