#include <math.h>
#include <stdlib.h>

#include "base/error.h"
#include "report_page.h"

static double throughput_of(const struct metrics_step *step) {
  return step->tokens_per_second;
}
static double fraction_of(const struct metrics_step *step) {
  return step->fraction_of_peak;
}

static double idle_of(const struct metrics_step *step) {
  return step->idle;
}

static int compare(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

/* Median of the finite values: unlike a mean it is not moved by a checkpoint or a busy moment. */
static int median(const struct metrics_log *log, double (*value)(const struct metrics_step *), double *out) {
  double *values;
  TRY(memory_array(&values, log->step_count, sizeof *values));
  size_t count = 0;
  for (size_t i = 0; i < log->step_count; i++) {
    double v = value(&log->steps[i]);
    if (isfinite(v)) values[count++] = v;
  }
  qsort(values, count, sizeof *values, compare);
  *out = count ? values[count / 2] : (double)NAN;
  free(values);
  return OK;
}

static double late_loss(const struct metrics_log *log) {
  size_t count = (log->step_count + 19) / 20, finite = 0;
  double sum = 0;
  for (size_t i = log->step_count - count; i < log->step_count; i++) {
    if (!isfinite(log->steps[i].loss)) continue;
    sum += log->steps[i].loss;
    finite++;
  }
  return finite ? sum / (double)finite : (double)NAN;
}

static void summarize_evals(const struct metrics_log *log, struct report_summary *out) {
  for (size_t i = 0; i < log->eval_count; i++) {
    const struct metrics_eval *eval = &log->evals[i];
    if (i == 0) out->first_eval_loss = eval->loss;
    out->last_eval_loss = eval->loss;
    if (!isfinite(eval->loss) || eval->loss >= out->best_eval_loss) continue;
    out->best_eval_loss = eval->loss;
    out->best_step = eval->step;
  }
  if (!isfinite(out->best_eval_loss)) out->best_eval_loss = (double)NAN;
}

int report_summarize(const struct metrics_log *log, struct report_summary *out) {
  const double unknown = (double)NAN;
  *out = (struct report_summary){.first_eval_loss = unknown,
                                 .last_eval_loss = unknown,
                                 .best_eval_loss = (double)INFINITY,
                                 .best_step = -1,
                                 .epochs = unknown,
                                 .seconds = unknown,
                                 .train_loss = late_loss(log)};
  out->state = !log->ended ? "not ended" : log->start_count > 1 ? "ended, resumed on the way" : "ended";
  for (size_t i = 0; i < log->step_count; i++) {
    out->tokens += log->steps[i].tokens;
    if (log->steps[i].memory_bytes > out->memory_bytes) out->memory_bytes = log->steps[i].memory_bytes;
  }
  if (log->step_count) {
    out->steps = log->steps[log->step_count - 1].step;
    out->epochs = log->steps[log->step_count - 1].epoch;
    out->seconds = log->steps[log->step_count - 1].seconds;
  }
  if (log->ended) out->seconds = log->end.seconds;
  summarize_evals(log, out);
  TRY(median(log, throughput_of, &out->tokens_per_second));
  TRY(median(log, fraction_of, &out->fraction_of_peak));
  return median(log, idle_of, &out->idle);
}
