#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static bool speaks = true;
static bool is_quiet;
static bool line_is_open; /* a progress line without its newline is on the terminal */

enum { KINDS = 32 }; /* more than a command has */
static struct log_kept kept[KINDS];
static int kept_count;

void log_setup(int rank, bool quiet) {
  speaks = rank == 0;
  is_quiet = quiet;
}

static void close_line(void) {
  if (line_is_open) fputc('\n', stderr);
  line_is_open = false;
}

void log_note(const char *format, ...) {
  if (!speaks || is_quiet) return;
  close_line();
  va_list arguments;
  va_start(arguments, format);
  vfprintf(stderr, format, arguments);
  va_end(arguments);
  fputc('\n', stderr);
}

/* ---- warnings ------------------------------------------------------------------------------------------- */

static struct log_kept *find_kept(const char *kind) {
  for (int i = 0; i < kept_count; i++)
    if (strncmp(kept[i].kind, kind, sizeof kept[i].kind - 1) == 0) return &kept[i];
  return NULL;
}

/* NULL when there are too many. */
static struct log_kept *keep(const char *kind, const char *line) {
  if (kept_count == KINDS) return NULL;
  struct log_kept *one = &kept[kept_count++];
  snprintf(one->kind, sizeof one->kind, "%s", kind);
  snprintf(one->line, sizeof one->line, "%s", line);
  return one;
}

void log_warning(const char *format, ...) {
  char line[sizeof kept->line];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(line, sizeof line, format, arguments);
  va_end(arguments);
  if (!find_kept(format)) keep(format, line);
  if (!speaks) return;
  close_line();
  fprintf(stderr, "warning: %s\n", line);
}

const struct log_kept *log_unshared(void) {
  for (int i = 0; i < kept_count; i++)
    if (!kept[i].shared) return &kept[i];
  return NULL;
}

bool log_mark_shared(const struct log_kept *told) {
  struct log_kept *own = find_kept(told->kind);
  bool had = own && !own->shared;
  if (!own) own = keep(told->kind, told->line);
  if (own) own->shared = true;
  return had;
}

void log_progress(const char *format, ...) {
  if (!speaks || is_quiet) return;
  bool terminal = isatty(STDERR_FILENO) == 1;
  if (terminal && line_is_open) fputs("\r\033[K", stderr);
  va_list arguments;
  va_start(arguments, format);
  vfprintf(stderr, format, arguments);
  va_end(arguments);
  line_is_open = terminal;
  if (!terminal) fputc('\n', stderr);
  fflush(stderr);
}
