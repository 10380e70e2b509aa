/* qst-mpi train: finetunes a side network on tokenized rows. */
#include <string.h>

#include "base/error.h"
#include "base/log.h"
#include "commands/commands.h"
#include "commands/data.h"
#include "plan_hardware.h"
#include "run_folder.h"
#include "same_command.h"
#include "signals.h"
#include "time_limit.h"
#include "trainer.h"

static int read_data(const struct options *options, struct training_data *data) {
  TRY(token_file_read(options->data, &data->train));
  return options->eval_data ? token_file_read(options->eval_data, &data->eval) : OK;
}

static int longest_row(const struct training_data *data) {
  int train = data_longest_row(&data->train, data->train.rows), eval = data_longest_row(&data->eval, data->eval.rows);
  return train > eval ? train : eval;
}

/* Everything that can fail on one rank alone before the first collective. */
static int open_all(struct engine *engine, const struct options *options, const struct grid *grid,
                    const struct training_data *data) {
  int capacity = (int)options->micro_batch_tokens, longest = longest_row(data);
  if (longest > capacity)
    return fail(
        ERR_INPUT,
        "a row of the data has %d tokens, more than a micro-batch holds: raise --micro-batch-tokens (now %d) or "
        "tokenize with --max-tokens %d",
        longest, capacity, capacity);
  double label_share = (double)data->train.label_tokens / (double)data->train.total;
  TRY(engine_open(engine, options, grid,
                  &(struct engine_plan){.use = ENGINE_TRAIN,
                                        .capacity = capacity,
                                        .samples = capacity,
                                        .positions = longest,
                                        .label_share = label_share}));
  TRY(data_check(engine, &data->train, options->data));
  if (!options->eval_data) return OK;
  if (data->eval.label_tokens == 0)
    return fail(ERR_INPUT, "%s: no token has a label, so there is nothing to evaluate", options->eval_data);
  return data_check(engine, &data->eval, options->eval_data);
}

/* On rank 0, for all. */
static int plan_here(struct options *options, const struct comm *comm, const struct training_data *data) {
  struct plan_request request = {.options = options,
                                 .placement = placement_of(options),
                                 .data = &data->train,
                                 .longest = longest_row(data),
                                 .rows = data->train.rows};
  int status = machine_here(&request.machine, options, comm);
  if (status == OK) status = plan_choose(&request, options);
  machine_close(&request.machine);
  return status;
}

/* A run that goes on keeps its micro-batches: others would sum other parts. On rank 0. */
static int read_resumed(struct options *options) {
  const struct run_folder folder = {.path = options->out};
  struct buffer settings = {0};
  struct options stored;
  int status = options_start(&stored, COMMAND_TRAIN);
  if (status == OK) status = run_folder_settings(&folder, &settings);
  if (status == OK && settings.size) {
    status = options_read(&stored, settings.data, options->out);
    options->micro_batch_tokens = stored.micro_batch_tokens;
  }
  buffer_free(&settings);
  options_free(&stored);
  return status;
}

static int take_resumed(struct options *options, struct comm *comm) {
  if (!options->resume || options->micro_batch_tokens != OPTION_AUTO) return OK;
  TRY(comm_agree(comm, comm->rank == 0 ? read_resumed(options) : OK));
  TRY(comm_broadcast(comm, &options->micro_batch_tokens, sizeof options->micro_batch_tokens, 0));
  if (options->micro_batch_tokens != OPTION_AUTO)
    log_note("resumed    --micro-batch-tokens %lld, as the run has it", (long long)options->micro_batch_tokens);
  return OK;
}

/* What the options leave to the program. */
static int choose(struct options *options, struct comm *comm, const struct training_data *data) {
  static char names[][9] = {[PLACE_STAGES] = "stages", [PLACE_REPLICAS] = "replicas"};
  if (!plan_is_open(options)) return OK;
  bool must = options->pipeline_stages == OPTION_AUTO || options->micro_batch_tokens == OPTION_AUTO;
  int status = comm->rank == 0 ? plan_here(options, comm, data) : OK;
  if (status != OK && !must) {
    log_note("planned    nothing: %s", fail_message());
    status = OK;
  }
  TRY(comm_agree(comm, status));
  int64_t chosen[] = {options->pipeline_stages, options->micro_batch_tokens, placement_of(options), options->recompute,
                      options->run_ahead};
  TRY(comm_broadcast(comm, chosen, sizeof chosen, 0));
  options->pipeline_stages = chosen[0];
  options->micro_batch_tokens = chosen[1];
  options->placement = names[chosen[2]];
  options->recompute = chosen[3];
  options->run_ahead = chosen[4];
  log_note("planned    --pipeline-stages %lld --placement %s --micro-batch-tokens %lld%s%s", (long long)chosen[0],
           options->placement, (long long)chosen[1], options->recompute ? " --recompute" : "",
           options->run_ahead ? "" : " --no-run-ahead");
  return OK;
}

static int run(struct engine *engine, struct options *options, struct comm *comm, struct grid *grid,
               struct training_data *data) {
  TRY(comm_agree(comm, read_data(options, data)));
  TRY(same_file(comm, options->data, data->train.digest));
  if (options->eval_data) TRY(same_file(comm, options->eval_data, data->eval.digest));
  TRY(take_resumed(options, comm));
  TRY(choose(options, comm, data));
  TRY(grid_open(grid, comm, (int)options->pipeline_stages, placement_of(options)));
  TRY(comm_agree(comm, open_all(engine, options, grid, data)));
  TRY(engine_connect(engine));
  return trainer_run(engine, options, data);
}

int command_train(const struct options *options, struct comm *comm) {
  struct grid grid = {0};
  struct engine engine = {0};
  struct training_data data = {0};
  signals_catch();
  if (comm->rank == 0) time_limit_start(options->time_limit);
  struct options chosen = *options;
  int status = run(&engine, &chosen, comm, &grid, &data);
  comm_conclude(comm, status);
  engine_close(&engine);
  grid_close(&grid);
  token_file_free(&data.train);
  token_file_free(&data.eval);
  return status;
}
