/**
 * @file run_log.h
 * What a training run says: a line a step for people, a line of JSON for machines (io/metrics.h). Rank 0 writes.
 */
#ifndef QST_RUN_LOG_H
#define QST_RUN_LOG_H

#include "engine.h"
#include "evaluate.h"
#include "io/metrics.h"

/** Why a run ends before its last step; of several ranks the largest holds. */
enum stop_reason { STOP_NOT, STOP_TIME, STOP_SIGNAL };

struct step_facts {
  int64_t step;
  double epoch, loss, lr, grad_norm;
  int64_t tokens, label_tokens; /**< of all ranks */
  double flops;                 /**< of all ranks */
  double seconds;               /**< of this step */
  double idle;                  /**< those of them in which this rank's lanes had nothing to do; NAN: not known */
  enum stop_reason stop;        /**< why the run ends after it */
};

struct run_log {
  struct metrics *metrics; /**< rank 0 only */
  struct comm *comm;
  const struct options *options;
  int64_t first, steps; /**< steps done before, and in all */
  double begin;         /**< clock_seconds() at the start */
  double busy;          /**< seconds of all steps so far */
  double idle;          /**< those of them in which the busiest rank had nothing to do */
  double peak;          /**< FLOP/s of all ranks together */
  double said;          /**< when the last line was printed */
};

/** `first`: steps done before. Collective, like all of these. */
int run_log_open(struct run_log *log, const struct engine *engine, const struct options *options, struct comm *comm,
                 const struct token_file *data, int64_t steps, int64_t first);
void run_log_close(struct run_log *log);

int run_log_step(struct run_log *log, const struct step_facts *facts);
int run_log_eval(struct run_log *log, int64_t step, const struct evaluation *evaluation, bool improved);
void run_log_stopped(int64_t step, enum stop_reason reason);
int run_log_end(struct run_log *log, int64_t best_step);

#endif
