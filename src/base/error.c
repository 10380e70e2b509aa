#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static _Thread_local char message[ERROR_LINE];

/* Names come from files that may be hostile: control characters must neither break the line nor steer a terminal. */
static void hide_control_characters(char *text) {
  for (; *text; text++)
    if ((unsigned char)*text < ' ' || *text == 0x7f) *text = '?';
}

void fail_record(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  hide_control_characters(message);
}

int fail_at(int status, const char *format, ...) {
  if (status == OK) return OK;
  char before[ERROR_LINE];
  memcpy(before, message, sizeof before);
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  strncat(message, ": ", sizeof message - 1 - strlen(message));
  strncat(message, before, sizeof message - 1 - strlen(message));
  hide_control_characters(message);
  return status;
}

const char *fail_message(void) {
  return message;
}
