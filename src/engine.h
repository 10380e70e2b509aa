/**
 * @file engine.h
 * What training, evaluation and generation share: a device with the backbone, a side network, the head, a micro-batch
 * and the taps between them, opened from the options. Everything is laid out here; nothing is allocated afterwards.
 */
#ifndef QST_ENGINE_H
#define QST_ENGINE_H

#include "base/options.h"
#include "comm/comm.h"
#include "head.h"
#include "io/checkpoint.h"

enum engine_use { ENGINE_TRAIN, ENGINE_EVALUATE, ENGINE_GENERATE, ENGINE_TAPS };

struct engine {
  struct device *device;
  struct backbone backbone;
  struct side side;
  bool has_side;
  struct head head;
  struct micro_batch batch;
  struct tap_source source;
  struct taps taps; /**< of the micro-batch at hand */
  struct gradient_sums sums;
  int64_t *host_sums;          /**< [sums.size + 2] staging of sums and faults */
  int capacity;                /**< tokens of a micro-batch */
  struct tokenizer *tokenizer; /**< NULL when the backbone has none */
  char digest[33];             /**< of the backbone */
  int threads;
  double peak; /**< FLOP/s of a large product on this rank's device, measured at opening; 0 when not */
};

struct engine_plan {
  enum engine_use use;
  int capacity;  /**< tokens of a micro-batch */
  int samples;   /**< most samples of a micro-batch */
  int positions; /**< longest sequence */
};

/** Opens all of it on this rank. With ENGINE_TRAIN the side network has the shape of the options and zero parameters;
 *  otherwise it is read from options->side, or absent without. ENGINE_TAPS: the taps that one of the options' shape would
 *  read. Call comm_agree() on the result. */
int engine_open(struct engine *engine, const struct options *options, const struct comm *comm,
                const struct engine_plan *plan);
void engine_close(struct engine *engine);

/** From engine->taps on: side_forward and head_forward; *s is s_L (NULL without a side network). */
int engine_follow(struct engine *engine, struct kv_cache *side_cache, void **s);
/** engine_follow() after the live backbone. Caches NULL but for decoding. */
int engine_forward(struct engine *engine, struct kv_cache *backbone_cache, struct kv_cache *side_cache, void **s);

/** The sums of all ranks, in place on the device and in host_sums. ERR_INPUT when a value was not finite. */
int engine_reduce(struct engine *engine, struct comm *comm);
/** The loss in host_sums, in nats, summed. */
double engine_loss(const struct engine *engine);

/** FLOPs of this model: the products of `tokens` tokens and `labels` label rows, attention over sequences whose lengths'
 *  squares sum to `squares`; with the backward pass when training. Two per multiply-add. */
double engine_flops(const struct engine *engine, int64_t tokens, int64_t labels, double squares);

/** One line a kind of memory and one for what runs where, on rank 0. */
void engine_banner(const struct engine *engine, const struct comm *comm);

/** Peak resident memory of this process in bytes. */
int64_t resident_peak(void);

#endif
