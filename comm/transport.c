#include "comm/transport.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "comm/transport_backend.h"

/* NCCL for the device whose memory is a GPU's; MPI where the host reaches it. */
static const struct transport_operations *backend_of(const struct device *device) {
#ifdef QST_CUDA
  if (strcmp(device->name, "cuda") == 0) return &transport_nccl;
#endif
  (void)device;
  return &transport_mpi;
}

/* ---- collectives ----------------------------------------------------------------------------------------- */

int transport_open(struct transport **out, struct comm *comm, struct device *device) {
  struct transport *transport;
  *out = NULL;
  TRY(memory_array(&transport, 1, sizeof *transport));
  transport->comm = comm;
  transport->device = device;
  transport->operations = backend_of(device);
  *out = transport;
  int status = transport->operations->open(transport);
  if (status != OK) transport_close(out);
  return status;
}

void transport_close(struct transport **transport) {
  if (!*transport) return;
  (*transport)->operations->close(*transport);
  free(*transport);
  *transport = NULL;
}

const char *transport_name(const struct transport *transport) {
  return transport->comm->size == 1 ? "self" : transport->operations->name;
}

const char *transport_version(const struct transport *transport) {
  return transport->comm->size == 1 ? "" : transport->operations->version();
}

static int check_sum(enum element element) {
  return element == ELEMENT_BYTE ? fail(ERR_INTERNAL, "a sum of bytes over ranks") : OK;
}

int transport_sum(struct transport *transport, void *values, size_t count, enum element element) {
  TRY(check_sum(element));
  return count ? transport->operations->sum(transport, values, count, element) : OK;
}

int transport_reduce_scatter(struct transport *transport, void *part, const void *values, size_t part_count,
                             enum element element) {
  TRY(check_sum(element));
  return part_count ? transport->operations->reduce_scatter(transport, part, values, part_count, element) : OK;
}

int transport_all_gather(struct transport *transport, void *all, const void *part, size_t part_count,
                         enum element element) {
  return part_count ? transport->operations->all_gather(transport, all, part, part_count, element) : OK;
}

int transport_broadcast(struct transport *transport, void *values, size_t count, enum element element, int root) {
  int size = transport->comm->size;
  if (root < 0 || root >= size) return fail(ERR_INTERNAL, "a broadcast from rank %d of %d", root, size);
  return count ? transport->operations->broadcast(transport, values, count, element, root) : OK;
}

int transport_ready(struct transport *transport, bool *ready) {
  return transport->operations->ready(transport, ready);
}

int transport_wait(struct transport *transport) {
  return transport->operations->wait(transport);
}

/* ---- channels -------------------------------------------------------------------------------------------- */

static int check_ends(const struct comm *comm, int peer, int tag, int slots) {
  if (peer < 0 || peer >= comm->size || peer == comm->rank)
    return fail(ERR_INTERNAL, "a channel between rank %d and rank %d of %d", comm->rank, peer, comm->size);
  if (tag >= 0 && slots > 0) return OK;
  return fail(ERR_INTERNAL, "a channel with tag %d and %d slots", tag, slots);
}

int channel_open(struct channel **out, struct comm *comm, struct device *device, int peer, enum channel_end end,
                 int tag, int slots) {
  struct channel *channel;
  *out = NULL;
  TRY(check_ends(comm, peer, tag, slots));
  TRY(memory_array(&channel, 1, sizeof *channel));
  *channel = (struct channel){.operations = backend_of(device),
                              .comm = comm,
                              .device = device,
                              .end = end,
                              .peer = peer,
                              .tag = tag,
                              .slots = slots};
  *out = channel;
  int status = memory_array(&channel->started, (size_t)slots, sizeof *channel->started);
  if (status == OK) status = channel->operations->channel_open(channel);
  if (status != OK) channel_close(out);
  return status;
}

void channel_close(struct channel **channel) {
  if (!*channel) return;
  (*channel)->operations->channel_close(*channel);
  free((*channel)->started);
  free(*channel);
  *channel = NULL;
}

static int check_slot(const struct channel *channel, int slot) {
  if (slot >= 0 && slot < channel->slots) return OK;
  return fail(ERR_INTERNAL, "channel %d: slot %d of %d", channel->tag, slot, channel->slots);
}

int channel_start(struct channel *channel, int slot, void *buffer, size_t bytes) {
  TRY(check_slot(channel, slot));
  if (channel->started[slot]) return fail(ERR_INTERNAL, "channel %d: slot %d is under way", channel->tag, slot);
  if (slot != channel->next)
    return fail(ERR_INTERNAL, "channel %d: slot %d in the turn of slot %d", channel->tag, slot, channel->next);
  TRY(channel->operations->channel_start(channel, slot, buffer, bytes));
  channel->started[slot] = true;
  channel->next = (slot + 1) % channel->slots;
  return OK;
}

int channel_ready(struct channel *channel, int slot, bool *ready) {
  *ready = true;
  TRY(check_slot(channel, slot));
  return channel->started[slot] ? channel->operations->channel_ready(channel, slot, ready) : OK;
}

int channel_wait(struct channel *channel, int slot) {
  TRY(check_slot(channel, slot));
  if (!channel->started[slot]) return OK;
  TRY(channel->operations->channel_wait(channel, slot));
  channel->started[slot] = false;
  return OK;
}
