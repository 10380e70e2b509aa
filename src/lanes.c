#include "lanes.h"

#include <stdlib.h>
#include <time.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/hash.h"
#include "base/memory.h"

/* ---- messages ------------------------------------------------------------------------------------------- */

enum { TAG_HIDDEN, TAG_S, TAG_DS };

static int link_open(struct link *link, struct lanes *lanes, struct comm *replica, int peer, enum channel_end end,
                     int tag, int slots) {
  link->slots = slots;
  return channel_open(&link->channel, replica, lanes->device, peer, end, tag, slots);
}

static int link_start(struct link *link, int *message, void *buffer, size_t bytes) {
  *message = (int)(link->started++ % link->slots);
  return channel_start(link->channel, *message, buffer, bytes);
}

static int link_ready(const struct link *link, int message, bool *ready) {
  if (message == MESSAGE_NONE || !*ready) return OK;
  return channel_ready(link->channel, message, ready);
}

static int link_wait(const struct link *link, int *message) {
  if (*message == MESSAGE_NONE) return OK;
  int status = channel_wait(link->channel, *message);
  *message = MESSAGE_NONE;
  return status;
}

static bool has_previous(const struct lanes *lanes) {
  return lanes->order.stage > 0;
}

static bool has_next(const struct lanes *lanes) {
  return lanes->order.stage + 1 < lanes->order.stages;
}

/* ---- opening -------------------------------------------------------------------------------------------- */

enum { FIRST_QUEUE = 64 }; /* micro-batches; it grows */

int lanes_open(struct lanes *lanes, const struct lanes_parts *parts) {
  *lanes = (struct lanes){.device = parts->device,
                          .source = parts->source,
                          .side = parts->side,
                          .head = parts->head,
                          .sums = parts->sums,
                          .order = parts->order};
  lanes->queue_size = FIRST_QUEUE;
  TRY(memory_array(&lanes->queue, FIRST_QUEUE, sizeof *lanes->queue));
  TRY(memory_array(&lanes->slots, (size_t)lanes->order.slots, sizeof *lanes->slots));
  TRY(memory_array(&lanes->frames, (size_t)lanes->order.frames, sizeof *lanes->frames));
  for (int i = 0; i < lanes->order.frames; i++)
    lanes->frames[i] = (struct frame_messages){MESSAGE_NONE, MESSAGE_NONE, MESSAGE_NONE, MESSAGE_NONE};
  for (int i = 0; i < lanes->order.slots; i++) {
    struct slot *slot = &lanes->slots[i];
    slot->hidden_in = slot->hidden_out = MESSAGE_NONE;
    TRY(micro_batch_open(&slot->batch, lanes->device, parts->capacity, parts->samples));
    TRY(device_event_open(lanes->device, &slot->filled));
    TRY(device_event_open(lanes->device, &slot->freed));
  }
  return OK;
}

int lanes_connect(struct lanes *lanes, struct comm *replica) {
  int slots = lanes->order.slots, frames = lanes->order.frames, before = replica->rank - 1, after = replica->rank + 1;
  lanes->replica = replica;
  if (has_previous(lanes)) {
    TRY(link_open(&lanes->hidden_in, lanes, replica, before, CHANNEL_RECEIVES, TAG_HIDDEN, slots));
    TRY(link_open(&lanes->s_in, lanes, replica, before, CHANNEL_RECEIVES, TAG_S, frames));
    TRY(link_open(&lanes->ds_out, lanes, replica, before, CHANNEL_SENDS, TAG_DS, frames));
  }
  if (has_next(lanes)) {
    TRY(link_open(&lanes->hidden_out, lanes, replica, after, CHANNEL_SENDS, TAG_HIDDEN, slots));
    TRY(link_open(&lanes->s_out, lanes, replica, after, CHANNEL_SENDS, TAG_S, frames));
    TRY(link_open(&lanes->ds_in, lanes, replica, after, CHANNEL_RECEIVES, TAG_DS, frames));
  }
  return OK;
}

void lanes_close(struct lanes *lanes) {
  struct link *const links[] = {&lanes->hidden_in, &lanes->hidden_out, &lanes->s_in,
                                &lanes->s_out,     &lanes->ds_in,      &lanes->ds_out};
  for (int i = 0; i < 6; i++) channel_close(&links[i]->channel);
  for (int i = 0; lanes->slots && i < lanes->order.slots; i++) {
    device_event_close(lanes->device, &lanes->slots[i].filled);
    device_event_close(lanes->device, &lanes->slots[i].freed);
    micro_batch_close(&lanes->slots[i].batch, lanes->device);
  }
  free(lanes->slots);
  free(lanes->frames);
  free(lanes->queue);
  *lanes = (struct lanes){0};
}

/* ---- the queue ------------------------------------------------------------------------------------------ */

static const struct work *work_at(const struct lanes *lanes, int64_t i) {
  return &lanes->queue[i % lanes->queue_size];
}

/* Micro-batch i stays at i % size, so that a longer queue is filled anew. */
static int lengthen_queue(struct lanes *lanes) {
  int64_t size = 2 * lanes->queue_size;
  struct work *queue;
  TRY(memory_array(&queue, (size_t)size, sizeof *queue));
  for (int64_t i = lanes->counts.finished; i < lanes->counts.queued; i++) queue[i % size] = *work_at(lanes, i);
  free(lanes->queue);
  lanes->queue = queue;
  lanes->queue_size = size;
  return OK;
}

int lanes_add(struct lanes *lanes, const struct work *work) {
  if (lanes->counts.queued - lanes->counts.finished == lanes->queue_size) TRY(lengthen_queue(lanes));
  lanes->queue[lanes->counts.queued++ % lanes->queue_size] = *work;
  return OK;
}

/* ---- tasks that repeat ----------------------------------------------------------------------------------- */

/* All host numbers that the operations of a task depend on: equal keys are equal work (kernels/device.h). */
static uint64_t task_key(const struct lanes *lanes, enum pipeline_task task, int64_t i, bool backward) {
  const struct micro_batch *batch = &lanes->slots[i % lanes->order.slots].batch;
  const int32_t facts[] = {(int32_t)task,
                           (int32_t)(i % lanes->order.slots),
                           (int32_t)(i % lanes->order.frames),
                           batch->rows,
                           batch->label_count,
                           batch->segments.count,
                           batch->segments.max_queries,
                           batch->segments.max_keys,
                           backward};
  return hash_number(facts, sizeof facts);
}

/* ---- the backbone lane ---------------------------------------------------------------------------------- */

static struct slot *slot_of(const struct lanes *lanes, int64_t i) {
  return &lanes->slots[i % lanes->order.slots];
}

static bool is_live(const struct lanes *lanes, const struct work *work) {
  return !work->stored || !tap_store_has(lanes->store, work->rows, work->count);
}

static size_t hidden_bytes(const struct lanes *lanes, const struct work *work) {
  return device_act_bytes(lanes->device, (size_t)work->tokens * (size_t)lanes->source->backbone->config.hidden);
}

/* A hidden state is received as soon as its slot is free. */
static int expect_hidden(struct lanes *lanes) {
  const struct pipeline_counts *counts = &lanes->counts;
  if (!has_previous(lanes)) return OK;
  for (; lanes->hidden_asked < counts->queued && lanes->hidden_asked - counts->finished < lanes->order.slots;
       lanes->hidden_asked++) {
    const struct work *work = work_at(lanes, lanes->hidden_asked);
    int slot = (int)(lanes->hidden_asked % lanes->order.slots);
    if (is_live(lanes, work))
      TRY(link_start(&lanes->hidden_in, &lanes->slots[slot].hidden_in, tap_source_input(lanes->source, slot),
                     hidden_bytes(lanes, work)));
  }
  return OK;
}

static int enter_slot(struct lanes *lanes, struct slot *slot, const struct work *work) {
  TRY(device_wait(lanes->device, slot->freed));
  TRY(link_wait(&lanes->hidden_out, &slot->hidden_out));
  TRY(link_wait(&lanes->hidden_in, &slot->hidden_in));
  return micro_batch_load(&slot->batch, lanes->device, work->data, work->rows, work->count);
}

static int leave_slot(struct lanes *lanes, int64_t i, bool live) {
  struct slot *slot = slot_of(lanes, i);
  const struct work *work = work_at(lanes, i), *next = i + 1 < lanes->counts.queued ? work_at(lanes, i + 1) : NULL;
  int index = (int)(i % lanes->order.slots);
  if (live && work->stored) TRY(tap_store_add(lanes->store, index, &slot->batch, work->rows, work->count));
  if (work->stored && next && next->stored) tap_store_expect(lanes->store, next->rows, next->count);
  if (live && has_next(lanes))
    TRY(link_start(&lanes->hidden_out, &slot->hidden_out, tap_source_output(lanes->source, index),
                   hidden_bytes(lanes, work)));
  return device_record(lanes->device, slot->filled);
}

static int run_backbone(struct lanes *lanes, int64_t i, int index) {
  struct slot *slot = slot_of(lanes, i);
  bool replayed;
  slot->taps = tap_source_view(lanes->source, index);
  TRY(device_task_begin(lanes->device, task_key(lanes, TASK_TAPS, i, false), &replayed));
  if (!replayed) TRY(tap_source_run(lanes->source, index, &slot->batch, NULL, &slot->taps));
  return device_task_end(lanes->device);
}

/* One layer of the backbone, or all of them where both lanes run at a time; or all taps, where the store has them. */
static int fill_slot(struct lanes *lanes, int64_t i, bool *filled) {
  struct slot *slot = slot_of(lanes, i);
  const struct work *work = work_at(lanes, i);
  int index = (int)(i % lanes->order.slots);
  bool live = is_live(lanes, work), whole = !live || lanes->device->lanes_overlap;
  if (lanes->layer == 0) TRY(enter_slot(lanes, slot, work));
  if (!live)
    TRY(tap_store_run(lanes->store, index, &slot->batch, work->rows, work->count, &slot->taps));
  else if (whole)
    TRY(run_backbone(lanes, i, index));
  else
    TRY(tap_source_layer(lanes->source, index, &slot->batch, lanes->layer++, &slot->taps));
  *filled = whole || lanes->layer == stage_depth(&lanes->source->backbone->stage);
  return *filled ? leave_slot(lanes, i, live) : OK;
}

static int may_enter_slot(struct lanes *lanes, bool *may) {
  *may = pipeline_may_make_taps(&lanes->order, &lanes->counts);
  if (!*may) return OK;
  TRY(expect_hidden(lanes));
  const struct slot *slot = slot_of(lanes, lanes->counts.taps);
  TRY(link_ready(&lanes->hidden_out, slot->hidden_out, may));
  return link_ready(&lanes->hidden_in, slot->hidden_in, may);
}

/* MPI moves a long message only while it is asked about one: the last that was sent, and the next to come. */
static int move_messages(struct lanes *lanes) {
  int64_t i = lanes->counts.taps;
  bool sent = true, came = true;
  if (i > 0) TRY(link_ready(&lanes->hidden_out, slot_of(lanes, i - 1)->hidden_out, &sent));
  return link_ready(&lanes->hidden_in, slot_of(lanes, i + 1)->hidden_in, &came);
}

/* Where both lanes share a core, the side lane need not wait for more than a layer. */
static int make_taps(struct lanes *lanes, bool *ran) {
  *ran = true;
  TRY(lanes->layer == 0 ? may_enter_slot(lanes, ran) : move_messages(lanes));
  if (!*ran) return OK;
  bool filled;
  double begin = clock_seconds();
  TRY(device_use_lane(lanes->device, LANE_BACKBONE));
  int status = fill_slot(lanes, lanes->counts.taps, &filled);
  TRY(device_use_lane(lanes->device, LANE_SIDE));
  TRY(status);
  trace_add(lanes->trace, LANE_BACKBONE, "taps", lanes->counts.taps, begin, clock_seconds());
  if (!filled) return OK;
  lanes->layer = 0;
  lanes->counts.taps++;
  return OK;
}

/* ---- the side lane -------------------------------------------------------------------------------------- */

static struct side_frame *frame_of(const struct lanes *lanes, int64_t i) {
  return lanes->side ? &lanes->side->frames[i % lanes->order.frames] : NULL;
}

static struct frame_messages *messages_of(const struct lanes *lanes, int64_t i) {
  return &lanes->frames[i % lanes->order.frames];
}

static size_t s_bytes(const struct lanes *lanes, const struct micro_batch *batch) {
  return device_act_bytes(lanes->device, (size_t)batch->rows * (size_t)lanes->side->layout.shape.width);
}

/* s is received as soon as its frame is free, but not that of the next step: parameters change in between. */
static int expect_s(struct lanes *lanes, int64_t end) {
  if (!has_previous(lanes) || !lanes->side) return OK;
  for (; lanes->s_asked < end && lanes->s_asked - lanes->counts.finished < lanes->order.frames; lanes->s_asked++) {
    size_t row = device_act_bytes(lanes->device, (size_t)lanes->side->layout.shape.width);
    TRY(link_start(&lanes->s_in, &messages_of(lanes, lanes->s_asked)->s_in, frame_of(lanes, lanes->s_asked)->s_in,
                   (size_t)work_at(lanes, lanes->s_asked)->tokens * row));
  }
  return OK;
}

static int forward_ready(struct lanes *lanes, int64_t i, bool *ready) {
  const struct frame_messages *messages = messages_of(lanes, i);
  *ready = i < lanes->counts.taps;
  TRY(link_ready(&lanes->s_in, messages->s_in, ready));
  TRY(link_ready(&lanes->s_out, messages->s_out, ready));
  return link_ready(&lanes->ds_out, messages->ds_out, ready);
}

/* Side network and head; the loss where no backward pass will find it. */
static int run_forward(struct lanes *lanes, int64_t i, bool backward) {
  struct slot *slot = slot_of(lanes, i);
  struct side_frame *frame = frame_of(lanes, i);
  if (frame) TRY(side_forward(lanes->side, frame, &slot->batch, &slot->taps, NULL));
  if (!lanes->head) return OK;
  TRY(head_forward(lanes->head, &slot->batch, &slot->taps, frame ? frame->s_out : NULL));
  return backward ? OK : head_loss(lanes->head, &slot->batch, lanes->sums);
}

static int forward(struct lanes *lanes, int64_t i, bool backward) {
  struct slot *slot = slot_of(lanes, i);
  struct side_frame *frame = frame_of(lanes, i);
  struct frame_messages *messages = messages_of(lanes, i);
  TRY(device_wait(lanes->device, slot->filled));
  TRY(link_wait(&lanes->s_out, &messages->s_out));
  TRY(link_wait(&lanes->ds_out, &messages->ds_out));
  TRY(link_wait(&lanes->s_in, &messages->s_in));
  bool replayed;
  TRY(device_task_begin(lanes->device, task_key(lanes, TASK_FORWARD, i, backward), &replayed));
  if (!replayed) TRY(run_forward(lanes, i, backward));
  TRY(device_task_end(lanes->device));
  if (frame && has_next(lanes))
    TRY(link_start(&lanes->s_out, &messages->s_out, frame->s_out, s_bytes(lanes, &slot->batch)));
  if (frame && backward && has_next(lanes))
    return link_start(&lanes->ds_in, &messages->ds_in, frame->ds, s_bytes(lanes, &slot->batch));
  return OK;
}

static int head_collected(const struct lanes *lanes, const struct side_listener *listener) {
  const struct side_layout *layout = &lanes->side->layout;
  return listener ? listener->collected(listener->context, side_head_begin(layout), (int64_t)layout->size) : OK;
}

static int run_backward(struct lanes *lanes, int64_t i, const struct side_listener *listener) {
  struct slot *slot = slot_of(lanes, i);
  struct side_frame *frame = frame_of(lanes, i);
  if (lanes->head) {
    TRY(head_backward(lanes->head, &slot->batch, &slot->taps, frame->ds, lanes->sums));
    TRY(head_collected(lanes, listener));
  }
  return side_backward(lanes->side, frame, &slot->batch, &slot->taps, lanes->sums, listener);
}

/* What a listener does is not the device's, so only passes without one repeat. */
static int backward(struct lanes *lanes, int64_t i, const struct side_listener *listener) {
  struct slot *slot = slot_of(lanes, i);
  struct side_frame *frame = frame_of(lanes, i);
  struct frame_messages *messages = messages_of(lanes, i);
  TRY(link_wait(&lanes->ds_in, &messages->ds_in));
  bool replayed = false;
  if (!listener) TRY(device_task_begin(lanes->device, task_key(lanes, TASK_BACKWARD, i, true), &replayed));
  if (!replayed) TRY(run_backward(lanes, i, listener));
  if (!listener) TRY(device_task_end(lanes->device));
  return has_previous(lanes) ? link_start(&lanes->ds_out, &messages->ds_out, frame->ds, s_bytes(lanes, &slot->batch))
                             : OK;
}

static int finish_micro_batch(struct lanes *lanes) {
  TRY(device_record(lanes->device, slot_of(lanes, lanes->counts.finished)->freed));
  lanes->counts.finished++;
  return expect_hidden(lanes);
}

static int try_forward(struct lanes *lanes, int64_t end, bool backward, bool *ran) {
  struct pipeline_counts *counts = &lanes->counts;
  TRY(expect_s(lanes, end));
  TRY(forward_ready(lanes, counts->forward, ran));
  if (!*ran) return OK;
  double begin = clock_seconds();
  TRY(forward(lanes, counts->forward, backward));
  trace_add(lanes->trace, LANE_SIDE, "forward", counts->forward++, begin, clock_seconds());
  return backward ? OK : finish_micro_batch(lanes);
}

static int try_backward(struct lanes *lanes, int64_t end, const struct side_listener *listener, bool *ran) {
  struct pipeline_counts *counts = &lanes->counts;
  *ran = true;
  TRY(link_ready(&lanes->ds_in, messages_of(lanes, counts->finished)->ds_in, ran));
  if (!*ran) return OK;
  double begin = clock_seconds();
  TRY(backward(lanes, counts->finished, counts->finished + 1 == end ? listener : NULL));
  trace_add(lanes->trace, LANE_SIDE, "backward", counts->finished, begin, clock_seconds());
  return finish_micro_batch(lanes);
}

/* ---- both ----------------------------------------------------------------------------------------------- */

/* A neighbour's message is on its way: the core is somebody else's for a moment. */
static int pause_lanes(struct lanes *lanes, struct comm_waiting *waiting) {
  double now = clock_seconds();
  if (lanes->replica) TRY(comm_wait_on(lanes->replica, waiting, "a message of a step"));
  nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
  lanes->idle += clock_seconds() - now;
  return OK;
}

static void stop_waiting(const struct lanes *lanes, struct comm_waiting *waiting) {
  if (lanes->replica) comm_wait_over(lanes->replica, waiting);
}

int lanes_run(struct lanes *lanes, const struct lanes_pass *pass) {
  int64_t end = lanes->counts.finished + pass->count;
  struct comm_waiting waiting = {0};
  if (end > lanes->counts.queued) return fail(ERR_INTERNAL, "a pass over more micro-batches than are queued");
  for (enum pipeline_task task;
       (task = pipeline_side_task(&lanes->order, &lanes->counts, end, pass->backward)) != TASK_NONE;) {
    bool ran;
    if (task == TASK_FORWARD)
      TRY(try_forward(lanes, end, pass->backward, &ran));
    else
      TRY(try_backward(lanes, end, pass->listener, &ran));
    if (!ran) TRY(make_taps(lanes, &ran));
    if (ran)
      stop_waiting(lanes, &waiting);
    else
      TRY(pause_lanes(lanes, &waiting));
  }
  return OK;
}

/* Where both lanes run at a time the host sees no wait in which there would be time: the backbone lane is given work for all
 * its slots now, so that it has some while the side lane ends its step. */
static int fill_slots(struct lanes *lanes) {
  for (bool ran = true; ran;) TRY(make_taps(lanes, &ran));
  return OK;
}

int lanes_wait(struct lanes *lanes, struct transport *transport) {
  struct comm_waiting waiting = {0};
  bool ready;
  if (lanes->device->lanes_overlap) TRY(fill_slots(lanes));
  for (;;) {
    TRY(transport_ready(transport, &ready));
    if (ready) break;
    TRY(make_taps(lanes, &ready));
    if (ready)
      stop_waiting(lanes, &waiting);
    else
      TRY(pause_lanes(lanes, &waiting));
  }
  stop_waiting(lanes, &waiting);
  return transport_wait(transport);
}

/* The next micro-batch of the backbone lane with nothing computed: its messages come and go, whatever is in them. */
static int pass_by(struct lanes *lanes, int64_t i) {
  struct slot *slot = slot_of(lanes, i);
  const struct work *work = work_at(lanes, i);
  TRY(link_wait(&lanes->hidden_out, &slot->hidden_out));
  TRY(link_wait(&lanes->hidden_in, &slot->hidden_in));
  if (!has_next(lanes) || !is_live(lanes, work)) return OK;
  return link_start(&lanes->hidden_out, &slot->hidden_out,
                    tap_source_output(lanes->source, (int)(i % lanes->order.slots)), hidden_bytes(lanes, work));
}

static int skip_taps(struct lanes *lanes, bool *ran) {
  *ran = true;
  if (lanes->layer == 0) TRY(may_enter_slot(lanes, ran));
  if (!*ran) return OK;
  TRY(device_use_lane(lanes->device, LANE_BACKBONE));
  int status = pass_by(lanes, lanes->counts.taps);
  TRY(device_use_lane(lanes->device, LANE_SIDE));
  TRY(status);
  lanes->layer = 0;
  lanes->counts.taps++;
  return OK;
}

/* Their memory is free only when the neighbours have them; and micro-batches that were given up took a frame, but no slot of a
 * channel: the next message of a frame may be in a slot of which another frame's was not waited for. */
static int wait_for_sent(struct lanes *lanes) {
  for (int i = 0; i < lanes->order.slots; i++) TRY(link_wait(&lanes->hidden_out, &lanes->slots[i].hidden_out));
  for (int i = 0; i < lanes->order.frames; i++) {
    TRY(link_wait(&lanes->s_out, &lanes->frames[i].s_out));
    TRY(link_wait(&lanes->ds_out, &lanes->frames[i].ds_out));
  }
  return OK;
}

int lanes_discard(struct lanes *lanes) {
  struct pipeline_counts *counts = &lanes->counts;
  struct comm_waiting waiting = {0};
  while (counts->finished < counts->queued) {
    bool ran = true;
    if (counts->finished == counts->taps) TRY(skip_taps(lanes, &ran));
    if (ran) {
      counts->forward++;
      lanes->s_asked = counts->forward;
      TRY(finish_micro_batch(lanes));
      stop_waiting(lanes, &waiting);
    } else {
      TRY(pause_lanes(lanes, &waiting));
    }
  }
  return wait_for_sent(lanes);
}
