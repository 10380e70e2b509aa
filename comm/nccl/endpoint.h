/**
 * @file endpoint.h
 * This rank's end of one NCCL communicator, on a stream of its own, so that none waits behind another.
 *
 * The communicators do not block: every call is polled for until NCCL has taken it, with the deadline of the ranks'
 * communicator. While the host waits for the GPU, the same deadline holds as long as an endpoint has something under way,
 * and NCCL's asynchronous errors are looked at. A failure then ends the whole job by comm_abort(), at once: kernels that
 * wait for a dead partner hold up every clean end, ncclCommAbort() of several communicators among them (NVIDIA/nccl issues
 * 564 and 1013).
 */
#ifndef QST_COMM_NCCL_ENDPOINT_H
#define QST_COMM_NCCL_ENDPOINT_H

#include "comm/comm.h"
#include "comm/nccl/library.h"
#include "kernels/device.h"

struct endpoint {
  struct comm *comm;     /**< whose ranks it connects: its deadline; borrowed */
  struct device *device; /**< borrowed */
  ncclComm_t nccl;
  cudaStream_t stream;
  cudaEvent_t begun, last; /**< the lane's work before an operation; the last operation */
  char operation[64];      /**< the last one begun, for messages */
  struct endpoint *next;   /**< all that are open */
};

/** `id` from nccl_id() of one of the `size` ranks; all call it. */
int endpoint_open(struct endpoint *endpoint, struct comm *comm, struct device *device, ncclUniqueId id, int size,
                  int rank);
/** Waits until nothing is under way. Does nothing to one that never opened. */
void endpoint_close(struct endpoint *endpoint);

int nccl_id(ncclUniqueId *id);

/** The stream goes on after all that the current lane was given. Then make the NCCL call on `stream` and end with: */
int endpoint_begin(struct endpoint *endpoint, const char *operation);
/** Until NCCL has taken the call that gave `result`; `last` marks its end. */
int endpoint_end(struct endpoint *endpoint, ncclResult_t result);
/** The current lane waits for the event, of this endpoint's stream. */
int endpoint_wait(struct endpoint *endpoint, cudaEvent_t event);

#endif
