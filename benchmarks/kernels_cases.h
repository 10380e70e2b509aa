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

enum { MOST_BLOCKS = 24, MOST_RESULTS = 6 };

enum number { NUMBER_ACT, NUMBER_F32, NUMBER_F64, NUMBER_I32, NUMBER_I64 };

/** Memory of a case. Large blocks on a GPU are its alone. */
struct block {
  void *data;
  size_t bytes;
  bool alone;
};

/** A buffer that the operation writes; `before` is what it holds at the start of the run that is verified. Both are NULL where the
 *  case is not verified. */
struct result {
  void *data, *before, *after;
  enum number type;
  size_t count;
};

/** One case while it is measured. */
struct bench {
  struct device *device, *plain; /**< the plain one is a cpu device, which reaches the blocks that are not `alone` */
  struct model_shape shape;
  struct block blocks[MOST_BLOCKS];
  int block_count;
  struct result results[MOST_RESULTS];
  int result_count;
  int status; /**< of the first block that could not be made */
  uint64_t random;
  const char *search;
  int (*report)(struct bench *bench, enum operation operation, const char *what,
                int (*run)(struct device *, const void *arguments), const void *arguments);
  void *owner; /**< of `report` */
};

/** Reports all cases whose operation's name contains `search`. */
int bench_cases(struct bench *bench);

/** Frees the memory of a case. */
void bench_clear(struct bench *bench);
/** Whether the plain device reaches all of it. */
bool bench_is_shared(const struct bench *bench);

size_t bench_number_size(const struct bench *bench, enum number type);

#endif
