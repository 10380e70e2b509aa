/**
 * @file cuda.h
 * The cuda device: NVIDIA GPUs of compute capability 8.0 and later. Matrix products by cuBLASLt, everything else by own
 * kernels. bf16 activations by default.
 *
 * Operations are put on one stream and return before they are done; downloads and device_synchronize() wait. What a kernel
 * finds wrong in device memory (a token outside the vocabulary, samples that contradict the arguments) is reported by the
 * next of those with ERR_INTERNAL; the operation that found it has written nothing there, or nothing at all.
 *
 * The CUDA runtime is linked statically and cuBLASLt is loaded when a device is opened: the program runs without a driver
 * or toolkit, and says so only when this device is asked for.
 */
#ifndef QST_KERNELS_CUDA_CUDA_H
#define QST_KERNELS_CUDA_CUDA_H

#include "kernels/cuda/launch.h"

struct cuda_product; /**< the matrix products' own state: product.h */

struct cuda_state {
  struct cuda_context context;
  void *workspace; /**< one block: what the context points to */
  size_t workspace_bytes;
  struct cuda_fault *found; /**< pinned host memory: what the last wait saw */
  struct cuda_product *product;
};

static inline struct cuda_state *cuda_state(const struct device *device) {
  return device->state;
}

/** Whether a driver and a GPU are there. */
bool cuda_present(void);

/** Fills `device`. ERR_SYSTEM without a driver, a GPU, cuBLASLt or the compute capability; ERR_USAGE when this host has
 *  fewer GPUs than ranks and more than one. */
int cuda_open(struct device *device, const struct device_options *options);

/** OK, or the error with what was being done. */
int cuda_check(cudaError_t error, const char *what);

extern const struct device_operations cuda_operations;

#endif
