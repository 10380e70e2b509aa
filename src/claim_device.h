/**
 * @file claim_device.h
 * One rank, one GPU.
 */
#ifndef QST_CLAIM_DEVICE_H
#define QST_CLAIM_DEVICE_H

#include "base/options.h"
#include "comm/comm.h"

/** Before anything is loaded: ERR_USAGE when two ranks would compute on the same GPU, naming both. Collective; all ranks
 *  know of the failure. */
int claim_device(const struct options *options, struct comm *comm);

#endif
