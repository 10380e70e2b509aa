/**
 * @file engine.h
 * What training, evaluation and generation share: a device with this rank's stage of the backbone, the side network and
 * the head, the lanes that run micro-batches through them, and the ways to the other ranks, opened from the options.
 * Everything is laid out here; nothing is allocated afterwards.
 */
#ifndef QST_ENGINE_H
#define QST_ENGINE_H

#include "base/options.h"
#include "comm/grid.h"
#include "comm/transport.h"
#include "io/checkpoint.h"
#include "lanes.h"

enum engine_use { ENGINE_TRAIN, ENGINE_EVALUATE, ENGINE_GENERATE, ENGINE_TAPS, ENGINE_CALIBRATE };

/** What all ranks add up once a step: int64 on the device, in this order; the squares are doubles, of which all ranks but
 *  one have zero. */
enum { TOTAL_LOSS, TOTAL_FAULTS, TOTAL_STOP, TOTAL_UNREAD, TOTAL_WARNINGS, TOTAL_SQUARES };

struct engine {
  struct device *device;
  const struct grid *grid;
  struct stage stage;
  struct backbone backbone;
  struct side side;
  bool has_side;
  struct head head; /**< on the last stage */
  struct tap_source source;
  struct lanes lanes;
  struct micro_batch *batch; /**< the first slot's, for decoding */
  struct gradient_sums sums;
  int64_t *totals, *host_totals; /**< [total_count] device, host */
  size_t total_count;
  struct transport *world;     /**< all ranks */
  struct transport *replicas;  /**< the ranks of this stage */
  int capacity;                /**< tokens of a micro-batch */
  struct tokenizer *tokenizer; /**< NULL when the backbone has none */
  char digest[33];             /**< of the backbone */
  int threads;
  double peak; /**< FLOP/s of a large product on this rank's device, measured at opening; 0 when not */
};

struct engine_plan {
  enum engine_use use;
  int capacity;                    /**< tokens of a micro-batch */
  int samples;                     /**< most samples of a micro-batch */
  int positions;                   /**< longest sequence */
  double label_share;              /**< of all tokens: what the head costs */
  const struct hardware *hardware; /**< what the null device stands for; NULL for any other device */
};

/** What --placement says. */
enum placement placement_of(const struct options *options);

/** Opens this rank's stage of all of it. With ENGINE_TRAIN the side network has the shape of the options and zero
 *  parameters; otherwise it is read from options->side, or absent without. ENGINE_TAPS: the taps that one of the options'
 *  shape would read. Not collective: call comm_agree() on the result, then engine_connect(). */
int engine_open(struct engine *engine, const struct options *options, const struct grid *grid,
                const struct engine_plan *plan);
/** Connects the ranks. Collective. */
int engine_connect(struct engine *engine);
void engine_close(struct engine *engine);

/** Decoding, on a model that is whole on this rank: backbone, side network and head on engine->batch. */
int engine_decode(struct engine *engine, struct kv_cache *backbone_cache, struct kv_cache *side_cache);

/** Before a pass of training or evaluation: all sums and totals are zero. */
int engine_zero(struct engine *engine);
/** The totals of all ranks, on the device and in host_totals. ERR_INPUT when a value was not finite, but where taps were
 *  not read (tap_store.h), for then no value counts. Collective. */
int engine_share_totals(struct engine *engine);
/** The loss in host_totals, in nats, summed. */
double engine_loss(const struct engine *engine);

/** FLOPs of this model: the products of `tokens` tokens and `labels` label rows, attention over sequences whose lengths'
 *  squares sum to `squares`; with the backward pass when training. Two per multiply-add. */
double engine_flops(const struct engine *engine, int64_t tokens, int64_t labels, double squares);

/** One line a kind of memory and one for what runs where, on rank 0. */
void engine_banner(const struct engine *engine);

/** Peak resident memory of this process in bytes. */
int64_t resident_peak(void);

#endif
