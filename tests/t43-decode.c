/**
 * @file t43-decode.c
 * Decoding with key/value caches gives the logits of the full forward pass, for the backbone and the side network: prompts
 * in pieces of several sizes, then token by token, two sequences of different lengths side by side in slots of their own.
 */
// RUN ranks=1 args="" timeout=60
// RUN ranks=1 timeout=300 device=cuda
#include "tiny.h"

enum { SLOTS = 3, SLOT_ROWS = 40, SEQUENCES = 2 };

/* Pieces of one round; a sequence that has come to its end is left out. */
struct round {
  int count[SEQUENCES];
};
static const struct round rounds[] = {{{5, 0}}, {{1, 3}}, {{4, 4}}, {{5, 1}}, {{1, 1}}, {{1, 1}}, {{0, 1}}};
/* Slots in an order of their own, one left free. */
static const int slot_of[SEQUENCES] = {2, 0};

struct decoder {
  struct tiny tiny;
  struct kv_cache cache, side_cache;
};

static void open_decoder(struct decoder *decoder, const struct tiny_path *path, const struct safetensors *reference) {
  struct tiny *tiny = &decoder->tiny;
  tiny_open_reference(tiny, path, reference, false);
  float *flat = tiny_flat(tiny, reference, "param/");
  CHECK_OK(side_upload(&tiny->side, flat));
  free(flat);
  const struct model_config *config = &tiny->backbone.config;
  const struct side_shape *shape = &tiny->side.layout.shape;
  CHECK_OK(kv_cache_open(&decoder->cache, tiny->device, config->layers, config->kv_heads * config->head_dim, SLOTS,
                         SLOT_ROWS));
  CHECK_OK(kv_cache_open(&decoder->side_cache, tiny->device, shape->layers, shape->kv_heads * shape->head_dim, SLOTS,
                         SLOT_ROWS));
}

static void close_decoder(struct decoder *decoder) {
  kv_cache_close(&decoder->cache, decoder->tiny.device);
  kv_cache_close(&decoder->side_cache, decoder->tiny.device);
  tiny_close(&decoder->tiny);
}

/* One round: loads the pieces, runs them, compares the logits of all their rows with the full pass's. */
static double decode_round(struct decoder *decoder, const struct token_file *data, const struct round *round,
                           int done[SEQUENCES], const float *full) {
  struct tiny *tiny = &decoder->tiny;
  size_t cols = (size_t)tiny->backbone.config.vocabulary;
  struct piece pieces[SEQUENCES];
  int count = 0, sequence[SEQUENCES];
  for (int s = 0; s < SEQUENCES; s++) {
    if (!round->count[s]) continue;
    sequence[count] = s;
    pieces[count++] = (struct piece){data->tokens + data->offsets[s] + done[s], round->count[s], done[s], slot_of[s]};
  }
  CHECK_OK(micro_batch_load_pieces(&tiny->batch, tiny->device, pieces, count, SLOT_ROWS));
  CHECK(tiny->batch.label_count == count);
  tiny_score_all(tiny);
  tiny_forward(tiny, &decoder->cache, &decoder->side_cache);
  float *logits = tiny_logits(tiny), *at = logits;
  double worst = 0;
  for (int p = 0; p < count; p++) {
    const float *want = full + (size_t)(data->offsets[sequence[p]] + done[sequence[p]]) * cols;
    worst = fmax(worst, worst_row(at, want, (size_t)pieces[p].count, cols));
    at += (size_t)pieces[p].count * cols;
    done[sequence[p]] += pieces[p].count;
  }
  free(logits);
  return worst;
}

/* The logits that generation asks for are those of each piece's last row. */
static void check_last_rows(struct decoder *decoder, const struct token_file *data, const float *full, double bound) {
  struct tiny *tiny = &decoder->tiny;
  size_t cols = (size_t)tiny->backbone.config.vocabulary;
  struct piece pieces[] = {{data->tokens + data->offsets[1], 6, 0, 1}, {data->tokens, 3, 0, 0}};
  CHECK_OK(micro_batch_load_pieces(&tiny->batch, tiny->device, pieces, 2, SLOT_ROWS));
  tiny_forward(tiny, &decoder->cache, &decoder->side_cache);
  float *logits = tiny_logits(tiny);
  CHECK_NEAR(logits, full + (size_t)(data->offsets[1] + 5) * cols, cols, bound);
  CHECK_NEAR(logits + cols, full + 2 * cols, cols, bound);
  free(logits);
}

/* The reference's tokens as two longer rows. */
static struct token_file two_rows(const struct safetensors *reference) {
  struct token_file data = reference_rows(reference);
  data.rows = SEQUENCES;
  data.offsets[1] = 17;
  data.offsets[2] = data.total;
  CHECK(data.total == 17 + 11);
  return data;
}

static void check_decoding(const char *name, const struct tiny_path *path, double bound) {
  struct safetensors *reference = reference_open(name);
  struct token_file data = two_rows(reference);
  struct decoder decoder;
  open_decoder(&decoder, path, reference);
  tiny_load(&decoder.tiny, &data, (const int64_t[]){0, 1}, SEQUENCES);
  tiny_score_all(&decoder.tiny);
  tiny_forward(&decoder.tiny, NULL, NULL);
  float *full = tiny_logits(&decoder.tiny);
  int done[SEQUENCES] = {0};
  double worst = 0;
  for (size_t i = 0; i < sizeof rounds / sizeof *rounds; i++)
    worst = fmax(worst, decode_round(&decoder, &data, &rounds[i], done, full));
  printf("%s, %s path: logits agree to %.2g\n", name, path->name, worst);
  CHECK(worst <= bound);
  for (int s = 0; s < SEQUENCES; s++) CHECK(done[s] == data.offsets[s + 1] - data.offsets[s]);
  check_last_rows(&decoder, &data, full, bound);
  free(full);
  close_decoder(&decoder);
  token_file_free(&data);
  safetensors_close(&reference);
}

int main(void) {
  scratch_make();
  static const char *const names[] = {"grad-llama-lora-residual", "grad-mistral-linear-gate",
                                      "grad-qwen2-adapter-residual", "grad-opt-adapter-residual"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    check_decoding(names[i], &plain_path, 1e-5);
    check_decoding(names[i], &fast_path, 1e-2);
  }
  scratch_remove();
  return check_result();
}
