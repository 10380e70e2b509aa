/**
 * @file device_memory.h
 * The device a test is for, and memory that the test and this device both reach.
 */
#ifndef QST_TESTS_DEVICE_MEMORY_H
#define QST_TESTS_DEVICE_MEMORY_H

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"

/** From the environment (tests/run): "cpu" or "cuda". */
static inline const char *test_device(void) {
  const char *name = getenv("DEVICE");
  return name ? name : "cpu";
}

static inline bool testing_cuda(void) {
  return strcmp(test_device(), "cuda") == 0;
}

#ifdef QST_CUDA
#include <cuda_runtime_api.h>

/** Whether host and GPU may both use managed memory while the other does; else the host's own memory is what they share. A
 *  machine that runs in another one may say so and yet have none. */
static inline bool shares_managed(void) {
  static enum { UNKNOWN, YES, NO } answer;
  int shares = 0;
  void *block = NULL;
  if (answer == UNKNOWN) {
    bool can = cudaDeviceGetAttribute(&shares, cudaDevAttrConcurrentManagedAccess, 0) == cudaSuccess && shares &&
               cudaMallocManaged(&block, 1, cudaMemAttachGlobal) == cudaSuccess;
    if (block) cudaFree(block);
    answer = can ? YES : NO;
  }
  return answer == YES;
}

/** As memory_array(), for shared_free(). */
static inline int shared_array(void *out, size_t count, size_t size) {
  void *block = NULL;
  if (!testing_cuda()) return memory_array(out, count, size);
  if ((shares_managed() ? cudaMallocManaged(&block, count * size + 1, cudaMemAttachGlobal)
                        : cudaMallocHost(&block, count * size + 1)) != cudaSuccess)
    return fail(ERR_MEMORY, "no memory that host and GPU share");
  memset(block, 0, count * size + 1);
  memcpy(out, &block, sizeof block);
  return OK;
}

static inline void shared_free(void *block) {
  if (!testing_cuda()) {
    free(block);
  } else if (shares_managed()) {
    cudaFree(block);
  } else {
    cudaFreeHost(block);
  }
}
#else
static inline int shared_array(void *out, size_t count, size_t size) {
  return memory_array(out, count, size);
}

static inline void shared_free(void *block) {
  free(block);
}
#endif

#endif
