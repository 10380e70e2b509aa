/* plan: what a training run would take on other machines, without computing or a checkpoint. */
#include "plan.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "commands/commands.h"
#include "commands/data.h"
#include "io/chat.h"
#include "plan_hardware.h"
#include "plan_print.h"
#include "plan_sweep.h"
#include "plan_taps.h"

/* ---- the data ------------------------------------------------------------------------------------------- */

/* Equal rows, as many as a step takes; labels on the last tokens of each. */
static int assume_rows(const struct options *options, struct token_file *data) {
  int64_t rows = options->global_batch, length = options->row_tokens;
  int64_t unlabelled = length - (int64_t)((double)length * options->label_share + 0.5);
  *data = (struct token_file){.rows = rows, .total = rows * length, .label_tokens = rows * (length - unlabelled)};
  TRY(memory_array(&data->tokens, (size_t)data->total, sizeof *data->tokens));
  TRY(memory_array(&data->labels, (size_t)data->total, sizeof *data->labels));
  TRY(memory_array(&data->offsets, (size_t)rows + 1, sizeof *data->offsets));
  for (int64_t row = 0; row <= rows; row++) data->offsets[row] = row * length;
  for (int64_t i = 0; i < data->total; i++) data->labels[i] = i % length < unlabelled ? LABEL_NONE : 0;
  return OK;
}

static int read_rows(const struct options *options, struct token_file *data, int64_t *rows) {
  *rows = options->rows;
  if (!options->data) return assume_rows(options, data);
  TRY(token_file_read(options->data, data));
  *rows = data->rows;
  return OK;
}

/* ---- the plan ------------------------------------------------------------------------------------------- */

static int print_json(json_t *root) {
  int failed = !root || json_dumpf(root, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(9)) != 0;
  json_decref(root);
  if (failed) return fail(ERR_SYSTEM, "standard output could not be written");
  putchar('\n');
  return OK;
}

static int print_text(const struct plan_request *request, const struct plan *plan, const struct plan_taps *taps) {
  struct buffer text = {0};
  int status = plan_print(request, plan, &text);
  if (status == OK && taps) status = plan_taps_print(taps, &text);
  if (status == OK) fputs(text.data, stdout);
  buffer_free(&text);
  return status;
}

static int print_plan_json(const struct plan_request *request, const struct plan *plan, const struct plan_taps *taps) {
  json_t *root = plan_json(request, plan);
  if (root && taps) json_object_set_new(root, "tap_store", plan_taps_json(taps));
  return print_json(root);
}

static int print_remedy(const struct plan_request *request) {
  int stages;
  int64_t tokens;
  bool found;
  TRY(plan_find_fit(request, &stages, &tokens, &found));
  if (found && stages > request->stages)
    printf("fits with  --pipeline-stages %d --micro-batch-tokens %lld\n", stages, (long long)tokens);
  else if (found)
    printf("fits with  --micro-batch-tokens %lld\n", (long long)tokens);
  else
    printf("fits with  nothing that was tried: more or larger GPUs are needed\n");
  return OK;
}

static int make_and_print(const struct plan_request *request) {
  struct plan plan;
  struct plan_taps taps, *store = request->options->taps ? &taps : NULL;
  TRY(plan_make(request, &plan));
  int status = store ? plan_taps_make(request, &plan, store) : OK;
  if (status == OK)
    status = request->options->json ? print_plan_json(request, &plan, store) : print_text(request, &plan, store);
  if (status == OK && !plan.fits && !request->options->json) status = print_remedy(request);
  plan_free(&plan);
  return status;
}

/* ---- the sweep ------------------------------------------------------------------------------------------ */

static int write_file(const char *folder, const char *name, const struct buffer *content) {
  char *path;
  TRY(file_join(folder, name, &path));
  int status = file_write(path, content->data, content->size);
  free(path);
  return status;
}

static int write_picture(const struct plan_request *request, const struct sweep *sweep) {
  struct buffer picture = {0};
  bool drawn = false;
  int status = sweep_draw(request, sweep, &drawn, &picture);
  if (status == OK && drawn) status = write_file(request->options->out, "sweep.svg", &picture);
  if (status == OK && !drawn) log_warning("no gnuplot here: %s gets no picture", request->options->out);
  buffer_free(&picture);
  return status;
}

static int write_sweep(const struct plan_request *request, const struct sweep *sweep) {
  const char *folder = request->options->out;
  struct buffer text = {0};
  if (!folder) return OK;
  TRY(file_make_folder(folder));
  json_t *root = sweep_json(request, sweep);
  char *json = root ? json_dumps(root, JSON_INDENT(1) | JSON_REAL_PRECISION(9)) : NULL;
  json_decref(root);
  int status = json ? buffer_print(&text, "%s\n", json) : fail(ERR_MEMORY, "not enough memory for the sweep");
  free(json);
  if (status == OK) status = write_file(folder, "sweep.json", &text);
  buffer_free(&text);
  return status == OK ? write_picture(request, sweep) : status;
}

static int print_sweep(const struct plan_request *request, const struct sweep *sweep) {
  struct buffer text = {0};
  if (request->options->json) return print_json(sweep_json(request, sweep));
  int status = sweep_print(sweep, &text);
  if (status == OK) fputs(text.data, stdout);
  buffer_free(&text);
  return status;
}

static int make_sweep(const struct plan_request *request) {
  struct sweep sweep;
  TRY(sweep_make(request, request->options->measured, &sweep));
  int status = print_sweep(request, &sweep);
  if (status == OK) status = write_sweep(request, &sweep);
  sweep_free(&sweep);
  return status;
}

/* Where only the placement was left to choose, a plan of what does not fit says by how much, and a sweep is of other
 * numbers of ranks, too. */
static int choose(struct plan_request *request, struct options *options) {
  bool sized = options->pipeline_stages != OPTION_AUTO && options->micro_batch_tokens != OPTION_AUTO;
  int status = plan_is_open(options) ? plan_choose(request, options) : OK;
  return sized && (status == ERR_MEMORY || options->sweep) ? OK : status;
}

static int plan_all(const struct options *options) {
  struct token_file data = {0};
  struct options chosen = *options;
  struct plan_request request = {
      .options = &chosen, .stages = (int)options->pipeline_stages, .placement = placement_of(options), .data = &data};
  int status;
  TRY_GOTO(status, cleanup, machine_open(&request.machine, options));
  TRY_GOTO(status, cleanup, read_rows(options, &data, &request.rows));
  request.longest = data_longest_row(&data, data.rows);
  TRY_GOTO(status, cleanup, choose(&request, &chosen));
  status = options->sweep ? make_sweep(&request) : make_and_print(&request);
cleanup:
  machine_close(&request.machine);
  token_file_free(&data);
  return status;
}

int command_plan(const struct options *options, struct comm *comm) {
  return comm_agree(comm, comm->rank == 0 ? plan_all(options) : OK);
}
