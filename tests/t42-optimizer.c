/**
 * @file t42-optimizer.c
 * Ten steps against PyTorch's AdamW with clipping, warm-up and a cosine; the schedules; step 0 equals the backbone bit for
 * bit; every trained tensor of every variant moves, also where the weights are bf16 and the steps small.
 */
// RUN ranks=1 args="" timeout=60
// RUN ranks=1 timeout=900 device=cuda
#include "optimizer.h"
#include "tiny.h"

static const struct tiny_path *const paths[] = {&plain_path, &fast_path};

/* ---- ten steps ------------------------------------------------------------------------------------------- */

struct curve {
  struct safetensors *reference;
  struct token_file data;
  struct tiny tiny;
  struct optimizer optimizer;
  float *losses, *norms, *rates;
  int steps, rows;
};

static void open_curve(struct curve *curve, const char *name) {
  *curve = (struct curve){.reference = reference_open(name)};
  const struct safetensors *file = curve->reference;
  curve->data = reference_rows(file);
  curve->steps = (int)reference_number(file, "steps");
  curve->rows = (int)reference_number(file, "rows");
  curve->losses = reference_read(file, "", "losses", (size_t)curve->steps);
  curve->norms = reference_read(file, "", "norms", (size_t)curve->steps);
  curve->rates = reference_read(file, "", "rates", (size_t)curve->steps);
  tiny_open_reference(&curve->tiny, &plain_path, file, true);
  struct options options = {.clip = reference_number(file, "clip"),
                            .beta1 = reference_number(file, "beta1"),
                            .beta2 = reference_number(file, "beta2"),
                            .epsilon = reference_number(file, "epsilon"),
                            .weight_decay = reference_number(file, "weight_decay")};
  CHECK_OK(optimizer_open(&curve->optimizer, &curve->tiny.side, &options, 0, 1));
}

static void close_curve(struct curve *curve) {
  optimizer_close(&curve->optimizer);
  tiny_close(&curve->tiny);
  token_file_free(&curve->data);
  free(curve->losses);
  free(curve->norms);
  free(curve->rates);
  safetensors_close(&curve->reference);
}

/* The sums of step t = 0, 1, …: rows 2t, 2t + 1, … modulo their number, two to a micro-batch. Returns the label tokens. */
static int64_t sum_step(struct curve *curve, int t) {
  int64_t labels = 0;
  tiny_zero_sums(&curve->tiny);
  for (int i = 0; i < curve->rows; i += 2) {
    int64_t first = (2 * t + i) % curve->data.rows, rows[] = {first, (first + 1) % curve->data.rows};
    tiny_load(&curve->tiny, &curve->data, rows, 2);
    tiny_train(&curve->tiny);
    labels += curve->tiny.batch.label_count;
  }
  return labels;
}

/* One update; the gradient's norm. */
static double step_of(struct optimizer *optimizer, struct tiny *tiny, int64_t labels, double rate, int64_t step) {
  size_t bytes = (size_t)tiny->side.layout.count * sizeof(double);
  double *squares, *host = calloc((size_t)tiny->side.layout.count, sizeof *host);
  CHECK_OK(device_allocate(tiny->device, MEMORY_OPTIMIZER, &squares, bytes));
  CHECK_OK(device_fixed_get(
      tiny->device,
      &(struct fixed_get_args){
          .y = tiny->side.gradient, .sums = tiny->sums.sums, .scale = 1.0 / (double)labels, .count = tiny->side.size}));
  CHECK_OK(optimizer_squares(optimizer, squares));
  CHECK_OK(device_download(tiny->device, host, squares, bytes));
  device_release(tiny->device, MEMORY_OPTIMIZER, &squares, bytes);
  double norm = optimizer_norm(&tiny->side.layout, host);
  free(host);
  CHECK_OK(optimizer_update(optimizer, norm, rate, step));
  return norm;
}

static void check_step(struct curve *curve, int t) {
  int64_t labels = sum_step(curve, t);
  int64_t *sums = tiny_sums(&curve->tiny);
  double loss = tiny_fixed(sums[curve->tiny.sums.size]) / (double)labels;
  double rate = schedule_rate(SCHEDULE_COSINE, reference_number(curve->reference, "lr"),
                              (int64_t)reference_number(curve->reference, "warmup"), curve->steps, t + 1);
  double norm = step_of(&curve->optimizer, &curve->tiny, labels, rate, t + 1);
  double loss_error = fabs(loss / (double)curve->losses[t] - 1), norm_error = fabs(norm / (double)curve->norms[t] - 1);
  printf("  step %2d: loss %.6f (%.1e off), norm %.5f (%.1e off)\n", t + 1, loss, loss_error, norm, norm_error);
  CHECK(fabs(rate / (double)curve->rates[t] - 1) <= 1e-6);
  CHECK(loss_error <= 1e-5);
  CHECK(norm_error <= 1e-4);
  free(sums);
}

/* Soft-max does not see a bias of the keys that no RoPE turns: its gradient is rounding alone, of which AdamW makes steps. */
static bool is_unseen(const struct side_layout *layout, const struct side_tensor *tensor) {
  return layout->shape.family == FAMILY_OPT && strstr(tensor->name, "k_proj.bias");
}

/* How far each tensor is from PyTorch's, as a part of the way it went. AdamW's first steps are as long where a gradient is
 * next to nothing as elsewhere, so there rounding shows most. */
static void check_final(struct curve *curve, const float *start) {
  const struct side_layout *layout = &curve->tiny.side.layout;
  float *want = tiny_flat(&curve->tiny, curve->reference, "final/"), *got = calloc(layout->size, sizeof *got);
  CHECK_OK(device_download(curve->tiny.device, got, curve->tiny.side.master, layout->size * sizeof *got));
  for (size_t i = 0; i < layout->size; i++) {
    want[i] -= start[i];
    got[i] -= start[i];
  }
  double worst = 0;
  for (int i = 0; i < layout->count; i++) {
    const struct side_tensor *tensor = &layout->tensors[i];
    if (is_unseen(layout, tensor)) continue;
    CHECK_NEAR(got + tensor->offset, want + tensor->offset, side_tensor_size(tensor), 1e-3);
    worst = fmax(worst, relative_error(got + tensor->offset, want + tensor->offset, side_tensor_size(tensor)));
  }
  printf("  parameters' ways agree to %.1e\n", worst);
  free(want);
  free(got);
}

static void check_curve(const char *name) {
  printf("%s\n", name);
  struct curve curve;
  open_curve(&curve, name);
  float *start = tiny_flat(&curve.tiny, curve.reference, "param/");
  CHECK_OK(side_upload(&curve.tiny.side, start));
  for (int t = 0; t < curve.steps; t++) check_step(&curve, t);
  check_final(&curve, start);
  free(start);
  close_curve(&curve);
}

/* ---- schedules ------------------------------------------------------------------------------------------- */

static bool close_to(double got, double want) {
  return fabs(got - want) <= 1e-12;
}

static void check_schedules(void) {
  enum schedule schedule = SCHEDULE_COSINE;
  CHECK_OK(schedule_parse("constant", &schedule));
  CHECK(schedule == SCHEDULE_CONSTANT);
  CHECK_OK(schedule_parse("linear", &schedule));
  CHECK(schedule == SCHEDULE_LINEAR);
  CHECK_OK(schedule_parse("cosine", &schedule));
  CHECK(schedule == SCHEDULE_COSINE);
  CHECK_FAILS(ERR_USAGE, "--schedule", schedule_parse("cos", &schedule));
  for (int kind = SCHEDULE_CONSTANT; kind <= SCHEDULE_COSINE; kind++) {
    enum schedule s = (enum schedule)kind;
    CHECK(close_to(schedule_rate(s, 2.0, 4, 14, 1), 0.5)); /* warm-up */
    CHECK(close_to(schedule_rate(s, 2.0, 4, 14, 4), 2.0));
    CHECK(close_to(schedule_rate(s, 2.0, 4, 14, 5), 2.0)); /* the peak */
    CHECK(close_to(schedule_rate(s, 2.0, 0, 1, 1), 2.0));  /* one step */
    CHECK(close_to(schedule_rate(s, 2.0, 8, 4, 4), 1.0));  /* shorter than its warm-up */
  }
  CHECK(close_to(schedule_rate(SCHEDULE_CONSTANT, 2.0, 4, 14, 14), 2.0));
  CHECK(close_to(schedule_rate(SCHEDULE_LINEAR, 2.0, 4, 14, 10), 1.0)); /* half the way: 5 of 10 steps done */
  CHECK(close_to(schedule_rate(SCHEDULE_LINEAR, 2.0, 4, 14, 14), 0.2));
  CHECK(close_to(schedule_rate(SCHEDULE_COSINE, 2.0, 4, 14, 10), 1.0));
  CHECK(schedule_rate(SCHEDULE_COSINE, 2.0, 4, 14, 14) > 0);
}

/* ---- the first step -------------------------------------------------------------------------------------- */

static struct options variant(int reduction, const char *downsample, const char *mix) {
  return (struct options){.reduction_factor = reduction,
                          .rank = 4,
                          .downsample = (char *)(uintptr_t)downsample,
                          .mix = (char *)(uintptr_t)mix,
                          .beta1 = 0.9,
                          .beta2 = 0.999,
                          .epsilon = 1e-8};
}

static void open_fresh(struct tiny *tiny, const struct tiny_path *path, const char *model,
                       const struct options *options) {
  tiny_open_backbone(tiny, path, model, WEIGHT_NF4, TINY_ROWS, TINY_POSITIONS);
  if (options) tiny_open_side(tiny, options, true);
  tiny_open_head(tiny);
  if (!options) return;
  float *flat = calloc(tiny->side.layout.size, sizeof *flat);
  struct side_buffers buffers = {.flat = flat, .size = tiny->side.layout.size};
  side_layout_initialize(&tiny->side.layout, 42, &buffers);
  CHECK_OK(side_upload(&tiny->side, flat));
  free(flat);
}

/* Logits of all rows of the data with a fresh side network, or with none. */
static float *fresh_logits(const struct tiny_path *path, const struct token_file *data, const struct options *options,
                           size_t *bytes) {
  struct tiny tiny;
  open_fresh(&tiny, path, "tests/fixtures/tiny-llama", options);
  tiny_load(&tiny, data, (const int64_t[]){0, 1, 2, 3, 4, 5}, 6);
  tiny_score_all(&tiny);
  tiny_forward(&tiny, NULL, NULL);
  float *logits = tiny_logits(&tiny);
  *bytes = (size_t)tiny.batch.rows * (size_t)tiny.backbone.config.vocabulary * sizeof *logits;
  tiny_close(&tiny);
  return logits;
}

static void check_step_zero(const struct tiny_path *path, const struct token_file *data) {
  size_t bytes;
  float *backbone = fresh_logits(path, data, NULL, &bytes);
  static const char *const mixes[] = {"alpha", "residual", "gate"};
  for (int i = 0; i < 3; i++) {
    struct options options = variant(3, "adapter", mixes[i]);
    float *logits = fresh_logits(path, data, &options, &bytes);
    bool equal = memcmp(logits, backbone, bytes) == 0;
    CHECK(equal == (i < 2)); /* the gate of the reference code starts elsewhere */
    free(logits);
  }
  free(backbone);
}

/* ---- every tensor moves ---------------------------------------------------------------------------------- */

static void run_steps(struct tiny *tiny, const struct token_file *data, const struct options *options, int steps) {
  struct optimizer optimizer;
  CHECK_OK(optimizer_open(&optimizer, &tiny->side, options, 0, 1));
  tiny_load(tiny, data, (const int64_t[]){0, 1, 2, 3, 4, 5}, 6);
  for (int step = 1; step <= steps; step++) {
    tiny_zero_sums(tiny);
    tiny_train(tiny);
    CHECK(step_of(&optimizer, tiny, tiny->batch.label_count, 1e-4, step) > 0);
  }
  optimizer_close(&optimizer);
}

/* Weight decay is off: what moves, its gradient moves. A tensor moves when most of its numbers do, by a hundredth of the
 * learning rate and more; the first gradients of a residual or alpha mix are next to nothing. */
static void check_moves(const struct tiny_path *path, const struct token_file *data, const char *model,
                        const struct options *options) {
  enum { STEPS = 8 };
  struct tiny tiny;
  open_fresh(&tiny, path, model, options);
  const struct side_layout *layout = &tiny.side.layout;
  float *before = calloc(layout->size, sizeof *before), *after = calloc(layout->size, sizeof *after);
  size_t bytes = layout->size * sizeof *before;
  CHECK_OK(device_download(tiny.device, before, tiny.side.master, bytes));
  run_steps(&tiny, data, options, STEPS);
  CHECK_OK(device_download(tiny.device, after, tiny.side.master, bytes));
  for (int i = 0; i < layout->count; i++) {
    const struct side_tensor *tensor = &layout->tensors[i];
    if (is_unseen(layout, tensor)) continue;
    size_t moved = 0, count = side_tensor_size(tensor);
    for (size_t n = tensor->offset; n < tensor->offset + count; n++) moved += fabsf(after[n] - before[n]) > 1e-6f;
    if (2 * moved < count)
      fprintf(stderr, "%s, %s, %s: %zu of %zu moved: %s\n", path->name, options->downsample, options->mix, moved, count,
              tensor->name);
    CHECK(2 * moved >= count);
  }
  free(before);
  free(after);
  tiny_close(&tiny);
}

int main(void) {
  scratch_make();
  check_curve("curve-llama-adapter-gate");
  check_curve("curve-qwen2-linear-alpha");
  check_curve("curve-opt-lora-gate");
  check_schedules();
  struct safetensors *reference = reference_open("curve-llama-adapter-gate");
  struct token_file data = reference_rows(reference);
  static const char *const downsamples[] = {"adapter", "lora", "linear", "maxpool", "avgpool"};
  static const char *const mixes[] = {"alpha", "gate", "residual"};
  for (int p = 0; p < 2; p++) {
    check_step_zero(paths[p], &data);
    for (int d = 0; d < 5; d++) {
      struct options options = variant(4, downsamples[d], mixes[d % 3]);
      check_moves(paths[p], &data, d % 2 ? "tests/fixtures/tiny-opt" : "tests/fixtures/tiny-qwen2", &options);
    }
  }
  token_file_free(&data);
  safetensors_close(&reference);
  scratch_remove();
  return check_result();
}
