#include "report_plot.h"

#include <errno.h>
#include <math.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"

enum { POINTS_AT_MOST = 600 }; /* of a curve: more cannot be told apart and make the page heavy */

/* Okabe and Ito (2008): told apart with any colour vision. */
static const char *const COLORS[] = {"#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"};
enum { COLOR_COUNT = sizeof COLORS / sizeof *COLORS };

struct panel {
  const char *title;
  double (*value)(const struct metrics_step *step);
};

static double loss_of(const struct metrics_step *step) {
  return step->loss;
}
static double lr_of(const struct metrics_step *step) {
  return step->lr;
}
static double throughput_of(const struct metrics_step *step) {
  return step->tokens_per_second;
}
static double memory_of(const struct metrics_step *step) {
  return (double)step->memory_bytes / 1e6;
}

static const struct panel PANELS[] = {
    {"loss (nats a token, logarithmic; points: evaluation)", loss_of},
    {"learning rate", lr_of},
    {"throughput (tokens/s, all ranks)", throughput_of},
    {"peak memory of a rank (MB)", memory_of},
};
enum { PANEL_COUNT = sizeof PANELS / sizeof *PANELS };

/* Mean of the finite values of each group of steps, at the group's last step. */
static int print_steps(const struct report_run *run, const struct panel *panel, struct buffer *script) {
  size_t count = run->log.step_count, group = (count + POINTS_AT_MOST - 1) / POINTS_AT_MOST;
  for (size_t first = 0; first < count; first += group) {
    size_t end = first + group < count ? first + group : count, finite = 0;
    double sum = 0;
    for (size_t i = first; i < end; i++) {
      double value = panel->value(&run->log.steps[i]);
      if (!isfinite(value)) continue;
      sum += value;
      finite++;
    }
    long long step = run->log.steps[end - 1].step;
    if (finite) TRY(buffer_print(script, "%lld %.9g\n", step, sum / (double)finite));
  }
  return OK;
}

static int print_evals(const struct report_run *run, struct buffer *script) {
  for (size_t i = 0; i < run->log.eval_count; i++) {
    const struct metrics_eval *eval = &run->log.evals[i];
    if (isfinite(eval->loss)) TRY(buffer_print(script, "%lld %.9g\n", (long long)eval->step, eval->loss));
  }
  return OK;
}

/* A single-quoted gnuplot string, in which only the quote itself means something. */
static int print_quoted(const char *text, struct buffer *script) {
  TRY(buffer_append(script, "'", 1));
  for (; *text; text++) {
    char c = (unsigned char)*text < ' ' ? '?' : *text;
    TRY(c == '\'' ? buffer_append(script, "''", 2) : buffer_append(script, &c, 1));
  }
  return buffer_append(script, "'", 1);
}

/* Blocks named $sP_R (steps of panel P, run R) and $eR (evaluations). An empty block is not one gnuplot accepts: it gets a
 * point that is not drawn. */
static int print_data(const struct report_run *runs, int count, struct buffer *script) {
  for (int r = 0; r < count; r++) {
    for (int p = 0; p < PANEL_COUNT; p++) {
      TRY(buffer_print(script, "$s%d_%d << END\nNaN NaN\n", p, r));
      TRY(print_steps(&runs[r], &PANELS[p], script));
      TRY(buffer_print(script, "END\n"));
    }
    TRY(buffer_print(script, "$e%d << END\nNaN NaN\n", r));
    TRY(print_evals(&runs[r], script));
    TRY(buffer_print(script, "END\n"));
  }
  return OK;
}

/* The names of the runs stand in the first panel only; the losses there fall by orders of magnitude. */
static int print_panel(const struct report_run *runs, int count, int p, struct buffer *script) {
  TRY(buffer_print(script, "set title '%s'\n", PANELS[p].title));
  TRY(buffer_print(
      script, p == 0
                  ? "set key\nset logscale y\nplot [0:*] "
                  : "unset key\nunset logscale\nset offsets graph 0, graph 0, graph 0.05, graph 0\nplot [0:*] [0:*] "));
  for (int r = 0; r < count; r++) {
    const char *color = COLORS[r % COLOR_COUNT];
    TRY(buffer_print(script, "%s$s%d_%d with lines lw 1.5 lc rgb '%s' title ", r ? ", " : "", p, r, color));
    TRY(print_quoted(runs[r].path, script));
    if (p == 0) TRY(buffer_print(script, ", $e%d with linespoints pt 7 ps 0.7 lc rgb '%s' notitle", r, color));
  }
  return buffer_print(script, "\n");
}

static int print_script(const struct report_run *runs, int count, enum picture kind, struct buffer *script) {
  TRY(buffer_print(script, "set terminal %s size 1100,760 noenhanced background rgb 'white' font 'sans,11'\n",
                   kind == PICTURE_SVG ? "svg" : "pngcairo"));
  TRY(print_data(runs, count, script));
  TRY(buffer_print(script,
                   "set multiplot layout 2,2\nset grid lc rgb '#dddddd' lt 1\nset tics nomirror\nset border 3\n"
                   "set xlabel 'step'\n"));
  for (int p = 0; p < PANEL_COUNT; p++) TRY(print_panel(runs, count, p, script));
  return buffer_print(script, "unset multiplot\n");
}

static int read_back(FILE *file, struct buffer *out) {
  char chunk[65536];
  rewind(file);
  for (size_t got; (got = fread(chunk, 1, sizeof chunk, file)) > 0;) TRY(buffer_append(out, chunk, got));
  return OK;
}

static int spawn_and_wait(char *const *words, FILE *in, FILE *out, FILE *errors, int *spawned, int *ended) {
  posix_spawn_file_actions_t actions;
  if (posix_spawn_file_actions_init(&actions) != 0) return fail(ERR_MEMORY, "not enough memory to start %s", words[0]);
  posix_spawn_file_actions_adddup2(&actions, fileno(in), STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, fileno(out), STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, fileno(errors), STDERR_FILENO);
  pid_t child;
  *spawned = posix_spawnp(&child, words[0], &actions, NULL, words, environ);
  posix_spawn_file_actions_destroy(&actions);
  if (*spawned != 0) return OK;
  while (waitpid(child, ended, 0) < 0)
    if (errno != EINTR) return fail(ERR_SYSTEM, "%s: %s", words[0], strerror(errno));
  return OK;
}

/* The script goes in and the picture comes out through unnamed temporary files, so that no pipe can fill up. */
int plot_script(const struct buffer *script, bool *drawn, struct buffer *out) {
  *drawn = false;
  char *words[] = {"gnuplot", "-d", "-", NULL}; /* -d: not the user's own settings */
  FILE *in = tmpfile(), *picture = tmpfile(), *errors = tmpfile();
  struct buffer complaint = {0};
  int status = OK, spawned = 0, ended = 0;
  if (!in || !picture || !errors || fwrite(script->data, 1, script->size, in) != script->size || fflush(in) != 0) {
    status = fail(ERR_SYSTEM, "a temporary file for gnuplot: %s", strerror(errno));
    goto cleanup;
  }
  rewind(in);
  TRY_GOTO(status, cleanup, spawn_and_wait(words, in, picture, errors, &spawned, &ended));
  *drawn = spawned == 0;
  if (!*drawn && spawned != ENOENT) status = fail(ERR_SYSTEM, "gnuplot: %s", strerror(spawned));
  if (!*drawn) goto cleanup;
  TRY_GOTO(status, cleanup, read_back(errors, &complaint));
  if (!WIFEXITED(ended) || WEXITSTATUS(ended) != 0) {
    const char *text = complaint.data ? complaint.data + strspn(complaint.data, " \n") : "";
    status = fail(ERR_SYSTEM, "gnuplot failed: %.*s", (int)strcspn(text, "\n"), text);
    goto cleanup;
  }
  status = read_back(picture, out);
cleanup:
  if (in) fclose(in);
  if (picture) fclose(picture);
  if (errors) fclose(errors);
  buffer_free(&complaint);
  return status;
}

int report_plot(const struct report_run *runs, int count, enum picture kind, bool *drawn, struct buffer *out) {
  struct buffer script = {0};
  int status = print_script(runs, count, kind, &script);
  *drawn = false;
  if (status == OK) status = plot_script(&script, drawn, out);
  buffer_free(&script);
  return status;
}
