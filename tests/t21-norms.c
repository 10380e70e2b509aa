/* RMSNorm and LayerNorm against float64, their gradients against finite differences, for every instruction set of this
 * machine, both activation types and several numbers of threads.
 *
 * RUN ranks=1 timeout=120
 * RUN ranks=1 timeout=240 device=cuda */
#include "kernels.h"

enum { COLS_MAX = 1100 };

struct norm {
  const double *x, *w, *b; /**< b: LayerNorm */
  const double *dy;
  double *y, *mean, *rstd;
  double epsilon;
  int rows, cols;
};

static void reference(const struct norm *n) {
  for (int t = 0; t < n->rows; t++) {
    const double *x = n->x + t * n->cols;
    double mean = 0, square = 0;
    for (int i = 0; n->b && i < n->cols; i++) mean += x[i] / n->cols;
    for (int i = 0; i < n->cols; i++) square += (x[i] - mean) * (x[i] - mean) / n->cols;
    double rstd = 1 / sqrt(square + n->epsilon);
    n->mean[t] = mean;
    n->rstd[t] = rstd;
    for (int i = 0; i < n->cols; i++) n->y[t * n->cols + i] = n->w[i] * (x[i] - mean) * rstd + (n->b ? n->b[i] : 0);
  }
}

static double loss(const void *context) {
  const struct norm *n = context;
  reference(n);
  return dot(n->y, n->dy, (size_t)(n->rows * n->cols));
}

static struct norm norm_make(int rows, int cols, double epsilon) {
  size_t count = (size_t)(rows * cols);
  return (struct norm){.y = keep_doubles(count),
                       .mean = keep_doubles((size_t)rows),
                       .rstd = keep_doubles((size_t)rows),
                       .epsilon = epsilon,
                       .rows = rows,
                       .cols = cols};
}

static void test_rmsnorm(struct crew *crew, int rows, int cols) {
  size_t count = (size_t)(rows * cols);
  float epsilon = 1e-5f;
  struct operand x = operand_random(count, crew->act, 3), w = operand_random((size_t)cols, DTYPE_F32, 2);
  struct result y = result_of(count, crew->act, NULL), rstd = result_of((size_t)rows, DTYPE_F32, NULL);
  struct norm n = norm_make(rows, cols, (double)epsilon);
  n.x = x.values, n.w = w.values;
  reference(&n);
  struct rmsnorm_args args = {y.data, rstd.data, x.data, w.data, rows, cols, epsilon};
  RUN(crew, rmsnorm, &args, &y, &rstd);
  CHECK_RESULT(&y, n.y, cols);
  CHECK_RESULT(&rstd, n.rstd, cols);
  args.rstd = NULL;
  RUN(crew, rmsnorm, &args, &y);
}

static void test_rmsnorm_backward(struct crew *crew, int rows, int cols, bool accumulate) {
  size_t count = (size_t)(rows * cols);
  struct operand x = operand_random(count, crew->act, 1), dy = operand_random(count, crew->act, 1);
  struct operand w = operand_random((size_t)cols, DTYPE_F32, 2), before = operand_random(count, crew->act, 1);
  struct norm n = norm_make(rows, cols, 1e-6);
  n.x = x.values, n.w = w.values, n.dy = dy.values;
  reference(&n);
  struct operand rstd = operand_of(n.rstd, (size_t)rows, DTYPE_F32);
  double *want_dx = finite_differences(x.values, count, loss, &n);
  double *want_dw = finite_differences(w.values, (size_t)cols, loss, &n);
  for (size_t i = 0; accumulate && i < count; i++) want_dx[i] += before.values[i];
  struct result dx = result_of(count, crew->act, accumulate ? before.data : NULL);
  struct result dw = result_of((size_t)cols, DTYPE_F32, NULL);
  struct rmsnorm_backward_args args = {dx.data, dw.data, dy.data, x.data, w.data, rstd.data, rows, cols, accumulate};
  RUN(crew, rmsnorm_backward, &args, &dx, &dw);
  CHECK_RESULT(&dx, want_dx, cols);
  CHECK_RESULT(&dw, want_dw, rows);
}

static void test_layernorm(struct crew *crew, int rows, int cols) {
  size_t count = (size_t)(rows * cols);
  float epsilon = 1e-5f;
  struct operand x = operand_random(count, crew->act, 3);
  struct operand w = operand_random((size_t)cols, DTYPE_F32, 2), b = operand_random((size_t)cols, DTYPE_F32, 1);
  struct result y = result_of(count, crew->act, NULL);
  struct result mean = result_of((size_t)rows, DTYPE_F32, NULL), rstd = result_of((size_t)rows, DTYPE_F32, NULL);
  struct norm n = norm_make(rows, cols, (double)epsilon);
  for (size_t i = 0; i < (size_t)cols; i++) b.values[i] = (double)((float *)b.data)[i];
  n.x = x.values, n.w = w.values, n.b = b.values;
  reference(&n);
  struct layernorm_args args = {y.data, mean.data, rstd.data, x.data, w.data, b.data, rows, cols, epsilon};
  RUN(crew, layernorm, &args, &y, &mean, &rstd);
  CHECK_RESULT(&y, n.y, cols);
  CHECK_RESULT(&rstd, n.rstd, cols);
  for (int t = 0; t < rows; t++) CHECK(fabs(result_value(&mean, (size_t)t) - n.mean[t]) < 1e-6);
  args.mean = args.rstd = NULL;
  RUN(crew, layernorm, &args, &y);
}

static void test_layernorm_backward(struct crew *crew, int rows, int cols, bool in_place, bool accumulate) {
  size_t count = (size_t)(rows * cols);
  struct operand x = operand_random(count, crew->act, 1), dy = operand_random(count, crew->act, 1);
  struct operand w = operand_random((size_t)cols, DTYPE_F32, 2), b = operand_random((size_t)cols, DTYPE_F32, 1);
  struct operand before = in_place ? dy : operand_random(count, crew->act, 1);
  struct norm n = norm_make(rows, cols, 1e-6);
  n.x = x.values, n.w = w.values, n.b = b.values, n.dy = dy.values;
  reference(&n);
  struct operand mean = operand_of(n.mean, (size_t)rows, DTYPE_F32), rstd = operand_of(n.rstd, (size_t)rows, DTYPE_F32);
  double *want_dx = finite_differences(x.values, count, loss, &n);
  double *want_dw = finite_differences(w.values, (size_t)cols, loss, &n);
  double *want_db = finite_differences(b.values, (size_t)cols, loss, &n);
  for (size_t i = 0; accumulate && i < count; i++) want_dx[i] += before.values[i];
  struct result dx = result_of(count, crew->act, in_place || accumulate ? before.data : NULL);
  struct result dw = result_of((size_t)cols, DTYPE_F32, NULL), db = result_of((size_t)cols, DTYPE_F32, NULL);
  struct layernorm_backward_args args = {.dx = dx.data,
                                         .dw = dw.data,
                                         .db = db.data,
                                         .dy = in_place ? dx.data : dy.data,
                                         .x = x.data,
                                         .w = w.data,
                                         .mean = mean.data,
                                         .rstd = rstd.data,
                                         .rows = rows,
                                         .cols = cols,
                                         .accumulate = accumulate};
  RUN(crew, layernorm_backward, &args, &dx, &dw, &db);
  CHECK_RESULT(&dx, want_dx, cols);
  CHECK_RESULT(&dw, want_dw, rows);
  CHECK_RESULT(&db, want_db, rows);
}

/** Without rows the gradients of weights are zero. */
static void test_no_rows(struct crew *crew) {
  struct operand w = operand_random(5, DTYPE_F32, 1);
  struct result dw = result_of(5, DTYPE_F32, NULL), db = result_of(5, DTYPE_F32, NULL);
  const double zeros[5] = {0};
  struct rmsnorm_backward_args rms = {.dw = dw.data, .w = w.data, .cols = 5};
  struct layernorm_backward_args layer = {.dw = dw.data, .db = db.data, .w = w.data, .cols = 5};
  RUN(crew, rmsnorm_backward, &rms, &dw);
  CHECK_RESULT(&dw, zeros, 1);
  RUN(crew, layernorm_backward, &layer, &dw, &db);
  CHECK_RESULT(&dw, zeros, 1);
  CHECK_RESULT(&db, zeros, 1);
}

static void test_crew(struct crew *crew) {
  static const int shapes[][2] = {{1, 1}, {3, 5}, {70, 16}, {67, 37}, {2, 576}, {5, COLS_MAX}};
  for (int i = 0; i < 6; i++) {
    int rows = shapes[i][0], cols = shapes[i][1];
    test_rmsnorm(crew, rows, cols);
    test_layernorm(crew, rows, cols);
    forget_all();
  }
  static const int backward_shapes[][2] = {{3, 5}, {33, 16}, {19, 37}, {2, 576}, {2, COLS_MAX}};
  for (int i = 0; i < 5; i++) {
    int rows = backward_shapes[i][0], cols = backward_shapes[i][1];
    for (int twice = 0; twice < 2; twice++) {
      test_rmsnorm_backward(crew, rows, cols, twice);
      test_layernorm_backward(crew, rows, cols, twice, false);
      test_layernorm_backward(crew, rows, cols, twice, true);
      forget_all();
    }
  }
  test_no_rows(crew);
  forget_all();
}

int main(int count, char **words) {
  random_begin(count, words);
  for_each_crew((struct device_limits){.rows = 128, .hidden = COLS_MAX}, test_crew);
  return check_result();
}
