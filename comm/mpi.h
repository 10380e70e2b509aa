/**
 * @file mpi.h
 * What mpi.c and transport_mpi.c share: communicators' handles, and requests that are waited for with a deadline.
 */
#ifndef QST_COMM_MPI_H
#define QST_COMM_MPI_H

#include <mpi.h>

#include "comm/comm.h"

/** Counts of MPI calls are int: larger data goes in pieces of so many bytes, no slower than one large call. */
enum { MPI_PIECE = 1 << 26 };

/** The handle of a communicator whose name is "mpi". */
MPI_Comm mpi_handle(const struct comm *comm);

/** OK, or ERR_LOST with MPI's text: where calls are right MPI fails when it cannot reach a rank. */
int mpi_status(int code, const char *operation);

/** Bytes of the piece that begins when `left` bytes are to go; `size` divides a piece. */
static inline int mpi_piece(size_t left) {
  return (int)(left < MPI_PIECE ? left : MPI_PIECE);
}

/** Requests that end together, in the order in which they were added. Start from `{0}`. */
struct mpi_requests {
  struct mpi_request *list;
  int count, done, capacity;
};

enum { NOT_A_RECEIVE = -1 };

/** Where the next request is to be made; `bytes`: what it has to receive, to be checked, or NOT_A_RECEIVE. Moves those
 *  that are under way, which MPI permits. */
int mpi_add(struct mpi_requests *requests, int bytes, MPI_Request **out);
/** Whether all are done; then the list is empty again. */
int mpi_test(struct mpi_requests *requests, bool *done, const char *operation);
/** Until all are done or the communicator's deadline is over: ERR_LOST, naming `operation`. */
int mpi_wait(struct comm *comm, struct mpi_requests *requests, const char *operation);
void mpi_forget(struct mpi_requests *requests);

/** comm_wait_on(), and gives the core away. */
int mpi_wait_on(const struct comm *comm, struct comm_waiting *waiting, const char *operation);

/** All ranks of the job, so that those that are late can be named: mpi_watch.c. */
int mpi_watch_open(const struct comm *world);
void mpi_watch_close(void);
/** Tells all others that this rank waits, or no longer. */
void mpi_watch_say(bool waits);
/** ERR_LOST: the ranks that have not said so did not come within `seconds`; ERR_INTERNAL when all have. */
int mpi_watch_blame(const char *operation, double seconds);

#endif
