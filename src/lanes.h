/**
 * @file lanes.h
 * The two lanes of a rank (comm/pipeline.h): the backbone lane fills a ring of slots with micro-batches and their taps,
 * the side lane runs the side network and the head on them. Between the stages of a pipeline go, for each micro-batch, the
 * hidden state h and the side network's s forward, and the gradient of s backward.
 *
 *   slot   a micro-batch, its taps, and the first and last of them, which come from and go to the neighbours
 *   frame  the side network's activations of a micro-batch, from its forward to its backward pass
 */
#ifndef QST_LANES_H
#define QST_LANES_H

#include "comm/pipeline.h"
#include "comm/transport.h"
#include "head.h"
#include "tap_store.h"
#include "trace.h"

/** A micro-batch to run: whole rows of the data. Borrowed until it is finished. */
struct work {
  const struct token_file *data;
  const int64_t *rows;
  int count, tokens;
  bool stored; /**< its taps come from the store, or go there */
};

/** One direction between neighbouring stages; without a channel where there is no neighbour. */
struct link {
  struct channel *channel;
  int64_t started;
  int slots;
};

enum { MESSAGE_NONE = -1 };

struct slot {
  struct micro_batch batch;
  struct taps taps;
  int hidden_in, hidden_out; /**< messages on their way, MESSAGE_NONE: none */
  struct device_event *filled, *freed;
};

struct frame_messages {
  int s_in, s_out, ds_in, ds_out;
};

struct lanes {
  struct device *device;
  struct tap_source *source;
  struct tap_store *store; /**< NULL: none */
  struct side *side;       /**< NULL: none */
  struct head *head;       /**< NULL: none, or not on this stage */
  struct gradient_sums *sums;
  struct trace *trace; /**< NULL: none is wanted */
  struct pipeline order;
  struct pipeline_counts counts;
  struct slot *slots;            /**< [order.slots] */
  struct frame_messages *frames; /**< [order.frames] */
  struct link hidden_in, hidden_out, s_in, s_out, ds_in, ds_out;
  int layer;                     /**< how many layers of the micro-batch in the backbone lane are done */
  int64_t hidden_asked, s_asked; /**< micro-batches whose messages are expected already */
  struct work *queue;            /**< [queue_size]: micro-batch i at i % queue_size */
  int64_t queue_size;
  struct comm *replica; /**< whose deadline a neighbour has; NULL before lanes_connect(); borrowed */
  double idle;          /**< seconds in which neither lane had anything to do, since ever */
};

/** What lanes are made of; all borrowed. */
struct lanes_parts {
  struct device *device;
  struct tap_source *source;
  struct side *side;
  struct head *head;
  struct gradient_sums *sums;
  struct pipeline order;
  int capacity, samples; /**< of a micro-batch */
};
int lanes_open(struct lanes *lanes, const struct lanes_parts *parts);
/** Opens the channels to the neighbouring stages: the ranks of `replica`, one a stage. Collective. */
int lanes_connect(struct lanes *lanes, struct comm *replica);
void lanes_close(struct lanes *lanes);

/** Puts a micro-batch at the end of the queue. The backbone lane may take it at any time from now on. Every stage is given
 *  the same work in the same order. */
int lanes_add(struct lanes *lanes, const struct work *work);

/** Takes the next `count` micro-batches through the side lane; with `backward` their gradients are added to the sums and
 *  the listener, when there is one, hears when those of the last are; else only their loss is. */
struct lanes_pass {
  int64_t count;
  bool backward;
  const struct side_listener *listener;
};
int lanes_run(struct lanes *lanes, const struct lanes_pass *pass);

/** Runs the backbone lane ahead until the transport's collectives are done, and makes the side lane wait for them. */
int lanes_wait(struct lanes *lanes, struct transport *transport);

/** Gives up what is queued. Nothing of it is computed; messages that neighbours wait for are still exchanged, so that none is
 *  on its way afterwards. For all stages at the end of a pass. */
int lanes_discard(struct lanes *lanes);

#endif
