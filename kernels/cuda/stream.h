/**
 * @file stream.h
 * For whoever moves device buffers besides the cuda device's own operations.
 */
#ifndef QST_KERNELS_CUDA_STREAM_H
#define QST_KERNELS_CUDA_STREAM_H

#include <cuda_runtime_api.h>

#include "kernels/device.h"

/** Of the current lane. */
cudaStream_t cuda_stream(const struct device *device);

/** A stream that no other waits for unasked. Blocks of an urgent one start first wherever room becomes free on the GPU: for
 *  many short kernels that wait for each other, beside long ones that fill all of it. */
cudaError_t cuda_stream_open(cudaStream_t *stream, bool urgent);

/** The host waits until the stream has done all that it was given. */
int cuda_wait_stream(const struct device *device, cudaStream_t stream, const char *operation);

/** Looks after the host's waits for the GPU: begin(), then poll() again and again, then end(). The wait ends with poll()'s
 *  status when that is not OK. */
struct cuda_guard {
  void (*begin)(void);
  int (*poll)(const char *operation);
  void (*end)(void);
};

/** NULL: nobody does. */
void cuda_set_guard(struct device *device, const struct cuda_guard *guard);

#endif
