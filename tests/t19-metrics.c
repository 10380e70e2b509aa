/* metrics.jsonl: what is written is read back; damage is named by file and line; resuming keeps the lines up to a step. */
#include <math.h>

#include "base/file.h"
#include "check.h"
#include "io/metrics.h"
#include "scratch.h"

// RUN ranks=1

static char *path;

static void write_run(int64_t first, int64_t last) {
  struct metrics *metrics = NULL;
  CHECK_OK(metrics_open(&metrics, path));
  if (!metrics) return;
  struct metrics_start start = {.step = first - 1,
                                .version = "0.1.0",
                                .device = "cpu \"plain\"",
                                .ranks = 2,
                                .threads = 1,
                                .trained_parameters = 12345,
                                .buffer_bytes = 678,
                                .settings = "lr = 0.001\nbad = \xff\nname = a = b\n"};
  CHECK_OK(metrics_start(metrics, &start));
  for (int64_t i = first; i <= last; i++) {
    struct metrics_step step = {.step = i,
                                .epoch = 0.1 * (double)i,
                                .loss = i == 2 ? (double)NAN : 3.0 / (double)i,
                                .lr = 1e-3,
                                .grad_norm = (double)INFINITY,
                                .tokens = 2048,
                                .label_tokens = 512,
                                .tokens_per_second = 1000,
                                .seconds = 2 * (double)i,
                                .memory_bytes = (int64_t)5 << 30,
                                .fraction_of_peak = 0.5,
                                .idle = 0.03};
    CHECK_OK(metrics_step(metrics, &step));
  }
  CHECK_OK(metrics_eval(metrics, &(struct metrics_eval){last, 0.5, exp(0.5), 99}));
  CHECK_OK(metrics_end(metrics, &(struct metrics_end){last, 12}));
  metrics_close(&metrics);
  metrics_close(&metrics);
}

static void append_text(const char *text) {
  FILE *file = fopen(path, "a");
  CHECK(file != NULL);
  if (!file) return;
  fputs(text, file);
  fclose(file);
}

static void written_is_read(void) {
  write_run(1, 5);
  struct metrics_log log = {0};
  CHECK_OK(metrics_read(path, &log));
  CHECK(log.step_count == 5 && log.eval_count == 1 && log.start_count == 1 && log.ended && log.end.step == 5);
  CHECK(log.start.ranks == 2 && log.start.trained_parameters == 12345 && log.start.buffer_bytes == 678);
  CHECK(strcmp(log.start.device, "cpu \"plain\"") == 0 && strcmp(log.start.version, "0.1.0") == 0);
  CHECK(strcmp(log.start.settings, "lr = 0.001\nbad = (not UTF-8)\nname = a = b\n") == 0);
  if (log.step_count == 5) {
    CHECK(isnan(log.steps[1].loss) && isnan(log.steps[1].grad_norm));
    CHECK(log.steps[2].step == 3 && log.steps[2].loss == 1.0 && log.steps[2].memory_bytes == (int64_t)5 << 30);
    CHECK(log.steps[2].idle == 0.03);
  }
  CHECK(log.eval_count && log.evals[0].step == 5 && log.evals[0].label_tokens == 99);
  metrics_log_free(&log);
}

static void resuming_keeps_lines_up_to_a_step(void) {
  append_text("{\"type\":\"step\",\"step\":");
  struct metrics_log log = {0};
  CHECK_OK(metrics_read(path, &log)); /* the incomplete line is left out */
  CHECK(log.step_count == 5);
  metrics_log_free(&log);

  CHECK_OK(metrics_truncate(path, 3));
  write_run(4, 6);
  CHECK_OK(metrics_read(path, &log));
  CHECK(log.step_count == 6 && log.start_count == 2 && log.start.step == 3 && log.eval_count == 1);
  for (size_t i = 0; i < log.step_count; i++) CHECK(log.steps[i].step == (int64_t)i + 1);
  metrics_log_free(&log);

  append_text("\n[]\n{\"type\":\"step\",\"step\":1}\n");
  CHECK_OK(metrics_truncate(path, 0));
  CHECK_OK(metrics_read(path, &log));
  CHECK(log.step_count == 0 && log.start_count == 1 && !log.ended);
  metrics_log_free(&log);
  CHECK_OK(metrics_truncate("there/is/none", 1));
}

static void damage_is_named(void) {
  static const struct {
    const char *line, *message;
  } cases[] = {
      {"{\"type\":\"step\",\"step\":1,", "not JSON"},
      {"[1]", "no \"type\""},
      {"{\"type\":\"rain\"}", "none of start"},
      {"{\"type\":\"eval\",\"step\":-1,\"loss\":1,\"perplexity\":1,\"label_tokens\":1}", "\"step\""},
      {"{\"type\":\"eval\",\"step\":1,\"loss\":\"1\",\"perplexity\":1,\"label_tokens\":1}", "\"loss\""},
      {"{\"type\":\"end\",\"step\":1e3,\"seconds\":1}", "\"step\""},
      {"{\"type\":\"start\",\"format\":99}", "newer"},
      {"{\"type\":\"start\",\"format\":1,\"step\":0,\"ranks\":9999999999,\"threads\":1}", "\"ranks\""},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct buffer text = {0};
    CHECK_OK(buffer_print(&text, "{\"type\":\"end\",\"step\":1,\"seconds\":null}\n%s\n", cases[i].line));
    CHECK_OK(file_write(path, text.data, text.size));
    struct metrics_log log = {0};
    CHECK_FAILS(ERR_INPUT, cases[i].message, metrics_read(path, &log));
    CHECK(strstr(fail_message(), "metrics.jsonl:2: ") != NULL);
    CHECK(log.steps == NULL && log.version == NULL);
    buffer_free(&text);
  }
}

static void a_full_disk_is_an_error(void) {
  struct metrics *metrics = NULL;
  CHECK_OK(metrics_open(&metrics, "/dev/full"));
  if (metrics) CHECK_FAILS(ERR_SYSTEM, "/dev/full", metrics_end(metrics, &(struct metrics_end){1, 1}));
  metrics_close(&metrics);
  CHECK_FAILS(ERR_SYSTEM, "no-such-folder", metrics_open(&metrics, "no-such-folder/metrics.jsonl"));
}

int main(void) {
  scratch_make();
  path = scratch_path("metrics.jsonl");
  written_is_read();
  resuming_keeps_lines_up_to_a_step();
  damage_is_named();
  a_full_disk_is_an_error();
  scratch_remove();
  free(path);
  return check_result();
}
