/**
 * @file pack.h
 * Brings operands of a product into the order the register tile reads: for every step of the inner dimension the
 * values of all columns, side by side. Included by multiply.c only.
 */
#ifndef QST_KERNELS_CPU_ISA_PACK_H
#define QST_KERNELS_CPU_ISA_PACK_H

#include "kernels/cpu/isa/isa.h"
#include "kernels/cpu/multiply.h"

#define pack_panel ISA_NAME(pack_panel)
#define pack_tile  ISA_NAME(pack_tile)

/** Steps that `elements` of the inner dimension make. */
static inline int steps_of(int elements, bool pairs) {
  return pairs ? (elements + 1) / 2 : elements;
}

/** panel[step][width] = columns column .. column + width of B (zero beyond n), elements first .. first + count of the
 *  inner dimension (a missing second of a pair is zero). `stage`: STAGE_WORDS. */
void pack_panel(uint32_t *panel, const struct multiply *task, uint32_t *stage, bool pairs, int column, int width,
                int first, int count);

/** Rows row .. row + rows of A, at most TILE_ROWS: tile[row][step] if A is contiguous along the inner dimension, else
 *  tile[step][TILE_ROWS]. */
void pack_tile(uint32_t *tile, const struct multiply *task, bool pairs, int row, int rows, int first, int count);

#endif
