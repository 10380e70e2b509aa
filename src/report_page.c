#include "report_page.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

static const char HEAD[] =
    "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
    "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>qst-mpi report</title>\n<style>\n"
    "body{font:15px/1.5 system-ui,sans-serif;color:#222;background:#fff;max-width:1120px;margin:2em auto;padding:0 "
    "1em}\n"
    "h1{font-size:1.5em}h2{font-size:1.15em;margin-top:2em}\n"
    "svg{width:100%;height:auto}\n.wide{overflow-x:auto}\n"
    "table{border-collapse:collapse}th,td{padding:.25em .8em;border-bottom:1px solid #ddd;text-align:right}\n"
    "th:first-child,td:first-child{text-align:left}thead th{border-bottom:2px solid #888}\n"
    "tr.differs td{background:#fff6dd}pre{background:#f4f4f4;padding:.8em;overflow-x:auto}\n"
    "</style>\n</head>\n<body>\n";

static int escape(const char *text, struct buffer *out) {
  for (; *text; text++) {
    const char *entity = *text == '&'    ? "&amp;"
                         : *text == '<'  ? "&lt;"
                         : *text == '>'  ? "&gt;"
                         : *text == '"'  ? "&quot;"
                         : *text == '\'' ? "&#39;"
                                         : NULL;
    TRY(entity ? buffer_append(out, entity, strlen(entity)) : buffer_append(out, text, 1));
  }
  return OK;
}

static int cell(const char *text, struct buffer *out) {
  TRY(buffer_print(out, "<td>"));
  TRY(escape(text, out));
  return buffer_print(out, "</td>");
}

/* A dash for what is not known. `format` takes one double. */
__attribute__((format(printf, 1, 0))) static int number_cell(const char *format, double value, struct buffer *out) {
  if (!isfinite(value)) return buffer_print(out, "<td>–</td>");
  TRY(buffer_print(out, "<td>"));
  TRY(buffer_print(out, format, value));
  return buffer_print(out, "</td>");
}

/* One row of the summary: a label and a value of each run. */
struct row {
  const char *label, *format;
  double (*value)(const struct report_run *run, const struct report_summary *summary);
};

#define VALUE(name, expression)                                                            \
  static double name(const struct report_run *run, const struct report_summary *summary) { \
    (void)run;                                                                             \
    (void)summary;                                                                         \
    return (double)(expression);                                                           \
  }
VALUE(steps_of, summary->steps)
VALUE(epochs_of, summary->epochs)
VALUE(tokens_of, summary->tokens)
VALUE(seconds_of, summary->seconds)
VALUE(train_loss_of, summary->train_loss)
VALUE(first_loss_of, summary->first_eval_loss)
VALUE(last_loss_of, summary->last_eval_loss)
VALUE(perplexity_of, exp(summary->last_eval_loss))
VALUE(best_loss_of, summary->best_eval_loss)
VALUE(best_step_of, summary->best_step < 0 ? (double)NAN : (double)summary->best_step)
VALUE(throughput_of, summary->tokens_per_second)
VALUE(percent_of, 100 * summary->fraction_of_peak)
VALUE(idle_of, 100 * summary->idle)
VALUE(memory_of, summary->memory_bytes ? (double)summary->memory_bytes / 1e6 : (double)NAN)
VALUE(parameters_of, run->log.start_count ? (double)run->log.start.trained_parameters : (double)NAN)
VALUE(ranks_of, run->log.start_count ? (double)run->log.start.ranks : (double)NAN)
VALUE(threads_of, run->log.start_count ? (double)run->log.start.threads : (double)NAN)

static const struct row ROWS[] = {
    {"steps", "%.0f", steps_of},
    {"epochs", "%.2f", epochs_of},
    {"tokens trained on", "%.0f", tokens_of},
    {"seconds since its last start", "%.1f", seconds_of},
    {"training loss, mean of the last 5 % of steps", "%.4f", train_loss_of},
    {"evaluation loss, first", "%.4f", first_loss_of},
    {"evaluation loss, last", "%.4f", last_loss_of},
    {"evaluation perplexity, last", "%.3f", perplexity_of},
    {"evaluation loss, best", "%.4f", best_loss_of},
    {"step of the best", "%.0f", best_step_of},
    {"tokens/s, median", "%.0f", throughput_of},
    {"% of the matrix product rate, median", "%.0f", percent_of},
    {"idle time of the busiest rank, %, median", "%.1f", idle_of},
    {"peak memory of a rank, MB", "%.0f", memory_of},
    {"trained parameters", "%.0f", parameters_of},
    {"ranks", "%.0f", ranks_of},
    {"threads a rank", "%.0f", threads_of},
};

static int table_head(const struct report_run *runs, int count, struct buffer *out) {
  TRY(buffer_print(out, "<div class=\"wide\"><table>\n<thead><tr><th></th>"));
  for (int r = 0; r < count; r++) {
    TRY(buffer_print(out, "<th>"));
    TRY(escape(runs[r].path, out));
    TRY(buffer_print(out, "</th>"));
  }
  return buffer_print(out, "</tr></thead>\n<tbody>\n");
}

static int text_row(const char *label, const char *const *texts, int count, struct buffer *out) {
  bool differs = false;
  for (int r = 1; r < count; r++) differs = differs || strcmp(texts[0], texts[r]) != 0;
  TRY(buffer_print(out, "<tr%s>", differs ? " class=\"differs\"" : ""));
  TRY(cell(label, out));
  for (int r = 0; r < count; r++) TRY(cell(texts[r], out));
  return buffer_print(out, "</tr>\n");
}

static int summary_rows(const struct report_run *runs, const struct report_summary *summaries, const char **texts,
                        int count, struct buffer *out) {
  for (int r = 0; r < count; r++) texts[r] = summaries[r].state;
  TRY(text_row("state", texts, count, out));
  for (size_t i = 0; i < sizeof ROWS / sizeof *ROWS; i++) {
    TRY(buffer_print(out, "<tr>"));
    TRY(cell(ROWS[i].label, out));
    for (int r = 0; r < count; r++) TRY(number_cell(ROWS[i].format, ROWS[i].value(&runs[r], &summaries[r]), out));
    TRY(buffer_print(out, "</tr>\n"));
  }
  for (int r = 0; r < count; r++) texts[r] = runs[r].log.device ? runs[r].log.device : "";
  TRY(text_row("device", texts, count, out));
  for (int r = 0; r < count; r++) texts[r] = runs[r].log.version ? runs[r].log.version : "";
  return text_row("program version", texts, count, out);
}

static int summary_table(const struct report_run *runs, int count, struct buffer *out) {
  struct report_summary *summaries = NULL;
  const char **texts = NULL;
  int status;
  TRY_GOTO(status, cleanup, memory_array(&summaries, (size_t)count, sizeof *summaries));
  TRY_GOTO(status, cleanup, memory_array(&texts, (size_t)count, sizeof *texts));
  for (int r = 0; r < count; r++) TRY_GOTO(status, cleanup, report_summarize(&runs[r].log, &summaries[r]));
  TRY_GOTO(status, cleanup, buffer_print(out, "<h2>Summary</h2>\n"));
  TRY_GOTO(status, cleanup, table_head(runs, count, out));
  TRY_GOTO(status, cleanup, summary_rows(runs, summaries, texts, count, out));
  status = buffer_print(out, "</tbody></table></div>\n");
cleanup:
  free(summaries);
  free(texts);
  return status;
}

/* The value of "key = value" in `lines`, as a text of its own: "" when there is none. */
static int setting(const char *lines, const char *key, size_t key_size, struct buffer *out) {
  buffer_clear(out);
  TRY(buffer_append(out, "", 0));
  for (; lines && *lines; lines += strcspn(lines, "\n"), lines += *lines == '\n') {
    if (strncmp(lines, key, key_size) != 0 || strncmp(lines + key_size, " = ", 3) != 0) continue;
    const char *value = lines + key_size + 3;
    return buffer_append(out, value, strcspn(value, "\n"));
  }
  return OK;
}

/* True where the line's key has no line in an earlier run: its row is written there. */
static bool is_new_key(const struct report_run *runs, int run, const char *line, size_t key_size) {
  for (int r = 0; r < run; r++) {
    for (const char *other = runs[r].log.settings; other && *other; other += *other == '\n') {
      if (strncmp(other, line, key_size) == 0 && strncmp(other + key_size, " = ", 3) == 0) return false;
      other += strcspn(other, "\n");
    }
  }
  return true;
}

static int setting_row(const struct report_run *runs, int count, const char *key, size_t key_size,
                       struct buffer *values, const char **texts, struct buffer *out) {
  struct buffer label = {0};
  int status;
  TRY_GOTO(status, cleanup, buffer_append(&label, key, key_size));
  for (int r = 0; r < count; r++) {
    TRY_GOTO(status, cleanup, setting(runs[r].log.settings, key, key_size, &values[r]));
    texts[r] = values[r].data;
  }
  status = text_row(label.data, texts, count, out);
cleanup:
  buffer_free(&label);
  return status;
}

static int setting_rows(const struct report_run *runs, int count, struct buffer *values, const char **texts,
                        struct buffer *out) {
  for (int r = 0; r < count; r++) {
    for (const char *line = runs[r].log.settings; line && *line; line += *line == '\n') {
      const char *equals = strstr(line, " = ");
      size_t size = strcspn(line, "\n");
      size_t key_size = equals ? (size_t)(equals - line) : size;
      if (key_size < size && is_new_key(runs, r, line, key_size))
        TRY(setting_row(runs, count, line, key_size, values, texts, out));
      line += size;
    }
  }
  return OK;
}

static int settings_table(const struct report_run *runs, int count, struct buffer *out) {
  struct buffer *values = NULL;
  const char **texts = NULL;
  int status;
  TRY_GOTO(status, cleanup, memory_array(&values, (size_t)count, sizeof *values));
  TRY_GOTO(status, cleanup, memory_array(&texts, (size_t)count, sizeof *texts));
  TRY_GOTO(status, cleanup,
           buffer_print(out, "<h2>Options%s</h2>\n", count > 1 ? " (coloured where they differ)" : ""));
  TRY_GOTO(status, cleanup, table_head(runs, count, out));
  TRY_GOTO(status, cleanup, setting_rows(runs, count, values, texts, out));
  status = buffer_print(out, "</tbody></table></div>\n");
cleanup:
  for (int r = 0; values && r < count; r++) buffer_free(&values[r]);
  free(values);
  free(texts);
  return status;
}

/* A word as a shell takes it. */
static int shell_word(const char *word, struct buffer *out) {
  bool plain = *word && *word != '-';
  for (const char *c = word; *c; c++) plain = plain && (isalnum((unsigned char)*c) || strchr("._/-+,=:@%", *c));
  if (plain) return buffer_append(out, word, strlen(word));
  TRY(buffer_append(out, "'", 1));
  for (; *word; word++) TRY(*word == '\'' ? buffer_print(out, "'\\''") : buffer_append(out, word, 1));
  return buffer_append(out, "'", 1);
}

/* The run's own value of a path option, or `otherwise` where the run does not say. */
static int path_option(const struct report_run *run, const char *key, const char *otherwise, struct buffer *out) {
  struct buffer value = {0};
  int status = setting(run->log.settings, key, strlen(key), &value);
  if (status == OK) status = value.size ? shell_word(value.data, out) : buffer_print(out, "%s", otherwise);
  buffer_free(&value);
  return status;
}

static int command_lines(const struct report_run *run, struct buffer *out) {
  struct buffer path = {0}, backbone = {0}, data = {0};
  int status;
  TRY_GOTO(status, cleanup, shell_word(run->path, &path));
  TRY_GOTO(status, cleanup, path_option(run, "backbone", "BACKBONE.h5", &backbone));
  TRY_GOTO(status, cleanup, path_option(run, "eval-data", "EVAL.h5", &data));
  status = buffer_print(out,
                        "# evaluate it, ask it something, take it along as safetensors, look into it\n"
                        "qst-mpi eval --backbone %s --side %s --data %s\n"
                        "qst-mpi generate --backbone %s --side %s --prompt 'your own text'\n"
                        "qst-mpi export --side %s --out side.safetensors\n"
                        "qst-mpi inspect %s/latest\n",
                        backbone.data, path.data, data.data, backbone.data, path.data, path.data, path.data);
cleanup:
  buffer_free(&path);
  buffer_free(&backbone);
  buffer_free(&data);
  return status;
}

static int commands(const struct report_run *runs, int count, struct buffer *out) {
  struct buffer lines = {0};
  int status = buffer_print(out, "<h2>To go on with</h2>\n<pre>");
  for (int r = 0; r < count && status == OK; r++) {
    buffer_clear(&lines);
    status = command_lines(&runs[r], &lines);
    if (status == OK) status = escape(lines.data, out);
    if (status == OK) status = buffer_print(out, "%s", r + 1 < count ? "\n" : "</pre>\n");
  }
  buffer_free(&lines);
  return status;
}

static int picture(const struct buffer *svg, struct buffer *out) {
  const char *start = svg->size ? strstr(svg->data, "<svg") : NULL; /* past the XML declaration */
  if (start) return buffer_append(out, start, svg->size - (size_t)(start - svg->data));
  return buffer_print(out, "<p>No curves: gnuplot is not installed where this report was made.</p>\n");
}

int report_page(const struct report_run *runs, int count, const struct buffer *svg, const struct buffer *timeline,
                struct buffer *out) {
  TRY(buffer_append(out, HEAD, sizeof HEAD - 1));
  TRY(buffer_print(out, "<h1>qst-mpi: %d run%s</h1>\n", count, count > 1 ? "s" : ""));
  TRY(picture(svg, out));
  TRY(summary_table(runs, count, out));
  if (timeline->size) TRY(buffer_append(out, timeline->data, timeline->size));
  TRY(commands(runs, count, out));
  TRY(settings_table(runs, count, out));
  return buffer_print(out, "</body>\n</html>\n");
}
