/**
 * @file t41-side-gradients.c
 * The loss and every gradient of every variant of the side network against PyTorch's autograd in float64, on the plain
 * path and the fast one, for some variants also on those between; on the plain path against finite differences of our own
 * loss, too. Masked labels, a row without labels, a row of two tokens, packed samples; micro-batches add up, in any order
 * and on any number of threads to the same bits.
 */
// RUN ranks=1 args="" timeout=120
// RUN ranks=1 timeout=900 device=cuda
#include "tiny.h"

#define CASE(model, down, mix) "grad-" model "-" down "-" mix
#define MIXES(model, down)     CASE(model, down, "alpha"), CASE(model, down, "gate"), CASE(model, down, "residual")

static const char *const cases[] = {
    MIXES("llama3", "adapter"),           MIXES("llama3", "lora"),           MIXES("llama3", "linear"),
    MIXES("llama3", "maxpool"),           MIXES("llama3", "avgpool"),        CASE("llama", "adapter", "alpha"),
    CASE("llama", "lora", "residual"),    CASE("mistral", "linear", "gate"), CASE("linear", "adapter", "gate"),
    CASE("qwen2", "adapter", "residual"), CASE("llama3", "pca", "residual"), CASE("llama", "pca", "alpha"),
    CASE("opt", "adapter", "residual"),   CASE("opt", "maxpool", "gate"),    CASE("opt", "pca", "alpha"),
};
enum { CASES = sizeof cases / sizeof *cases };

/* bf16: what PyTorch's autograd is off when it computes in bf16. Any one tensor, and the rms over a case's tensors, within a
 * factor of the worst and of the rms there; the rms over all cases no worse than PyTorch's. */
#define FP32_BOUND   1e-5
#define WORST_FACTOR 3
#define RMS_FACTOR   2

static double fast_squares, torch_squares; /* over all cases, of their rms */

/* What rounding to multiples of 2^-36, once a collected gradient (twice for a shared module), may do to a norm. */
static double fixed_rounding(size_t count) {
  return 2 * ldexp(0.5, -FIXED_FRACTION_BITS) * sqrt((double)count);
}

static double norm_of(const float *x, size_t count) {
  double squares = 0;
  for (size_t i = 0; i < count; i++) squares += (double)x[i] * (double)x[i];
  return sqrt(squares);
}

/* ---- against autograd ------------------------------------------------------------------------------------ */

/* The loss and s_L of the micro-batch just trained on. On the fast path: within what PyTorch's bf16 is off, but no closer
 * than rounding y and its logits to bf16 allows. */
static void check_forward(struct tiny *tiny, const struct safetensors *reference, double loss, bool fp32) {
  float *want = reference_read(reference, "", "loss", 1);
  double bf16_bound = fmax(reference_number(reference, "loss_bf16_error"), 1.0 / 256);
  double error = fabs(loss - (double)*want) / (double)*want;
  printf("  loss %.7g, off by %.2g\n", loss, error);
  CHECK(error <= (fp32 ? FP32_BOUND : bf16_bound));
  free(want);
  size_t rows = (size_t)tiny->batch.rows, width = (size_t)tiny->side.layout.shape.width;
  float *s = tiny_activations(tiny, tiny->side.frames[0].s_out, rows * width),
        *s_want = reference_read(reference, "", "s", rows * width);
  if (fp32) CHECK(worst_row(s, s_want, rows, width) <= FP32_BOUND);
  free(s);
  free(s_want);
}

/* The size an error is held against. A bias of the keys adds nearly the same to all scores of a query, which soft-max does
 * not see: its gradient is what is left of terms that cancel, so it is held against those of q, k and v together. */
static double size_of(const struct side_layout *layout, int i, const float *want) {
  const struct side_tensor *tensor = &layout->tensors[i];
  if (!strstr(tensor->name, "k_proj.bias")) return norm_of(want + tensor->offset, side_tensor_size(tensor));
  size_t first = tensor[-1].offset;
  return norm_of(want + first, tensor[1].offset + side_tensor_size(&tensor[1]) - first);
}

static void check_gradients(struct tiny *tiny, const struct safetensors *reference, const int64_t *sums, bool fp32) {
  const struct side_layout *layout = &tiny->side.layout;
  float *want = tiny_flat(tiny, reference, "grad/"), *got = calloc(layout->size, sizeof *got);
  double worst = 0, squares = 0, worst_allowed = WORST_FACTOR * reference_number(reference, "gradient_bf16_error");
  for (size_t i = 0; i < layout->size; i++) got[i] = (float)tiny_fixed(sums[i]);
  for (int i = 0; i < layout->count; i++) {
    const struct side_tensor *tensor = &layout->tensors[i];
    size_t count = side_tensor_size(tensor);
    double size = size_of(layout, i, want), own = norm_of(want + tensor->offset, count);
    double error = relative_error(got + tensor->offset, want + tensor->offset, count) * own / size;
    double bound = (fp32 ? FP32_BOUND : worst_allowed) + fixed_rounding(count) / size;
    if (!(error <= bound)) fprintf(stderr, "  %s is off by %.3g\n", tensor->name, error);
    CHECK(error <= bound);
    worst = fmax(worst, error);
    squares += error * error;
  }
  double rms = sqrt(squares / layout->count);
  printf("  %d gradients, off by at most %.2g, rms %.2g\n", layout->count, worst, rms);
  double torch_rms = reference_number(reference, "gradient_bf16_rms");
  if (!fp32) {
    CHECK(rms <= RMS_FACTOR * torch_rms);
    fast_squares += rms * rms;
    torch_squares += torch_rms * torch_rms;
  }
  free(want);
  free(got);
}

/* ---- against finite differences -------------------------------------------------------------------------- */

static double loss_at(struct tiny *tiny, float *flat, size_t at, float value) {
  float before = flat[at];
  flat[at] = value;
  CHECK_OK(side_upload(&tiny->side, flat));
  flat[at] = before;
  tiny_zero_sums(tiny);
  tiny_forward(tiny, NULL, NULL);
  CHECK_OK(head_loss(&tiny->head, &tiny->batch, &tiny->sums));
  int64_t *sums = tiny_sums(tiny);
  double loss = tiny_fixed(sums[tiny->sums.size]);
  free(sums);
  return loss;
}

/* Fourth-order central difference. */
static double slope(struct tiny *tiny, float *flat, size_t at, float step) {
  float value = flat[at];
  double near = loss_at(tiny, flat, at, value + step) - loss_at(tiny, flat, at, value - step);
  double far = loss_at(tiny, flat, at, value + 2 * step) - loss_at(tiny, flat, at, value - 2 * step);
  return (8 * near - far) / (12 * (double)step);
}

static size_t steepest(const int64_t *sums, size_t first, size_t count) {
  size_t best = first;
  for (size_t i = first; i < first + count; i++)
    if (llabs(sums[i]) > llabs(sums[best])) best = i;
  return best;
}

/* The steepest parameter of each tensor and one in its middle. The loss, some 100, is a sum of fp32 numbers, good to about
 * 1e-7 of it, so steps shorter than 0.002 drown; steep tensors bend, so their steps are short.
 * ReLU's loss has kinks, which steps of this length cross: of OPT autograd alone tells. */
static void check_slopes(struct tiny *tiny, float *flat, const int64_t *sums) {
  if (tiny->side.layout.shape.family == FAMILY_OPT) return;
  double worst = 0;
  for (int i = 0; i < tiny->side.layout.count; i++) {
    const struct side_tensor *tensor = &tiny->side.layout.tensors[i];
    size_t count = side_tensor_size(tensor);
    size_t places[] = {steepest(sums, tensor->offset, count), tensor->offset + count / 2};
    float step = fmaxf(0.002f, 0.1f / fmaxf(5.0f, (float)fabs(tiny_fixed(sums[places[0]]))));
    for (int n = 0; n < 2; n++) {
      double got = tiny_fixed(sums[places[n]]), want = slope(tiny, flat, places[n], step);
      double error = fabs(got - want) / (1 + fabs(want));
      if (!(error <= 2e-3)) fprintf(stderr, "  %s: gradient %.6g, slope %.6g\n", tensor->name, got, want);
      CHECK(error <= 2e-3);
      worst = fmax(worst, error);
    }
  }
  printf("  slopes agree to %.2g\n", worst);
}

/* ---- one case ------------------------------------------------------------------------------------------- */

static void check_case(const char *name, const struct tiny_path *path, bool slopes) {
  bool fp32 = tiny_is_fp32(path);
  printf("%s, %s path\n", name, path->name);
  struct safetensors *reference = reference_open(name);
  struct token_file data = reference_rows(reference);
  struct tiny tiny;
  tiny_open_reference(&tiny, path, reference, true);
  float *flat = tiny_flat(&tiny, reference, "param/");
  CHECK_OK(side_upload(&tiny.side, flat));
  tiny_load(&tiny, &data, (const int64_t[]){0, 1, 2, 3}, 4);
  tiny_train(&tiny);
  int64_t *sums = tiny_sums(&tiny);
  check_forward(&tiny, reference, tiny_fixed(sums[tiny.sums.size]), fp32);
  check_gradients(&tiny, reference, sums, fp32);
  if (slopes) check_slopes(&tiny, flat, sums);
  free(flat);
  free(sums);
  tiny_close(&tiny);
  token_file_free(&data);
  safetensors_close(&reference);
}

/* ---- sums over micro-batches ----------------------------------------------------------------------------- */

static void train_on(struct tiny *tiny, const struct token_file *data, int64_t row, int count) {
  int64_t rows[TINY_SAMPLES];
  for (int i = 0; i < count; i++) rows[i] = row + i;
  tiny_load(tiny, data, rows, count);
  tiny_train(tiny);
}

/* Sums of two micro-batches, the second first with `swapped`; `unlabelled` adds row 2, which has no labels. */
static int64_t *two_micro_batches(struct tiny *tiny, const struct token_file *data, bool swapped, bool unlabelled) {
  tiny_zero_sums(tiny);
  train_on(tiny, data, swapped ? 2 : 0, 2);
  if (unlabelled) train_on(tiny, data, 2, 1);
  train_on(tiny, data, swapped ? 0 : 2, 2);
  return tiny_sums(tiny);
}

static double difference(const int64_t *a, const int64_t *b, size_t count) {
  double squares = 0, size = 0;
  for (size_t i = 0; i < count; i++) {
    squares += tiny_fixed(a[i] - b[i]) * tiny_fixed(a[i] - b[i]);
    size += tiny_fixed(b[i]) * tiny_fixed(b[i]);
  }
  return sqrt(squares / size);
}

static bool same(const int64_t *a, const int64_t *b, size_t count) {
  return memcmp(a, b, count * sizeof *a) == 0;
}

/* With the head's label rows in chunks of 3. */
static int64_t *in_chunks(struct tiny *tiny, const struct token_file *data) {
  int chunk = tiny->head.chunk;
  tiny_zero_sums(tiny);
  tiny->head.chunk = 3;
  train_on(tiny, data, 0, 4);
  tiny->head.chunk = chunk;
  return tiny_sums(tiny);
}

static void check_sums(const char *name, const struct tiny_path *path) {
  struct safetensors *reference = reference_open(name);
  struct token_file data = reference_rows(reference);
  struct tiny tiny;
  tiny_open_reference(&tiny, path, reference, true);
  float *flat = tiny_flat(&tiny, reference, "param/");
  CHECK_OK(side_upload(&tiny.side, flat));
  size_t count = tiny.sums.size + 1;
  train_on(&tiny, &data, 0, 4);
  int64_t *whole = tiny_sums(&tiny), *two = two_micro_batches(&tiny, &data, false, false);
  int64_t *swapped = two_micro_batches(&tiny, &data, true, false);
  int64_t *more = two_micro_batches(&tiny, &data, false, true), *chunks = in_chunks(&tiny, &data);
  /* Each sample is computed alike in any company; only the sums over rows are rounded elsewhere. */
  CHECK(difference(two, whole, count) <= (path == &plain_path ? 1e-6 : 1e-5));
  CHECK(difference(chunks, whole, count) <= (path == &plain_path ? 1e-6 : 1e-5));
  CHECK(same(swapped, two, count));
  CHECK(same(more, two, count));
  free(whole);
  free(two);
  free(swapped);
  free(more);
  free(chunks);
  free(flat);
  tiny_close(&tiny);
  token_file_free(&data);
  safetensors_close(&reference);
}

static int64_t *sums_with_threads(const char *name, struct tiny_path path, int threads, size_t *count) {
  path.threads = threads;
  struct safetensors *reference = reference_open(name);
  struct token_file data = reference_rows(reference);
  struct tiny tiny;
  tiny_open_reference(&tiny, &path, reference, true);
  float *flat = tiny_flat(&tiny, reference, "param/");
  CHECK_OK(side_upload(&tiny.side, flat));
  train_on(&tiny, &data, 0, 4);
  int64_t *sums = tiny_sums(&tiny);
  *count = tiny.sums.size + 1;
  free(flat);
  tiny_close(&tiny);
  token_file_free(&data);
  safetensors_close(&reference);
  return sums;
}

static void check_threads(const char *name, const struct tiny_path *path) {
  size_t count;
  int64_t *one = sums_with_threads(name, *path, 1, &count);
  for (int threads = 2; threads <= 3; threads++) {
    int64_t *many = sums_with_threads(name, *path, threads, &count);
    CHECK(same(many, one, count));
    free(many);
  }
  free(one);
}

int main(void) {
  /* They take nearly all of the time, and run no code that the comparison with autograd does not. */
  bool few_slopes = testing_cuda() || under_sanitizer();
  scratch_make();
  for (int i = 0; i < CASES; i++) {
    check_case(cases[i], &plain_path, !few_slopes || i % 6 == 0);
    check_case(cases[i], &fast_path, false);
  }
  printf("all cases, fast path: rms %.2g, PyTorch in bf16 %.2g\n", sqrt(fast_squares / CASES),
         sqrt(torch_squares / CASES));
  CHECK(fast_squares <= torch_squares);
  static const char *const some[] = {CASE("llama", "lora", "residual"), CASE("qwen2", "adapter", "residual"),
                                     CASE("opt", "adapter", "residual")};
  for (int i = 0; i < 2; i++) {
    check_sums(some[i], &plain_path);
    check_sums(some[i], &fast_path);
    check_threads(some[i], &plain_path);
    check_threads(some[i], &fast_path);
    struct tiny_path others[4];
    int count = tiny_other_paths(others);
    for (int n = 0; n < count; n++) check_case(some[i], &others[n], false);
  }
  scratch_remove();
  return check_result();
}
