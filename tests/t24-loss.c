/* Cross entropy with its gradient, and argmax, against float64, for every instruction set of this machine, both
 * activation types and several numbers of threads.
 *
 * RUN ranks=1 timeout=120
 * RUN ranks=1 timeout=240 device=cuda */
#include "kernels.h"

/** One rounding, and that of a log-sum-exp as large as the logits, which changes a whole row of softmax by that much. */
static void check_gradient(const struct result *dlogits, const double *want, int rows, double size) {
  double difference = 0, length = 0;
  for (size_t i = 0; i < dlogits->count; i++) {
    double delta = result_value(dlogits, i) - want[i];
    difference += delta * delta;
    length += want[i] * want[i];
  }
  double bound = rounding(dlogits->type) * sqrt(length) + 4 * rounding(DTYPE_F32) * (size + 2) * sqrt((double)rows);
  CHECK(sqrt(difference) <= bound);
}

/** Losses to a few units of the logits' last place; gradients of a row sum to zero. */
static void test_cross_entropy(struct crew *crew, int rows, int cols, double size) {
  size_t count = (size_t)rows * (size_t)cols;
  struct operand logits = operand_random(count, DTYPE_F32, size);
  struct result loss = result_of((size_t)rows, DTYPE_F32, NULL), dlogits = result_of(count, crew->act, NULL);
  int32_t *labels = keep((size_t)rows, sizeof *labels);
  double *want_loss = keep_doubles((size_t)rows), *want = keep_doubles(count);
  for (int t = 0; t < rows; t++) {
    const double *x = logits.values + (size_t)t * (size_t)cols;
    double highest = -INFINITY, sum = 0;
    labels[t] = t == 0 ? 0 : t == 1 ? cols - 1 : random_between(0, cols - 1);
    for (int i = 0; i < cols; i++) highest = fmax(highest, x[i]);
    for (int i = 0; i < cols; i++) sum += exp(x[i] - highest);
    want_loss[t] = highest + log(sum) - x[labels[t]];
    for (int i = 0; i < cols; i++)
      want[(size_t)t * (size_t)cols + (size_t)i] = exp(x[i] - highest) / sum - (i == labels[t]);
  }
  struct cross_entropy_args args = {loss.data, dlogits.data, logits.data, labels, rows, cols};
  RUN(crew, cross_entropy, &args, &loss, &dlogits);
  for (int t = 0; t < rows; t++) CHECK(fabs(result_value(&loss, (size_t)t) - want_loss[t]) <= 1e-6 * (1 + 2 * size));
  check_gradient(&dlogits, want, rows, size);
  args.dlogits = NULL;
  RUN(crew, cross_entropy, &args, &loss);
  for (int t = 0; t < rows; t++) CHECK(fabs(result_value(&loss, (size_t)t) - want_loss[t]) <= 1e-6 * (1 + 2 * size));
  labels[rows - 1] = cols;
  CHECK_FAILS(ERR_INTERNAL, "label", FAULT_OF(crew, cross_entropy, &args));
  forget_all();
}

/** The gradient is that of the loss. */
struct entropy {
  const double *x;
  int cols, label;
};

static double entropy_loss(const void *context) {
  const struct entropy *e = context;
  double sum = 0;
  for (int i = 0; i < e->cols; i++) sum += exp(e->x[i]);
  return log(sum) - e->x[e->label];
}

static void test_gradient(struct crew *crew) {
  enum { COLS = 37 };
  int32_t *label = keep(1, sizeof *label);
  struct operand logits = operand_random(COLS, DTYPE_F32, 3);
  *label = random_between(0, COLS - 1);
  struct result loss = result_of(1, DTYPE_F32, NULL), dlogits = result_of(COLS, crew->act, NULL);
  struct entropy entropy = {logits.values, COLS, *label};
  double *want = finite_differences(logits.values, COLS, entropy_loss, &entropy);
  struct cross_entropy_args args = {loss.data, dlogits.data, logits.data, label, 1, COLS};
  RUN(crew, cross_entropy, &args, &loss, &dlogits);
  CHECK_RESULT(&dlogits, want, COLS);
  forget_all();
}

/** A fault in the logits must show in the loss. */
static void test_nan(struct crew *crew) {
  enum { COLS = 600 };
  for (int at = 0; at < COLS; at += 7) {
    struct operand logits = operand_random(COLS, DTYPE_F32, 3);
    struct result loss = result_of(1, DTYPE_F32, NULL);
    int32_t *label = keep(1, sizeof *label);
    *label = COLS - 1 - at;
    ((float *)logits.data)[at] = NAN;
    struct cross_entropy_args args = {loss.data, NULL, logits.data, label, 1, COLS};
    CHECK_OK(FAULT_OF(crew, cross_entropy, &args));
    CHECK(isnan(*(float *)loss.data));
    forget_all();
  }
}

static void test_argmax(struct crew *crew, int rows, int cols) {
  size_t count = (size_t)rows * (size_t)cols;
  struct operand logits = operand_random(count, DTYPE_F32, 1);
  float *x = logits.data;
  int32_t *want = keep((size_t)rows, sizeof *want);
  for (int t = 0; t < rows; t++) { /* the highest twice, or all equal */
    int first = random_between(0, cols - 1), second = random_between(first, cols - 1);
    for (int i = 0; t % 5 == 4 && i < cols; i++) x[t * cols + i] = -7;
    x[t * cols + first] = x[t * cols + second] = t % 5 == 4 ? -7 : 2;
    want[t] = t % 5 == 4 ? 0 : first;
  }
  struct result index = result_of((size_t)rows, DTYPE_F32, NULL);
  struct argmax_args args = {index.data, logits.data, rows, cols};
  RUN(crew, argmax, &args, &index);
  CHECK(memcmp(index.data, want, (size_t)rows * sizeof *want) == 0);
  forget_all();
}

static void test_crew(struct crew *crew) {
  static const int columns[] = {1, 2, 15, 16, 17, 511, 513, 5003};
  for (int i = 0; i < 8; i++) {
    test_cross_entropy(crew, 5, columns[i], 5);
    test_cross_entropy(crew, 2, columns[i], 300);
    test_argmax(crew, 10, columns[i]);
  }
  test_gradient(crew);
  test_nan(crew);
}

int main(int count, char **words) {
  random_begin(count, words);
  for_each_crew((struct device_limits){.rows = 16}, test_crew);
  return check_result();
}
