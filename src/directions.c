#include "directions.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "principal.h"
#include "side_source.h"

static size_t count_floats(const struct engine *engine, int64_t rank) {
  const struct model_config *config = &engine->backbone.config;
  return (size_t)config->layers * principal_floats(config->hidden, (int)rank);
}

/* A layout that is nothing but the frozen tensors. */
static int open_layout(struct side_layout *layout, const struct engine *engine, int64_t rank) {
  const struct model_config *config = &engine->backbone.config;
  struct side_shape shape = {
      .layers = config->layers, .hidden = config->hidden, .rank = (int)rank, .downsample = DOWNSAMPLE_PCA};
  return side_layout_open(layout, &shape);
}

/* views: those of the frozen tensors; caller frees. */
static int frozen_views(struct side_layout *layout, float *frozen, struct named_tensor **all,
                        struct named_tensor **views) {
  TRY(memory_array(all, (size_t)side_tensor_count(layout), sizeof **all));
  side_layout_views(layout, &(struct side_buffers){.frozen = frozen}, *all);
  *views = *all + layout->count;
  return OK;
}

/* ---- the file --------------------------------------------------------------------------------------------- */

static int write_views(const char *path, const struct engine *engine, const struct token_file *data,
                       const struct named_tensor *views, int count) {
  struct checkpoint_state state = {.best_loss = INFINITY, .best_step = -1};
  snprintf(state.backbone, sizeof state.backbone, "%s", engine->digest);
  snprintf(state.data, sizeof state.data, "%s", data->digest);
  return checkpoint_write(path, &state, views, count);
}

int directions_write(const char *path, const struct engine *engine, const struct options *options,
                     const struct token_file *data, const float *frozen) {
  struct side_layout layout = {0};
  struct named_tensor *all = NULL, *views;
  float *copy = NULL;
  size_t floats = count_floats(engine, options->rank);
  int status;
  TRY_GOTO(status, cleanup, memory_array(&copy, floats, sizeof *copy));
  memcpy(copy, frozen, floats * sizeof *copy);
  TRY_GOTO(status, cleanup, open_layout(&layout, engine, options->rank));
  TRY_GOTO(status, cleanup, frozen_views(&layout, copy, &all, &views));
  TRY_GOTO(status, cleanup, write_views(path, engine, data, views, layout.frozen_count));
cleanup:
  free(all);
  free(copy);
  side_layout_close(&layout);
  return status;
}

static int read_file(const char *path, const struct engine *engine, int64_t rank, float *frozen) {
  struct side_layout layout = {0};
  struct named_tensor *all = NULL, *views;
  struct checkpoint *source = NULL;
  int status;
  TRY_GOTO(status, cleanup, checkpoint_open(&source, path));
  TRY_GOTO(status, cleanup, side_source_check_backbone(source, path, engine->digest));
  TRY_GOTO(status, cleanup, open_layout(&layout, engine, rank));
  TRY_GOTO(status, cleanup, frozen_views(&layout, frozen, &all, &views));
  TRY_GOTO(status, cleanup,
           fail_at(checkpoint_read(source, views, layout.frozen_count), "directions of --rank %lld", (long long)rank));
cleanup:
  checkpoint_close(&source);
  free(all);
  side_layout_close(&layout);
  return status;
}

/* ---- sources ---------------------------------------------------------------------------------------------- */

int directions_make(struct engine *engine, const struct options *options, const struct token_file *data,
                    float *frozen) {
  return calibrate(&(struct calibration){.source = &engine->source,
                                         .batch = engine->batch,
                                         .data = data,
                                         .tokens = options->calibration_tokens,
                                         .count = (int)options->rank,
                                         .threads = engine->threads},
                   engine->grid, frozen);
}

/* Where a tap store keeps the directions of its taps; *path is NULL without a store. */
static int store_path(const struct options *options, char **path) {
  *path = NULL;
  return options->taps ? file_join(options->taps, "directions.h5", path) : OK;
}

enum origin { FROM_FILE, FROM_STORE, FROM_DATA };

/* What there is, as rank 0 sees it. */
static int look(const struct options *options, const char *path, struct comm *comm, enum origin *origin) {
  int32_t found = options->directions ? FROM_FILE : path && access(path, F_OK) == 0 ? FROM_STORE : FROM_DATA;
  TRY(comm_broadcast(comm, &found, sizeof found, 0));
  *origin = (enum origin)found;
  return OK;
}

/* A store that cannot keep them is no reason not to train. */
static void keep(const char *path, const struct engine *engine, const struct options *options,
                 const struct token_file *data, const float *frozen) {
  if (file_make_folder(options->taps) != OK || directions_write(path, engine, options, data, frozen) != OK)
    log_warning("%s; the directions are not kept", fail_message());
}

int directions_get(struct engine *engine, const struct options *options, const struct token_file *data, float *frozen) {
  struct comm *comm = engine->grid->world;
  enum origin origin;
  char *path;
  int status;
  TRY(comm_agree(comm, store_path(options, &path)));
  TRY_GOTO(status, cleanup, look(options, path, comm, &origin));
  if (origin == FROM_DATA) {
    TRY_GOTO(status, cleanup, directions_make(engine, options, data, frozen));
    if (path && comm->rank == 0) keep(path, engine, options, data, frozen);
  } else {
    const char *file = origin == FROM_FILE ? options->directions : path;
    status = comm->rank == 0 ? read_file(file, engine, options->rank, frozen) : OK;
    TRY_GOTO(status, cleanup, comm_agree(comm, status));
    status = comm_broadcast(comm, frozen, count_floats(engine, options->rank) * sizeof *frozen, 0);
  }
cleanup:
  free(path);
  return status;
}

struct hash_text directions_digest(const struct engine *engine, int64_t rank, const float *frozen) {
  return frozen ? hash_bytes(frozen, count_floats(engine, rank) * sizeof *frozen) : (struct hash_text){.hex = "-"};
}
