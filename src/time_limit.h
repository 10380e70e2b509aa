/**
 * @file time_limit.h
 * The moment at which a job will be ended, and whether there is time for another step before it.
 *
 * The moment is known from --time-limit, or in a Slurm job from SLURM_JOB_END_TIME (newer versions of Slurm set it) or
 * squeue. A step is begun only while there is time left for the longest step so far and a fifth more, for twice the longest
 * save so far (30 s before the first), and 15 s for the end of the job.
 */
#ifndef QST_TIME_LIMIT_H
#define QST_TIME_LIMIT_H

#include <stdbool.h>

/** The end is the Slurm job's, if this is one, or `minutes` (0: no such limit) from now if that is earlier. For one rank, which asks for all; the others have
 *  no limit. */
void time_limit_start(double minutes);
/** Call it after every step, and once before the first: true when there is no time for another one. The first call only
 *  starts the clock, so that every start of a job gets a step further. Where Slurm says that the end was moved, the new
 *  one holds. */
bool time_limit_near(void);
/** A save took this long. */
void time_limit_saved(double seconds);

/** Seconds that squeue's "time left" (D-HH:MM:SS, HH:MM:SS, MM:SS) means; −1 for all else ("UNLIMITED"). */
double time_limit_parse(const char *text);

#endif
