/**
 * @file hardware.h
 * What a plan is made for: how fast a processor and its links are. Peaks are their makers' (hardware.c names the sheets);
 * what of them a program reaches is an assumption for GPUs, and measured for the cpu.
 */
#ifndef QST_KERNELS_NULL_HARDWARE_H
#define QST_KERNELS_NULL_HARDWARE_H

#include "kernels/null/cost.h"

/** What a processor reaches of its peaks, until it has been measured: large products of its matrix units, streams of its
 *  memory, what is no matrix product of its vector units. */
#define ACHIEVED_MATRIX 0.75
#define ACHIEVED_MEMORY 0.85
#define ACHIEVED_VECTOR 0.5

/** Heads narrower than this do not fill a matrix unit: their attention runs on the vector units. */
enum { MATRIX_HEAD_DIM = 16 };

/** Bytes a second one way, and seconds before the first of them. */
struct wire {
  double bandwidth, latency;
};

/** An operation that was measured: `seconds` for this much work. */
struct measured_cost {
  enum operation operation;
  struct cost cost;
  double seconds;
};

struct hardware {
  const char *name;
  const char *board;       /**< what a driver calls it, in part; NULL: no GPU */
  bool is_gpu;             /**< decides activation type and workspace: cuda's rules or cpu's */
  double matrix_bf16;      /**< FLOP/s of dense bf16 products with fp32 sums */
  double matrix_fp8;       /**< likewise of fp8; 0: no such units */
  double vector;           /**< FLOP/s of fp32 arithmetic */
  double memory_bandwidth; /**< bytes a second */
  double memory;           /**< bytes; 0: not known */
  double launch;           /**< seconds that an operation takes at least */
  struct wire host;        /**< between its memory and the host's */
  struct wire node,
      network; /**< of one processor to others of its node; to other nodes, its share of the node's network */
  const struct measured_cost *measured; /**< [measured_count]; GPUs: none */
  int measured_count;
  bool achieved; /**< the rates above are reached as they stand (measured), not peaks */
};

/** ERR_USAGE with the closest name. */
int hardware_find(const char *name, const struct hardware **out);

/** The one a driver's text (struct device, description) speaks of; NULL: none of them. */
const struct hardware *hardware_recognize(const char *text);

/** Seconds of one operation: the slower of arithmetic and memory, at least a launch. Where operations were measured: as long as
 *  the one of them that is closest in size took, times the ratio of the two by that rule. */
double hardware_seconds(const struct hardware *hardware, enum operation operation, const struct cost *cost);
/** Seconds of a copy between host and device. */
double hardware_transfer_seconds(const struct hardware *hardware, double bytes);

#endif
