/**
 * @file transport.h
 * Device buffers between ranks. Two backends: `mpi` where device memory is host memory, `nccl` where it is a GPU's.
 *
 * Order. Nothing here waits on the host. An operation begins after all that the device's current lane was given before it,
 * and its buffers belong to the transport until the current lane was told to wait for it. All ranks of a communicator begin
 * the same collectives in the same order.
 *
 * Errors. ERR_LOST with MPI's text; with NCCL's ERR_LOST when it cannot reach a rank, else ERR_SYSTEM. A partner that does
 * not come within the communicator's timeout, or is known to be dead, is an error too, naming the operation. On a GPU it
 * shows while the host waits for the device, and ends the job by comm_abort() there and then: with kernels waiting for a
 * partner nothing could be closed in order.
 */
#ifndef QST_COMM_TRANSPORT_H
#define QST_COMM_TRANSPORT_H

#include "comm/comm.h"
#include "kernels/device.h"

enum element { ELEMENT_I64, ELEMENT_F32, ELEMENT_BF16, ELEMENT_BYTE };

static inline size_t element_size(enum element element) {
  static const size_t sizes[] = {[ELEMENT_I64] = 8, [ELEMENT_F32] = 4, [ELEMENT_BF16] = 2, [ELEMENT_BYTE] = 1};
  return sizes[element];
}

struct transport;

/** Collectives among the ranks of `comm` on buffers of `device`; both are borrowed. Collective. */
int transport_open(struct transport **out, struct comm *comm, struct device *device);
void transport_close(struct transport **transport);
/** "self", "mpi" or "nccl". */
const char *transport_name(const struct transport *transport);
/** Of the library that moves device memory, "2.28.9"; "" where that is MPI, or with one rank. */
const char *transport_version(const struct transport *transport);

/** Sums in place; I64, F32 and BF16 (each partial sum rounded). */
int transport_sum(struct transport *transport, void *values, size_t count, enum element element);
/** part[i] = Σ over ranks of values[rank · part_count + i]; values: [size · part_count]. part may be its own place in
 *  values. */
int transport_reduce_scatter(struct transport *transport, void *part, const void *values, size_t part_count,
                             enum element element);
/** all[r · part_count + i] = part[i] of rank r; part may be its own place in all. */
int transport_all_gather(struct transport *transport, void *all, const void *part, size_t part_count,
                         enum element element);
int transport_broadcast(struct transport *transport, void *values, size_t count, enum element element, int root);
/** Whether work that waits for all collectives begun would begin at once, as far as the host can know. */
int transport_ready(struct transport *transport, bool *ready);
/** The current lane waits for all collectives begun. */
int transport_wait(struct transport *transport);

/** A one-way pipe of messages between two ranks, in order: each end gives its buffers, by slot. A message's size is the
 *  same at both ends. Slots are used in turn: 0, 1, …, slots − 1, 0, … */
struct channel;

enum channel_end { CHANNEL_SENDS, CHANNEL_RECEIVES };

/** The two ends, `peer` of `comm` and this rank, open it with the same tag (≥ 0, unique between the two) and, where a rank
 *  has several, in the same order. */
int channel_open(struct channel **out, struct comm *comm, struct device *device, int peer, enum channel_end end,
                 int tag, int slots);
void channel_close(struct channel **channel);
/** Begins the slot's message: `bytes` from or into the buffer. The slot must be idle: never started, or waited for. */
int channel_start(struct channel *channel, int slot, void *buffer, size_t bytes);
/** Whether work that waits for the slot would begin at once, as far as the host can know. Idle slots are ready. */
int channel_ready(struct channel *channel, int slot, bool *ready);
/** The current lane waits for the slot's message. Nothing when it is idle. */
int channel_wait(struct channel *channel, int slot);

#endif
