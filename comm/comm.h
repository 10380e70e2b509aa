/**
 * @file comm.h
 * Who talks to whom. A communicator is a set of ranks and a table of operations; `self` is one rank without MPI, `mpi`
 * is Open MPI on host memory. All ranks call the same collectives in the same order.
 */
#ifndef QST_COMM_COMM_H
#define QST_COMM_COMM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct comm;

struct comm_operations {
  int (*sum_i64)(struct comm *, int64_t *values, size_t count);
  int (*max_i64)(struct comm *, int64_t *values, size_t count);
  int (*broadcast)(struct comm *, void *bytes, size_t size, int root);
  int (*send)(struct comm *, const void *bytes, size_t size, int to);
  int (*receive)(struct comm *, void *bytes, size_t size, int from);
  int (*barrier)(struct comm *);
  int (*split)(struct comm *, int color, int key, struct comm **out);
  void (*say_waiting)(bool waits); /**< to all ranks of the job; NULL: there are no others */
  int (*name_missing)(const char *operation,
                      double waited); /**< fails with the ranks that do not wait; NULL likewise */
  void (*abort)(struct comm *, int status);
  void (*close)(struct comm *);
};

struct comm {
  const char *name; /**< "self" or "mpi" */
  int rank, size;
  int world_rank;             /**< among all ranks of the job */
  int local_rank, local_size; /**< among the ranks of this host */
  char host[64];
  double timeout; /**< seconds that a partner may be late; 0 (at first): any time */
  bool agreed;    /**< comm_agree() has returned a failure */
  const struct comm_operations *operations;
  void *state; /**< the communicator's own */
};

/** Starts MPI where a launcher started this process (mpirun; srun with PMIx or PMI2) and is `self` otherwise.
 *  ERR_USAGE when Slurm started several tasks but MPI sees one (the --mpi option is missing). */
int comm_open(struct comm **out);
/** This process's rank by the launcher's environment, 0 without one: who speaks when comm_open() has failed. */
int comm_launcher_rank(void);
/** Ends MPI in order; all ranks must call it. NULL-safe. */
void comm_close(struct comm **comm);

/* Every wait for another rank has the deadline `timeout`; then ERR_LOST, naming the operation and the late ranks. */

/** A wait for other ranks in which the caller asks again and again whether they came. Start from `{0}`. */
struct comm_waiting {
  double start; /**< 0: not yet */
  bool said;    /**< the others know of it */
};
/** Each time in vain: OK, or ERR_LOST when the deadline is over, naming `operation` and the late ranks. */
int comm_wait_on(const struct comm *comm, struct comm_waiting *waiting, const char *operation);
/** They came, or the caller has something else to do: back to `{0}`. */
void comm_wait_over(const struct comm *comm, struct comm_waiting *waiting);

int comm_sum_i64(struct comm *comm, int64_t *values, size_t count); /**< in place, the same on all ranks */
int comm_max_i64(struct comm *comm, int64_t *values, size_t count);
int comm_broadcast(struct comm *comm, void *bytes, size_t size, int root);
int comm_send(struct comm *comm, const void *bytes, size_t size, int to);
int comm_receive(struct comm *comm, void *bytes, size_t size, int from);
int comm_barrier(struct comm *comm);

/** The ranks that gave the same color, ordered by key: another communicator, its `timeout` this one's. To be
 *  closed before this one. color ≥ 0. Collective. */
int comm_split(struct comm *comm, int color, int key, struct comm **out);

/** All ranks learn whether one failed: returns OK on all, or on all the status of the lowest failed rank with its
 *  message recorded (with rank and host in front unless every rank failed). Call it at the end of each phase in which a
 *  rank may fail alone; the message is printed once, by main on rank 0. Waits COMM_PATIENCE times as long as the others:
 *  until the slowest has loaded, saved or evaluated its part. */
enum { COMM_PATIENCE = 10 };
int comm_agree(struct comm *comm, int status);

/** Says on rank 0 what other ranks warned of (base/log.h) and it did not: of each kind of warning that of the lowest rank, with
 *  rank and host in front, once in a run. To be called where all ranks know that one has such a warning, or once at the end:
 *  where none has, it takes one comm_max_i64(). Collective. */
int comm_share_warnings(struct comm *comm);

/** The end after a failure that the other ranks do not know of: prints the recorded message with rank and host, ends the
 *  whole job with `status`. Does not return for mpi; for self it only prints. */
void comm_abort(struct comm *comm, int status);

/** To be called before a command closes what it shares with other ranks. A failure that they do not know of ends the job
 *  here, by comm_abort(): closing might wait for what they will never do. */
void comm_conclude(struct comm *comm, int status);

/** True once comm_agree() returned a failure: all ranks know, so main ends in order instead of aborting. */
bool comm_agreed(const struct comm *comm);

#endif
