#include "side_source.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"

static int rows_of(struct checkpoint *source, const char *name, int64_t *rows) {
  int64_t cols;
  return checkpoint_shape(source, name, rows, &cols);
}

/* What the tensors of a file without settings tell. */
static int guess_options(struct checkpoint *source, const char *path, const struct model_config *config,
                         struct options *options) {
  int64_t width, rank, gate;
  char norm[SIDE_NAME], adapter[SIDE_NAME];
  side_published_names(model_family(config), norm, adapter);
  TRY(rows_of(source, norm, &width));
  TRY(rows_of(source, adapter, &rank));
  TRY(rows_of(source, "lm_head_z", &gate));
  if (width < 1 || rank < 1 || gate != config->hidden)
    return fail(
        ERR_INPUT,
        "%s: is not a side network for this model: it lacks the tensors %s, %s and lm_head_z of the model's size", path,
        norm, adapter);
  if (config->hidden % width != 0)
    return fail(ERR_INPUT, "%s: a side network of width %lld does not belong to a model of width %d", path,
                (long long)width, config->hidden);
  options->reduction_factor = config->hidden / width;
  options->rank = rank;
  return options_read(options, "downsample = adapter\nmix = gate\n", path);
}

int side_source_shape(struct checkpoint *source, const char *path, const struct model_config *config,
                      struct side_shape *shape) {
  const struct checkpoint_state *state = checkpoint_state(source);
  struct options options = {0};
  int status;
  TRY_GOTO(status, cleanup, options_start(&options, COMMAND_TRAIN));
  if (state->settings.size > 0)
    TRY_GOTO(status, cleanup, options_read(&options, state->settings.data, path));
  else
    TRY_GOTO(status, cleanup, guess_options(source, path, config, &options));
  TRY_GOTO(status, cleanup, fail_at(side_shape_make(shape, config, &options), "%s", path));
cleanup:
  options_free(&options);
  return status;
}

int side_source_read(struct checkpoint *source, const struct side_layout *layout, const struct side_buffers *buffers) {
  struct named_tensor *views;
  TRY(memory_array(&views, (size_t)side_tensor_count(layout), sizeof *views));
  size_t bytes = buffers->size * sizeof *buffers->flat;
  memset(buffers->flat, 0, bytes);
  if (buffers->m) memset(buffers->m, 0, bytes);
  if (buffers->v) memset(buffers->v, 0, bytes);
  side_layout_views(layout, buffers, views);
  int status = checkpoint_read(source, views, side_tensor_count(layout));
  free(views);
  return status;
}

int side_source_check_backbone(struct checkpoint *source, const char *path, const char *digest) {
  const char *trained_on = checkpoint_state(source)->backbone;
  if (trained_on[0] == 0 || strcmp(trained_on, digest) == 0) return OK;
  return fail(
      ERR_INPUT,
      "%s: was trained on another backbone (%.12s…, this one is %.12s…): give the --backbone file it was trained "
      "on, or quantize the same model with the same options",
      path, trained_on, digest);
}
