/**
 * @file cost.h
 * What each operation of kernels/device.h costs, from its arguments alone.
 *
 * FLOPs are those of products and attention, two a multiply-add, as a model's FLOPs are counted; element by element work
 * is bound by memory everywhere and counts none. Bytes are what must pass between memory and the processor when every operand
 * passes once. Formulas: cost.c.
 */
#ifndef QST_KERNELS_NULL_COST_H
#define QST_KERNELS_NULL_COST_H

#include "kernels/device.h"

#define OPERATION_ENUM(name) OPERATION_##name,
enum operation { DEVICE_OPERATIONS(OPERATION_ENUM) OPERATION_COUNT };
#undef OPERATION_ENUM

struct cost {
  double flops;
  double bytes;
  double
      unpacked; /**< bytes of frozen weights in the activation type: a device that dequantizes them into memory before it
                        multiplies writes and reads these besides */
  bool fp8;     /**< multiplies in 8-bit floats; unpacked is of these then */
  bool narrow;  /**< attention of heads too narrow for matrix units */
};

const char *operation_name(enum operation operation);
/** OPERATION_COUNT for a name that is none. */
enum operation operation_find(const char *name);

/** `arguments`: the operation's struct. */
struct cost operation_cost(enum operation operation, const void *arguments, enum dtype act);

#endif
