/**
 * @file report_plot.h
 * The curves of one or several runs as a picture, drawn by gnuplot as a child process: loss, learning rate, throughput and
 * memory over steps, two by two.
 */
#ifndef QST_REPORT_PLOT_H
#define QST_REPORT_PLOT_H

#include "base/memory.h"
#include "io/metrics.h"

struct report_run {
  const char *path; /**< as given */
  struct metrics_log log;
};

enum picture { PICTURE_SVG, PICTURE_PNG };

/** Appends the picture's bytes to `out`. `*drawn` is false, and nothing is appended, where there is no gnuplot. ERR_SYSTEM
 *  with gnuplot's first line of complaint when it fails. */
int report_plot(const struct report_run *runs, int count, enum picture kind, bool *drawn, struct buffer *out);

/** What gnuplot makes of a script; *drawn as above. */
int plot_script(const struct buffer *script, bool *drawn, struct buffer *out);

#endif
