/**
 * @file runtime.h
 * Inside the host runtime: streams and memory (runtime.cc), a grid's threads (grid.cc), products (cublaslt.cc), messages (nccl.cc).
 */
#ifndef QST_TESTS_HOST_RUNTIME_H
#define QST_TESTS_HOST_RUNTIME_H

#include <functional>

#include "cuda_runtime.h"

/** QST_HOST_SCHEDULE: in which order threads of a block run, and how far other streams get while one is waited for: no
 *  further than they must, to their end first, or by turns. */
enum host_schedule { HOST_FORWARD, HOST_REVERSE, HOST_RANDOM };
host_schedule host_schedule_of_tests();
/** Below `limit`; the same sequence in every run. */
unsigned host_random(unsigned limit);

/** Puts work on a stream: done, in order, when someone waits for the stream. It is tried again later when it returns
 *  cudaErrorNotReady. */
void host_enqueue(cudaStream_t stream, std::function<cudaError_t()> work);

/** A little of every stream's work. */
void host_advance();

/** Whether cuBLASLt may be asked for an algorithm: not while a stream is captured and, with QST_HOST_EARLY_CHOICE, not once an
 *  event was recorded, which set-up does not do. */
bool host_may_choose();

/** Whether all of [block, block + bytes) is in one allocation that a GPU can reach; says so on stderr when not. */
bool host_on_device(const void *block, size_t bytes, const char *what);

/** Runs all blocks of a grid, one after the other. */
cudaError_t host_run_grid(const cudaLaunchConfig_t &config, const std::function<void()> &thread);

/** Before a block: forgets copies and products that the last one never waited for (ptx.cuh, wgmma.cuh). */
void host_begin_block();
/** After it: whether the threads of each warp group asked for the same products; says so on stderr when not. */
bool host_end_block(unsigned threads);

/** Bytes of shared memory that a block may ask for: a Hopper's. */
enum { HOST_SHARED_MOST = 227 << 10, HOST_SHARED_FREE = 48 << 10 };
/** What the kernel of the next launches was allowed with cudaFuncSetAttribute(). */
size_t host_shared_allowed();

#endif
