/**
 * @file check.h
 * What a test program is made of. A test is one short program tests/tNN-name.c (t0 base, t1 io, t2 kernels, t3 comm,
 * t4 side network and trainer, t5 commands); tests/run runs it with the arguments and rank counts its own source
 * declares in lines of the form
 *     // RUN ranks=1,2,3 args="..."
 * It prints what failed and ends with check_result(): 0 only if at least one check ran and none failed.
 */
#ifndef QST_TESTS_CHECK_H
#define QST_TESTS_CHECK_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"

static int checks_run, checks_failed;

#define CHECK(condition)                                                      \
  do {                                                                        \
    checks_run++;                                                             \
    if (!(condition)) {                                                       \
      checks_failed++;                                                        \
      fprintf(stderr, "%s:%d: failed: %s\n", __FILE__, __LINE__, #condition); \
    }                                                                         \
  } while (0)

/** AddressSanitizer watches, which makes all slower: what another case has shown it need not be shown again. */
static inline bool under_sanitizer(void) {
#ifdef __SANITIZE_ADDRESS__
  return true;
#else
  return false;
#endif
}

/** The call must succeed. */
#define CHECK_OK(call)                                                                                      \
  do {                                                                                                      \
    int check_status_ = (call);                                                                             \
    checks_run++;                                                                                           \
    if (check_status_ != OK) {                                                                              \
      checks_failed++;                                                                                      \
      fprintf(stderr, "%s:%d: %s gave %d: %s\n", __FILE__, __LINE__, #call, check_status_, fail_message()); \
    }                                                                                                       \
  } while (0)

/** The call must fail with this status and a message that contains the text. */
#define CHECK_FAILS(expected, text, call)                                                                   \
  do {                                                                                                      \
    int check_status_ = (call);                                                                             \
    checks_run++;                                                                                           \
    if (check_status_ != (expected) || !strstr(fail_message(), (text))) {                                   \
      checks_failed++;                                                                                      \
      fprintf(stderr, "%s:%d: %s gave %d: %s\n", __FILE__, __LINE__, #call, check_status_, fail_message()); \
    }                                                                                                       \
  } while (0)

/** ‖got − want‖ ≤ bound · ‖want‖; NaN fails. */
#define CHECK_NEAR(got, want, count, bound)                                                                          \
  do {                                                                                                               \
    double check_error_ = relative_error((got), (want), (count));                                                    \
    checks_run++;                                                                                                    \
    if (!(check_error_ <= (bound))) {                                                                                \
      checks_failed++;                                                                                               \
      fprintf(stderr, "%s:%d: %s is %.3g away from %s, bound %.3g\n", __FILE__, __LINE__, #got, check_error_, #want, \
              (double)(bound));                                                                                      \
    }                                                                                                                \
  } while (0)

static inline double relative_error(const float *got, const float *want, size_t count) {
  double difference = 0, size = 0;
  for (size_t i = 0; i < count; i++) {
    double delta = (double)got[i] - (double)want[i];
    difference += delta * delta;
    size += (double)want[i] * (double)want[i];
  }
  return size > 0 ? sqrt(difference / size) : sqrt(difference);
}

static inline int check_result(void) {
  if (checks_failed || !checks_run) fprintf(stderr, "%d of %d checks failed\n", checks_failed, checks_run);
  return checks_failed || !checks_run;
}

#endif
