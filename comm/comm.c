#include "comm/comm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "comm/backends.h"

/* ---- start and end -------------------------------------------------------------------------------------- */

static int number_in(const char *variable, int otherwise) {
  const char *text = getenv(variable);
  return text && *text ? (int)strtol(text, NULL, 10) : otherwise;
}

static bool is_launched(void) {
  static const char *const signs[] = {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK", "PMI_SIZE", NULL};
  for (int i = 0; signs[i]; i++)
    if (getenv(signs[i])) return true;
  return false;
}

int comm_launcher_rank(void) {
  return number_in("OMPI_COMM_WORLD_RANK", number_in("PMIX_RANK", number_in("PMI_RANK", number_in("SLURM_PROCID", 0))));
}

/* A launcher that this MPI does not understand starts N processes that each believe to be alone, and all would write
 * the same files. SLURM_STEP_NUM_TASKS speaks of us only where mpirun is not in between: its daemons are such a step. */
static int check_alone(void) {
  if (getenv("OMPI_COMM_WORLD_SIZE")) return OK;
  int tasks = number_in("SLURM_STEP_NUM_TASKS", 1);
  if (tasks > 1)
    return fail(ERR_USAGE, "Slurm started %d tasks, but MPI sees one: start with srun --mpi=pmix (srun --mpi=list)",
                tasks);
  tasks = number_in("PMI_SIZE", 1);
  if (tasks > 1)
    return fail(ERR_USAGE, "%d processes were started, but MPI sees one: use the mpirun of the MPI in this program",
                tasks);
  return OK;
}

int comm_open(struct comm **out) {
  *out = NULL;
  int status = is_launched() ? comm_mpi_open(out) : comm_self_open(out);
  if (status == OK && (*out)->size == 1) status = check_alone();
  if (status != OK) comm_close(out);
  return status;
}

void comm_close(struct comm **comm) {
  if (!*comm) return;
  (*comm)->operations->close(*comm);
  free(*comm);
  *comm = NULL;
}

/* ---- waiting -------------------------------------------------------------------------------------------- */

enum { NOTICE = 10 }; /* after this part of its deadline a rank says that it waits */

int comm_wait_on(const struct comm *comm, struct comm_waiting *waiting, const char *operation) {
  const struct comm_operations *operations = comm->operations;
  double now = clock_seconds(), limit = comm->timeout;
  if (waiting->start == 0) waiting->start = now;
  double waited = now - waiting->start;
  if (limit == 0 || !operations->name_missing) return OK;
  if (waited > limit) return operations->name_missing(operation, limit);
  if (waited > limit / NOTICE && !waiting->said) {
    operations->say_waiting(true);
    waiting->said = true;
  }
  return OK;
}

void comm_wait_over(const struct comm *comm, struct comm_waiting *waiting) {
  if (waiting->said) comm->operations->say_waiting(false);
  *waiting = (struct comm_waiting){0};
}

/* ---- operations ----------------------------------------------------------------------------------------- */

int comm_sum_i64(struct comm *comm, int64_t *values, size_t count) {
  return comm->operations->sum_i64(comm, values, count);
}

int comm_max_i64(struct comm *comm, int64_t *values, size_t count) {
  return comm->operations->max_i64(comm, values, count);
}

int comm_broadcast(struct comm *comm, void *bytes, size_t size, int root) {
  if (root < 0 || root >= comm->size) return fail(ERR_INTERNAL, "a broadcast from rank %d of %d", root, comm->size);
  return comm->operations->broadcast(comm, bytes, size, root);
}

/* A blocking send to oneself would never end. */
static int check_partner(const struct comm *comm, int rank) {
  if (rank >= 0 && rank < comm->size && rank != comm->rank) return OK;
  return fail(ERR_INTERNAL, "a message between rank %d and rank %d of %d", comm->rank, rank, comm->size);
}

int comm_send(struct comm *comm, const void *bytes, size_t size, int to) {
  TRY(check_partner(comm, to));
  return comm->operations->send(comm, bytes, size, to);
}

int comm_receive(struct comm *comm, void *bytes, size_t size, int from) {
  TRY(check_partner(comm, from));
  return comm->operations->receive(comm, bytes, size, from);
}

int comm_barrier(struct comm *comm) {
  return comm->operations->barrier(comm);
}

int comm_split(struct comm *comm, int color, int key, struct comm **out) {
  *out = NULL;
  if (color < 0) return fail(ERR_INTERNAL, "a split of the ranks with color %d", color);
  int status = comm->operations->split(comm, color, key, out);
  if (status != OK) {
    comm_close(out);
    return status;
  }
  (*out)->timeout = comm->timeout;
  (*out)->world_rank = comm->world_rank;
  return OK;
}

/* ---- failures ------------------------------------------------------------------------------------------- */

struct verdict {
  int status;
  char message[ERROR_LINE];
};

static int find_verdict(struct comm *comm, int status) {
  /* The largest (size − rank) of the failed ranks is the lowest of them; the second number: somebody succeeded. */
  int64_t votes[2] = {status == OK ? 0 : comm->size - comm->rank, status == OK};
  struct verdict verdict = {.status = status};
  snprintf(verdict.message, sizeof verdict.message, "%s", fail_message());
  TRY(comm_max_i64(comm, votes, 2));
  if (votes[0] == 0) return OK;
  int lowest = comm->size - (int)votes[0];
  if (votes[1] && comm->rank == lowest) {
    fail_at(status, "rank %d on %s", comm->rank, comm->host);
    snprintf(verdict.message, sizeof verdict.message, "%s", fail_message());
  }
  TRY(comm_broadcast(comm, &verdict, sizeof verdict, lowest));
  comm->agreed = true;
  return fail((enum status)verdict.status, "%s", verdict.message);
}

/* Ranks come to the end of a phase at very different times: one has saved a checkpoint, read its part of the model. */
int comm_agree(struct comm *comm, int status) {
  comm->timeout *= COMM_PATIENCE;
  status = find_verdict(comm, status);
  comm->timeout /= COMM_PATIENCE;
  return status;
}

/* ---- warnings ------------------------------------------------------------------------------------------- */

struct told {
  char host[64];
  struct log_kept warning;
};

/* The warning of rank `from`, which no rank needs to share any more. */
static int tell(struct comm *comm, int from) {
  struct told told = {0};
  snprintf(told.host, sizeof told.host, "%s", comm->host);
  if (comm->rank == from) told.warning = *log_unshared();
  TRY(comm_broadcast(comm, &told, sizeof told, from));
  int64_t others = log_mark_shared(&told.warning) && comm->rank != from;
  TRY(comm_sum_i64(comm, &others, 1));
  if (from == 0 || comm->rank > 0) return OK;
  char more[32] = "";
  if (others > 0) snprintf(more, sizeof more, ", and %lld more", (long long)others);
  log_warning("rank %d on %s%s: %s", from, told.host, more, told.warning.line);
  return OK;
}

int comm_share_warnings(struct comm *comm) {
  for (;;) {
    int64_t lowest = log_unshared() ? comm->size - comm->rank : 0; /* the largest is of the lowest rank */
    TRY(comm_max_i64(comm, &lowest, 1));
    if (lowest == 0) return OK;
    TRY(tell(comm, comm->size - (int)lowest));
  }
}

/* ---- the end -------------------------------------------------------------------------------------------- */

bool comm_agreed(const struct comm *comm) {
  return comm->agreed;
}

void comm_abort(struct comm *comm, int status) {
  fprintf(stderr, "qst-mpi: rank %d on %s: %s\n", comm->world_rank, comm->host, fail_message());
  fflush(stderr);
  comm->operations->abort(comm, status);
}

void comm_conclude(struct comm *comm, int status) {
  if (status != OK && status != STOPPED && comm->size > 1 && !comm_agreed(comm)) comm_abort(comm, status);
}
