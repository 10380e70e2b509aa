/* A rank that is stopped, dead or merely slow: the others end within the deadline, with a line that says who did not come
 * and in what; a slow one is waited for at the end of a phase. */
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "check.h"
#include "comm/transport.h"

// RUN ranks=1 timeout=120

enum { TIMEOUT = 2 };

static int wait_barrier(struct comm *comm) {
  return comm_barrier(comm);
}

static int wait_sum(struct comm *comm) {
  int64_t value = 1;
  return comm_sum_i64(comm, &value, 1);
}

static int wait_receive(struct comm *comm) {
  char byte;
  return comm_receive(comm, &byte, 1, 1);
}

static int wait_split(struct comm *comm) {
  struct comm *part;
  TRY(comm_split(comm, 0, 0, &part));
  return comm_barrier(part);
}

static int wait_collectives(struct comm *comm) {
  struct device *device;
  struct transport *transport;
  int64_t value = 1;
  TRY(device_open(&device, &(struct device_options){.name = "cpu"}));
  TRY(transport_open(&transport, comm, device));
  TRY(transport_sum(transport, &value, 1, ELEMENT_I64));
  return transport_wait(transport);
}

static int wait_channel(struct comm *comm) {
  struct device *device;
  struct channel *channel;
  char byte;
  TRY(device_open(&device, &(struct device_options){.name = "cpu"}));
  TRY(channel_open(&channel, comm, device, comm->rank == 0 ? 1 : 0, CHANNEL_RECEIVES, 7, 1));
  TRY(channel_start(channel, 0, &byte, 1));
  return channel_wait(channel, 0);
}

static const struct wait {
  const char *name, *line; /* line: in the message of rank 0 or 2 */
  int (*wait)(struct comm *comm);
} waits[] = {{"barrier", "barrier: ", wait_barrier},
             {"sum", "sum over ranks: ", wait_sum},
             {"receive", "receive: ", wait_receive},
             {"split", "barrier: ", wait_split},
             {"collectives", "collectives of the step: ", wait_collectives},
             {"channel", "channel 7 from rank ", wait_channel}};
enum { WAITS = sizeof waits / sizeof *waits };

/* ---- one rank of a job ------------------------------------------------------------------------------------- */

static int play_slow(struct comm *comm) {
  if (comm->rank == 0) sleep(2 * TIMEOUT);
  return comm_agree(comm, OK);
}

static int play_rank(const char *name, const char *fate) {
  struct comm *comm;
  if (comm_open(&comm) != OK) return 99;
  comm->timeout = TIMEOUT;
  int status = 98;
  for (int i = 0; i < WAITS; i++) {
    if (strcmp(name, waits[i].name) != 0) continue;
    if (comm->rank == 1 && strcmp(fate, "stopped") == 0) raise(SIGSTOP);
    if (comm->rank == 1 && strcmp(fate, "killed") == 0) raise(SIGKILL);
    status = waits[i].wait(comm);
  }
  if (strcmp(name, "slow") == 0) status = play_slow(comm);
  if (status != OK) comm_abort(comm, status);
  comm_close(&comm);
  return status;
}

/* ---- the jobs ---------------------------------------------------------------------------------------------- */

struct outcome {
  char text[1 << 14];
  int status;
  double seconds;
};

static struct outcome *run_job(const char *program, const char *name, const char *fate) {
  static struct outcome outcome;
  const char *launcher = getenv("MPIRUN");
  char command[1024];
  snprintf(command, sizeof command, "%s 3 %s %s %s 2>&1", launcher ? launcher : "mpirun -n", program, name, fate);
  double start = clock_seconds();
  FILE *output = popen(command, "r");
  if (!output) return NULL;
  outcome.text[fread(outcome.text, 1, sizeof outcome.text - 1, output)] = 0;
  outcome.status = pclose(output);
  outcome.seconds = clock_seconds() - start;
  return &outcome;
}

/* "qst-mpi: rank R on HOST: OPERATION…: rank 1 on HOST did not come within 2 s" */
static bool names_rank_1(const struct outcome *outcome, const char *operation) {
  char host[64] = "", late[160];
  gethostname(host, sizeof host - 1);
  snprintf(late, sizeof late, "rank 1 on %s did not come within %d s (--comm-timeout)", host, TIMEOUT);
  const char *line = strstr(outcome->text, "qst-mpi: rank ");
  return line && strstr(line, operation) && strstr(line, late);
}

static void check_stopped(const char *program, const struct wait *wait) {
  const struct outcome *outcome = run_job(program, wait->name, "stopped");
  CHECK(outcome && WIFEXITED(outcome->status) && WEXITSTATUS(outcome->status) == ERR_SYSTEM);
  CHECK(outcome && outcome->seconds < TIMEOUT + 8);
  CHECK(outcome && names_rank_1(outcome, wait->line));
  if (outcome && !names_rank_1(outcome, wait->line)) fprintf(stderr, "%s: %s\n", wait->name, outcome->text);
}

/* All ranks receive and none sends. */
static void check_nobody_missing(const char *program) {
  const struct outcome *outcome = run_job(program, "channel", "well");
  CHECK(outcome && WIFEXITED(outcome->status) && WEXITSTATUS(outcome->status) == ERR_SYSTEM);
  CHECK(outcome && strstr(outcome->text, "though every rank waits"));
}

int main(int count, char **words) {
  if (count > 2) return play_rank(words[1], words[2]);
  for (int i = 0; i < WAITS; i++) check_stopped(words[0], &waits[i]);
  check_nobody_missing(words[0]);
  const struct outcome *outcome = run_job(words[0], "barrier", "killed");
  CHECK(outcome && outcome->status != 0 && outcome->seconds < TIMEOUT + 8);
  outcome = run_job(words[0], "slow", "well");
  CHECK(outcome && outcome->status == 0 && outcome->seconds > 2 * TIMEOUT);
  return check_result();
}
