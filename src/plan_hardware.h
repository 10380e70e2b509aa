/**
 * @file plan_hardware.h
 * The machines of a plan from its options: a GPU of the table, or this cpu as bench-kernels measured it.
 */
#ifndef QST_PLAN_HARDWARE_H
#define QST_PLAN_HARDWARE_H

#include "plan.h"

/** ERR_USAGE for a GPU that is not in the table, ERR_INPUT for a calibration that is none. machine_close() after failures,
 *  too. */
int machine_open(struct machine *out, const struct options *options);
/** The machines this program runs on: what its device says of itself, and the ranks of `comm`. A cpu is taken for one of
 *  this project's, core by core; ERR_USAGE for a GPU that the table does not have. */
int machine_here(struct machine *out, const struct options *options, const struct comm *comm);
void machine_close(struct machine *machine);

#endif
