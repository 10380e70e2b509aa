/**
 * @file kernels.h
 * What tests of device operations share: devices that must agree bit for bit, random operands, results between guard
 * bands, and gradients by finite differences of a float64 reference.
 */
#ifndef QST_TESTS_KERNELS_H
#define QST_TESTS_KERNELS_H

#include <stdlib.h>
#include <time.h>

#include "check.h"
#include "device_memory.h"
#include "kernels/device.h"

/* ---- memory of a case -------------------------------------------------------------------------------------- */

enum { KEPT_MAX = 4096 };
static void *kept[KEPT_MAX];
static int kept_count;

/** Zeroed memory until forget_all(); a test ends at once when there is none. */
static inline void *keep(size_t count, size_t size) {
  void *memory = NULL;
  if (kept_count == KEPT_MAX || shared_array(&memory, count + 1, size) != OK) abort();
  return kept[kept_count++] = memory;
}

static inline double *keep_doubles(size_t count) {
  return keep(count, sizeof(double));
}

static inline void forget_all(void) {
  while (kept_count > 0) shared_free(kept[--kept_count]);
}

/* ---- random numbers ---------------------------------------------------------------------------------------- */

static uint64_t random_state;

/** A fresh seed each run, printed; the first argument repeats one. */
static inline void random_begin(int count, char **words) {
  random_state = count > 1 ? strtoull(words[1], NULL, 0) : (uint64_t)time(NULL) * 2654435761u;
  printf("seed %llu\n", (unsigned long long)random_state);
}

static inline uint32_t random_bits(void) {
  random_state += 0x9e3779b97f4a7c15u; /* SplitMix64 */
  uint64_t z = random_state;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return (uint32_t)(z >> 32);
}

static inline int random_between(int lowest, int highest) {
  return lowest + (int)(random_bits() % (uint32_t)(highest - lowest + 1));
}

/** −1 .. 1. */
static inline double random_value(void) {
  return (double)random_bits() * 0x1p-31 - 1;
}

static inline double dot(const double *a, const double *b, size_t count) {
  double sum = 0;
  for (size_t i = 0; i < count; i++) sum += a[i] * b[i];
  return sum;
}

/* ---- devices ----------------------------------------------------------------------------------------------- */

enum { CREW = 4 };

/** Runs of an operation: all of the crew, or its first two where the host runtime or a sanitizer is slow. */
static inline int crew_runs(void) {
  return testing_cuda() || under_sanitizer() ? 2 : CREW;
}
static const int crew_threads[CREW] = {1, 5, 2, 3};

/** Devices that must agree bit for bit: the cpu device with one instruction set and activation type, and several numbers of
 *  threads; or the cuda device, whose threads the host runtime runs in another order each time. They share memory. */
struct crew {
  struct device *devices[CREW];
  enum dtype act;
  char name[64];
};

/** Member `run`, with the order of threads that is its own. */
static inline struct device *crew_device(struct crew *crew, int run) {
  static const char *const schedules[CREW] = {"forward", "reverse", "random", "random"}; /* device.h: same bits */
  if (testing_cuda()) setenv("QST_HOST_SCHEDULE", schedules[run], 1);
  return crew->devices[run];
}

/** False when this machine lacks the instruction set. */
static inline bool crew_open(struct crew *crew, const char *isa, const char *gpu_isa, const char *act,
                             struct device_limits limits) {
  *crew = (struct crew){.act = strcmp(act, "bf16") == 0 ? DTYPE_BF16 : DTYPE_F32};
  snprintf(crew->name, sizeof crew->name, "%s %s", isa, act);
  for (int i = 0; i < CREW; i++) {
    struct device_options options = {.name = test_device(),
                                     .cpu_isa = isa,
                                     .gpu_isa = gpu_isa,
                                     .act = act,
                                     .threads = crew_threads[i],
                                     .limits = limits};
    if (device_open(&crew->devices[i], &options) != OK) {
      CHECK(strstr(fail_message(), "lacks"));
      for (; i >= 0; i--) device_close(&crew->devices[i]);
      return false;
    }
  }
  return true;
}

/** Runs a test on the cpu device with every instruction set of this machine, or on the cuda device, with both activation
 *  types; says what was left out. */
static inline void for_each_crew_of(const char *gpu_isa, struct device_limits limits, void (*test)(struct crew *crew)) {
  static const char *const isas[] = {"plain", "avx2", "avx512-bf16"};
  static const char *const acts[] = {"fp32", "bf16"};
  for (int i = 0; i < (testing_cuda() ? 1 : 3); i++)
    for (int j = 0; j < 2; j++) {
      struct crew crew;
      int failed = checks_failed;
      if (!crew_open(&crew, isas[i], gpu_isa, acts[j], limits)) {
        printf("not on this machine: %s\n", isas[i]);
        continue;
      }
      test(&crew);
      if (checks_failed > failed) fprintf(stderr, "  with %s\n", crew.name);
      for (int k = 0; k < CREW; k++) device_close(&crew.devices[k]);
    }
}

static inline void for_each_crew(struct device_limits limits, void (*test)(struct crew *crew)) {
  for_each_crew_of("auto", limits, test);
}

/* ---- operands ---------------------------------------------------------------------------------------------- */

/** Numbers as the device holds them, and the same ones as float64. */
struct operand {
  void *data;
  double *values;
  size_t count;
};

/** Rounds `values` to `type`. */
static inline struct operand operand_of(const double *values, size_t count, enum dtype type) {
  struct operand x = {keep(count, dtype_size(type)), keep_doubles(count), count};
  for (size_t i = 0; i < count; i++) {
    float value = (float)values[i];
    if (type == DTYPE_BF16) {
      ((bf16 *)x.data)[i] = float_to_bf16(value);
      value = bf16_to_float(((bf16 *)x.data)[i]);
    } else {
      ((float *)x.data)[i] = value;
    }
    x.values[i] = (double)value;
  }
  return x;
}

static inline struct operand operand_random(size_t count, enum dtype type, double size) {
  double *values = keep_doubles(count);
  for (size_t i = 0; i < count; i++) values[i] = size * random_value();
  return operand_of(values, count, type);
}

/* ---- results ----------------------------------------------------------------------------------------------- */

enum { GUARD = 64 };

/** A buffer between guard bands that holds NaN before every run, or `initial`. */
struct result {
  char *memory, *first; /**< first: what the first run wrote */
  const void *initial;
  void *data;
  size_t count;
  enum dtype type;
};

static inline struct result result_of(size_t count, enum dtype type, const void *initial) {
  size_t bytes = count * dtype_size(type);
  char *memory = keep(bytes + 2 * GUARD, 1);
  return (struct result){memory, keep(bytes, 1), initial, memory + GUARD, count, type};
}

static inline void result_prepare(struct result *y) {
  size_t bytes = y->count * dtype_size(y->type);
  memset(y->memory, 0xa5, bytes + 2 * GUARD);
  if (y->initial) {
    memcpy(y->data, y->initial, bytes);
  } else {
    memset(y->data, 0xff, bytes);
  }
}

static inline void result_inspect(struct result *y, int run) {
  size_t bytes = y->count * dtype_size(y->type);
  int torn = 0;
  for (int i = 0; i < GUARD; i++)
    torn += y->memory[i] != (char)0xa5 || y->memory[GUARD + bytes + (size_t)i] != (char)0xa5;
  CHECK(torn == 0);
  if (run == 0) memcpy(y->first, y->data, bytes);
  CHECK(memcmp(y->first, y->data, bytes) == 0);
}

/** Runs device_NAME on the whole crew: the results (pointers) must be equal bit for bit. */
#define RUN(crew, name, arguments, ...)                                       \
  do {                                                                        \
    struct result *results_[] = {__VA_ARGS__};                                \
    int count_ = (int)(sizeof results_ / sizeof results_[0]);                 \
    for (int run_ = 0; run_ < crew_runs(); run_++) {                          \
      for (int i_ = 0; i_ < count_; i_++) result_prepare(results_[i_]);       \
      struct device *device_ = crew_device((crew), run_);                     \
      CHECK_OK(device_##name(device_, (arguments)));                          \
      CHECK_OK(device_synchronize(device_));                                  \
      for (int i_ = 0; i_ < count_; i_++) result_inspect(results_[i_], run_); \
    }                                                                         \
  } while (0)

/** What device_NAME finds wrong, at once or when its result is waited for. */
#define FAULT_OF(crew, name, arguments) \
  (device_##name((crew)->devices[0], (arguments)) != OK ? ERR_INTERNAL : device_synchronize((crew)->devices[0]))

static inline double result_value(const struct result *y, size_t i) {
  return y->type == DTYPE_BF16 ? (double)bf16_to_float(((bf16 *)y->data)[i]) : (double)((float *)y->data)[i];
}

/** ‖result − want‖ / ‖want‖. */
static inline double result_error(const struct result *y, const double *want) {
  double difference = 0, size = 0;
  for (size_t i = 0; i < y->count; i++) {
    double delta = result_value(y, i) - want[i];
    difference += delta * delta;
    size += want[i] * want[i];
  }
  return size > 0 ? sqrt(difference / size) : sqrt(difference);
}

/** Half a unit in the last place of a type, relative. */
static inline double rounding(enum dtype type) {
  return type == DTYPE_BF16 ? 0x1p-8 : 0x1p-24;
}

/** ‖want‖, at least that of numbers around one, which the terms of every sum in these tests are: where they cancel, the
 *  error stays that of the terms. */
static inline double scale_of(const double *want, size_t count) {
  double size = sqrt(dot(want, want, count)), around_one = sqrt((double)count);
  return size > around_one ? size : around_one;
}

/** The bound: one rounding to the result's type, and fp32 arithmetic with sums of `depth` terms, whose errors grow like
 *  the square root of their number. */
#define CHECK_RESULT(y, want, depth)                                                                              \
  do {                                                                                                            \
    double length_ = sqrt(dot((want), (want), (y)->count)), scale_ = scale_of((want), (y)->count);                \
    double error_ = result_error((y), (want)) * (length_ > 0 ? length_ : 1);                                      \
    double bound_ = rounding((y)->type) * length_ + 8 * rounding(DTYPE_F32) * sqrt((double)(depth) + 1) * scale_; \
    checks_run++;                                                                                                 \
    if (!(error_ <= bound_)) {                                                                                    \
      checks_failed++;                                                                                            \
      fprintf(stderr, "%s:%d: %s: error %.3g, bound %.3g\n", __FILE__, __LINE__, #y, error_, bound_);             \
    }                                                                                                             \
  } while (0)

/* ---- gradients --------------------------------------------------------------------------------------------- */

/** gradient[i] = d loss / d x[i] by central differences; `loss` reads x through its context. */
static inline double *finite_differences(double *x, size_t count, double (*loss)(const void *context),
                                         const void *context) {
  double *gradient = keep_doubles(count), step = 1e-5;
  for (size_t i = 0; i < count; i++) {
    double value = x[i];
    x[i] = value + step;
    double above = loss(context);
    x[i] = value - step;
    double below = loss(context);
    x[i] = value;
    gradient[i] = (above - below) / (2 * step);
  }
  return gradient;
}

#endif
