/**
 * @file kernels_cases.h
 * The cases of bench-kernels: every operation of kernels/device.h at a model's shapes.
 */
#ifndef QST_BENCHMARKS_KERNELS_CASES_H
#define QST_BENCHMARKS_KERNELS_CASES_H

#include "kernels/null/cost.h"

struct model_shape {
  int rows;   /**< tokens of a micro-batch */
  int sample; /**< tokens of a sample in it */
  int hidden, ff, vocabulary, heads, kv_heads;
  int reduction, rank; /**< the side network's r and k */
  int logit_rows;
  int parameters; /**< of the side network */
};

enum { MOST_BUFFERS = 24, MOST_RESULTS = 6 };

enum number { NUMBER_ACT, NUMBER_F32, NUMBER_F64, NUMBER_I32, NUMBER_I64 };

/** A buffer that the operation writes; `before` is what it holds at the start of the run that is verified. */
struct result {
  void *data, *before, *after;
  enum number type;
  size_t count;
};

/** One case while it is measured. */
struct bench {
  struct device *device, *plain; /**< the plain one is a cpu device; both reach the memory of the cases */
  struct model_shape shape;
  void *buffers[MOST_BUFFERS];
  int buffer_count;
  struct result results[MOST_RESULTS];
  int result_count;
  int status; /**< of the first buffer that could not be made */
  uint64_t random;
  const char *search;
  int (*report)(struct bench *bench, enum operation operation, const char *what,
                int (*run)(struct device *, const void *arguments), const void *arguments);
  void *owner; /**< of `report` */
};

/** Reports all cases whose operation's name contains `search`. */
int bench_cases(struct bench *bench);

/** Frees the buffers of a case. */
void bench_clear(struct bench *bench);

size_t bench_number_size(const struct bench *bench, enum number type);

#endif
