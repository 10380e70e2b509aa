/* The matrix products of the cpu device against float64, for every instruction
 * set of this machine and both activation types, on odd sizes. Several numbers
 * of threads must agree bit for bit, and so must rows computed alone and
 * together.
 *
 * RUN ranks=1 timeout=120
 * RUN ranks=1 timeout=240 device=cuda */
#include <stdlib.h>
#include <time.h>

#include "base/log.h"
#include "check.h"
#include "device_memory.h"
#include "kernels/device.h"
#include "kernels/quantize.h"

enum { DEVICES = 4, GUARD = 64 };
static const int thread_numbers[DEVICES] = {1, 2, 3, 5};

struct fixture {
  struct device *devices[DEVICES]; /**< they share this process's memory */
  enum dtype act;
};

static uint64_t random_state;

static uint64_t random_bits(void) {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return random_state * 0x2545f4914f6cdd1du >> 32;
}

static float random_value(void) {
  return (float)random_bits() * 0x1p-31f - 1;
}

/* ---- operands and results
 * -------------------------------------------------------------------------------
 */

/** Random values as the device holds them and as fp32. */
struct operand {
  void *data;
  float *values;
};

static struct operand operand_random(size_t count, enum dtype type) {
  struct operand x = {0};
  CHECK_OK(shared_array(&x.data, count + 1, dtype_size(type)));
  CHECK_OK(shared_array(&x.values, count + 1, sizeof(float)));
  for (size_t i = 0; i < count; i++) {
    float value = random_value();
    if (type == DTYPE_BF16) {
      ((bf16 *)x.data)[i] = float_to_bf16(value);
      value = bf16_to_float(((bf16 *)x.data)[i]);
    } else {
      ((float *)x.data)[i] = value;
    }
    x.values[i] = value;
  }
  return x;
}

static void operand_free(struct operand *x) {
  shared_free(x->data);
  shared_free(x->values);
}

/** A buffer between guard bands. Before every run it holds `initial`, or else
 * NaN. */
struct result {
  char *memory, *first, *initial;
  void *data;
  size_t count;
  enum dtype type;
};

static struct result result_make(size_t count, enum dtype type, const struct operand *initial) {
  struct result y = {.count = count, .type = type, .initial = initial ? initial->data : NULL};
  CHECK_OK(shared_array(&y.memory, count * dtype_size(type) + 2 * GUARD, 1));
  CHECK_OK(shared_array(&y.first, count * dtype_size(type) + 1, 1));
  y.data = y.memory + GUARD;
  return y;
}

static void result_prepare(struct result *y) {
  size_t bytes = y->count * dtype_size(y->type);
  memset(y->memory, 0xa5, bytes + 2 * GUARD);
  if (y->initial)
    memcpy(y->data, y->initial, bytes);
  else
    memset(y->data, 0xff, bytes);
}

static void result_inspect(struct result *y, int run) {
  size_t bytes = y->count * dtype_size(y->type);
  for (int i = 0; i < GUARD; i++) CHECK(y->memory[i] == (char)0xa5 && y->memory[GUARD + bytes + i] == (char)0xa5);
  if (run == 0) memcpy(y->first, y->data, bytes);
  CHECK(memcmp(y->first, y->data, bytes) == 0);
}

/** What a result should be, and for each element the sum of its terms' magnitudes. */
struct expected {
  float *values, *magnitudes;
  size_t count;
};

static double norm(const float *x, const float *minus, size_t count) {
  double sum = 0;
  for (size_t i = 0; i < count; i++) {
    double value = (double)x[i] - (minus ? (double)minus[i] : 0);
    sum += value * value;
  }
  return sqrt(sum);
}

/** Compares and frees both. The bound: one rounding of the result, and those of an fp32 sum. */
static void result_finish(struct result *y, struct expected want, const char *what) {
  float *got;
  CHECK_OK(shared_array(&got, y->count + 1, sizeof *got));
  for (size_t i = 0; i < y->count; i++)
    got[i] = y->type == DTYPE_BF16 ? bf16_to_float(((bf16 *)y->first)[i]) : ((float *)y->first)[i];
  double bound = (y->type == DTYPE_BF16 ? 0x1p-8 : 0x1p-23) * norm(want.values, NULL, y->count) +
                 0x1p-22 * norm(want.magnitudes, NULL, y->count);
  double error = norm(got, want.values, y->count);
  int failed = checks_failed;
  CHECK(want.count == y->count && error <= bound);
  if (checks_failed > failed) fprintf(stderr, "  %s: off by %.3g, bound %.3g\n", what, error, bound);
  shared_free(want.values);
  shared_free(want.magnitudes);
  shared_free(got);
  shared_free(y->memory);
  shared_free(y->first);
}

#define RUN_ON_ALL(fixture, name, y, arguments)                     \
  for (int run_ = 0; run_ < DEVICES; run_++) {                      \
    result_prepare(y);                                              \
    CHECK_OK(device_##name((fixture)->devices[run_], (arguments))); \
    CHECK_OK(device_synchronize((fixture)->devices[run_]));         \
    result_inspect((y), run_);                                      \
  }

/** Element (i, k) of an operand at i * row + k * step. */
struct view {
  const float *values;
  size_t row, step;
};

static struct expected expected_make(size_t count) {
  struct expected want = {.count = count};
  CHECK_OK(shared_array(&want.values, count + 1, sizeof(float)));
  CHECK_OK(shared_array(&want.magnitudes, count + 1, sizeof(float)));
  return want;
}

/** [m, n] = a[m, k] · b[n, k]ᵀ + bias + residual in float64. */
static struct expected reference(int m, int n, int k, struct view a, struct view b, const float *bias,
                                 const float *residual) {
  struct expected want = expected_make((size_t)m * n);
  for (int i = 0; i < m; i++)
    for (int j = 0; j < n; j++) {
      size_t place = (size_t)i * n + j;
      double add = bias ? bias[j] : 0, more = residual ? residual[place] : 0;
      double sum = add + more, magnitude = fabs(add) + fabs(more);
      const float *x = a.values + i * a.row, *w = b.values + j * b.row;
      for (int s = 0; s < k; s++) {
        double term = (double)x[s * a.step] * (double)w[s * b.step];
        sum += term;
        magnitude += fabs(term);
      }
      want.values[place] = (float)sum;
      want.magnitudes[place] = (float)magnitude;
    }
  return want;
}

/* ---- frozen weights
 * -------------------------------------------------------------------------------------
 */

static void matrix_free(struct matrix *w) {
  shared_free(w->codes);
  shared_free(w->scales);
  shared_free(w->scale_codes);
  shared_free(w->scale_scales);
}

/** Random weights, and in `values` what they are once dequantized to the
 * activation type. */
static struct matrix matrix_random(enum weight_format format, bool double_quantized, int rows, int cols, enum dtype act,
                                   float *values) {
  struct matrix w = {
      .format = format, .double_quantized = double_quantized && format != WEIGHT_BF16, .rows = rows, .cols = cols};
  size_t count = matrix_elements(&w);
  struct operand random = operand_random(count, format == WEIGHT_BF16 ? DTYPE_BF16 : DTYPE_F32);
  CHECK_OK(shared_array(&w.codes, matrix_code_bytes(&w), 1));
  CHECK_OK(shared_array(&w.scales, matrix_blocks(&w) + 1, sizeof(float)));
  CHECK_OK(shared_array(&w.scale_codes, matrix_blocks(&w) + 1, 1));
  CHECK_OK(shared_array(&w.scale_scales, matrix_scale_blocks(&w) + 1, sizeof(float)));
  if (format == WEIGHT_BF16) {
    memcpy(w.codes, random.data, 2 * count);
    memcpy(values, random.values, count * sizeof(float));
  } else {
    CHECK_OK(quantize_matrix(&w, random.values));
    CHECK_OK(dequantize_matrix(values, &w));
    if (act == DTYPE_BF16)
      for (size_t i = 0; i < count; i++) values[i] = bf16_to_float(float_to_bf16(values[i]));
  }
  operand_free(&random);
  return w;
}

struct linear_case {
  enum weight_format format;
  bool double_quantized, bias;
  int residual; /**< 0 none, 1 a buffer of its own, 2 the result's */
  int rows, cols, parts[FROZEN_PARTS];
};

static void test_frozen_linear(struct fixture *fixture, const struct linear_case *c) {
  int n = c->parts[0] + c->parts[1] + c->parts[2], filled = 0;
  struct matrix parts[FROZEN_PARTS];
  float *values;
  CHECK_OK(shared_array(&values, (size_t)n * c->cols, sizeof *values));
  struct operand x = operand_random((size_t)c->rows * c->cols, fixture->act), bias = operand_random(n, DTYPE_F32);
  struct operand residual = operand_random((size_t)c->rows * n, fixture->act);
  struct result y = result_make((size_t)c->rows * n, fixture->act, c->residual == 2 ? &residual : NULL);
  struct frozen_linear_args arguments = {.y = y.data, .x = x.data, .rows = c->rows, .bias = c->bias ? bias.data : NULL};
  arguments.residual = c->residual == 1 ? residual.data : c->residual == 2 ? y.data : NULL;
  for (; arguments.part_count < FROZEN_PARTS && c->parts[arguments.part_count]; arguments.part_count++) {
    int i = arguments.part_count;
    parts[i] = matrix_random(c->format, c->double_quantized, c->parts[i], c->cols, fixture->act,
                             values + (size_t)filled * c->cols);
    arguments.parts[i] = &parts[i];
    filled += c->parts[i];
  }
  RUN_ON_ALL(fixture, frozen_linear, &y, &arguments);
  struct expected want =
      reference(c->rows, n, c->cols, (struct view){x.values, c->cols, 1}, (struct view){values, c->cols, 1},
                c->bias ? bias.values : NULL, c->residual ? residual.values : NULL);
  result_finish(&y, want, "frozen_linear");
  for (int i = 0; i < arguments.part_count; i++) matrix_free(&parts[i]);
  operand_free(&x);
  operand_free(&bias);
  operand_free(&residual);
  shared_free(values);
}

/** Every format meets bias and residual in all six combinations. */
static void test_frozen_linears(struct fixture *fixture) {
  static const int shapes[][4] = {{64, 48, 16, 16}, {36, 37, 5, 0}, {576, 96, 0, 0}, {131, 51, 50, 3}, {4999, 7, 0, 0}};
  static const int rows[] = {1, 2, 7, 25, 64, 131};
  for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
    for (int i = 0; i < 2 * (WEIGHT_BF16 + 1); i++) {
      int ending = (2 * (int)s + i % 2) % 6;
      struct linear_case c = {(enum weight_format)(i / 2),
                              random_bits() % 2,
                              ending % 2,
                              ending / 2,
                              rows[random_bits() % 6],
                              shapes[s][0],
                              {shapes[s][1], shapes[s][2], shapes[s][3]}};
      test_frozen_linear(fixture, &c);
    }
}

/** The product with the unit matrix gives the weights themselves: exactly the oracle's, rounded to activations. */
static void test_dequantized(struct fixture *fixture, enum weight_format format, bool double_quantized, int n, int k) {
  float *values;
  CHECK_OK(shared_array(&values, (size_t)n * k, sizeof *values));
  struct matrix w = matrix_random(format, double_quantized, n, k, fixture->act, values);
  struct operand x = operand_random((size_t)k * k, fixture->act);
  for (int i = 0; i < k * k; i++) {
    float value = i % (k + 1) == 0 ? 1 : 0;
    if (fixture->act == DTYPE_BF16)
      ((bf16 *)x.data)[i] = float_to_bf16(value);
    else
      ((float *)x.data)[i] = value;
  }
  struct result y = result_make((size_t)k * n, fixture->act, NULL);
  struct frozen_linear_args arguments = {.y = y.data, .x = x.data, .parts = {&w}, .part_count = 1, .rows = k};
  RUN_ON_ALL(fixture, frozen_linear, &y, &arguments);
  int wrong = 0;
  for (int i = 0; i < k; i++)
    for (int j = 0; j < n; j++) {
      size_t place = (size_t)i * n + j;
      float got = fixture->act == DTYPE_BF16 ? bf16_to_float(((bf16 *)y.data)[place]) : ((float *)y.data)[place];
      wrong += got != values[(size_t)j * k + i];
    }
  CHECK(wrong == 0);
  shared_free(y.memory);
  shared_free(y.first);
  operand_free(&x);
  matrix_free(&w);
  shared_free(values);
}

static void test_all_dequantized(struct fixture *fixture) {
  for (enum weight_format format = WEIGHT_NF4; format <= WEIGHT_FP4; format++)
    for (int doubly = 0; doubly < 2; doubly++) {
      test_dequantized(fixture, format, doubly, 150, 128);
      test_dequantized(fixture, format, doubly, 50, 77);
    }
}

static void test_head(struct fixture *fixture, int rows, int vocabulary, int hidden) {
  float *values;
  CHECK_OK(shared_array(&values, (size_t)vocabulary * hidden, sizeof *values));
  struct matrix w = matrix_random(WEIGHT_BF16, false, vocabulary, hidden, fixture->act, values);
  struct operand x = operand_random((size_t)rows * hidden, fixture->act);
  struct operand dy = operand_random((size_t)rows * vocabulary, fixture->act);

  struct result logits = result_make((size_t)rows * vocabulary, DTYPE_F32, NULL);
  struct frozen_logits_args forward = {.logits = logits.data, .x = x.data, .weight = &w, .rows = rows};
  RUN_ON_ALL(fixture, frozen_logits, &logits, &forward);
  struct expected want = reference(rows, vocabulary, hidden, (struct view){x.values, hidden, 1},
                                   (struct view){values, hidden, 1}, NULL, NULL);
  result_finish(&logits, want, "frozen_logits");

  struct result dx = result_make((size_t)rows * hidden, fixture->act, NULL);
  struct frozen_input_grad_args backward = {.dx = dx.data, .dy = dy.data, .weight = &w, .rows = rows};
  RUN_ON_ALL(fixture, frozen_input_grad, &dx, &backward);
  want = reference(rows, hidden, vocabulary, (struct view){dy.values, vocabulary, 1}, (struct view){values, 1, hidden},
                   NULL, NULL);
  result_finish(&dx, want, "frozen_input_grad");
  operand_free(&x);
  operand_free(&dy);
  matrix_free(&w);
  shared_free(values);
}

/** Logits of a row do not depend on the rows beside it: on the cpu device. cuBLASLt may take another algorithm, with sums in
 *  another order, for another number of rows. */
static void test_rows_alone(struct fixture *fixture) {
  enum { ROWS = 37, CLASSES = 100, HIDDEN = 96 };
  static float values[CLASSES * HIDDEN];
  float *together, *alone;
  CHECK_OK(shared_array(&together, ROWS * CLASSES, sizeof *together));
  CHECK_OK(shared_array(&alone, CLASSES, sizeof *alone));
  struct matrix w = matrix_random(WEIGHT_BF16, false, CLASSES, HIDDEN, fixture->act, values);
  struct operand x = operand_random(ROWS * HIDDEN, fixture->act);
  struct frozen_logits_args arguments = {.logits = together, .x = x.data, .weight = &w, .rows = ROWS};
  CHECK_OK(device_frozen_logits(fixture->devices[1], &arguments));
  CHECK_OK(device_synchronize(fixture->devices[1]));
  for (int row = 0; row < ROWS; row++) {
    arguments = (struct frozen_logits_args){.logits = alone, .weight = &w, .rows = 1};
    arguments.x = (char *)x.data + row * HIDDEN * dtype_size(fixture->act);
    CHECK_OK(device_frozen_logits(fixture->devices[1], &arguments));
    CHECK_OK(device_synchronize(fixture->devices[1]));
    CHECK(memcmp(alone, together + row * CLASSES, CLASSES * sizeof *alone) == 0);
  }
  operand_free(&x);
  matrix_free(&w);
  shared_free(together);
  shared_free(alone);
}

/* ---- trained weights
 * ------------------------------------------------------------------------------------
 */

static void test_linear(struct fixture *fixture, int rows, int n, int k, bool with_bias, int with_residual) {
  struct operand x = operand_random((size_t)rows * k, fixture->act), w = operand_random((size_t)n * k, fixture->act);
  struct operand bias = operand_random(n, DTYPE_F32), residual = operand_random((size_t)rows * n, fixture->act);
  struct result y = result_make((size_t)rows * n, fixture->act, with_residual == 2 ? &residual : NULL);
  struct linear_args arguments = {.y = y.data, .x = x.data, .w = w.data, .rows = rows, .n = n, .k = k};
  if (with_bias) arguments.bias = bias.data;
  arguments.residual = with_residual == 1 ? residual.data : with_residual == 2 ? y.data : NULL;
  RUN_ON_ALL(fixture, linear, &y, &arguments);
  struct expected want = reference(rows, n, k, (struct view){x.values, k, 1}, (struct view){w.values, k, 1},
                                   with_bias ? bias.values : NULL, with_residual ? residual.values : NULL);
  result_finish(&y, want, "linear");
  operand_free(&x);
  operand_free(&w);
  operand_free(&bias);
  operand_free(&residual);
}

static void test_input_grad(struct fixture *fixture, int rows, int n, int k, bool accumulate) {
  struct operand dy = operand_random((size_t)rows * n, fixture->act), w = operand_random((size_t)n * k, fixture->act);
  struct operand before = operand_random((size_t)rows * k, fixture->act);
  struct result dx = result_make((size_t)rows * k, fixture->act, accumulate ? &before : NULL);
  struct linear_input_grad_args arguments = {.dx = dx.data, .dy = dy.data, .w = w.data, .rows = rows, .n = n, .k = k};
  arguments.accumulate = accumulate;
  RUN_ON_ALL(fixture, linear_input_grad, &dx, &arguments);
  struct expected want = reference(rows, k, n, (struct view){dy.values, n, 1}, (struct view){w.values, 1, k}, NULL,
                                   accumulate ? before.values : NULL);
  result_finish(&dx, want, "linear_input_grad");
  operand_free(&dy);
  operand_free(&w);
  operand_free(&before);
}

static void test_weight_grad(struct fixture *fixture, int rows, int n, int k) {
  struct operand dy = operand_random((size_t)rows * n, fixture->act),
                 x = operand_random((size_t)rows * k, fixture->act);
  struct operand one = operand_random((size_t)rows, DTYPE_F32);
  for (int t = 0; t < rows; t++) one.values[t] = 1;
  struct result dw = result_make((size_t)n * k, DTYPE_F32, NULL), dbias = result_make(n, DTYPE_F32, NULL);
  struct linear_weight_grad_args arguments = {dw.data, NULL, dy.data, x.data, rows, n, k};
  RUN_ON_ALL(fixture, linear_weight_grad, &dw, &arguments);
  arguments.dbias = dbias.data;
  RUN_ON_ALL(fixture, linear_weight_grad, &dbias, &arguments);
  result_inspect(&dw, DEVICES);
  struct expected want =
      reference(n, k, rows, (struct view){dy.values, 1, n}, (struct view){x.values, 1, k}, NULL, NULL);
  result_finish(&dw, want, "linear_weight_grad");
  want = reference(1, n, rows, (struct view){one.values, rows, 1}, (struct view){dy.values, 1, n}, NULL, NULL);
  result_finish(&dbias, want, "dbias of linear_weight_grad");
  operand_free(&dy);
  operand_free(&x);
  operand_free(&one);
}

static void test_linears(struct fixture *fixture) {
  static const int shapes[][3] = {{1, 1, 1},     {5, 3, 2},     {13, 16, 576}, {130, 36, 16}, {64, 60, 36},
                                  {31, 191, 35}, {200, 17, 97}, {2049, 36, 4}, {4500, 9, 33}, {0, 5, 7}};
  for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
    int rows = shapes[s][0], n = shapes[s][1], k = shapes[s][2];
    for (int residual = 0; residual < 3; residual++) test_linear(fixture, rows, n, k, residual != 1, residual);
    test_linear(fixture, rows, n, k, true, 1);
    test_input_grad(fixture, rows, n, k, false);
    test_input_grad(fixture, rows, n, k, true);
    test_weight_grad(fixture, rows, n, k);
  }
}

/** With a bias a GPU's workspace holds the sums of some rows of this at a time: slow on the host runtime, so in one type. */
static void test_pieces(struct fixture *fixture) {
  static const struct linear_case frozen = {
      .format = WEIGHT_NF4, .bias = true, .residual = 2, .rows = 530, .cols = 8, .parts = {1500, 500}};
  if (fixture->act == DTYPE_BF16) test_frozen_linear(fixture, &frozen);
}

/* ---- */

static int fixture_open(struct fixture *fixture, const char *isa, const char *act) {
  *fixture = (struct fixture){0};
  for (int d = 0; d < DEVICES; d++) {
    struct device_options options = {.name = test_device(),
                                     .cpu_isa = isa,
                                     .act = act,
                                     .threads = thread_numbers[d],
                                     .limits = {.rows = 8192, .hidden = 64, .vocabulary = 9001}};
    TRY(device_open(&fixture->devices[d], &options));
  }
  fixture->act = fixture->devices[0]->act;
  return OK;
}

static void test_all(const char *isa, const char *act, int *tried) {
  struct fixture fixture;
  if (fixture_open(&fixture, isa, act) == OK) {
    ++*tried;
    test_frozen_linears(&fixture);
    test_all_dequantized(&fixture);
    test_head(&fixture, 1, 100, 32);
    test_head(&fixture, 9, 515, 65);
    test_head(&fixture, 33, 4801, 72);
    test_head(&fixture, 3, 9001, 5);
    test_head(&fixture, 50, 4800, 110);
    if (!testing_cuda()) test_rows_alone(&fixture);
    test_linears(&fixture);
    test_pieces(&fixture);
  } else {
    printf("skipped: %s\n", fail_message());
  }
  for (int d = 0; d < DEVICES; d++) device_close(&fixture.devices[d]);
}

/** A cuBLASLt that refuses products, which the host runtime can be: what then multiplies is slow there, so a sanitizer sees
 *  each type and each way to refuse once. */
static void test_without_algorithms(void) {
  static const char *const refused[] = {"some", "all"}, *const acts[] = {"fp32", "bf16"};
  for (int i = 0; i < 4; i++) {
    struct fixture fixture;
    if (under_sanitizer() && i % 3) continue;
    setenv("QST_HOST_NO_ALGORITHM", refused[i / 2], 1);
    CHECK_OK(fixture_open(&fixture, NULL, acts[i % 2]));
    test_head(&fixture, 1, 100, 32);
    test_head(&fixture, 9, 515, 65);
    test_linears(&fixture);
    for (int d = 0; d < DEVICES; d++) device_close(&fixture.devices[d]);
  }
  unsetenv("QST_HOST_NO_ALGORITHM");
}

int main(void) {
  static const char *const isas[] = {"plain", "avx2", "avx512-bf16"};
  random_state = (uint64_t)time(NULL) * 2654435761u | 1;
  printf("seed %llu\n", (unsigned long long)random_state);
  int tried = 0;
  for (int isa = 0; isa < (testing_cuda() ? 1 : 3); isa++) {
    test_all(isas[isa], "fp32", &tried);
    test_all(isas[isa], "bf16", &tried);
  }
  CHECK(!log_unshared()); /* cuBLASLt was asked for nothing that it refuses */
  if (testing_cuda()) test_without_algorithms();
  CHECK(tried >= 2);
  return check_result();
}
