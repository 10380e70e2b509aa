/**
 * @file backends.h
 * How the communicators are made; comm.c chooses.
 */
#ifndef QST_COMM_BACKENDS_H
#define QST_COMM_BACKENDS_H

#include "comm/comm.h"

/** One rank, no MPI. */
int comm_self_open(struct comm **out);
/** All processes of the job: MPI_COMM_WORLD. ERR_LOST with MPI's text. */
int comm_mpi_open(struct comm **out);

#endif
