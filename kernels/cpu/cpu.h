/**
 * @file cpu.h
 * The cpu device: what its files share.
 *
 * Code that depends on the instruction set lives in kernels/cpu/isa/. Each of those files is compiled three times, with
 * CPU_ISA = plain, avx2 and avx512, and exports names made with ISA_NAME (isa/isa.h); isa/table.c collects them into one
 * `struct device_operations` for each instruction set, and opening the device chooses one. Matrix products
 * (product.h) are in those tables too, but choose their own code by `cpu_state.isa`.
 *
 * Same bits with any number of threads: work is cut into items by the arguments alone, each item is computed by one
 * thread in a fixed order, and sums over rows are combined in the order of the items.
 */
#ifndef QST_KERNELS_CPU_H
#define QST_KERNELS_CPU_H

#include "kernels/device.h"

/** In order: each one can run what is before it. */
enum cpu_isa { CPU_PLAIN, CPU_AVX2, CPU_AVX512, CPU_ISAS };

/** Sums over rows (gradients of norms and gates) are made of this many partial sums at most. */
enum { CPU_SUM_BLOCKS = 32 };

/** Floats of each thread's scratch. */
enum { CPU_THREAD_SCRATCH = 96 << 10 };

struct product; /**< the matrix products' own state: product.h */

struct cpu_state {
  enum cpu_isa isa;
  int threads; /**< for num_threads(): every parallel region uses this number */

  float *scratch; /**< [threads, CPU_THREAD_SCRATCH]: each thread's own */
  float *sums;    /**< [CPU_SUM_BLOCKS, sum_width]: partial sums over rows */
  int sum_width;
  float *gradients;     /**< [3, gradient_size]: dq, dk and dv of attention_backward before they are rounded */
  size_t gradient_size; /**< rows * side_hidden of the limits */
  size_t scratch_bytes, sums_bytes, gradients_bytes; /**< as allocated */

  struct product *product; /**< set by product_open(), freed by product_close() */
};

static inline struct cpu_state *cpu_state(const struct device *device) {
  return device->state;
}

/** "plain", "avx2", "avx512-bf16". */
const char *cpu_isa_name(enum cpu_isa isa);

/** The best instruction set that this machine runs and this program was compiled for. */
enum cpu_isa cpu_isa_best(void);

/** Always. */
bool cpu_present(void);

/** Fills `device` (name, description, act, tables, state). ERR_USAGE for an instruction set that is unknown or that
 *  this machine lacks. */
int cpu_open(struct device *device, const struct device_options *options);

/** Rows of logits at a time: with fewer the head's weights, read once a chunk, cost more than its products. */
enum { CPU_LOGIT_ROWS = 256 };

/** What a plan needs to know without opening the device: the bytes of its workspace with `threads` threads, and the
 *  activation type of these options. */
size_t cpu_workspace_bytes(const struct device_limits *limits, int threads);
int cpu_choose_act(enum dtype *out, const struct device_options *options);

extern const struct device_operations cpu_operations_plain, cpu_operations_avx2, cpu_operations_avx512;

#endif
