/**
 * @file threads.h
 * How many threads a rank should run.
 */
#ifndef QST_BASE_THREADS_H
#define QST_BASE_THREADS_H

/** OMP_NUM_THREADS where it is set; under srun the processors of the task (--cpus-per-task, or the step's on this node
 *  divided by its tasks), else its share of the host's among `local_ranks`; at most those this process is bound to. At
 *  least 1. */
int threads_of_rank(int local_ranks);

#endif
