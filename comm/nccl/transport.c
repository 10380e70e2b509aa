/* NCCL between GPUs. All collectives of a communicator share a stream; every channel has a communicator of its two ranks
 * and a stream of its own, so that no direction waits for another. One rank alone needs no NCCL. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "comm/nccl/endpoint.h"
#include "comm/transport_backend.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/stream.h"

static ncclDataType_t type_of(enum element element) {
  static const ncclDataType_t types[] = {
      [ELEMENT_I64] = ncclInt64, [ELEMENT_F32] = ncclFloat32, [ELEMENT_BF16] = ncclBfloat16, [ELEMENT_BYTE] = ncclInt8};
  return types[element];
}

/* ---- collectives ----------------------------------------------------------------------------------------- */

static int nccl_open(struct transport *transport) {
  struct comm *comm = transport->comm;
  struct endpoint *endpoint;
  ncclUniqueId id = {0};
  TRY(memory_array(&endpoint, 1, sizeof *endpoint));
  transport->state = endpoint;
  if (comm->size == 1) return OK;
  TRY(comm_agree(comm, comm->rank == 0 ? nccl_id(&id) : OK));
  TRY(comm_broadcast(comm, &id, sizeof id, 0));
  return endpoint_open(endpoint, comm, transport->device, id, comm->size, comm->rank);
}

static void nccl_close(struct transport *transport) {
  struct endpoint *endpoint = transport->state;
  if (endpoint) endpoint_close(endpoint);
  free(endpoint);
}

/** What a rank that is alone has to do, in the current lane. */
static int copy_part(struct transport *transport, void *to, const void *from, size_t bytes) {
  if (to == from) return OK;
  return cuda_check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, cuda_stream(transport->device)), "copy");
}

static int nccl_sum(struct transport *transport, void *values, size_t count, enum element element) {
  struct endpoint *e = transport->state;
  if (transport->comm->size == 1) return OK;
  TRY(endpoint_begin(e, "sum over ranks"));
  return endpoint_end(e, ncclAllReduce(values, values, count, type_of(element), ncclSum, e->nccl, e->stream));
}

static int nccl_reduce_scatter(struct transport *transport, void *part, const void *values, size_t part_count,
                               enum element element) {
  struct endpoint *e = transport->state;
  if (transport->comm->size == 1) return copy_part(transport, part, values, part_count * element_size(element));
  TRY(endpoint_begin(e, "reduce-scatter"));
  return endpoint_end(e, ncclReduceScatter(values, part, part_count, type_of(element), ncclSum, e->nccl, e->stream));
}

static int nccl_all_gather(struct transport *transport, void *whole, const void *part, size_t part_count,
                           enum element element) {
  struct endpoint *e = transport->state;
  if (transport->comm->size == 1) return copy_part(transport, whole, part, part_count * element_size(element));
  TRY(endpoint_begin(e, "all-gather"));
  return endpoint_end(e, ncclAllGather(part, whole, part_count, type_of(element), e->nccl, e->stream));
}

static int nccl_broadcast(struct transport *transport, void *values, size_t count, enum element element, int root) {
  struct endpoint *e = transport->state;
  if (transport->comm->size == 1) return OK;
  TRY(endpoint_begin(e, "broadcast"));
  return endpoint_end(e, ncclBroadcast(values, values, count, type_of(element), root, e->nccl, e->stream));
}

/** The lane waits for them, not the host. */
static int nccl_ready(struct transport *transport, bool *ready) {
  (void)transport;
  *ready = true;
  return OK;
}

static int nccl_wait(struct transport *transport) {
  struct endpoint *endpoint = transport->state;
  return transport->comm->size == 1 ? OK : endpoint_wait(endpoint, endpoint->last);
}

/* ---- channels -------------------------------------------------------------------------------------------- */

enum { SENDER, RECEIVER, ENDS }; /* ranks of a channel's communicator */

struct nccl_channel {
  struct endpoint endpoint;
  cudaEvent_t *ends; /**< [slots] of the slots' messages */
};

static int transfer(struct channel *channel, void *buffer, size_t bytes) {
  struct nccl_channel *state = channel->state;
  struct endpoint *e = &state->endpoint;
  char operation[sizeof e->operation];
  bool sends = channel->end == CHANNEL_SENDS;
  snprintf(operation, sizeof operation, "channel %d %s rank %d", channel->tag, sends ? "to" : "from", channel->peer);
  TRY(endpoint_begin(e, operation));
  return endpoint_end(e, sends ? ncclSend(buffer, bytes, ncclInt8, RECEIVER, e->nccl, e->stream)
                               : ncclRecv(buffer, bytes, ncclInt8, SENDER, e->nccl, e->stream));
}

/** The first message makes the connection, for which the host would wait. */
static int connect_ends(struct channel *channel) {
  const struct nccl_channel *state = channel->state;
  void *byte;
  TRY(device_allocate(channel->device, MEMORY_WORKSPACE, &byte, 1));
  int status = transfer(channel, byte, 1);
  if (status == OK) status = cuda_wait_stream(channel->device, state->endpoint.stream, state->endpoint.operation);
  device_release(channel->device, MEMORY_WORKSPACE, &byte, 1);
  return status;
}

static int open_ends(struct channel *channel) {
  struct nccl_channel *state = channel->state;
  bool sends = channel->end == CHANNEL_SENDS;
  ncclUniqueId id = {0};
  if (sends) TRY(nccl_id(&id));
  TRY(sends ? comm_send(channel->comm, &id, sizeof id, channel->peer)
            : comm_receive(channel->comm, &id, sizeof id, channel->peer));
  TRY(endpoint_open(&state->endpoint, channel->comm, channel->device, id, ENDS, sends ? SENDER : RECEIVER));
  return connect_ends(channel);
}

static int nccl_channel_open(struct channel *channel) {
  struct nccl_channel *state;
  TRY(memory_array(&state, 1, sizeof *state));
  channel->state = state;
  TRY(memory_array(&state->ends, (size_t)channel->slots, sizeof *state->ends));
  for (int slot = 0; slot < channel->slots; slot++)
    TRY(cuda_check(cudaEventCreateWithFlags(&state->ends[slot], cudaEventDisableTiming), "event"));
  return open_ends(channel);
}

static void nccl_channel_close(struct channel *channel) {
  struct nccl_channel *state = channel->state;
  if (!state) return;
  endpoint_close(&state->endpoint);
  for (int slot = 0; state->ends && slot < channel->slots; slot++)
    if (state->ends[slot]) cudaEventDestroy(state->ends[slot]);
  free(state->ends);
  free(state);
}

static int nccl_channel_start(struct channel *channel, int slot, void *buffer, size_t bytes) {
  struct nccl_channel *state = channel->state;
  TRY(transfer(channel, buffer, bytes));
  return cuda_check(cudaEventRecord(state->ends[slot], state->endpoint.stream), "event");
}

/** The lane waits for the message itself, not the host. */
static int nccl_channel_ready(struct channel *channel, int slot, bool *ready) {
  (void)channel, (void)slot;
  *ready = true;
  return OK;
}

static int nccl_channel_wait(struct channel *channel, int slot) {
  struct nccl_channel *state = channel->state;
  return endpoint_wait(&state->endpoint, state->ends[slot]);
}

const struct transport_operations transport_nccl = {
    .name = "nccl",
    .version = nccl_version,
    .open = nccl_open,
    .close = nccl_close,
    .sum = nccl_sum,
    .reduce_scatter = nccl_reduce_scatter,
    .all_gather = nccl_all_gather,
    .broadcast = nccl_broadcast,
    .ready = nccl_ready,
    .wait = nccl_wait,
    .channel_open = nccl_channel_open,
    .channel_close = nccl_channel_close,
    .channel_start = nccl_channel_start,
    .channel_ready = nccl_channel_ready,
    .channel_wait = nccl_channel_wait,
};
