/**
 * @file generator.h
 * Autoregressive decoding with key/value caches for the backbone and the side network. Requests are decoded together, up
 * to `slots` at a time; one that ends makes room for the next.
 */
#ifndef QST_GENERATOR_H
#define QST_GENERATOR_H

#include "base/random.h"
#include "engine.h"

struct generation_request {
  const int32_t *prompt; /**< host [prompt_count] */
  int prompt_count;      /**< at least 1 */
  int max_new;           /**< at least 1 */
  uint64_t index;        /**< with the seed, what its random numbers depend on */
};

/** Called for each new token of a request, the stop token included. A status other than OK ends the generation. */
typedef int generation_sink(void *context, int request, int32_t token);

struct generation_slot {
  int request;  /**< -1: free */
  int done;     /**< tokens in the cache */
  int made;     /**< new tokens so far */
  int sent;     /**< tokens of the current micro-batch */
  int32_t last; /**< the newest token */
  struct random random;
};

enum { GENERATOR_MAX_STOPS = MODEL_MAX_EOS + 4 };

struct generator {
  struct engine *engine;
  struct kv_cache backbone_cache, side_cache;
  int slot_count, slot_rows;
  double temperature, top_p; /**< temperature 0: the most likely token */
  uint64_t seed;
  int32_t stops[GENERATOR_MAX_STOPS];
  int stop_count;
  struct generation_slot *slots;
  struct piece *pieces;
  int32_t *chosen;       /**< device [slot_count] */
  int32_t *greedy;       /**< [slot_count] */
  float *host_logits;    /**< [vocabulary], sampling only */
  struct ranked *ranked; /**< [vocabulary], sampling only */
};

/** `slot_rows`: longest prompt and answer together. Stops at the model's end tokens and the ends of turns of the chat
 *  templates we know. */
int generator_open(struct generator *generator, struct engine *engine, const struct options *options, int slots,
                   int slot_rows);
void generator_close(struct generator *generator);

bool generator_is_stop(const struct generator *generator, int32_t token);

/** Decodes all requests. */
int generator_run(struct generator *generator, const struct generation_request *requests, int count,
                  generation_sink *sink, void *context);

#endif
