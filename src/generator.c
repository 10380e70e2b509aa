#include "generator.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"

/** A token and its probability, for nucleus sampling. */
struct ranked {
  int32_t token;
  float probability;
};

/* ---- opening -------------------------------------------------------------------------------------------- */

static void add_stop(struct generator *generator, int32_t token) {
  if (token < 0 || generator_is_stop(generator, token) || generator->stop_count == GENERATOR_MAX_STOPS) return;
  generator->stops[generator->stop_count++] = token;
}

static void find_stops(struct generator *generator) {
  static const char *const ends_of_turns[] = {"<|im_end|>", "<|eot_id|>"};
  const struct model_config *config = &generator->engine->backbone.config;
  for (int i = 0; i < config->eos_count; i++) add_stop(generator, config->eos[i]);
  if (!generator->engine->tokenizer) return;
  add_stop(generator, tokenizer_eos(generator->engine->tokenizer));
  for (unsigned i = 0; i < 2; i++) add_stop(generator, tokenizer_id(generator->engine->tokenizer, ends_of_turns[i]));
}

static int open_caches(struct generator *generator) {
  struct engine *engine = generator->engine;
  const struct model_config *config = &engine->backbone.config;
  TRY(kv_cache_open(&generator->backbone_cache, engine->device, config->layers, config->kv_heads * config->head_dim,
                    generator->slot_count, generator->slot_rows));
  if (!engine->has_side) return OK;
  const struct side_shape *shape = &engine->side.layout.shape;
  return kv_cache_open(&generator->side_cache, engine->device, shape->layers, shape->kv_heads * shape->head_dim,
                       generator->slot_count, generator->slot_rows);
}

int generator_open(struct generator *generator, struct engine *engine, const struct options *options, int slots,
                   int slot_rows) {
  *generator = (struct generator){.engine = engine,
                                  .slot_count = slots,
                                  .slot_rows = slot_rows,
                                  .temperature = options->temperature,
                                  .top_p = options->top_p,
                                  .seed = (uint64_t)options->seed};
  find_stops(generator);
  size_t vocabulary = (size_t)engine->backbone.config.vocabulary;
  TRY(memory_array(&generator->greedy, (size_t)slots, sizeof *generator->greedy));
  TRY(memory_array(&generator->slots, (size_t)slots, sizeof *generator->slots));
  TRY(memory_array(&generator->pieces, (size_t)slots, sizeof *generator->pieces));
  TRY(memory_array(&generator->host_logits, vocabulary, sizeof *generator->host_logits));
  TRY(memory_array(&generator->ranked, vocabulary, sizeof *generator->ranked));
  TRY(device_allocate(engine->device, MEMORY_WORKSPACE, &generator->chosen,
                      (size_t)generator->slot_count * sizeof(int32_t)));
  return open_caches(generator);
}

void generator_close(struct generator *generator) {
  if (!generator->engine) return;
  struct device *device = generator->engine->device;
  kv_cache_close(&generator->backbone_cache, device);
  if (generator->side_cache.rows) kv_cache_close(&generator->side_cache, device);
  device_release(device, MEMORY_WORKSPACE, &generator->chosen, (size_t)generator->slot_count * sizeof(int32_t));
  free(generator->greedy);
  free(generator->slots);
  free(generator->pieces);
  free(generator->host_logits);
  free(generator->ranked);
  *generator = (struct generator){0};
}

bool generator_is_stop(const struct generator *generator, int32_t token) {
  for (int i = 0; i < generator->stop_count; i++)
    if (generator->stops[i] == token) return true;
  return false;
}

/* ---- choosing a token ----------------------------------------------------------------------------------- */

static int likelier(const void *left, const void *right) {
  const struct ranked *a = left, *b = right;
  if (a->probability != b->probability) return a->probability > b->probability ? -1 : 1;
  return a->token < b->token ? -1 : a->token > b->token;
}

/* Nucleus sampling (Holtzman et al. 2020): from the fewest tokens whose probabilities reach top_p. */
static int32_t sample(struct generator *generator, struct random *random) {
  int vocabulary = generator->engine->backbone.config.vocabulary;
  const float *logits = generator->host_logits;
  struct ranked *ranked = generator->ranked;
  float largest = logits[0];
  for (int i = 1; i < vocabulary; i++) largest = fmaxf(largest, logits[i]);
  double total = 0;
  for (int i = 0; i < vocabulary; i++) {
    ranked[i] = (struct ranked){i, (float)exp((logits[i] - largest) / generator->temperature)};
    total += ranked[i].probability;
  }
  qsort(ranked, (size_t)vocabulary, sizeof *ranked, likelier);
  double nucleus = 0;
  int kept = 0;
  while (kept < vocabulary && (kept == 0 || nucleus < generator->top_p * total)) nucleus += ranked[kept++].probability;
  double point = random_unit(random) * nucleus;
  int chosen = 0;
  while (chosen + 1 < kept && point >= ranked[chosen].probability) point -= ranked[chosen++].probability;
  return ranked[chosen].token;
}

/* Tokens for label rows first .. first + count, whose logits are on the device. */
static int choose_greedily(struct generator *generator, int count) {
  struct engine *engine = generator->engine;
  TRY(device_argmax(engine->device, &(struct argmax_args){.index = generator->chosen,
                                                          .logits = engine->head.logits,
                                                          .rows = count,
                                                          .cols = engine->backbone.config.vocabulary}));
  return device_download(engine->device, generator->greedy, generator->chosen,
                         (size_t)count * sizeof *generator->greedy);
}

static int choose_by_chance(struct generator *generator, int row, struct random *random, int32_t *token) {
  struct engine *engine = generator->engine;
  size_t vocabulary = (size_t)engine->backbone.config.vocabulary;
  TRY(device_download(engine->device, generator->host_logits, engine->head.logits + (size_t)row * vocabulary,
                      vocabulary * sizeof(float)));
  *token = sample(generator, random);
  return OK;
}

/* ---- the loop ------------------------------------------------------------------------------------------- */

static void fill_free_slots(struct generator *generator, const struct generation_request *requests, int count,
                            int *next) {
  for (int i = 0; i < generator->slot_count && *next < count; i++) {
    struct generation_slot *slot = &generator->slots[i];
    if (slot->request >= 0) continue;
    uint64_t index = requests[*next].index;
    *slot =
        (struct generation_slot){.request = (*next)++, .random = random_start(generator->seed, RANDOM_SAMPLING, index)};
  }
}

/* What each busy slot sends next: its newest token, or as much of its prompt as fits. Returns the number of pieces. */
static int make_pieces(struct generator *generator, const struct generation_request *requests) {
  int room = generator->engine->capacity, count = 0;
  for (int i = 0; i < generator->slot_count; i++) {
    struct generation_slot *slot = &generator->slots[i];
    slot->sent = 0;
    if (slot->request < 0 || room == 0) continue;
    const struct generation_request *request = &requests[slot->request];
    int left = request->prompt_count - slot->done;
    slot->sent = left <= 0 ? 1 : left < room ? left : room;
    generator->pieces[count++] = (struct piece){.tokens = left <= 0 ? &slot->last : request->prompt + slot->done,
                                                .count = slot->sent,
                                                .first = slot->done,
                                                .slot = i};
    room -= slot->sent;
  }
  return count;
}

/* Takes a slot's new token; frees the slot when its request has ended. */
static int take_token(struct generator *generator, struct generation_slot *slot,
                      const struct generation_request *request, int32_t token, generation_sink *sink, void *context) {
  int which = slot->request;
  slot->last = token;
  slot->made++;
  if (generator_is_stop(generator, token) || slot->made >= request->max_new || slot->done + 1 > generator->slot_rows)
    slot->request = -1;
  return sink(context, which, token);
}

static int take_piece(struct generator *generator, const struct generation_request *requests, int row,
                      const struct piece *piece, generation_sink *sink, void *context) {
  struct generation_slot *slot = &generator->slots[piece->slot];
  const struct generation_request *request = &requests[slot->request];
  slot->done += slot->sent;
  if (slot->done < request->prompt_count) return OK; /* more of the prompt is to come */
  int32_t token = generator->greedy[row];
  if (generator->temperature > 0) TRY(choose_by_chance(generator, row, &slot->random, &token));
  return take_token(generator, slot, request, token, sink, context);
}

static int take_pieces(struct generator *generator, const struct generation_request *requests, int count,
                       generation_sink *sink, void *context) {
  struct head *head = &generator->engine->head;
  for (int first = 0; first < count; first += head->chunk) {
    int rows = count - first < head->chunk ? count - first : head->chunk;
    TRY(head_logits(head, first, rows));
    if (generator->temperature <= 0) TRY(choose_greedily(generator, rows));
    for (int i = 0; i < rows; i++)
      TRY(take_piece(generator, requests, i, &generator->pieces[first + i], sink, context));
  }
  return OK;
}

int generator_run(struct generator *generator, const struct generation_request *requests, int count,
                  generation_sink *sink, void *context) {
  struct engine *engine = generator->engine;
  int next = 0;
  for (int i = 0; i < generator->slot_count; i++) generator->slots[i].request = -1;
  for (int i = 0; i < count; i++)
    if (requests[i].prompt_count < 1 || requests[i].prompt_count + requests[i].max_new > generator->slot_rows)
      return fail(ERR_INTERNAL, "a request of %d + %d tokens in slots of %d", requests[i].prompt_count,
                  requests[i].max_new, generator->slot_rows);
  for (;;) {
    fill_free_slots(generator, requests, count, &next);
    int pieces = make_pieces(generator, requests);
    if (pieces == 0) return OK;
    TRY(micro_batch_load_pieces(engine->batch, engine->device, generator->pieces, pieces, generator->slot_rows));
    TRY(engine_decode(engine, &generator->backbone_cache, engine->has_side ? &generator->side_cache : NULL));
    TRY(take_pieces(generator, requests, pieces, sink, context));
  }
}
