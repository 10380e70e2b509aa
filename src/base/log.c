#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

static bool speaks = true;
static bool is_quiet;
static bool line_is_open; /* a progress line without its newline is on the terminal */

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

void log_warning(const char *format, ...) {
  if (!speaks) return;
  close_line();
  va_list arguments;
  va_start(arguments, format);
  fputs("warning: ", stderr);
  vfprintf(stderr, format, arguments);
  va_end(arguments);
  fputc('\n', stderr);
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
