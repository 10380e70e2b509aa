/**
 * @file isa.h
 * How a file of kernels/cpu/isa/ names what it exports: ISA_NAME(rmsnorm) is rmsnorm_avx2 when compiled with
 * -DCPU_ISA=avx2.
 */
#ifndef QST_KERNELS_CPU_ISA_H
#define QST_KERNELS_CPU_ISA_H

#define ISA_JOIN_(name, isa) name##_##isa
#define ISA_JOIN(name, isa)  ISA_JOIN_(name, isa)
#define ISA_NAME(name)       ISA_JOIN(name, CPU_ISA)

#include "kernels/cpu/cpu.h"

/** Every operation under its name for this instruction set. */
#define ISA_OPERATION(name) int ISA_NAME(cpu_##name)(struct device *, const struct name##_args *);
DEVICE_OPERATIONS(ISA_OPERATION)
#undef ISA_OPERATION

/** Sums over rows: rows are cut into blocks by their number alone; each block has its partial sums in
 *  cpu_state.sums, which are added up in the order of the blocks. */
static inline int sum_blocks(int rows) {
  int blocks = (rows + 15) / 16;
  return blocks < CPU_SUM_BLOCKS ? blocks : CPU_SUM_BLOCKS;
}

/** The first row of a block; that of block `blocks` is `rows`. */
static inline int sum_block_start(int rows, int blocks, int block) {
  return (int)((int64_t)rows * block / blocks);
}

static inline float *sum_block(const struct cpu_state *state, int block) {
  return state->sums + (size_t)block * (size_t)state->sum_width;
}

/** out[i] = Σ over the blocks of their sums[from + i]. */
static inline void add_sum_blocks(float *out, const struct cpu_state *state, int blocks, int from, int count) {
  for (int i = 0; i < count; i++) out[i] = 0;
  for (int block = 0; block < blocks; block++)
    for (int i = 0; i < count; i++) out[i] += sum_block(state, block)[from + i];
}

#endif
