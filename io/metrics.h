/**
 * @file metrics.h
 * metrics.jsonl: what a run has to say, one JSON object a line, in the order it happened. Rank 0 appends, `report` and
 * any JSON reader (jq, pandas) read it, also while the run goes on.
 *
 *   {"type":"start","format":1,"step":0,"version":"0.1.0","device":"cpu avx512","ranks":2,"threads":1,
 *    "trained_parameters":1234567,"buffer_bytes":407124992,"options":{"lr":"0.001",…}}      step: done before, > 0 when the run was resumed
 *   {"type":"step","step":1,"epoch":0.01,"loss":2.5,"lr":0.0001,"grad_norm":0.7,"tokens":2048,"label_tokens":512,
 *    "tokens_per_second":1900,"seconds":1.1,"memory_bytes":500000000,"fraction_of_peak":0.6,"idle":0.02}
 *   {"type":"eval","step":100,"loss":1.5,"perplexity":4.5,"label_tokens":4000}
 *   {"type":"end","step":1000,"seconds":512.5}
 *
 * A number that is not finite, or not known, is written as null and read as NAN.
 * A line is one write() to a file opened for appending: whatever kills the run leaves at most one incomplete line, at the
 * end. Readers leave that one out; metrics_truncate() removes it.
 */
#ifndef QST_IO_METRICS_H
#define QST_IO_METRICS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/memory.h"

struct metrics_start {
  int64_t step; /**< steps done before this start */
  const char *version, *device;
  int ranks, threads; /**< threads of each rank */
  int64_t trained_parameters;
  int64_t buffer_bytes; /**< what rank 0 has laid out on its device before the first step; 0: not in the file */
  const char *settings; /**< "key = value" lines (options_print()); in the file the object "options" */
};

struct metrics_step {
  int64_t step; /**< the first is 1 */
  double epoch; /**< passes over the data so far */
  double loss;  /**< nats a label token, mean over the global batch */
  double lr, grad_norm;
  int64_t tokens, label_tokens; /**< of this step, all ranks */
  double tokens_per_second;     /**< of this step, all ranks */
  double seconds;               /**< since the start line, evaluations and checkpoints included */
  int64_t memory_bytes;         /**< peak resident memory of the largest rank so far */
  double fraction_of_peak;      /**< of the machine's measured matrix product rate; NAN if not measured */
  double idle; /**< share of the step in which the busiest rank waited for others; NAN where the host cannot see it */
};

struct metrics_eval {
  int64_t step;
  double loss, perplexity;
  int64_t label_tokens;
};

struct metrics_end {
  int64_t step;
  double seconds;
};

/** The file of a run that is being trained. One writer a file. */
struct metrics;

/** Opens for appending, creates when absent. When resuming, call metrics_truncate() before. */
int metrics_open(struct metrics **out, const char *path);
void metrics_close(struct metrics **metrics); /**< NULL-safe */

/** Each appends one line. ERR_SYSTEM names the file (disk full, …); the incomplete line is taken back. */
int metrics_start(struct metrics *metrics, const struct metrics_start *start);
int metrics_step(struct metrics *metrics, const struct metrics_step *step);
int metrics_eval(struct metrics *metrics, const struct metrics_eval *eval);
int metrics_end(struct metrics *metrics, const struct metrics_end *end);

/** For resuming after `step`: atomically rewrites the file with its lines of steps up to `step` only. Lines that cannot be
 *  read are dropped too, with a warning that counts them. Fine when there is no such file. */
int metrics_truncate(const char *path, int64_t step);

/** A whole file in memory. Start from `{0}`; metrics_log_free() resets it to that. */
struct metrics_log {
  struct metrics_step *steps;
  struct metrics_eval *evals;
  size_t step_count, eval_count;
  size_t start_count;         /**< 1, and one more for each time it was resumed */
  struct metrics_start start; /**< the newest; its texts are owned by the log ("" when absent) */
  bool ended;                 /**< the last line is an "end" */
  struct metrics_end end;
  char *version, *device, *settings; /**< what `start` points to */
};

/** ERR_INPUT with the path and line number for the first line that is damaged. */
int metrics_read(const char *path, struct metrics_log *out);
void metrics_log_free(struct metrics_log *log);

#endif
