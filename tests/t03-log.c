/* Who speaks: rank 0 alone, warnings also when quiet, progress as lines of its own away from a terminal. */
#include <fcntl.h>
#include <stdlib.h>

#include "base/file.h"
#include "base/log.h"
#include "check.h"
#include "scratch.h"

static void speak(int rank, bool quiet) {
  log_setup(rank, quiet);
  log_note("note %d", 1);
  log_progress("step %d", 2);
  log_warning("care %s", "now");
}

/* What the calls write to stderr, which is a file meanwhile. */
static void check_output(int rank, bool quiet, const char *expected) {
  char *path = scratch_path("stderr");
  struct buffer content = {0};
  fflush(stderr);
  int kept = dup(STDERR_FILENO), file = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
  dup2(file, STDERR_FILENO);
  speak(rank, quiet);
  fflush(stderr);
  dup2(kept, STDERR_FILENO);
  close(kept);
  close(file);
  CHECK_OK(file_read(path, 1000, &content));
  CHECK(content.data && strcmp(content.data, expected) == 0);
  buffer_free(&content);
  free(path);
}

int main(void) {
  scratch_make();
  check_output(0, false, "note 1\nstep 2\nwarning: care now\n");
  check_output(0, true, "warning: care now\n");
  check_output(1, false, "");
  scratch_remove();
  return check_result();
}
