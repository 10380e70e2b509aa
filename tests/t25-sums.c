/* Fixed-point sums, the gradient norm and AdamW against integers and float64, for every instruction set of this machine,
 * both activation types and several numbers of threads.
 *
 * RUN ranks=1 timeout=120
 * RUN ranks=1 timeout=240 device=cuda */
#include "kernels.h"

/** The definition: round(x · 2^36), nothing for what does not fit. */
static int64_t fixed(float x, int64_t *faults) {
  if (!(fabsf(x) < 0x1p26f)) {
    (*faults)++;
    return 0;
  }
  return (int64_t)rintl((long double)x * 0x1p36L);
}

/** The sum of a few thousand fits 64 bits. */
static float *random_floats(size_t count) {
  float *x = keep(count, sizeof *x);
  for (size_t i = 0; i < count; i++) x[i] = (float)ldexp(random_value(), random_between(-45, 12));
  return x;
}

static void test_fixed(struct crew *crew, size_t count) {
  float *x = random_floats(count);
  int64_t *want = keep(count, sizeof *want), *sums = keep(count, sizeof *sums);
  int64_t *got = keep(3, sizeof *got), total = 0, faults = 0;
  x[0] = 0x1p26f;
  if (count > 3) x[1] = NAN, x[2] = -INFINITY, x[3] = -0x1.fffffep25f;
  for (size_t i = 0; i < count; i++) total += want[i] = fixed(x[i], &faults);
  for (int run = 0; run < CREW; run++) {
    struct device *device = crew_device(crew, run);
    got[0] = 100, got[1] = 7, got[2] = 0;
    for (size_t i = 0; i < count; i++) sums[i] = (int64_t)i;
    CHECK_OK(device_fixed_add(device, &(struct fixed_add_args){sums, &got[0], x, count}));
    CHECK_OK(device_fixed_total(device, &(struct fixed_total_args){&got[1], &got[2], x, count}));
    CHECK_OK(device_synchronize(device));
    CHECK(got[0] == 100 + faults);
    for (size_t i = 0; i < count; i++) CHECK(sums[i] == want[i] + (int64_t)i);
    CHECK(got[1] == 7 + total && got[2] == faults);
  }
  forget_all();
}

static void test_fixed_get(struct crew *crew, size_t count) {
  int64_t *sums = keep(count, sizeof *sums);
  double *want = keep_doubles(count), scale = 1 / 37.0;
  for (size_t i = 0; i < count; i++) {
    sums[i] = (int64_t)(((uint64_t)random_bits() << 32) | random_bits()) >> random_between(0, 60);
    want[i] = (double)(float)((double)sums[i] * 0x1p-36 * scale);
  }
  struct result y = result_of(count, DTYPE_F32, NULL);
  struct fixed_get_args args = {y.data, sums, scale, count};
  RUN(crew, fixed_get, &args, &y);
  CHECK(result_error(&y, want) <= 0x1p-40);
  forget_all();
}

static void test_sum_squares(struct crew *crew, size_t count) {
  struct operand x = operand_random(count, DTYPE_F32, 1);
  double want = dot(x.values, x.values, count), first = 0, *got = keep_doubles(1);
  for (int run = 0; run < CREW; run++) {
    struct device *device = crew_device(crew, run);
    CHECK_OK(device_sum_squares(device, &(struct sum_squares_args){got, x.data, count}));
    CHECK_OK(device_synchronize(device));
    if (run == 0) first = *got;
    CHECK(*got == first && fabs(*got - want) <= 1e-13 * want);
  }
  forget_all();
}

/** Several steps, each from the device's own state; the reference in float64. */
static void test_adamw(struct crew *crew, size_t count, float decay) {
  struct operand master = operand_random(count, DTYPE_F32, 1), zero = operand_random(count, DTYPE_F32, 0);
  double *w = master.values, *m = keep_doubles(count), *v = keep_doubles(count);
  struct result new_master = result_of(count, DTYPE_F32, master.data), new_m = result_of(count, DTYPE_F32, zero.data);
  struct result new_v = result_of(count, DTYPE_F32, zero.data), weights = result_of(count, crew->act, NULL);
  float *state = keep(3 * count, sizeof *state);
  for (int64_t step = 1; step <= 5; step++) {
    struct operand g = operand_random(count, DTYPE_F32, 1);
    struct adamw_args args = {new_master.data, new_m.data, new_v.data, weights.data, g.data, count, 0.5f,
                              0.01f,           0.9f,       0.999f,     1e-8f,        decay,  step};
    RUN(crew, adamw, &args, &new_master, &new_m, &new_v, &weights);
    for (size_t i = 0; i < count; i++) {
      double scaled = 0.5 * g.values[i], beta1 = (double)args.beta1, beta2 = (double)args.beta2;
      m[i] = beta1 * m[i] + (1 - beta1) * scaled;
      v[i] = beta2 * v[i] + (1 - beta2) * scaled * scaled;
      double m_hat = m[i] / (1 - pow(beta1, (double)step)), v_hat = v[i] / (1 - pow(beta2, (double)step));
      w[i] -= (double)args.lr * (m_hat / (sqrt(v_hat) + (double)args.epsilon) + (double)decay * w[i]);
      float value = ((float *)new_master.data)[i];
      double rounded = crew->act == DTYPE_BF16 ? (double)bf16_to_float(float_to_bf16(value)) : (double)value;
      CHECK(result_value(&weights, i) == rounded);
    }
    for (size_t i = 0; i < count; i++) { /* numbers around 1; the moments may cancel */
      CHECK(fabs(result_value(&new_master, i) - w[i]) < 1e-6);
      CHECK(fabs(result_value(&new_m, i) - m[i]) < 1e-6);
      CHECK(fabs(result_value(&new_v, i) - v[i]) < 1e-6 * v[i]);
    }
    memcpy(state, new_master.data, count * sizeof *state);
    memcpy(state + count, new_m.data, count * sizeof *state);
    memcpy(state + 2 * count, new_v.data, count * sizeof *state);
    new_master.initial = state, new_m.initial = state + count, new_v.initial = state + 2 * count;
  }
  forget_all();
}

static void test_nothing(struct crew *crew) {
  struct device *device = crew->devices[1];
  int64_t *sum = keep(2, sizeof *sum), *faults = sum + 1;
  double *squares = keep_doubles(1);
  *sum = 5, *faults = 6, *squares = 3;
  CHECK_OK(device_fixed_add(device, &(struct fixed_add_args){.faults = faults}));
  CHECK_OK(device_fixed_total(device, &(struct fixed_total_args){.sum = sum, .faults = faults}));
  CHECK_OK(device_sum_squares(device, &(struct sum_squares_args){.result = squares}));
  CHECK_OK(device_synchronize(device));
  CHECK(*sum == 5 && *faults == 6 && *squares == 0);
  forget_all();
}

static void test_crew(struct crew *crew) {
  static const size_t counts[] = {1, 5, 511, 3001};
  for (int i = 0; i < 4; i++) {
    test_fixed(crew, counts[i]);
    test_fixed_get(crew, counts[i]);
    test_sum_squares(crew, counts[i]);
    test_adamw(crew, counts[i], i % 2 ? 0.1f : 0);
  }
  test_nothing(crew);
}

int main(int count, char **words) {
  random_begin(count, words);
  for_each_crew((struct device_limits){.rows = 16}, test_crew);
  return check_result();
}
