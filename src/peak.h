/**
 * @file peak.h
 * How fast this device is at what it does fastest, for the fraction of it that training reaches.
 */
#ifndef QST_PEAK_H
#define QST_PEAK_H

#include "kernels/device.h"

/** FLOP/s of a large product, as large as the device does in a moment. Leaves no memory behind. */
int peak_measure(struct device *device, double *out);

#endif
