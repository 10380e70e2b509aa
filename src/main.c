/* Starts the ranks, reads the options, runs the command, and ends all ranks with one status and one line. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/log.h"
#include "base/options.h"
#include "claim_device.h"
#include "comm/comm.h"
#include "commands/commands.h"
#include "same_command.h"
#include "signals.h"

static int (*const commands[COMMAND_COUNT])(const struct options *, struct comm *) = {
    [COMMAND_QUANTIZE] = command_quantize,   [COMMAND_TOKENIZE] = command_tokenize, [COMMAND_TRAIN] = command_train,
    [COMMAND_EVAL] = command_eval,           [COMMAND_GENERATE] = command_generate, [COMMAND_EXPORT] = command_export,
    [COMMAND_INSPECT] = command_inspect,     [COMMAND_REPORT] = command_report,     [COMMAND_TAPS] = command_taps,
    [COMMAND_CALIBRATE] = command_calibrate, [COMMAND_PLAN] = command_plan,
};

/* What was printed must have arrived: a full disk shows itself only here. */
static int flush_output(void) {
  if (fflush(stdout) == 0 && !ferror(stdout)) return OK;
  return fail(ERR_SYSTEM, "standard output: %s", strerror(errno));
}

static int parse_and_run(int count, char **words, struct options *options, struct comm *comm, const char **who) {
  struct buffer text = {0};
  int status = comm_agree(comm, options_parse(count, words, options, &text));
  if (count > 1 && strcmp(words[1], command_name(options->command)) == 0) *who = command_name(options->command);
  if (status == OK) status = same_command(options, text.size > 0, comm);
  if (status == OK && text.size > 0) {
    if (comm->rank == 0) fputs(text.data, stdout);
  } else if (status == OK) {
    log_setup(comm->rank, options->quiet);
    comm->timeout = options->comm_timeout;
    status = options->device ? claim_device(options, comm) : OK;
    if (status == OK) status = commands[options->command](options, comm);
  }
  buffer_free(&text);
  return status == OK ? flush_output() : status;
}

/* A failure that all ranks know of is said once; one that only this rank knows of ends the job at once, or the others
 * would wait for it for ever. */
static void finish(struct comm *comm, int status, const char *who) {
  if (status == OK || status == STOPPED) return;
  comm_conclude(comm, status);
  if (comm->rank == 0) fprintf(stderr, "qst-mpi%s%s: %s\n", *who ? " " : "", who, fail_message());
}

int main(int count, char **words) {
  struct comm *comm;
  int status = comm_open(&comm);
  if (status != OK) {
    if (comm_launcher_rank() == 0) fprintf(stderr, "qst-mpi: %s\n", fail_message());
    return status;
  }
  /* Loading a kernel when it is first launched waits for what the GPU has to do; with a message of a rank among that, which
   * loads a kernel itself, for ever. */
  if (comm->size > 1) setenv("CUDA_MODULE_LOADING", "EAGER", 0);
  /* Alone, a closed pipe ends the program as it ends any filter; a rank must not die of it without a word. */
  if (comm->size > 1) signal(SIGPIPE, SIG_IGN);
  signal(SIGXFSZ, SIG_IGN); /* a limit on file sizes (ulimit -f) is a failed write, not a death in the middle of it */
  signals_clean_up();
  struct options options = {0};
  const char *who = "";
  status = parse_and_run(count, words, &options, comm, &who);
  finish(comm, status, who);
  options_free(&options);
  comm_close(&comm);
  return status;
}
