/**
 * @file report_page.h
 * The page of `report`: one self-contained HTML text, no scripts, nothing fetched.
 */
#ifndef QST_REPORT_PAGE_H
#define QST_REPORT_PAGE_H

#include "report_plot.h"

/** Appends the page. `svg` is the picture, or empty: the page then says that gnuplot is missing; `timeline` what
 *  report_timeline() made, or empty. Whatever comes from files or the command line is escaped. */
int report_page(const struct report_run *runs, int count, const struct buffer *svg, const struct buffer *timeline,
                struct buffer *out);

/** The summary of a run, as the page's table and the terminal show it. Numbers that are not known are NAN. */
struct report_summary {
  const char *state; /**< "complete", "resumed, complete", "not complete" … */
  int64_t steps;
  double epochs, seconds; /**< seconds: of the newest start */
  int64_t tokens;
  double train_loss; /**< mean over the last twentieth of the steps */
  double first_eval_loss, last_eval_loss, best_eval_loss;
  int64_t best_step;
  double tokens_per_second, fraction_of_peak, idle; /**< medians over the steps */
  int64_t memory_bytes;
};
/** ERR_MEMORY only. */
int report_summarize(const struct metrics_log *log, struct report_summary *out);

#endif
