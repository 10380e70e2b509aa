/* qst-mpi calibrate: finds the directions of the pca downsample on a sample of rows. */
#include <stdlib.h>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "commands/commands.h"
#include "commands/data.h"
#include "directions.h"
#include "principal.h"
#include "same_command.h"

struct calibrate_run {
  struct grid grid;
  struct engine engine;
  struct token_file data;
  float *frozen;
};

static int open_all(struct calibrate_run *run, const struct options *options) {
  TRY(token_file_read(options->data, &run->data));
  int longest = data_longest_row(&run->data, run->data.rows);
  int capacity = longest > (int)options->micro_batch_tokens ? longest : (int)options->micro_batch_tokens;
  TRY(engine_open(
      &run->engine, options, &run->grid,
      &(struct engine_plan){.use = ENGINE_CALIBRATE, .capacity = capacity, .samples = capacity, .positions = longest}));
  TRY(data_check(&run->engine, &run->data, options->data));
  const struct model_config *config = &run->engine.backbone.config;
  if (options->rank > config->hidden)
    return fail(ERR_USAGE, "--rank %lld: hidden states of size %d have no more directions than that",
                (long long)options->rank, config->hidden);
  size_t floats = (size_t)config->layers * principal_floats(config->hidden, (int)options->rank);
  return memory_array(&run->frozen, floats, sizeof *run->frozen);
}

static int run_all(struct calibrate_run *run, const struct options *options, struct comm *comm) {
  TRY(comm_agree(comm, comm->rank == 0 ? file_try(options->out) : OK));
  if (options->pipeline_stages == OPTION_AUTO)
    return comm_agree(comm, fail(ERR_USAGE, "--pipeline-stages auto is planned for train: give calibrate a number"));
  TRY(grid_open(&run->grid, comm, (int)options->pipeline_stages, placement_of(options)));
  TRY(comm_agree(comm, open_all(run, options)));
  TRY(same_file(comm, options->data, run->data.digest));
  TRY(engine_connect(&run->engine));
  engine_banner(&run->engine);
  TRY(directions_make(&run->engine, options, &run->data, run->frozen));
  TRY(comm_agree(comm,
                 comm->rank > 0 ? OK : directions_write(options->out, &run->engine, options, &run->data, run->frozen)));
  log_note("next       qst-mpi train --downsample pca --rank %lld --directions %s ...", (long long)options->rank,
           options->out);
  return OK;
}

int command_calibrate(const struct options *options, struct comm *comm) {
  struct calibrate_run run = {0};
  int status = run_all(&run, options, comm);
  comm_conclude(comm, status);
  engine_close(&run.engine);
  grid_close(&run.grid);
  free(run.frozen);
  token_file_free(&run.data);
  return status;
}
