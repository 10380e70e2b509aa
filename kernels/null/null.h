/**
 * @file null.h
 * A device that computes nothing and counts everything: the trainer run on it is the plan. It stands for a `struct
 * hardware`: activation type and workspace by the rules of the device that would run there, time by kernels/null/hardware.h.
 *
 * Addresses are distinct and point to no memory. Uploads are counted, downloads give zeros.
 */
#ifndef QST_KERNELS_NULL_NULL_H
#define QST_KERNELS_NULL_NULL_H

#include "kernels/null/hardware.h"

/** Besides the operations: copies from and to the host, memory set to zero. */
enum { WORK_TRANSFER = OPERATION_COUNT, WORK_ZERO, WORK_COUNT };

struct counted {
  int64_t calls;
  double flops, bytes, seconds;
};

struct null_state {
  const struct hardware *hardware;
  enum lane lane;
  struct counted work[LANE_COUNT][WORK_COUNT];
  uintptr_t next; /**< address */
  size_t workspace;
  void *workspace_block;
};

/** Never: nobody wants it by accident. */
bool null_present(void);
/** ERR_USAGE without options->hardware: only `plan` knows what to stand for. */
int null_open(struct device *device, const struct device_options *options);

/** What a lane was given since the last null_reset(). */
struct counted null_lane(const struct device *device, enum lane lane);
/** The part of it that is one operation, or WORK_TRANSFER or WORK_ZERO. */
const struct counted *null_counted(const struct device *device, enum lane lane, int operation);
void null_reset(struct device *device);

#endif
