/**
 * @file checkpoint.h
 * A side network on file, format "qst-checkpoint" version 1 (HDF5):
 *   / attributes: format, version, step, side network settings, backbone (digest), options that change the numbers
 *   /side/NAME  f32, under the reference implementation's tensor names
 *   /optimizer/m/NAME, /optimizer/v/NAME  f32; absent in a side network alone
 * The bytes depend on the run's mathematics alone: no dates, no ranks, no paths.
 * The same side network as safetensors: tensors F32 under the same names, the settings in __metadata__.
 */
#ifndef QST_IO_CHECKPOINT_H
#define QST_IO_CHECKPOINT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/memory.h"

/** A named tensor that borrows its data. cols = 0: a vector of `rows`. m and v may be NULL; data too where it is only to
 *  be checked, not read. */
struct named_tensor {
  const char *name;
  int64_t rows, cols;
  float *data, *m, *v;
};

/** Settings travel as "key = value" lines, the config file's syntax (base/options.h). */
struct checkpoint_state {
  int64_t step;
  double best_loss;  /**< best evaluation loss so far; +inf before the first */
  int64_t best_step; /**< -1 before the first */
  char backbone[33]; /**< backbone_file_digest() */
  char data[33];     /**< token_file digest; "" in an exported side network */
  struct buffer settings;
};

int checkpoint_write(const char *path, const struct checkpoint_state *state, const struct named_tensor *tensors,
                     int count);

/** OK when `path` is a checkpoint of ours whose datasets are all there with the checksums they were written with. */
int checkpoint_verify(const char *path);

struct checkpoint;
/** Opens a checkpoint or a safetensors file; a folder (a run) means its "latest". */
int checkpoint_open(struct checkpoint **out, const char *path);
void checkpoint_close(struct checkpoint **checkpoint);
/** What the file says of itself. For a foreign safetensors file without our metadata the settings are empty, step 0. */
const struct checkpoint_state *checkpoint_state(const struct checkpoint *checkpoint);
/** Shape of a tensor; rows = 0 when it has none of that name. */
int checkpoint_shape(struct checkpoint *checkpoint, const char *name, int64_t *rows, int64_t *cols);
/** Every tensor of the side network in name order; stops at the first status other than OK. */
int checkpoint_each(struct checkpoint *checkpoint,
                    int (*visit)(void *context, const char *name, int64_t rows, int64_t cols), void *context);
bool checkpoint_has_moments(struct checkpoint *checkpoint); /**< the optimizer's m and v are in it */
/** Reads `count` tensors of exactly these names and shapes; ERR_INPUT names what is missing, superfluous or of another
 *  shape. m and v are read where not NULL. */
int checkpoint_read(struct checkpoint *checkpoint, struct named_tensor *tensors, int count);

/** Side network as safetensors, atomically. */
int safetensors_write(const char *path, const struct checkpoint_state *state, const struct named_tensor *tensors,
                      int count);

#endif
