/**
 * @file same_command.h
 * All ranks of a job must have been told the same, or they compute different things, or wait for each other for ever: a
 * launcher may start them with different words, and a --config file may differ between the disks of nodes.
 */
#ifndef QST_SAME_COMMAND_H
#define QST_SAME_COMMAND_H

#include "base/options.h"
#include "comm/comm.h"

/** OK on all ranks, or ERR_USAGE on all naming the first rank that differs from rank 0, and in what. `prints`: this rank is
 *  to print a help text instead. Collective. */
int same_command(const struct options *options, bool prints, struct comm *comm);

/** OK on all ranks, or ERR_INPUT on all: this rank's file of that digest is not the one that rank 0 has. Collective. */
int same_file(struct comm *comm, const char *path, const char digest[33]);

#endif
