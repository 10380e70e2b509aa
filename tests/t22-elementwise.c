/* Everything element-wise or row-wise against float64: activations, pooling, gate, mix, rotary embedding, moving rows
 * and rounding; gradients against finite differences; for every instruction set of this machine, both activation types
 * and several numbers of threads.
 *
 * RUN ranks=1 timeout=120
 * RUN ranks=1 timeout=120 device=cuda */
#include "kernels.h"

static double sigmoid(double x) {
  return 1 / (1 + exp(-x));
}

static double silu(double x) {
  return x * sigmoid(x);
}

/* ---- activations ------------------------------------------------------------------------------------------- */

struct activation {
  const double *x, *dy;
  size_t rows, cols;
};

static double swiglu_loss(const void *context) {
  const struct activation *a = context;
  double sum = 0;
  for (size_t t = 0; t < a->rows; t++)
    for (size_t i = 0; i < a->cols; i++)
      sum += a->dy[t * a->cols + i] * silu(a->x[2 * t * a->cols + i]) * a->x[(2 * t + 1) * a->cols + i];
  return sum;
}

static double silu_loss(const void *context) {
  const struct activation *a = context;
  double sum = 0;
  for (size_t i = 0; i < a->rows * a->cols; i++) sum += a->dy[i] * silu(a->x[i]);
  return sum;
}

static void test_swiglu(struct crew *crew, int rows, int cols) {
  size_t count = (size_t)(rows * cols);
  struct operand x = operand_random(2 * count, crew->act, 4);
  struct result y = result_of(count, crew->act, NULL);
  double *want = keep_doubles(count);
  for (size_t i = 0; i < count; i++) {
    size_t t = i / (size_t)cols, at = t * (size_t)cols + i;
    want[i] = silu(x.values[at]) * x.values[at + (size_t)cols];
  }
  struct swiglu_args args = {y.data, x.data, rows, cols};
  RUN(crew, swiglu, &args, &y);
  CHECK_RESULT(&y, want, 1);
}

static void test_swiglu_backward(struct crew *crew, int rows, int cols) {
  size_t count = (size_t)(rows * cols);
  struct operand x = operand_random(2 * count, crew->act, 4), dy = operand_random(count, crew->act, 1);
  struct result dx = result_of(2 * count, crew->act, NULL);
  struct activation a = {x.values, dy.values, (size_t)rows, (size_t)cols};
  double *want = finite_differences(x.values, 2 * count, swiglu_loss, &a);
  struct swiglu_backward_args args = {dx.data, dy.data, x.data, rows, cols};
  RUN(crew, swiglu_backward, &args, &dx);
  CHECK_RESULT(&dx, want, 1);
}

static void test_silu(struct crew *crew, int rows, int cols, bool in_place) {
  size_t count = (size_t)(rows * cols);
  struct operand x = operand_random(count, crew->act, 9);
  struct result y = result_of(count, crew->act, in_place ? x.data : NULL);
  double *want = keep_doubles(count);
  for (size_t i = 0; i < count; i++) want[i] = silu(x.values[i]);
  struct silu_args args = {y.data, in_place ? y.data : x.data, rows, cols};
  RUN(crew, silu, &args, &y);
  CHECK_RESULT(&y, want, 1);
}

static void test_silu_backward(struct crew *crew, int rows, int cols, bool in_place) {
  size_t count = (size_t)(rows * cols);
  struct operand x = operand_random(count, crew->act, 4), dy = operand_random(count, crew->act, 1);
  struct result dx = result_of(count, crew->act, in_place ? dy.data : NULL);
  struct activation a = {x.values, dy.values, (size_t)rows, (size_t)cols};
  double *want = finite_differences(x.values, count, silu_loss, &a);
  struct silu_backward_args args = {dx.data, in_place ? dx.data : dy.data, x.data, rows, cols};
  RUN(crew, silu_backward, &args, &dx);
  CHECK_RESULT(&dx, want, 1);
}

/** Far outside the range of exp: 0 or x, never NaN. */
static void test_extremes(struct crew *crew) {
  const double values[6] = {-1e30, -500, -88.5, 88.5, 500, 1e30};
  struct operand x = operand_of(values, 6, crew->act);
  struct result y = result_of(6, crew->act, NULL);
  double want[6];
  for (int i = 0; i < 6; i++) want[i] = values[i] < 0 ? 0 : x.values[i];
  struct silu_args args = {y.data, x.data, 2, 3};
  RUN(crew, silu, &args, &y);
  CHECK_RESULT(&y, want, 1);
  CHECK(fabs(result_value(&y, 1)) < 1e-30 && fabs(result_value(&y, 2)) < 1e-30);
}

static void test_relu(struct crew *crew, int rows, int cols, bool in_place) {
  size_t count = (size_t)(rows * cols);
  struct operand x = operand_random(count, crew->act, 9);
  struct result y = result_of(count, crew->act, in_place ? x.data : NULL);
  struct relu_args args = {y.data, in_place ? y.data : x.data, rows, cols};
  RUN(crew, relu, &args, &y);
  for (size_t i = 0; i < count; i++) CHECK(result_value(&y, i) == (x.values[i] > 0 ? x.values[i] : 0));
}

/** Some of y are exactly 0, as most of what relu() returns. */
static void test_relu_backward(struct crew *crew, int rows, int cols, bool in_place) {
  size_t count = (size_t)(rows * cols);
  double *activated = keep_doubles(count);
  for (size_t i = 0; i < count; i++) activated[i] = fmax(random_value(), 0);
  struct operand y = operand_of(activated, count, crew->act), dy = operand_random(count, crew->act, 1);
  struct result dx = result_of(count, crew->act, in_place ? dy.data : NULL);
  struct relu_backward_args args = {dx.data, in_place ? dx.data : dy.data, y.data, rows, cols};
  RUN(crew, relu_backward, &args, &dx);
  for (size_t i = 0; i < count; i++) CHECK(result_value(&dx, i) == (y.values[i] > 0 ? dy.values[i] : 0));
}

static bool same(double a, double b) {
  return a == b || (isnan(a) && isnan(b));
}

/** NaN and infinity pass, so that faults are not hidden: in packs, and one by one. */
static void test_relu_of_faults(struct crew *crew, int count) {
  static const double faults[] = {NAN, INFINITY, -INFINITY, -1, 3};
  double *values = keep_doubles((size_t)count), *open = keep_doubles((size_t)count);
  for (int i = 0; i < count; i++) values[i] = faults[i % 5], open[i] = i % 2;
  struct operand x = operand_of(values, (size_t)count, crew->act), y = operand_of(open, (size_t)count, crew->act);
  struct result out = result_of((size_t)count, crew->act, NULL);
  struct relu_args forward = {out.data, x.data, 1, count};
  RUN(crew, relu, &forward, &out);
  for (int i = 0; i < count; i++) CHECK(same(result_value(&out, (size_t)i), values[i] < 0 ? 0 : values[i]));
  struct relu_backward_args backward = {out.data, x.data, y.data, 1, count};
  RUN(crew, relu_backward, &backward, &out);
  for (int i = 0; i < count; i++) CHECK(same(result_value(&out, (size_t)i), i % 2 ? values[i] : 0));
}

static void test_pool(struct crew *crew, int rows, int cols, int window, bool maximum) {
  size_t count = (size_t)(rows * cols);
  struct operand x = operand_random(count * (size_t)window, crew->act, 1);
  struct result y = result_of(count, crew->act, NULL);
  double *want = keep_doubles(count);
  for (size_t i = 0; i < count; i++) {
    const double *in = x.values + i * (size_t)window;
    want[i] = maximum ? in[0] : 0;
    for (int j = 0; j < window; j++) want[i] = maximum ? fmax(want[i], in[j]) : want[i] + in[j] / window;
  }
  struct pool_args args = {y.data, x.data, rows, cols, window, maximum};
  RUN(crew, pool, &args, &y);
  CHECK_RESULT(&y, want, 8 * window);
}

static void test_to_act(struct crew *crew, size_t count) {
  static const float special[] = {0x1.01p0f,       0x1.03p0f, -0x1.01p0f, 0x1.010002p0f,
                                  0x1.fffffep127f, INFINITY,  -INFINITY,  0};
  struct operand x = operand_random(count, DTYPE_F32, 3);
  for (size_t i = 0; i < count && i < 8; i++) ((float *)x.data)[i] = special[i]; /* ties, and the ends of the range */
  struct result y = result_of(count, crew->act, NULL);
  struct to_act_args args = {y.data, x.data, count};
  RUN(crew, to_act, &args, &y);
  for (size_t i = 0; i < count; i++) {
    float value = ((float *)x.data)[i];
    double want = crew->act == DTYPE_BF16 ? (double)bf16_to_float(float_to_bf16(value)) : (double)value;
    CHECK(result_value(&y, i) == want);
  }
}

static void test_from_act(struct crew *crew, size_t count) {
  struct operand x = operand_random(count, crew->act, 3);
  struct result y = result_of(count, DTYPE_F32, NULL);
  struct from_act_args args = {y.data, x.data, count};
  RUN(crew, from_act, &args, &y);
  for (size_t i = 0; i < count; i++) CHECK(result_value(&y, i) == x.values[i]);
}

/* ---- gate and mix ------------------------------------------------------------------------------------------ */

/** y = share ⊙ a + (1 − share) ⊙ b: the gate is that with a = s, b = d; a mix with a = h, b = side. */
struct blend {
  const double *a, *b, *weight, *dy;
  double *y;
  size_t rows, cols;
  enum mix_kind kind;
};

static double blend_loss(const void *context) {
  const struct blend *m = context;
  double sum = 0;
  for (size_t i = 0; i < m->rows * m->cols; i++) {
    double share = m->kind == MIX_ALPHA ? m->weight[0] : m->kind == MIX_GATE ? sigmoid(m->weight[i % m->cols]) : 1;
    m->y[i] = m->kind == MIX_RESIDUAL ? m->a[i] + m->b[i] : share * m->a[i] + (1 - share) * m->b[i];
    sum += m->dy[i] * m->y[i];
  }
  return sum;
}

struct blend_case {
  struct operand a, b, dy, weight;
  struct blend blend;
  size_t count;
};

static struct blend_case blend_make(struct crew *crew, int rows, int cols, enum mix_kind kind) {
  struct blend_case c = {.count = (size_t)(rows * cols)};
  c.a = operand_random(c.count, crew->act, 1);
  c.b = operand_random(c.count, crew->act, 1);
  c.dy = operand_random(c.count, crew->act, 1);
  c.weight = operand_random((size_t)cols, DTYPE_F32, 2);
  c.blend = (struct blend){c.a.values,   c.b.values, c.weight.values, c.dy.values, keep_doubles(c.count), (size_t)rows,
                           (size_t)cols, kind};
  blend_loss(&c.blend);
  return c;
}

static void test_gate(struct crew *crew, int rows, int cols) {
  struct blend_case c = blend_make(crew, rows, cols, MIX_GATE);
  struct result u = result_of(c.count, crew->act, NULL);
  struct gate_args args = {u.data, c.b.data, c.a.data, c.weight.data, rows, cols};
  RUN(crew, gate, &args, &u);
  CHECK_RESULT(&u, c.blend.y, 1);
}

static void test_gate_backward(struct crew *crew, int rows, int cols, bool in_place) {
  struct blend_case c = blend_make(crew, rows, cols, MIX_GATE);
  double *want_ds = finite_differences(c.a.values, c.count, blend_loss, &c.blend);
  double *want_dd = finite_differences(c.b.values, c.count, blend_loss, &c.blend);
  double *want_dz = finite_differences(c.weight.values, (size_t)cols, blend_loss, &c.blend);
  struct result ds = result_of(c.count, crew->act, in_place ? c.dy.data : NULL);
  struct result dd = result_of(c.count, crew->act, NULL), dz = result_of((size_t)cols, DTYPE_F32, NULL);
  struct gate_backward_args args = {dd.data,       ds.data, dz.data, in_place ? ds.data : c.dy.data, c.b.data, c.a.data,
                                    c.weight.data, rows,    cols};
  RUN(crew, gate_backward, &args, &ds, &dd, &dz);
  CHECK_RESULT(&ds, want_ds, 1);
  CHECK_RESULT(&dd, want_dd, 1);
  CHECK_RESULT(&dz, want_dz, rows);
}

static void test_mix(struct crew *crew, int rows, int cols, enum mix_kind kind, bool in_place) {
  struct blend_case c = blend_make(crew, rows, cols, kind);
  struct result y = result_of(c.count, crew->act, in_place ? c.b.data : NULL);
  struct mix_args args = {
      y.data, c.a.data, in_place ? y.data : c.b.data, kind == MIX_RESIDUAL ? NULL : c.weight.data, kind, rows, cols};
  RUN(crew, mix, &args, &y);
  CHECK_RESULT(&y, c.blend.y, 2);
}

static void test_mix_backward(struct crew *crew, int rows, int cols, enum mix_kind kind, bool in_place) {
  struct blend_case c = blend_make(crew, rows, cols, kind);
  size_t weights = kind == MIX_ALPHA ? 1 : kind == MIX_GATE ? (size_t)cols : 0;
  double *want_dside = finite_differences(c.b.values, c.count, blend_loss, &c.blend);
  double *want_dweight = finite_differences(c.weight.values, weights, blend_loss, &c.blend);
  struct result dside = result_of(c.count, crew->act, in_place ? c.dy.data : NULL);
  struct result dweight = result_of(weights, DTYPE_F32, NULL);
  struct mix_backward_args args = {.dside = dside.data,
                                   .dweight = weights ? dweight.data : NULL,
                                   .dy = in_place ? dside.data : c.dy.data,
                                   .h = c.a.data,
                                   .side = c.b.data,
                                   .weight = weights ? c.weight.data : NULL,
                                   .kind = kind,
                                   .rows = rows,
                                   .cols = cols};
  RUN(crew, mix_backward, &args, &dside, &dweight);
  CHECK_RESULT(&dside, want_dside, 1);
  CHECK_RESULT(&dweight, want_dweight, rows * cols);
}

/** At the start a mix by alpha (1) or residual (side 0) is the backbone, bit for bit. */
static void test_mix_starts_as_backbone(struct crew *crew) {
  const double one = 1;
  size_t count = 3 * 77;
  struct operand h = operand_random(count, crew->act, 5), side = operand_random(count, crew->act, 5);
  struct operand alpha = operand_of(&one, 1, DTYPE_F32);
  struct result y = result_of(count, crew->act, NULL);
  struct mix_args args = {y.data, h.data, side.data, alpha.data, MIX_ALPHA, 3, 77};
  RUN(crew, mix, &args, &y);
  CHECK(memcmp(y.data, h.data, count * dtype_size(crew->act)) == 0);
  memset(side.data, 0, count * dtype_size(crew->act));
  args = (struct mix_args){y.data, h.data, side.data, NULL, MIX_RESIDUAL, 3, 77};
  RUN(crew, mix, &args, &y);
  CHECK(memcmp(y.data, h.data, count * dtype_size(crew->act)) == 0);
}

/* ---- rows -------------------------------------------------------------------------------------------------- */

static void rotate(double *x, int head_dim, const double *cosines, const double *sines, double direction) {
  int half = head_dim / 2;
  for (int i = 0; i < half; i++) {
    double a = x[i], b = x[i + half];
    x[i] = a * cosines[i] - b * direction * sines[i];
    x[i + half] = b * cosines[i] + a * direction * sines[i];
  }
}

static void test_rope(struct crew *crew, int rows, int heads, int head_dim, bool inverse) {
  enum { POSITIONS = 50 };
  int stride = (heads + 2) * head_dim, half = head_dim / 2;
  size_t count = (size_t)(rows * stride), table = (size_t)(POSITIONS * half);
  double *angle_cosines = keep_doubles(table), *angle_sines = keep_doubles(table);
  for (size_t i = 0; i < table; i++) {
    double angle = 3 * random_value();
    angle_cosines[i] = cos(angle), angle_sines[i] = sin(angle);
  }
  struct operand cosines = operand_of(angle_cosines, table, DTYPE_F32),
                 sines = operand_of(angle_sines, table, DTYPE_F32);
  struct operand before = operand_random(count, crew->act, 1);
  struct result x = result_of(count, crew->act, before.data);
  int32_t *positions = keep((size_t)rows, sizeof *positions);
  double *want = keep_doubles(count);
  memcpy(want, before.values, count * sizeof *want);
  for (int t = 0; t < rows; t++) {
    positions[t] = random_between(0, POSITIONS - 1);
    for (int h = 0; h < heads; h++)
      rotate(want + t * stride + h * head_dim, head_dim, cosines.values + positions[t] * half,
             sines.values + positions[t] * half, inverse ? -1 : 1);
  }
  struct rope_args args = {x.data, positions, cosines.data, sines.data, rows,
                           stride, heads,     head_dim,     POSITIONS,  inverse};
  RUN(crew, rope, &args, &x);
  CHECK_RESULT(&x, want, 2);
  for (int t = 0; t < rows; t++) /* what is not a head is not touched */
    for (int i = heads * head_dim; i < stride; i++)
      CHECK(result_value(&x, (size_t)(t * stride + i)) == before.values[t * stride + i]);
  positions[rows - 1] = POSITIONS;
  CHECK_FAILS(ERR_INTERNAL, "position", FAULT_OF(crew, rope, &args));
}

static void test_copy_rows(struct crew *crew) {
  enum { ROWS = 6, COLS = 7, Y_ROWS = 9, X_ROWS = 11, X_STRIDE = 10 };
  static const int32_t places[2][ROWS] = {{8, 0, 3, 4, 7, 1}, {10, 10, 2, 0, 5, 3}};
  int32_t *to = keep(2 * ROWS, sizeof *to), *from = to + ROWS;
  memcpy(to, places, sizeof places);
  struct operand x = operand_random(X_ROWS * X_STRIDE, crew->act, 1);
  struct result y = result_of(Y_ROWS * COLS, crew->act, NULL);
  double want[Y_ROWS * COLS] = {0};
  for (int i = 0; i < ROWS * COLS; i++)
    want[to[i / COLS] * COLS + i % COLS] = x.values[from[i / COLS] * X_STRIDE + i % COLS];
  struct copy_rows_args args = {y.data, x.data, to, from, ROWS, COLS, COLS, X_STRIDE, Y_ROWS};
  RUN(crew, copy_rows, &args, &y);
  CHECK(result_error(&y, want) == 0);

  struct operand before = operand_random(ROWS * X_STRIDE, crew->act, 1);
  struct result z = result_of(ROWS * X_STRIDE, crew->act, before.data);
  args = (struct copy_rows_args){z.data, x.data, NULL, NULL, ROWS, COLS, X_STRIDE, X_STRIDE, 0};
  RUN(crew, copy_rows, &args, &z);
  for (int i = 0; i < ROWS * X_STRIDE; i++)
    CHECK(result_value(&z, (size_t)i) == (i % X_STRIDE < COLS ? x.values[i] : before.values[i]));
}

/* ------------------------------------------------------------------------------------------------------------ */

static void test_small(struct crew *crew, int rows, int cols) {
  for (int twice = 0; twice < 2; twice++) {
    test_silu(crew, rows, cols, twice);
    test_silu_backward(crew, rows, cols, twice);
    test_relu(crew, rows, cols, twice);
    test_relu_backward(crew, rows, cols, twice);
    test_gate_backward(crew, rows, cols, twice);
    test_pool(crew, rows, cols, 1 + 6 * twice, twice);
    test_pool(crew, rows, cols, 1 + 15 * twice, !twice);
    for (int kind = MIX_ALPHA; kind <= MIX_RESIDUAL; kind++) {
      test_mix(crew, rows, cols, (enum mix_kind)kind, twice);
      test_mix_backward(crew, rows, cols, (enum mix_kind)kind, twice);
    }
  }
  test_swiglu(crew, rows, cols);
  test_swiglu_backward(crew, rows, cols);
  test_gate(crew, rows, cols);
  forget_all();
}

static void test_crew(struct crew *crew) {
  test_small(crew, 1, 1);
  test_small(crew, 3, 37);
  test_small(crew, 35, 8);
  test_swiglu(crew, 3, 1111);
  test_silu(crew, 3, 1111, false);
  test_relu(crew, 3, 1111, false);
  test_relu_backward(crew, 3, 1111, false);
  test_relu_of_faults(crew, 23);
  test_relu_of_faults(crew, 24);
  test_gate(crew, 3, 1111);
  test_mix(crew, 3, 1111, MIX_GATE, false);
  test_pool(crew, 2, 700, 3, false);
  test_pool(crew, 2, 2, POOL_WINDOW_MAX, true);
  forget_all();
  for (int inverse = 0; inverse < 2; inverse++) {
    test_rope(crew, 5, 9, 4, inverse);
    test_rope(crew, 7, 3, 2, inverse);
    test_rope(crew, 3, 11, 64, inverse);
    test_rope(crew, 2, 3, 256, inverse);
  }
  test_to_act(crew, 1);
  test_to_act(crew, 1543);
  test_from_act(crew, 1);
  test_from_act(crew, 1543);
  test_copy_rows(crew);
  test_extremes(crew);
  test_mix_starts_as_backbone(crew);
  forget_all();
}

int main(int count, char **words) {
  random_begin(count, words);
  for_each_crew((struct device_limits){.rows = 128, .hidden = 1200}, test_crew);
  return check_result();
}
