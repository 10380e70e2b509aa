/* report: a page and a picture from the metrics of several runs, whatever their names and texts hold. */
#include "base/file.h"
#include "check.h"
#include "commands/commands.h"
#include "io/metrics.h"
#include "scratch.h"

// RUN ranks=1

static const char NASTY[] = "a<b>&\"c' `touch x`";

static void write_run(const char *folder, const char *device, int64_t steps) {
  char *path = NULL;
  struct metrics *metrics = NULL;
  CHECK_OK(file_make_folder(folder));
  CHECK_OK(file_join(folder, "metrics.jsonl", &path));
  CHECK_OK(metrics_open(&metrics, path));
  struct metrics_start start = {.version = "0.1.0",
                                .device = device,
                                .ranks = 2,
                                .threads = 1,
                                .settings = "lr = 0.001\nbackbone = my model.h5\nnote = <script>\n"};
  CHECK_OK(metrics_start(metrics, &start));
  for (int64_t i = 1; i <= steps; i++) {
    struct metrics_step step = {.step = i,
                                .loss = 10.0 / (double)i,
                                .lr = 1e-3,
                                .grad_norm = 1,
                                .tokens = 100,
                                .tokens_per_second = 1000.0 + (double)i,
                                .seconds = (double)i,
                                .memory_bytes = 600000000,
                                .fraction_of_peak = (double)NAN};
    CHECK_OK(metrics_step(metrics, &step));
  }
  CHECK_OK(metrics_eval(metrics, &(struct metrics_eval){steps, 0.25, 1.284, 10}));
  metrics_close(&metrics);
  free(path);
}

static int report(struct comm *comm, char **runs, int count, char *out) {
  struct options options = {.command = COMMAND_REPORT, .arguments = runs, .argument_count = count, .out = out};
  return command_report(&options, comm);
}

static void remove_run(const char *folder) {
  static const char *const names[] = {"metrics.jsonl", "report.html", "report.png"};
  for (int i = 0; i < 3; i++) {
    char *path = NULL;
    CHECK_OK(file_join(folder, names[i], &path));
    unlink(path);
    free(path);
  }
  CHECK(rmdir(folder) == 0);
}

static bool file_starts_with(const char *path, const char *bytes, size_t size) {
  struct buffer file = {0};
  bool same = file_read(path, 1 << 24, &file) == OK && file.size > size && memcmp(file.data, bytes, size) == 0;
  buffer_free(&file);
  return same;
}

static void check_page(const char *path, bool with_curves) {
  struct buffer page = {0};
  CHECK_OK(file_read(path, 1 << 24, &page));
  if (!page.data) return;
  CHECK((strstr(page.data, "<svg") != NULL) == with_curves);
  CHECK((strstr(page.data, "No curves") != NULL) != with_curves);
  CHECK(strstr(page.data, "<b>") == NULL && strstr(page.data, "<script") == NULL);
  CHECK(strstr(page.data, "a&lt;b&gt;&amp;&quot;c&#39;") != NULL);
  CHECK(strstr(page.data, "<td>1501</td>") != NULL); /* the median of 1001 … 2000 tokens/s */
  CHECK(strstr(page.data, "--backbone &#39;my model.h5&#39;") != NULL);
  CHECK(strstr(page.data, "http://") == NULL || with_curves); /* only the name of SVG's namespace */
  buffer_free(&page);
}

static char *nasty, *other, *page, *picture;

static void a_page_and_a_picture(struct comm *comm) {
  char *runs[] = {nasty, other}, *own_page = NULL;
  CHECK_OK(report(comm, runs, 2, page));
  check_page(page, true);
  CHECK(file_starts_with(picture, "\x89PNG\r\n", 6));
  CHECK_OK(file_join(nasty, "report.html", &own_page));
  CHECK_OK(report(comm, runs, 1, NULL));
  check_page(own_page, true);
  free(own_page);
}

static void without_gnuplot(struct comm *comm) {
  char *runs[] = {nasty, other};
  CHECK(setenv("PATH", "/there-is-no-gnuplot-here", 1) == 0);
  CHECK_OK(report(comm, runs, 2, page));
  check_page(page, false);
}

static void what_cannot_be_read(struct comm *comm) {
  char *runs[] = {nasty, other}, *metrics = NULL;
  CHECK_FAILS(ERR_USAGE, "which run", report(comm, runs, 0, NULL));
  CHECK_OK(file_join(other, "metrics.jsonl", &metrics));
  CHECK_OK(file_write(metrics, "{}\n", 3));
  CHECK_FAILS(ERR_INPUT, "other/metrics.jsonl:1: ", report(comm, runs, 2, page));
  CHECK_OK(file_write(metrics, "", 0));
  CHECK_OK(report(comm, runs, 2, page)); /* a run that has not said anything yet */
  CHECK_FAILS(ERR_INPUT, "other: has not finished a step", report(comm, runs + 1, 1, page));
  unlink(metrics);
  CHECK_FAILS(ERR_INPUT, "No such file", report(comm, runs, 2, page));
  free(metrics);
}

int main(void) {
  struct comm *comm = NULL;
  scratch_make();
  CHECK_OK(comm_open(&comm));
  nasty = scratch_path(NASTY);
  other = scratch_path("other");
  page = scratch_path("compared.html");
  picture = scratch_path("compared.png");
  write_run(nasty, "cpu <i>avx512</i>", 1000);
  write_run(other, "cpu", 1);
  a_page_and_a_picture(comm);
  without_gnuplot(comm);
  what_cannot_be_read(comm);
  remove_run(nasty);
  remove_run(other);
  free(nasty), free(other), free(page), free(picture);
  comm_close(&comm);
  scratch_remove();
  return check_result();
}
