/**
 * @file cuda.h
 * The cuda device: NVIDIA GPUs of compute capability 8.0 and later. Matrix products by cuBLASLt, everything else by own
 * kernels. bf16 activations by default.
 *
 * Every lane is a stream with a workspace of its own, so that both run at once. Operations are put on the current lane and
 * return before they are done; a download waits for its lane, device_synchronize() for all. What a kernel finds wrong in
 * device memory (a token outside the vocabulary, samples that contradict the arguments) is reported by the next of those
 * with ERR_INTERNAL; the operation that found it has written nothing there, or nothing at all.
 *
 * The CUDA runtime is linked statically and cuBLASLt is loaded when a device is opened: the program runs without a driver
 * or toolkit, and says so only when this device is asked for.
 */
#ifndef QST_KERNELS_CUDA_CUDA_H
#define QST_KERNELS_CUDA_CUDA_H

#include "kernels/cuda/launch.h"

struct cuda_blas; /**< cuBLASLt and its algorithms: task.c */

/** What a lane's products in progress use (workspace.h has the sizes). */
struct cuda_products {
  void *weights; /**< dequantized */
  float *sums;   /**< of products with a bias */
  void *fp8;     /**< rows of activations in E4M3, then their scales, then those of weights; NULL without fp8 */
};

/** A task that was begun before, and its recording from the second time on. */
struct cuda_task {
  uint64_t key;
  enum lane lane;
  bool seen;
  unsigned forgotten; /**< the state's when it was seen */
  cudaGraphExec_t graph;
};
enum { CUDA_TASKS = 64 };

struct cuda_state {
  struct cuda_context lanes[LANE_COUNT];
  enum lane lane;  /**< the current one */
  void *workspace; /**< one block: what the contexts point to */
  size_t workspace_bytes;
  struct cuda_fault *found; /**< [LANE_COUNT] pinned host memory: what the last wait saw */
  struct cuda_products products[LANE_COUNT];
  struct cuda_blas *blas;
  struct cuda_task tasks[CUDA_TASKS];      /**< by hash */
  struct cuda_task *recording[LANE_COUNT]; /**< the lane's work goes there instead of being done; or NULL */
  const struct cuda_guard *guard;          /**< NULL or borrowed: stream.h */
  struct device_limits limits;
  bool scales_rows[2]; /**< cuBLASLt scales the rows of E4M3 operands: without a residual, and with one */
  unsigned forgotten;  /**< how often the products' algorithms were */
};

static inline struct cuda_state *cuda_state(const struct device *device) {
  return device->state;
}

/** Of the current lane. */
static inline struct cuda_context *cuda_context(const struct device *device) {
  struct cuda_state *state = cuda_state(device);
  return &state->lanes[state->lane];
}

/** Whether a driver and a GPU are there; also when the driver is too old, which is an error and no reason to go without. */
bool cuda_present(void);

/** Fills `device`. ERR_SYSTEM without a driver, a GPU, cuBLASLt or the compute capability; ERR_USAGE when this host has
 *  fewer GPUs than ranks and more than one. */
int cuda_identify(int local_rank, char identity[DEVICE_IDENTITY]);
int cuda_open(struct device *device, const struct device_options *options);

/** OK, or the error with what was being done: ERR_MEMORY, ERR_LOST when the GPU is broken, else ERR_SYSTEM. */
int cuda_check(cudaError_t error, const char *what);

/** The slots of device_task_begin() and device_task_end(): graph.c. */
int cuda_task_begin(struct device *device, uint64_t key, bool *replayed);
int cuda_task_end(struct device *device);
void cuda_tasks_close(struct cuda_state *state);

/** The slot of device_prepare(): prepare.c. */
int cuda_prepare(struct device *device, int rows, int (*work)(void *context, int rows), void *context);

/** memory.c */
extern const struct device_memory cuda_memory;
/** operations.c */
extern const struct device_operations cuda_operations;

#endif
