/* What signals do to a run: noted, but for a second SIGINT; ignored ones stay so (nohup, & of a shell). */
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "signals.h"

/* How a process ends that gets the signal `times` times: the signal that ended it, or 0 when it has noted it, 1 when not. */
static int outcome(int signal_number, int times, bool ignored) {
  pid_t child = fork();
  if (child == 0) {
    signal(signal_number, ignored ? SIG_IGN : SIG_DFL);
    signals_clean_up();
    signals_catch();
    for (int i = 0; i < times; i++) raise(signal_number);
    _exit(!signals_arrived());
  }
  int status = -1;
  CHECK(child > 0 && waitpid(child, &status, 0) == child);
  return WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status);
}

int main(void) {
  static const int noted[] = {SIGTERM, SIGUSR1, SIGHUP, SIGINT};
  for (int i = 0; i < 4; i++) {
    CHECK(outcome(noted[i], 0, false) == 1);
    CHECK(outcome(noted[i], 1, false) == 0);
    CHECK(outcome(noted[i], 2, false) == (noted[i] == SIGINT ? SIGINT : 0));
  }
  CHECK(outcome(SIGINT, 2, true) == 1);
  CHECK(outcome(SIGHUP, 2, true) == 1);
  return check_result();
}
