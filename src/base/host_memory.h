/**
 * @file host_memory.h
 * How much memory this host has for a job.
 */
#ifndef QST_BASE_HOST_MEMORY_H
#define QST_BASE_HOST_MEMORY_H

/** Bytes that all ranks of a job on this host may take together: the least of what it has, the limits of this process's
 *  cgroups, and what Slurm gave the job (--mem or --mem-per-cpu), which it need not enforce by a cgroup. */
double host_memory(void);

/** The lowest limit of the cgroups that this process is in, and of those around them; INFINITY without any. `root`: where proc
 *  and sys are, "" but in tests. */
double host_memory_of_cgroups(const char *root);

#endif
