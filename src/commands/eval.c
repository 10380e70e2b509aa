/* qst-mpi eval: loss, perplexity and exact match of a backbone, with or without a side network, on tokenized rows. */
#include <jansson.h>
#include <stdio.h>

#include "base/error.h"
#include "base/log.h"
#include "commands/commands.h"
#include "commands/data.h"
#include "evaluate.h"
#include "exact_match.h"
#include "same_command.h"

struct eval_run {
  struct grid grid;
  struct engine engine;
  struct generator generator;
  struct token_file data;
  int64_t rows;
  struct evaluation evaluation;
  struct exact_match match;
};

static int smaller(int64_t a, int64_t b) {
  return (int)(a < b ? a : b);
}

/* Micro-batches as large as training's by default; decoding takes `batch` rows at a time. */
static int open_all(struct eval_run *run, const struct options *options) {
  TRY(token_file_read(options->data, &run->data));
  run->rows = options->limit > 0 && options->limit < run->data.rows ? options->limit : run->data.rows;
  int longest = data_longest_row(&run->data, run->rows);
  int capacity = longest > (int)options->micro_batch_tokens ? longest : (int)options->micro_batch_tokens;
  TRY(engine_open(
      &run->engine, options, &run->grid,
      &(struct engine_plan){.use = ENGINE_EVALUATE, .capacity = capacity, .samples = capacity, .positions = longest}));
  TRY(data_check(&run->engine, &run->data, options->data));
  int slots = smaller(options->batch, run->rows);
  return generator_open(&run->generator, &run->engine, options, smaller(slots, capacity), longest);
}

static int print_json(const struct eval_run *run) {
  json_t *report = json_pack("{s:f, s:f, s:I}", "loss", run->evaluation.loss, "perplexity", run->evaluation.perplexity,
                             "label_tokens", (json_int_t)run->evaluation.label_tokens);
  if (report && run->match.rows > 0) {
    json_object_set_new(report, "exact_match", json_real((double)run->match.right / (double)run->match.rows));
    json_object_set_new(report, "exact_match_rows", json_integer(run->match.rows));
  }
  int failed = !report || json_dumpf(report, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9)) != 0;
  json_decref(report);
  if (failed) return fail(ERR_SYSTEM, "standard output could not be written");
  putchar('\n');
  return OK;
}

static int print(const struct eval_run *run, const struct options *options) {
  if (options->json) return print_json(run);
  printf("loss          %.5f nats a label token\n", run->evaluation.loss);
  printf("perplexity    %.4f\n", run->evaluation.perplexity);
  printf("label tokens  %lld of %lld rows\n", (long long)run->evaluation.label_tokens, (long long)run->rows);
  if (run->match.rows > 0)
    printf("exact match   %.1f %% (%lld of %lld)\n", 100.0 * (double)run->match.right / (double)run->match.rows,
           (long long)run->match.right, (long long)run->match.rows);
  return OK;
}

static int evaluate(struct eval_run *run, const struct options *options, struct comm *comm) {
  TRY(grid_open(&run->grid, comm, 1, PLACE_STAGES));
  TRY(comm_agree(comm, open_all(run, options)));
  TRY(same_file(comm, options->data, run->data.digest));
  TRY(engine_connect(&run->engine));
  engine_banner(&run->engine);
  TRY(evaluate_loss(&run->engine, &run->data, run->rows, &run->evaluation));
  TRY(exact_match_count(&run->generator, comm, &run->data, run->rows, &run->match));
  return comm->rank == 0 ? print(run, options) : OK;
}

int command_eval(const struct options *options, struct comm *comm) {
  struct eval_run run = {0};
  int status = evaluate(&run, options, comm);
  comm_conclude(comm, status);
  generator_close(&run.generator);
  engine_close(&run.engine);
  grid_close(&run.grid);
  token_file_free(&run.data);
  return status;
}
