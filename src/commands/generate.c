/* qst-mpi generate: answers to one prompt, streamed, or to the rows of a file, shared by all ranks. */
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "commands/commands.h"
#include "commands/prompts.h"
#include "generator.h"
#include "same_command.h"

struct generation {
  struct grid grid;
  struct engine engine;
  struct generator generator;
  struct prompts prompts;
  struct token_list *answers; /**< [prompts.count] */
  bool streams;               /**< one prompt: print as it comes */
  struct token_stream stream; /**< its text so far */
};

/* The prompt's tokens are prefilled in pieces of at most so many. */
enum { PREFILL_ROWS = 512 };

/* ---- answers -------------------------------------------------------------------------------------------- */

static int decode_answer(const struct generation *run, int request, struct buffer *text) {
  const struct token_list *answer = &run->answers[request];
  size_t count = answer->size;
  while (count > 0 && generator_is_stop(&run->generator, answer->ids[count - 1])) count--;
  return tokenizer_decode(run->engine.tokenizer, answer->ids, count, false, text);
}

static int print_stream(struct generation *run, bool at_end, int32_t token) {
  struct buffer text = {0};
  const struct tokenizer *tokenizer = run->engine.tokenizer;
  int status = at_end ? token_stream_flush(&run->stream, tokenizer, true, &text)
                      : token_stream_add(&run->stream, tokenizer, token, &text);
  if (status == OK && text.size > 0) fwrite(text.data, 1, text.size, stdout);
  if (status == OK) fflush(stdout);
  buffer_free(&text);
  return status;
}

static int take_token(void *context, int request, int32_t token) {
  struct generation *run = context;
  TRY(token_list_append(&run->answers[request], token));
  return run->streams && !generator_is_stop(&run->generator, token) ? print_stream(run, false, token) : OK;
}

/* ---- set-up --------------------------------------------------------------------------------------------- */

static int open_engine(struct generation *run, const struct options *options, const struct backbone_facts *facts) {
  int rows = run->prompts.longest + (int)options->max_new_tokens;
  if (rows > facts->max_positions)
    return fail(ERR_INPUT,
                "a prompt of %d tokens and --max-new-tokens %lld are more than the %d positions the model knows",
                run->prompts.longest, (long long)options->max_new_tokens, facts->max_positions);
  int slots = run->prompts.count < (int)options->batch ? run->prompts.count : (int)options->batch;
  int capacity = slots > PREFILL_ROWS ? slots : PREFILL_ROWS;
  TRY(engine_open(
      &run->engine, options, &run->grid,
      &(struct engine_plan){.use = ENGINE_GENERATE, .capacity = capacity, .samples = capacity, .positions = rows}));
  return generator_open(&run->generator, &run->engine, options, slots > 0 ? slots : 1, rows);
}

static int open_all(struct generation *run, const struct options *options, const struct comm *comm) {
  if (!options->prompt && !options->in) return fail(ERR_USAGE, "give --prompt TEXT, or --in X.jsonl and --out Y.jsonl");
  struct backbone_facts facts;
  if (options->out && comm->rank == 0) TRY(file_try(options->out));
  TRY(prompts_open(&run->prompts, options, comm, &facts));
  TRY(memory_array(&run->answers, (size_t)run->prompts.count, sizeof *run->answers));
  run->streams = options->prompt != NULL;
  return open_engine(run, options, &facts);
}

static int generate(struct generation *run, const struct options *options) {
  struct generation_request *requests;
  TRY(memory_array(&requests, (size_t)run->prompts.count, sizeof *requests));
  for (int i = 0; i < run->prompts.count; i++)
    requests[i] = (struct generation_request){.prompt = run->prompts.tokens[i].ids,
                                              .prompt_count = (int)run->prompts.tokens[i].size,
                                              .max_new = (int)options->max_new_tokens,
                                              .index = (uint64_t)run->prompts.lines[i]};
  int status = generator_run(&run->generator, requests, run->prompts.count, take_token, run);
  free(requests);
  return status;
}

/* ---- the file of answers -------------------------------------------------------------------------------- */

/* This rank's rows with their answers as JSON lines. */
static int print_rows(const struct generation *run, struct buffer *lines, size_t *ends) {
  for (int i = 0; i < run->prompts.count; i++) {
    struct buffer text = {0};
    int status = decode_answer(run, i, &text);
    if (status == OK) status = prompts_print_answer(&run->prompts, i, text.data ? text.data : "", text.size, lines);
    buffer_free(&text);
    TRY(status);
    ends[i] = lines->size;
  }
  return OK;
}

/* Takes turns: the rows were dealt to the ranks one by one, so the file's line n is rank n mod size's next. */
static int gather_rows(struct comm *comm, const struct buffer *mine, const size_t *ends, int64_t total,
                       struct buffer *all) {
  int64_t next = 0;
  for (int64_t row = 0; row < total; row++) {
    int owner = (int)(row % comm->size);
    if (owner == comm->rank) {
      uint64_t begin = next ? ends[next - 1] : 0, size = ends[next] - begin;
      next++;
      if (comm->rank == 0) {
        TRY(buffer_append(all, mine->data + begin, size));
      } else {
        TRY(comm_send(comm, &size, sizeof size, 0));
        TRY(comm_send(comm, mine->data + begin, size, 0));
      }
    } else if (comm->rank == 0) {
      uint64_t size;
      TRY(comm_receive(comm, &size, sizeof size, owner));
      char *line;
      TRY(memory_array(&line, size, 1));
      int status = comm_receive(comm, line, size, owner);
      if (status == OK) status = buffer_append(all, line, size);
      free(line);
      TRY(status);
    }
  }
  return OK;
}

static int write_rows(const struct generation *run, const struct options *options, struct comm *comm) {
  struct buffer mine = {0}, all = {0};
  size_t *ends = NULL;
  int status = memory_array(&ends, (size_t)run->prompts.count, sizeof *ends);
  if (status == OK) status = print_rows(run, &mine, ends);
  TRY_GOTO(status, cleanup, comm_agree(comm, status));
  TRY_GOTO(status, cleanup, gather_rows(comm, &mine, ends, run->prompts.total, &all));
  if (comm->rank == 0) status = file_write(options->out, all.data ? all.data : "", all.size);
  TRY_GOTO(status, cleanup, comm_agree(comm, status));
  log_note("wrote %lld answers to %s", (long long)run->prompts.total, options->out);
cleanup:
  free(ends);
  buffer_free(&mine);
  buffer_free(&all);
  return status;
}

static int run_all(struct generation *run, const struct options *options, struct comm *comm) {
  TRY(grid_open(&run->grid, comm, 1, PLACE_STAGES));
  TRY(comm_agree(comm, open_all(run, options, comm)));
  TRY(same_file(comm, options->backbone, run->engine.digest));
  TRY(comm_agree(comm, generate(run, options)));
  if (options->in) return write_rows(run, options, comm);
  if (comm->rank != 0) return OK;
  TRY(print_stream(run, true, 0));
  putchar('\n');
  return OK;
}

int command_generate(const struct options *options, struct comm *comm) {
  struct generation run = {0};
  int status = run_all(&run, options, comm);
  comm_conclude(comm, status);
  for (int i = 0; run.answers && i < run.prompts.count; i++) token_list_free(&run.answers[i]);
  free(run.answers);
  token_stream_free(&run.stream);
  prompts_close(&run.prompts);
  generator_close(&run.generator);
  engine_close(&run.engine);
  grid_close(&run.grid);
  return status;
}
