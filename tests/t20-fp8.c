/* Products in 8-bit floats: the rounding against a table of all E4M3 numbers, the products against float64 sums of operands
 * rounded by that table, for every weight format, and what a device refuses.
 *
 * RUN ranks=1
 * RUN ranks=1 timeout=240 device=cuda */
#include "kernels.h"
#include "kernels/fp8.h"
#include "kernels/quantize.h"

enum { ROWS = 70, COLUMNS = 192, NUMBERS = 127 };

/* ---- the definition ------------------------------------------------------------------------------------------ */

/** All finite E4M3 numbers that are not negative, in order of their bits. */
static double numbers[NUMBERS];

static void list_numbers(void) {
  for (int bits = 0; bits < NUMBERS; bits++) {
    int exponent = bits >> 3, fraction = bits & 7;
    numbers[bits] = exponent ? ldexp(8 + fraction, exponent - 10) : ldexp(fraction, -9);
  }
}

/** The nearest, ties to even bits. */
static double nearest(double x) {
  int best = 0;
  for (int i = 1; i < NUMBERS; i++) {
    double nearer = fabs(fabs(x) - numbers[best]) - fabs(fabs(x) - numbers[i]);
    if (nearer > 0 || (nearer == 0 && i % 2 == 0)) best = i;
  }
  return copysign(numbers[best], x);
}

static double scale_of_row(const double *row, int cols) {
  double highest = 0, scale = ldexp(1, -100);
  for (int i = 0; i < cols; i++) highest = fmax(highest, fabs(row[i]));
  while (highest > 448 * scale) scale *= 2;
  return scale;
}

static void round_rows(double *x, int rows, int cols) {
  for (int t = 0; t < rows; t++, x += cols) {
    double scale = scale_of_row(x, cols);
    for (int i = 0; i < cols; i++) x[i] = scale * nearest(x[i] / scale);
  }
}

static void test_rounding(void) {
  for (int i = 0; i + 1 < NUMBERS; i++) {
    double middle = (numbers[i] + numbers[i + 1]) / 2;
    const double tries[] = {numbers[i], middle, middle * (1 - 0x1p-20), middle * (1 + 0x1p-20), -middle};
    for (int k = 0; k < 5; k++) CHECK((double)fp8_round((float)tries[k], 1) == nearest(tries[k]));
  }
  CHECK(isnan(fp8_round(NAN, 1)));
  for (int i = 0; i < 1000; i++) {
    double row[] = {ldexp(1 + fabs(random_value()), random_between(-90, 90)), 0};
    float x = (float)row[0], scale = fp8_scale(x);
    row[0] = (double)x;
    CHECK((double)scale == scale_of_row(row, 2));
    CHECK((double)fp8_round(x, scale) == (double)scale * nearest((double)x / (double)scale));
  }
  CHECK(fp8_scale(448) == 1 && fp8_scale(nextafterf(448, 500)) == 2);
  CHECK(fp8_scale(0) == 0x1p-100f);
}

/* ---- products ------------------------------------------------------------------------------------------------ */

struct weights {
  struct matrix matrix;
  double *values; /**< rounded */
};

static struct weights make_weights(enum weight_format format, bool double_quantized, int rows, int cols) {
  struct weights w = {.matrix = {.format = format, .double_quantized = double_quantized, .rows = rows, .cols = cols}};
  size_t count = (size_t)(rows * cols);
  struct operand x = operand_random(count, format == WEIGHT_BF16 ? DTYPE_BF16 : DTYPE_F32, 0.1);
  w.values = keep_doubles(count);
  if (format == WEIGHT_BF16) {
    w.matrix.codes = x.data;
    memcpy(w.values, x.values, count * sizeof *w.values);
  } else {
    float *exact = keep(count, sizeof *exact);
    w.matrix.codes = keep(matrix_code_bytes(&w.matrix), 1);
    w.matrix.scales = keep(matrix_blocks(&w.matrix), sizeof(float));
    w.matrix.scale_codes = keep(matrix_blocks(&w.matrix), 1);
    w.matrix.scale_scales = keep(matrix_scale_blocks(&w.matrix), sizeof(float));
    CHECK_OK(quantize_matrix(&w.matrix, x.data));
    CHECK_OK(dequantize_matrix(exact, &w.matrix));
    for (size_t i = 0; i < count; i++) w.values[i] = (double)exact[i];
  }
  round_rows(w.values, rows, cols);
  return w;
}

/** Hopper's tensor cores keep 14 bits of what they add up (DeepSeek-V3 Technical Report 2024, 3.5.2), not fp32's 24: the
 *  depth at which CHECK_RESULT allows 2^-11. */
enum { DEPTH_OF_14_BITS = 1 << 20 };

struct product {
  int rows, first, second, cols; /**< two parts */
  bool bias;
  int residual; /**< 0: none, 1: another buffer, 2: y itself */
};

static void test_product(struct crew *crew, enum weight_format format, bool double_quantized, struct product s) {
  int n = s.first + s.second;
  size_t count = (size_t)(s.rows * n);
  struct weights parts[] = {make_weights(format, double_quantized, s.first, s.cols),
                            make_weights(format, double_quantized, s.second, s.cols)};
  struct operand x = operand_random((size_t)(s.rows * s.cols), crew->act, 3);
  struct operand bias = operand_random((size_t)n, DTYPE_F32, 1), residual = operand_random(count, crew->act, 1);
  double *want = keep_doubles(count);
  round_rows(x.values, s.rows, s.cols);
  for (int t = 0; t < s.rows; t++)
    for (int j = 0; j < n; j++) {
      const double *w = j < s.first ? parts[0].values + j * s.cols : parts[1].values + (j - s.first) * s.cols;
      size_t at = (size_t)(t * n + j);
      want[at] = dot(x.values + t * s.cols, w, (size_t)s.cols) + (s.bias ? bias.values[j] : 0) +
                 (s.residual ? residual.values[at] : 0);
    }
  struct result y = result_of(count, crew->act, s.residual == 2 ? residual.data : NULL);
  struct frozen_linear_args args = {.y = y.data,
                                    .x = x.data,
                                    .parts = {&parts[0].matrix, &parts[1].matrix},
                                    .part_count = 2,
                                    .bias = s.bias ? bias.data : NULL,
                                    .residual = s.residual == 2 ? y.data
                                                : s.residual    ? residual.data
                                                                : NULL,
                                    .rows = s.rows};
  RUN(crew, frozen_linear, &args, &y);
  CHECK_RESULT(&y, want, testing_cuda() ? DEPTH_OF_14_BITS : s.cols);
  forget_all();
}

static void test_products(struct crew *crew) {
  const struct product products[] = {{1, 16, 16, 16, false, 0},   {5, 48, 16, 64, true, 1},
                                     {70, 32, 80, 192, false, 2}, {33, 64, 16, 144, true, 0},
                                     {70, 16, 32, 176, true, 2},  {21, 48, 48, 96, false, 1}};
  for (size_t i = 0; i < sizeof products / sizeof *products; i++) {
    test_product(crew, WEIGHT_NF4, true, products[i]);
    test_product(crew, WEIGHT_NF4, false, products[i]);
    test_product(crew, WEIGHT_FP4, true, products[i]);
    test_product(crew, WEIGHT_BF16, false, products[i]);
  }
}

/** On the cpu device any size, on a GPU multiples of 16; nothing above the limits. */
static void test_limits(struct crew *crew) {
  if (!testing_cuda()) {
    test_product(crew, WEIGHT_NF4, true, (struct product){13, 7, 30, 35, true, 1});
    return;
  }
  struct weights odd = make_weights(WEIGHT_NF4, true, 24, 32), wide = make_weights(WEIGHT_BF16, false, 16, 2 * COLUMNS);
  struct operand x = operand_random(2 * ROWS * COLUMNS, crew->act, 1);
  struct result y = result_of(32 * ROWS, crew->act, NULL);
  struct frozen_linear_args args = {.y = y.data, .x = x.data, .parts = {&odd.matrix}, .part_count = 1, .rows = 2};
  CHECK_FAILS(ERR_INPUT, "multiples of 16", device_frozen_linear(crew->devices[0], &args));
  args.parts[0] = &wide.matrix;
  CHECK_FAILS(ERR_INTERNAL, "limits", device_frozen_linear(crew->devices[0], &args));
  forget_all();
  test_product(crew, WEIGHT_NF4, true,
               (struct product){ROWS, 7504, 7504, 16, true, 2}); /* sums of some rows at a time */
}

static void test_crew(struct crew *crew) {
  test_products(crew);
  test_limits(crew);
}

static struct device_limits limits_of_test(void) {
  return (struct device_limits){
      .rows = ROWS, .hidden = COLUMNS, .fp8 = true, .widest_input = COLUMNS, .widest_product = 128 * COLUMNS};
}

/** A GPU that can't scale rows, one whose cuBLASLt can't or refuses products, and one without 8-bit floats: the host runtime
 *  can be any. */
static void test_other_gpus(void) {
  struct device_options options = {.name = "cuda", .act = "bf16", .limits = limits_of_test()};
  struct device *device = NULL;
  CHECK_OK(device_open(&device, &options));
  bool can_be_any = strstr(device->description, "host runtime") != NULL;
  device_close(&device);
  if (!can_be_any) return;
  setenv("QST_HOST_CAPABILITY", "8.6", 1);
  CHECK_FAILS(ERR_USAGE, "compute capability 8.9", device_open(&device, &options));
  device_close(&device);
  setenv("QST_HOST_CAPABILITY", "8.9", 1);
  for_each_crew(limits_of_test(), test_products);
  unsetenv("QST_HOST_CAPABILITY");
  setenv("QST_HOST_NO_ROW_SCALES", "1", 1);
  for_each_crew(limits_of_test(), test_products);
  unsetenv("QST_HOST_NO_ROW_SCALES");
  setenv("QST_HOST_NO_ALGORITHM", "some", 1);
  for_each_crew(limits_of_test(), test_products);
  setenv("QST_HOST_NO_ALGORITHM", "all", 1);
  for_each_crew(limits_of_test(), test_products);
  unsetenv("QST_HOST_NO_ALGORITHM");
}

int main(int count, char **words) {
  random_begin(count, words);
  list_numbers();
  test_rounding();
  for_each_crew(limits_of_test(), test_crew);
  if (testing_cuda()) test_other_gpus();
  return check_result();
}
