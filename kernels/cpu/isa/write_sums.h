/**
 * @file write_sums.h
 * The end of a product: C = sums + bias + residual, rounded to C's type.
 */
#ifndef QST_KERNELS_CPU_ISA_WRITE_SUMS_H
#define QST_KERNELS_CPU_ISA_WRITE_SUMS_H

#include "kernels/cpu/isa/isa.h"
#include "kernels/cpu/multiply.h"

#define write_sums ISA_NAME(write_sums)

/** Elements [row .. row + rows, column .. column + columns] of C from sums[rows][width], width at least `columns`. */
void write_sums(const struct multiply *task, const float *sums, int width, int row, int rows, int column, int columns);

#endif
