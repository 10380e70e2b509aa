/**
 * @file projection.h
 * The frozen half of the pca downsample (principal.h) on a device: the directions of the modules of a stage.
 */
#ifndef QST_PROJECTION_H
#define QST_PROJECTION_H

#include "backbone.h"

struct projection;

/** `count` directions a module, zero until projection_set(). */
int projection_open(struct projection **out, struct backbone *backbone, int count);
/** NULL-safe. */
void projection_close(struct projection **projection);

/** `frozen`: host, [layers][principal_floats(hidden, count)]. */
int projection_set(struct projection *projection, const float *frozen);

/** y [rows, count] = A · (x / |x|) + a of the module that reads tap `i` of the stage; x: act [rows, hidden]. */
int projection_run(struct projection *projection, int i, void *y, const void *x, int rows);

#endif
