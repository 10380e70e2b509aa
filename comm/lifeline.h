/**
 * @file lifeline.h
 * A rank that dies is noticed at once. Each rank holds a TCP connection to the next one, in a ring, that carries nothing:
 * when a process dies its host closes it; when a host vanishes TCP finds out within 90 seconds. The neighbours of a dead
 * rank say its name and end, and the launcher ends the others (or, where it does not, their neighbours do). A thread looks
 * after it, since MPI may wait for a dead rank for ever, even inside a call that should not wait. Where ranks cannot reach
 * each other by TCP there is no lifeline, and deadlines (--comm-timeout) have to do.
 */
#ifndef QST_COMM_LIFELINE_H
#define QST_COMM_LIFELINE_H

#include <mpi.h>

#include "comm/comm.h"

/** All ranks of `handle`, around which `world` is, call it together. ERR_LOST with MPI's text; connections that cannot be
 *  made are no error. */
int lifeline_open(const struct comm *world, MPI_Comm handle);
/** Ends it in order: the neighbours do not take it for a death. Nothing when it is not open. */
void lifeline_close(void);

#endif
