#include "run_log.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/log.h"

/* Lines for people at most so often, in seconds; machines get every step. */
static const double line_interval = 1.0;

static int open_metrics(struct run_log *log, const struct engine *engine) {
  struct buffer settings = {0};
  size_t buffers = 0;
  for (int kind = 0; kind < MEMORY_KINDS; kind++) buffers += engine->device->allocated[kind];
  char *path = NULL;
  int status;
  TRY_GOTO(status, cleanup, file_join(log->options->out, "metrics.jsonl", &path));
  TRY_GOTO(status, cleanup, metrics_truncate(path, log->first));
  TRY_GOTO(status, cleanup, metrics_open(&log->metrics, path));
  TRY_GOTO(status, cleanup, options_print(log->options, false, &settings));
  TRY_GOTO(
      status, cleanup,
      metrics_start(log->metrics, &(struct metrics_start){.step = log->first,
                                                          .version = QST_VERSION,
                                                          .device = engine->device->description,
                                                          .ranks = log->comm->size,
                                                          .threads = engine->threads,
                                                          .trained_parameters = (int64_t)engine->side.layout.parameters,
                                                          .buffer_bytes = (int64_t)buffers,
                                                          .settings = settings.data}));
cleanup:
  free(path);
  buffer_free(&settings);
  return status;
}

static void say_start(const struct run_log *log, const struct token_file *data) {
  if (log->first > 0) log_note("resumed    after step %lld of %lld", (long long)log->first, (long long)log->steps);
  log_note("data       %lld rows, %lld tokens, %lld with a label", (long long)data->rows, (long long)data->total,
           (long long)data->label_tokens);
  log_note("training   %lld steps of %lld rows, to %s", (long long)log->steps, (long long)log->options->global_batch,
           log->options->out);
}

int run_log_open(struct run_log *log, const struct engine *engine, const struct options *options, struct comm *comm,
                 const struct token_file *data, int64_t steps, int64_t first) {
  *log = (struct run_log){.comm = comm, .options = options, .first = first, .steps = steps};
  int64_t megaflops = (int64_t)(engine->peak / 1e6);
  TRY(comm_sum_i64(comm, &megaflops, 1));
  log->peak = (double)megaflops * 1e6;
  TRY(comm_agree(comm, comm->rank == 0 ? open_metrics(log, engine) : OK));
  say_start(log, data);
  log->begin = clock_seconds();
  return OK;
}

void run_log_close(struct run_log *log) {
  metrics_close(&log->metrics);
}

static void say_step(struct run_log *log, const struct step_facts *facts) {
  double now = clock_seconds();
  bool last = facts->step == log->steps;
  if (now - log->said < line_interval && !last && facts->step > log->first + 1) return;
  log->said = now;
  char left[24];
  clock_format(log->busy / (double)(facts->step - log->first) * (double)(log->steps - facts->step), left);
  log_progress("step %lld/%lld  epoch %.2f  loss %.4f  lr %.2e  norm %.3f  %.0f tokens/s  %.0f %% of peak  %s left",
               (long long)facts->step, (long long)log->steps, facts->epoch, facts->loss, facts->lr, facts->grad_norm,
               (double)facts->tokens / facts->seconds, 100 * facts->flops / facts->seconds / log->peak, left);
}

static int write_step(struct run_log *log, const struct step_facts *facts, int64_t memory, double idle) {
  return metrics_step(log->metrics,
                      &(struct metrics_step){.step = facts->step,
                                             .epoch = facts->epoch,
                                             .loss = facts->loss,
                                             .lr = facts->lr,
                                             .grad_norm = facts->grad_norm,
                                             .tokens = facts->tokens,
                                             .label_tokens = facts->label_tokens,
                                             .tokens_per_second = (double)facts->tokens / facts->seconds,
                                             .seconds = clock_seconds() - log->begin,
                                             .memory_bytes = memory,
                                             .fraction_of_peak = facts->flops / facts->seconds / log->peak,
                                             .idle = idle / facts->seconds});
}

int run_log_step(struct run_log *log, const struct step_facts *facts) {
  bool known = isfinite(facts->idle);
  int64_t largest[] = {resident_peak(), known ? -llround(1e9 * facts->idle) : 0};
  TRY(comm_max_i64(log->comm, largest, 2));
  double idle = known ? 1e-9 * (double)-largest[1] : (double)NAN;
  log->busy += facts->seconds;
  log->idle += idle;
  say_step(log, facts);
  return log->comm->rank == 0 ? write_step(log, facts, largest[0], idle) : OK;
}

int run_log_eval(struct run_log *log, int64_t step, const struct evaluation *evaluation, bool improved) {
  log_note("eval after step %lld: loss %.4f, perplexity %.3f over %lld label tokens%s", (long long)step,
           evaluation->loss, evaluation->perplexity, (long long)evaluation->label_tokens, improved ? " (best)" : "");
  if (log->comm->rank != 0) return OK;
  return metrics_eval(log->metrics, &(struct metrics_eval){.step = step,
                                                           .loss = evaluation->loss,
                                                           .perplexity = evaluation->perplexity,
                                                           .label_tokens = evaluation->label_tokens});
}

void run_log_stopped(int64_t step, enum stop_reason reason) {
  log_note("stopped %s after step %lld; a checkpoint is saved: repeat the command with --resume to go on",
           reason == STOP_TIME ? "before the time limit" : "by a signal", (long long)step);
}

int run_log_end(struct run_log *log, int64_t best_step) {
  const char *out = log->options->out;
  char took[24];
  clock_format(clock_seconds() - log->begin, took);
  log_note("done       in %s: %s/latest%s", took, out, best_step >= 0 ? ", and the best by evaluation loss: best" : "");
  if (log->comm->size > 1 && isfinite(log->idle) && log->busy > 0)
    log_note("idle       %.1f %% of the steps' time on the rank with the most to do", 100 * log->idle / log->busy);
  log_note("next       qst-mpi generate --backbone %s --side %s --prompt TEXT", log->options->backbone, out);
  log_note("           qst-mpi report %s", out);
  if (log->comm->rank != 0) return OK;
  return metrics_end(log->metrics, &(struct metrics_end){.step = log->steps, .seconds = clock_seconds() - log->begin});
}
