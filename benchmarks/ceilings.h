/**
 * @file ceilings.h
 * What the same cores, or the same GPU, reach in the same run, so that results are fractions and not only numbers of one
 * machine. ceilings.c measures the cores, ceilings_cuda.c a GPU; a benchmark is linked with one of them.
 */
#ifndef QST_BENCHMARKS_CEILINGS_H
#define QST_BENCHMARKS_CEILINGS_H

#include "base/clock.h"

struct ceilings {
  double product; /**< FLOP/s of one large bf16 product: oneDNN, C[2048, 4096] = A[2048, 4096] · B[4096, 4096];
                         on a GPU cuBLASLt, 8192 each way */
  /** The same product's rate after a second of nothing else, when a GPU has come to its limit of power; 0 on the cpu. */
  double sustained;
  double copy; /**< bytes read and written a second: memcpy on every thread, 64 MB each; on a GPU the runtime's copy of
                         1 GB */
  double dequantize; /**< bytes read and written a second by the dequantization of NF4 alone; 0 on the cpu */
  char library[32];  /**< "oneDNN 2.6.3" */
};

/** What is measured: "cpu" or "cuda". */
extern const char *const bench_device;

/** clock.c. From now on clock_seconds() counts the seconds that this thread has run, which other programs on the same cores
 *  disturb less. */
void clock_count_own(void);

/** Best of several. ERR_SYSTEM when the library refuses, ERR_MEMORY. */
int ceilings_measure(struct ceilings *out, int threads);

#endif
