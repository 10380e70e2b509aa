#include "signals.h"

#include <signal.h>
#include <stddef.h>

static volatile sig_atomic_t arrived;

static void note(int signal_number) {
  (void)signal_number;
  arrived = 1;
}

void signals_catch(void) {
  struct sigaction action = {.sa_handler = note, .sa_flags = SA_RESTART};
  sigemptyset(&action.sa_mask);
  sigaction(SIGTERM, &action, NULL);
  sigaction(SIGUSR1, &action, NULL);
}

bool signals_arrived(void) {
  return arrived != 0;
}
