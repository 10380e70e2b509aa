#include "signals.h"

#include <signal.h>
#include <stddef.h>

#include "base/file.h"

static volatile sig_atomic_t arrived;

static void clean_up_and_die(int signal_number) {
  file_remove_temporaries(); /* unlink() alone. NOLINT(bugprone-signal-handler) */
  signal(signal_number, SIG_DFL);
  raise(signal_number);
}

static void note(int signal_number) {
  arrived = 1;
  if (signal_number == SIGINT) signal(SIGINT, clean_up_and_die); /* who presses Ctrl-C again does not want to wait */
}

void signals_clean_up(void) {
  static const int deadly[] = {SIGINT, SIGTERM, SIGHUP};
  for (unsigned i = 0; i < sizeof deadly / sizeof *deadly; i++)
    if (signal(deadly[i], clean_up_and_die) == SIG_IGN) signal(deadly[i], SIG_IGN);
}

void signals_catch(void) {
  struct sigaction action = {.sa_handler = note, .sa_flags = SA_RESTART};
  sigemptyset(&action.sa_mask);
  sigaction(SIGTERM, &action, NULL);
  sigaction(SIGUSR1, &action, NULL);
  static const int of_terminal[] = {SIGINT, SIGHUP};
  for (unsigned i = 0; i < sizeof of_terminal / sizeof *of_terminal; i++) {
    struct sigaction before;
    if (sigaction(of_terminal[i], NULL, &before) == 0 && before.sa_handler != SIG_IGN)
      sigaction(of_terminal[i], &action, NULL);
  }
}

bool signals_arrived(void) {
  return arrived != 0;
}
