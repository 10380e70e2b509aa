/**
 * @file rope_table.h
 * Cosines and sines of rotary position embedding (Su et al. 2021), plain, linearly scaled (Chen et al. 2023) or scaled by
 * frequency as LLaMA 3.1 does. Angles in double, rounded once. The side network uses the backbone's base and scaling at
 * its own head dimension.
 */
#ifndef QST_ROPE_TABLE_H
#define QST_ROPE_TABLE_H

#include "io/model_config.h"
#include "kernels/device.h"

struct rope_table {
  float *cosines, *sines; /**< device [positions, head_dim / 2] */
  int positions, head_dim;
};

int rope_table_open(struct rope_table *table, struct device *device, const struct model_config *config, int head_dim,
                    int positions);
void rope_table_close(struct rope_table *table, struct device *device);

#endif
