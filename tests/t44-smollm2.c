/**
 * @file t44-smollm2.c
 * A real model: SmolLM2-135M-Instruct from its GGUF file, unquantized and as NF4, against transformers at every position of
 * a chat prompt. The file is looked for at $QST_SMOLLM2, then build/models/; without it the test is skipped.
 */
// RUN ranks=1 args="" timeout=300
#include <unistd.h>

#include "tiny.h"

/* 30 layers deep and with some very large activations: fp32 is a few times further off than on the tiny models. */
#define FP32_BOUND  1e-4
#define BF16_FACTOR 2

enum { VOCABULARY = 49152, LARGEST = 8, SPREAD = 997, SPREAD_COUNT = (VOCABULARY + SPREAD - 1) / SPREAD };

static struct token_file prompt_of(const struct safetensors *reference) {
  size_t count = reference_count(reference, "tokens");
  struct token_file data = {.rows = 1, .total = (int64_t)count, .vocabulary = VOCABULARY};
  data.tokens = calloc(count, sizeof *data.tokens);
  data.labels = calloc(count, sizeof *data.labels);
  data.offsets = calloc(2, sizeof *data.offsets);
  data.offsets[1] = (int64_t)count;
  float *tokens = reference_read(reference, "", "tokens", count);
  for (size_t i = 0; i < count; i++) data.tokens[i] = (int32_t)tokens[i];
  free(tokens);
  return data;
}

/* Logits of ids spread over the vocabulary, at the worst position. */
static void check_spread(const float *logits, const struct safetensors *reference, const char *prefix, size_t rows,
                         double bound) {
  float *want = reference_read(reference, prefix, "spread", rows * SPREAD_COUNT);
  float *got = calloc(rows * SPREAD_COUNT, sizeof *got);
  for (size_t i = 0; i < rows; i++)
    for (size_t n = 0; n < SPREAD_COUNT; n++) got[i * SPREAD_COUNT + n] = logits[i * VOCABULARY + n * SPREAD];
  double error = worst_row(got, want, rows, SPREAD_COUNT);
  printf("  logits off by %.2g (bound %.2g)\n", error, bound);
  CHECK(error <= bound);
  free(got);
  free(want);
}

static size_t largest_of(const float *logits) {
  size_t best = 0;
  for (size_t i = 1; i < VOCABULARY; i++)
    if (logits[i] > logits[best]) best = i;
  return best;
}

/* The largest logits have transformers' values, and the next token is theirs wherever it leads by more than twice what those
 * are off: nearly everywhere. */
static void check_largest(const float *logits, const struct safetensors *reference, const char *prefix, size_t rows,
                          double bound) {
  float *ids = reference_read(reference, prefix, "ids", rows * LARGEST);
  float *want = reference_read(reference, prefix, "largest", rows * LARGEST),
        *got = calloc(rows * LARGEST, sizeof *got);
  size_t clear = 0;
  for (size_t i = 0; i < rows; i++) {
    float off = 0, *wanted = want + i * LARGEST;
    for (size_t n = 0; n < LARGEST; n++) {
      got[i * LARGEST + n] = logits[i * VOCABULARY + (size_t)ids[i * LARGEST + n]];
      off = fmaxf(off, fabsf(got[i * LARGEST + n] - wanted[n]));
    }
    if (wanted[0] - wanted[1] <= 2 * off) continue;
    CHECK(largest_of(logits + i * VOCABULARY) == (size_t)ids[i * LARGEST]);
    clear++;
  }
  CHECK(worst_row(got, want, rows, LARGEST) <= bound);
  CHECK(4 * clear >= 3 * rows);
  printf("  the same next token at all of %zu positions where it is clear, of %zu\n", clear, rows);
  free(ids);
  free(want);
  free(got);
}

static void check_model(const char *model, const struct tiny_path *path, enum weight_format format) {
  const char *prefix = format == WEIGHT_NF4 ? "nf4_" : "";
  printf("%s path, %s\n", path->name, format == WEIGHT_NF4 ? "nf4" : "bf16");
  struct safetensors *reference = reference_open("smollm2");
  struct token_file data = prompt_of(reference);
  struct tiny tiny;
  tiny_open_backbone(&tiny, path, model, format, TINY_ROWS, TINY_POSITIONS);
  tiny_open_head(&tiny);
  tiny_load(&tiny, &data, (const int64_t[]){0}, 1);
  tiny_score_all(&tiny);
  tiny_forward(&tiny, NULL, NULL);
  float *logits = tiny_logits(&tiny);
  char key[64];
  snprintf(key, sizeof key, "%slogits_bf16_error", prefix);
  double bound = path == &plain_path ? FP32_BOUND : BF16_FACTOR * reference_number(reference, key);
  check_spread(logits, reference, prefix, (size_t)tiny.batch.rows, bound);
  check_largest(logits, reference, prefix, (size_t)tiny.batch.rows, bound);
  free(logits);
  tiny_close(&tiny);
  token_file_free(&data);
  safetensors_close(&reference);
}

int main(void) {
  const char *model = getenv("QST_SMOLLM2");
  if (!model) model = "build/models/SmolLM2-135M-Instruct.Q4_1.gguf";
  if (access(model, R_OK) != 0) {
    printf("skipped: no %s (make demo fetches it)\n", model);
    return 77;
  }
  scratch_make();
  check_model(model, &plain_path, WEIGHT_BF16);
  check_model(model, &plain_path, WEIGHT_NF4);
  check_model(model, &fast_path, WEIGHT_NF4);
  scratch_remove();
  return check_result();
}
