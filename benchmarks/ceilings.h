/**
 * @file ceilings.h
 * What the same cores reach in the same run, so that results are fractions and not only numbers of one machine.
 */
#ifndef QST_BENCHMARKS_CEILINGS_H
#define QST_BENCHMARKS_CEILINGS_H

struct ceilings {
  double product;   /**< FLOP/s of one large bf16 product by oneDNN, C[2048, 4096] = A[2048, 4096] · B[4096, 4096] */
  double copy;      /**< bytes read and written a second by memcpy on every thread, 64 MB each */
  char library[32]; /**< "oneDNN 2.6.3" */
};

/** Seconds since some moment; after clock_count_own(): seconds this thread has run, which other programs on the same
 *  cores disturb less. */
double clock_seconds(void);
void clock_count_own(void);

/** Best of several. ERR_SYSTEM when oneDNN refuses, ERR_MEMORY. */
int ceilings_measure(struct ceilings *out, int threads);

#endif
