/* report RUN… [--out DIR|FILE.html] [--trace FILE.json]: the runs' metrics as one HTML page and a PNG beside it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/text.h"
#include "commands/commands.h"
#include "report_page.h"
#include "report_timeline.h"

static int read_run(const char *path, struct report_run *run) {
  char *file;
  run->path = path;
  TRY(file_join(path, "metrics.jsonl", &file));
  int status = metrics_read(file, &run->log);
  free(file);
  return status;
}

/* The page's name without ".html", its folder made: what --out says, else "report" in the first run's folder. */
static int choose_place(const struct options *options, struct buffer *base) {
  const char *out = options->out;
  if (out && text_ends_with(out, ".html")) return buffer_append(base, out, strlen(out) - strlen(".html"));
  if (!out) out = options->arguments[0];
  TRY(file_make_folder(out));
  return buffer_print(base, "%s/report", out);
}

static int write_as(const struct buffer *base, const char *extension, const struct buffer *content) {
  struct buffer path = {0};
  int status;
  TRY_GOTO(status, cleanup, buffer_print(&path, "%s%s", base->data, extension));
  TRY_GOTO(status, cleanup, file_write(path.data, content->data, content->size));
  puts(path.data);
cleanup:
  buffer_free(&path);
  return status;
}

/* Nothing where no trace is named and the first run has none. */
static int draw_timeline(const struct options *options, struct buffer *out) {
  if (options->trace) return report_timeline(options->trace, out);
  char *path;
  TRY(file_join(options->arguments[0], "trace.json", &path));
  int status = access(path, F_OK) == 0 ? report_timeline(path, out) : OK;
  free(path);
  return status;
}

static int write_report(const struct options *options, const struct report_run *runs, const struct buffer *base) {
  struct buffer svg = {0}, png = {0}, timeline = {0}, page = {0};
  int count = options->argument_count;
  bool drawn;
  int status;
  TRY_GOTO(status, cleanup, report_plot(runs, count, PICTURE_SVG, &drawn, &svg));
  if (drawn) TRY_GOTO(status, cleanup, report_plot(runs, count, PICTURE_PNG, &drawn, &png));
  if (!drawn) log_warning("gnuplot is not installed: the report has no curves and no PNG (apt install gnuplot-nox)");
  TRY_GOTO(status, cleanup, draw_timeline(options, &timeline));
  TRY_GOTO(status, cleanup, report_page(runs, count, &svg, &timeline, &page));
  TRY_GOTO(status, cleanup, write_as(base, ".html", &page));
  if (drawn) status = write_as(base, ".png", &png);
cleanup:
  buffer_free(&svg);
  buffer_free(&png);
  buffer_free(&timeline);
  buffer_free(&page);
  return status;
}

/* Axes without a single point are nothing that gnuplot draws. */
static int check_steps(const struct report_run *runs, int count) {
  for (int i = 0; i < count; i++)
    if (runs[i].log.step_count > 0) return OK;
  return fail(ERR_INPUT, "%s: has not finished a step yet: nothing to report", runs[0].path);
}

static int report(const struct options *options) {
  int count = options->argument_count;
  if (count == 0) return fail(ERR_USAGE, "which run? Name the folders of one or several: qst-mpi report RUN…");
  struct report_run *runs;
  TRY(memory_array(&runs, (size_t)count, sizeof *runs));
  struct buffer base = {0};
  int status = OK;
  for (int i = 0; i < count; i++) TRY_GOTO(status, cleanup, read_run(options->arguments[i], &runs[i]));
  TRY_GOTO(status, cleanup, check_steps(runs, count));
  TRY_GOTO(status, cleanup, choose_place(options, &base));
  status = write_report(options, runs, &base);
cleanup:
  for (int i = 0; i < count; i++) metrics_log_free(&runs[i].log);
  free(runs);
  buffer_free(&base);
  return status;
}

int command_report(const struct options *options, struct comm *comm) {
  return comm_agree(comm, comm->rank == 0 ? report(options) : OK);
}
