/**
 * @file t40-backbone.c
 * The frozen model against transformers, position by position: every hidden state and all logits of packed rows, for each
 * family, with its own weights and quantized to NF4, on the plain path, the fast one and those between.
 */
// RUN ranks=1 args=""
// RUN ranks=1 timeout=120 device=cuda
#include "tiny.h"

static const char *const models[] = {"tiny-llama",   "tiny-llama3", "tiny-linear",
                                     "tiny-mistral", "tiny-qwen2",  "tiny-opt"};

/* fp32: unit roundoff 6e-8, some thousand operations deep. bf16: what PyTorch is off when it computes in bf16; both are the
 * worst of a few dozen rows' errors, so within a factor. */
#define FP32_BOUND  1e-5
#define BF16_FACTOR 2

static double bound_of(const struct tiny_path *path, const struct safetensors *reference, const char *prefix,
                       const char *what) {
  char key[64];
  snprintf(key, sizeof key, "%s%s_bf16_error", prefix, what);
  return tiny_is_fp32(path) ? FP32_BOUND : BF16_FACTOR * reference_number(reference, key);
}

static void near(const char *what, double error, double bound) {
  printf("%-40s %.3g (bound %.3g)\n", what, error, bound);
  CHECK(error <= bound);
}

static void check_taps(struct tiny *tiny, const struct tiny_path *path, const struct safetensors *reference,
                       const char *prefix) {
  size_t layers = (size_t)tiny->backbone.config.layers + 1, hidden = (size_t)tiny->backbone.config.hidden;
  size_t rows = (size_t)tiny->batch.rows, stride = (size_t)tiny->backbone.capacity * hidden;
  float *want = reference_read(reference, prefix, "taps", layers * rows * hidden);
  float *got = tiny_activations(tiny, tiny->taps.rows, layers * stride);
  bool learned = model_family(&tiny->backbone.config) == FAMILY_OPT;
  double worst = 0;
  for (size_t l = 0; l < layers; l++) {
    double error = worst_row(got + l * stride, want + l * rows * hidden, rows, hidden);
    if (l == 0 && (tiny_is_fp32(path) || !learned)) CHECK(error == 0); /* the embedding is copied, or one exact sum */
    worst = fmax(worst, error);
  }
  near("  hidden states", worst, bound_of(path, reference, prefix, "taps"));
  free(want);
  free(got);
}

static void check_model(const char *model, const struct tiny_path *path, enum weight_format format) {
  const char *prefix = format == WEIGHT_NF4 ? "nf4_" : "";
  char folder[128];
  snprintf(folder, sizeof folder, "tests/fixtures/%s", model);
  printf("%s, %s path, %s\n", model, path->name, format == WEIGHT_NF4 ? "nf4" : "bf16");
  struct safetensors *reference = reference_open(model);
  struct token_file rows = reference_rows(reference);
  struct tiny tiny;
  tiny_open_backbone(&tiny, path, folder, format, TINY_ROWS, TINY_POSITIONS);
  tiny_open_head(&tiny);
  tiny_load(&tiny, &rows, (const int64_t[]){0, 1, 2}, 3);
  tiny_score_all(&tiny);
  tiny_forward(&tiny, NULL, NULL);
  check_taps(&tiny, path, reference, prefix);
  size_t count = (size_t)tiny.batch.rows, vocabulary = (size_t)tiny.backbone.config.vocabulary;
  float *logits = tiny_logits(&tiny), *want = reference_read(reference, prefix, "logits", count * vocabulary);
  near("  logits", worst_row(logits, want, count, vocabulary), bound_of(path, reference, prefix, "logits"));
  free(logits);
  free(want);
  tiny_close(&tiny);
  token_file_free(&rows);
  safetensors_close(&reference);
}

int main(void) {
  scratch_make();
  for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
    check_model(models[i], &plain_path, WEIGHT_BF16);
    check_model(models[i], &fast_path, WEIGHT_BF16);
    check_model(models[i], &plain_path, WEIGHT_NF4);
    check_model(models[i], &fast_path, WEIGHT_NF4);
    struct tiny_path others[4];
    int count = tiny_other_paths(others);
    for (int n = 0; n < count; n++) check_model(models[i], &others[n], WEIGHT_NF4);
  }
  scratch_remove();
  return check_result();
}
