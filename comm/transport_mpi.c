/* MPI on host memory, for devices that have done their work when a call returns: what is begun here begins at once, and
 * waiting is the host's. Reduce-scatter is a reduction to each rank and all-gather a broadcast from each: both then work
 * in place and in pieces. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "base/types.h"
#include "comm/mpi.h"
#include "comm/transport_backend.h"

struct collectives {
  struct mpi_requests requests; /**< all that were begun and not waited for */
  MPI_Op sum_bf16;
};

/* ---- elements -------------------------------------------------------------------------------------------- */

static void add_bf16(void *from, void *to, int *count, MPI_Datatype *type) {
  (void)type;
  const bf16 *x = from;
  bf16 *y = to;
  for (int i = 0; i < *count; i++) y[i] = float_to_bf16(bf16_to_float(x[i]) + bf16_to_float(y[i]));
}

static MPI_Datatype type_of(enum element element) {
  switch (element) {
    case ELEMENT_I64:
      return MPI_INT64_T;
    case ELEMENT_F32:
      return MPI_FLOAT;
    case ELEMENT_BF16:
      return MPI_UINT16_T;
    case ELEMENT_BYTE:
      break;
  }
  return MPI_BYTE;
}

static MPI_Op sum_of(const struct collectives *state, enum element element) {
  return element == ELEMENT_BF16 ? state->sum_bf16 : MPI_SUM;
}

static const char *no_version(void) {
  return "";
}

/* ---- collectives ----------------------------------------------------------------------------------------- */

static int mpi_open(struct transport *transport) {
  struct collectives *state;
  TRY(memory_array(&state, 1, sizeof *state));
  transport->state = state;
  if (transport->comm->size == 1) return OK;
  return mpi_status(MPI_Op_create(add_bf16, 1, &state->sum_bf16), "start of the collectives");
}

static void mpi_close(struct transport *transport) {
  struct collectives *state = transport->state;
  if (!state) return;
  if (transport->comm->size > 1) MPI_Op_free(&state->sum_bf16);
  mpi_forget(&state->requests);
  free(state);
}

/** Makes MPI's `call` (arguments in parentheses, without the request at their end) for each piece of `bytes` bytes; in the
 *  arguments `at` is where the piece begins and `now` its elements. */
#define BEGIN_PIECES(state, bytes, element, name, call, ...)      \
  do {                                                            \
    for (size_t at = 0; at < (bytes);) {                          \
      MPI_Request *request_;                                      \
      int piece_ = mpi_piece((bytes)-at);                         \
      int now = piece_ / (int)element_size(element);              \
      TRY(mpi_add(&(state)->requests, NOT_A_RECEIVE, &request_)); \
      TRY(mpi_status(call(__VA_ARGS__, request_), name));         \
      at += (size_t)piece_;                                       \
    }                                                             \
  } while (0)

static int mpi_sum(struct transport *transport, void *values, size_t count, enum element element) {
  struct collectives *state = transport->state;
  if (transport->comm->size == 1) return OK;
  BEGIN_PIECES(state, count * element_size(element), element, "sum over ranks", MPI_Iallreduce, MPI_IN_PLACE,
               (char *)values + at, now, type_of(element), sum_of(state, element), mpi_handle(transport->comm));
  return OK;
}

/** part of `root` = the sums of all ranks' `values`. */
static int reduce_to(struct transport *transport, char *part, const char *values, size_t bytes, enum element element,
                     int root) {
  struct collectives *state = transport->state;
  bool mine = root == transport->comm->rank;
  BEGIN_PIECES(state, bytes, element, "reduce-scatter", MPI_Ireduce,
               mine && part == values ? MPI_IN_PLACE : (const void *)(values + at), mine ? part + at : NULL, now,
               type_of(element), sum_of(state, element), root, mpi_handle(transport->comm));
  return OK;
}

static int mpi_reduce_scatter(struct transport *transport, void *part, const void *values, size_t part_count,
                              enum element element) {
  size_t bytes = part_count * element_size(element);
  if (transport->comm->size == 1) {
    if (part != values) memcpy(part, values, bytes);
    return OK;
  }
  for (int root = 0; root < transport->comm->size; root++)
    TRY(reduce_to(transport, part, (const char *)values + (size_t)root * bytes, bytes, element, root));
  return OK;
}

static int broadcast_from(struct transport *transport, char *values, size_t bytes, enum element element, int root,
                          const char *name) {
  struct collectives *state = transport->state;
  BEGIN_PIECES(state, bytes, element, name, MPI_Ibcast, values + at, now, type_of(element), root,
               mpi_handle(transport->comm));
  return OK;
}

static int mpi_all_gather(struct transport *transport, void *all, const void *part, size_t part_count,
                          enum element element) {
  size_t bytes = part_count * element_size(element);
  char *own = (char *)all + (size_t)transport->comm->rank * bytes;
  if (own != part) memcpy(own, part, bytes);
  if (transport->comm->size == 1) return OK;
  for (int root = 0; root < transport->comm->size; root++)
    TRY(broadcast_from(transport, (char *)all + (size_t)root * bytes, bytes, element, root, "all-gather"));
  return OK;
}

static int mpi_broadcast(struct transport *transport, void *values, size_t count, enum element element, int root) {
  if (transport->comm->size == 1) return OK;
  return broadcast_from(transport, values, count * element_size(element), element, root, "broadcast");
}

static int mpi_ready(struct transport *transport, bool *ready) {
  struct collectives *state = transport->state;
  return mpi_test(&state->requests, ready, "collectives of the step");
}

static int mpi_wait_all(struct transport *transport) {
  struct collectives *state = transport->state;
  return mpi_wait(transport->comm, &state->requests, "collectives of the step");
}

/* ---- channels -------------------------------------------------------------------------------------------- */

enum { CHANNEL_TAG = 16 }; /**< of channel 0; comm_send() has a smaller one */

static int mpi_channel_open(struct channel *channel) {
  struct mpi_requests *slots;
  int *highest, found;
  MPI_Comm_get_attr(MPI_COMM_WORLD, MPI_TAG_UB, &highest, &found);
  if (found && channel->tag > *highest - CHANNEL_TAG)
    return fail(ERR_INTERNAL, "channel %d: MPI has no such tag", channel->tag);
  TRY(memory_array(&slots, (size_t)channel->slots, sizeof *slots));
  channel->state = slots;
  return OK;
}

static void mpi_channel_close(struct channel *channel) {
  struct mpi_requests *slots = channel->state;
  if (!slots) return;
  for (int slot = 0; slot < channel->slots; slot++) mpi_forget(&slots[slot]);
  free(slots);
}

/* A message of 0 bytes is one piece too. */
static int mpi_channel_start(struct channel *channel, int slot, void *buffer, size_t bytes) {
  struct mpi_requests *requests = (struct mpi_requests *)channel->state + slot;
  MPI_Comm handle = mpi_handle(channel->comm);
  size_t done = 0;
  do {
    MPI_Request *request;
    int now = mpi_piece(bytes - done), tag = CHANNEL_TAG + channel->tag;
    bool sends = channel->end == CHANNEL_SENDS;
    char *piece = (char *)buffer + done;
    TRY(mpi_add(requests, sends ? NOT_A_RECEIVE : now, &request));
    TRY(mpi_status(sends ? MPI_Isend(piece, now, MPI_BYTE, channel->peer, tag, handle, request)
                         : MPI_Irecv(piece, now, MPI_BYTE, channel->peer, tag, handle, request),
                   sends ? "send" : "receive"));
    done += (size_t)now;
  } while (done < bytes);
  return OK;
}

static int mpi_channel_ready(struct channel *channel, int slot, bool *ready) {
  return mpi_test((struct mpi_requests *)channel->state + slot, ready,
                  channel->end == CHANNEL_SENDS ? "send" : "receive");
}

static int mpi_channel_wait(struct channel *channel, int slot) {
  char operation[64];
  snprintf(operation, sizeof operation, "channel %d %s rank %d", channel->tag,
           channel->end == CHANNEL_SENDS ? "to" : "from", channel->peer);
  return mpi_wait(channel->comm, (struct mpi_requests *)channel->state + slot, operation);
}

const struct transport_operations transport_mpi = {
    .name = "mpi",
    .version = no_version,
    .open = mpi_open,
    .close = mpi_close,
    .sum = mpi_sum,
    .reduce_scatter = mpi_reduce_scatter,
    .all_gather = mpi_all_gather,
    .broadcast = mpi_broadcast,
    .ready = mpi_ready,
    .wait = mpi_wait_all,
    .channel_open = mpi_channel_open,
    .channel_close = mpi_channel_close,
    .channel_start = mpi_channel_start,
    .channel_ready = mpi_channel_ready,
    .channel_wait = mpi_channel_wait,
};
