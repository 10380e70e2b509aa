/**
 * @file task.h
 * One product by cuBLASLt: what product.c and product_fp8.c make all of theirs of.
 *
 * Its algorithm is what cuBLASLt's heuristics say for its shape, types and alignment, with the number of tokens rounded up to
 * one of a few (or for exactly that number, should the algorithm refuse it), among those whose sums have a fixed order (no
 * reduction in place). It is found when it is prepared for (device_prepare), else at the first use, and kept; forgetting it
 * changes nothing. What cuBLASLt has none for runs on a kernel of our own (product_plain.cu), after a warning.
 */
#ifndef QST_KERNELS_CUDA_TASK_H
#define QST_KERNELS_CUDA_TASK_H

#include "kernels/cuda/cuda.h"

/** Loads cuBLASLt and lays out its workspace. */
int cuda_blas_open(struct device *device);
/** For a device that was never opened, too. */
void cuda_blas_close(struct device *device);

int cuda_run_task(struct device *device, const struct task *task);
/** Whether cuBLASLt has an algorithm for as many tokens as stand for its number: with scales, not every version and GPU does. */
bool cuda_can_run(struct device *device, const struct task *task);

/** The number of tokens whose algorithms are taken for `tokens`: the first from there on that has some of its own. */
int cuda_tokens_like(int tokens);

#endif
