/**
 * @file principal.h
 * The frozen half of the pca downsample: what of a tap is kept are its leading principal components on calibration data.
 * Of the taps h that a module reads (h_l; module 1 also the embedding h_0), d numbers each:
 *
 *   x = h / |h|                                            RMSNorm (kernels/device.h) with the weight 1/√d
 *   m = E[x],  C = E[(x − m)(x − m)ᵀ] = Σ λ_i v_i v_iᵀ     λ_1 ≥ λ_2 ≥ …, over the calibration tokens
 *   A = [v_i / √λ_i] (k rows),  a = −A·m                  tap = A·x + a: k numbers of mean 0 and variance 1
 *
 * Without the norm the first token of a sequence, hundreds of times as long as the others, would take a direction for
 * itself; without the mean that would take one; without √λ_i B would have to learn the scales.
 *
 * The leading eigenvectors come from the Lanczos iteration with full reorthogonalization (Golub and Van Loan, Matrix
 * Computations, 10.3), those of its tridiagonal matrix from implicit QR steps with Wilkinson's shift (8.3).
 */
#ifndef QST_PRINCIPAL_H
#define QST_PRINCIPAL_H

#include <stddef.h>

/** The `count` leading eigenvectors of a symmetric matrix [size][size] without negative eigenvalues: vectors [count][size]
 *  of length 1, their largest element positive, by descending values [count]. The same on any number of threads. */
int principal_vectors(const double *matrix, int size, int count, double *vectors, double *values);

/** Numbers of A and a of one module, which lie one after the other: [count][size], [count]. */
static inline size_t principal_floats(int size, int count) {
  return (size_t)count * ((size_t)size + 1);
}

/** From sums over tokens: `squares` [size][size] is Σ x xᵀ, `sums` [size] is Σ x. `squares` is overwritten. Directions the
 *  data does not have are zero. *explained: the share of the variance that is kept. */
int principal_solve(double *squares, const double *sums, double tokens, int size, int count, float *out,
                    double *explained);

#endif
