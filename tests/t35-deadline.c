/* A rank that is stopped, dead or merely slow: the others end within the deadline, with a line that says who did not come
 * and in what; a slow one is waited for at the end of a phase. */
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "check.h"
#include "comm/transport.h"
#include "device_memory.h"

// RUN ranks=1 timeout=120
// RUN ranks=1 timeout=120 device=cuda

enum { TIMEOUT = 2 };

static const char *fate = "well";

/* Here rank 1 is stopped or dies. */
static void meet_fate(const struct comm *comm) {
  if (comm->rank != 1) return;
  if (strcmp(fate, "stopped") == 0) raise(SIGSTOP);
  if (strcmp(fate, "killed") == 0) raise(SIGKILL);
}

static int wait_barrier(struct comm *comm) {
  meet_fate(comm);
  return comm_barrier(comm);
}

static int wait_sum(struct comm *comm) {
  int64_t value = 1;
  meet_fate(comm);
  return comm_sum_i64(comm, &value, 1);
}

static int wait_receive(struct comm *comm) {
  char byte;
  meet_fate(comm);
  return comm_receive(comm, &byte, 1, 1);
}

static int wait_split(struct comm *comm) {
  struct comm *part;
  meet_fate(comm);
  return comm_split(comm, 0, 0, &part);
}

/* On a GPU the host first waits at the end; there the job ends. */
static int wait_collectives(struct comm *comm) {
  struct device *device;
  struct transport *transport;
  int64_t *values;
  TRY(device_open(&device, &(struct device_options){.name = test_device()}));
  TRY(transport_open(&transport, comm, device));
  TRY(device_allocate(device, MEMORY_WORKSPACE, &values, sizeof *values));
  meet_fate(comm);
  TRY(transport_sum(transport, values, 1, ELEMENT_I64));
  TRY(transport_wait(transport));
  return device_synchronize(device);
}

/* A fault of a program: the ranks' sums differ in length. */
static int wait_mismatched(struct comm *comm) {
  struct device *device;
  struct transport *transport;
  int64_t *values;
  TRY(device_open(&device, &(struct device_options){.name = test_device()}));
  TRY(transport_open(&transport, comm, device));
  TRY(device_allocate(device, MEMORY_WORKSPACE, &values, 4 * sizeof *values));
  TRY(transport_sum(transport, values, (size_t)(1 + comm->rank), ELEMENT_I64));
  TRY(transport_wait(transport));
  return device_synchronize(device);
}

/* Rank 1 fails alone, with a sum under way that the others have not begun. */
static int fail_alone(struct comm *comm) {
  struct device *device;
  struct transport *transport;
  int64_t *value;
  int status = OK;
  TRY(device_open(&device, &(struct device_options){.name = test_device()}));
  TRY(transport_open(&transport, comm, device));
  TRY(device_allocate(device, MEMORY_WORKSPACE, &value, sizeof *value));
  if (comm->rank == 1) TRY(transport_sum(transport, value, 1, ELEMENT_I64));
  if (comm->rank == 1) status = fail(ERR_INPUT, "the fault");
  comm_conclude(comm, status);
  device_release(device, MEMORY_WORKSPACE, &value, sizeof *value);
  transport_close(&transport);
  device_close(&device);
  return status;
}

/* Rank 1 would send, but goes to a barrier. */
static int wait_channel(struct comm *comm) {
  struct device *device;
  struct channel *channels[3] = {NULL};
  char *byte;
  int peer = comm->rank == 0 ? 1 : 0;
  TRY(device_open(&device, &(struct device_options){.name = test_device()}));
  TRY(device_allocate(device, MEMORY_WORKSPACE, &byte, 1));
  if (comm->rank < 2)
    TRY(channel_open(&channels[comm->rank], comm, device, peer, comm->rank ? CHANNEL_SENDS : CHANNEL_RECEIVES, 7, 1));
  meet_fate(comm);
  if (comm->rank == 2) comm->timeout *= 2; /* rank 0 has to say it */
  if (comm->rank == 0) TRY(channel_start(channels[0], 0, byte, 1));
  if (comm->rank == 0) TRY(channel_wait(channels[0], 0));
  TRY(device_synchronize(device));
  return comm_barrier(comm);
}

static const struct wait {
  const char *name, *line; /* line: in the message of rank 0 or 2 */
  int (*wait)(struct comm *comm);
} waits[] = {{"barrier", "barrier: ", wait_barrier},  {"sum", "sum over ranks: ", wait_sum},
             {"receive", "receive: ", wait_receive},  {"split", "barrier: ", wait_split},
             {"collectives", NULL, wait_collectives}, {"channel", "channel 7 from rank 1: ", wait_channel}};
enum { WAITS = sizeof waits / sizeof *waits };

/* ---- one rank of a job ------------------------------------------------------------------------------------- */

static int play_slow(struct comm *comm) {
  if (comm->rank == 0) sleep(2 * TIMEOUT);
  return comm_agree(comm, OK);
}

static int play_rank(const char *name) {
  struct comm *comm;
  if (comm_open(&comm) != OK) return 99;
  comm->timeout = TIMEOUT;
  int status = 98;
  for (int i = 0; i < WAITS; i++) {
    if (strcmp(name, waits[i].name) == 0) status = waits[i].wait(comm);
  }
  if (strcmp(name, "mismatch") == 0) status = wait_mismatched(comm);
  if (strcmp(name, "alone") == 0) status = fail_alone(comm);
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

static struct outcome *run_job(const char *program, const char *name, const char *how) {
  static struct outcome outcome;
  const char *launcher = getenv("MPIRUN");
  char command[1024];
  snprintf(command, sizeof command, "%s 3 %s %s %s 2>&1", launcher ? launcher : "mpirun -n", program, name, how);
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
  if (!operation) operation = testing_cuda() ? "synchronization: sum over ranks: " : "collectives of the step: ";
  char host[64] = "", late[160];
  gethostname(host, sizeof host - 1);
  snprintf(late, sizeof late, "rank 1 on %s did not come within %d s (--comm-timeout)", host, TIMEOUT);
  const char *line = strstr(outcome->text, "qst-mpi: rank ");
  return line && strstr(line, operation) && strstr(line, late);
}

static void check_stopped(const char *program, const struct wait *wait) {
  const struct outcome *outcome = run_job(program, wait->name, "stopped");
  CHECK(outcome && WIFEXITED(outcome->status) && WEXITSTATUS(outcome->status) == ERR_LOST);
  CHECK(outcome && outcome->seconds < TIMEOUT + 8);
  CHECK(outcome && names_rank_1(outcome, wait->line));
  if (outcome && !names_rank_1(outcome, wait->line)) fprintf(stderr, "%s: %s\n", wait->name, outcome->text);
}

/* Rank 0 receives, rank 1 sends nothing, and both it and rank 2 wait at a barrier. */
static void check_nobody_missing(const char *program) {
  const struct outcome *outcome = run_job(program, "channel", "well");
  CHECK(outcome && WIFEXITED(outcome->status) && WEXITSTATUS(outcome->status) == ERR_INTERNAL);
  CHECK(outcome && strstr(outcome->text, "though every rank waits"));
}

/* NCCL itself may hang on it; the one of the host runtime reports it as an asynchronous error. */
static void check_mismatch(const char *program) {
  const struct outcome *outcome = run_job(program, "mismatch", "well");
  CHECK(outcome && outcome->status != 0 && outcome->seconds < TIMEOUT + 8);
  CHECK(outcome && strstr(outcome->text, ": synchronization: sum over ranks: NCCL: invalid usage: all-reduce 0 of "));
}

static void check_unreachable(const char *program) {
  setenv("QST_HOST_UNREACHABLE", "1", 1);
  const struct outcome *outcome = run_job(program, "collectives", "well");
  unsetenv("QST_HOST_UNREACHABLE");
  CHECK(outcome && WIFEXITED(outcome->status) && WEXITSTATUS(outcome->status) == ERR_LOST);
  CHECK(outcome && strstr(outcome->text, "start of NCCL among 3 ranks: NCCL: remote process exited"));
}

int main(int count, char **words) {
  if (count > 2) {
    fate = words[2];
    return play_rank(words[1]);
  }
  const char *most_ranks = getenv("MOST_RANKS");
  if (most_ranks && atoi(most_ranks) < 3) {
    puts("needs 3 ranks");
    return 77;
  }
  for (int i = 0; i < WAITS; i++) check_stopped(words[0], &waits[i]);
  check_nobody_missing(words[0]);
  if (testing_cuda()) check_mismatch(words[0]);
  if (testing_cuda()) check_unreachable(words[0]);
  const struct outcome *outcome = run_job(words[0], "alone", "well");
  CHECK(outcome && outcome->status != 0 && strstr(outcome->text, "qst-mpi: rank 1 on "));
  CHECK(outcome && strstr(outcome->text, ": the fault\n"));
  outcome = run_job(words[0], "barrier", "killed");
  CHECK(outcome && outcome->status != 0 && outcome->seconds < TIMEOUT + 8);
  outcome = run_job(words[0], "slow", "well");
  CHECK(outcome && outcome->status == 0 && outcome->seconds > 2 * TIMEOUT);
  return check_result();
}
