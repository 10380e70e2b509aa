/* Reads a metrics.jsonl and writes the report's page of it. */
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/error.h"
#include "io/metrics.h"
#include "report_page.h"

// SEEDS tests/fixtures/metrics*.jsonl

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static int descriptor = -1;
  static char path[64];
  if (descriptor < 0) {
    descriptor = memfd_create("metrics", 0);
    snprintf(path, sizeof path, "/proc/self/fd/%d", descriptor);
  }
  if (ftruncate(descriptor, 0) != 0 || pwrite(descriptor, data, size, 0) != (ssize_t)size) return 0;
  struct report_run run = {.path = "run"};
  struct buffer page = {0};
  if (metrics_read(path, &run.log) == OK) report_page(&run, 1, &(struct buffer){0}, &(struct buffer){0}, &page);
  buffer_free(&page);
  metrics_log_free(&run.log);
  return 0;
}
