#include "base/clock.h"

#include <stdio.h>
#include <time.h>

double clock_seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

void clock_format(double seconds, char text[24]) {
  long whole = seconds < 0 ? 0 : seconds > 1e9 ? 1000000000 : (long)(seconds + 0.5);
  if (whole < 60)
    snprintf(text, 24, "%ld s", whole);
  else if (whole < 3600)
    snprintf(text, 24, "%ld:%02ld", whole / 60, whole % 60);
  else
    snprintf(text, 24, "%ld:%02ld:%02ld", whole / 3600, whole / 60 % 60, whole % 60);
}
