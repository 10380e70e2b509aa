/**
 * @file norm.h
 * The norm of a model's family, of the backbone and of the side network alike: RMSNorm, or LayerNorm where there is a bias.
 */
#ifndef QST_NORM_H
#define QST_NORM_H

#include "kernels/device.h"

struct norm {
  float *weight, *bias; /**< device [cols]; no bias: RMSNorm */
  int cols;
  float epsilon;
};

/** What a norm leaves for its backward pass, device [rows]; mean: LayerNorm alone. */
struct norm_moments {
  float *mean, *rstd;
};

/** y = norm(x), act [rows, cols]; NULL moments: no backward pass. */
int norm_forward(struct device *device, const struct norm *norm, void *y, const struct norm_moments *moments,
                 const void *x, int rows);

struct norm_gradient {
  void *dx;               /**< act [rows, cols] */
  float *dweight, *dbias; /**< [cols], overwritten; dbias: LayerNorm alone */
  const void *dy, *x;     /**< act [rows, cols] */
  int rows;
  bool accumulate; /**< dx += instead of dx = */
};
int norm_backward(struct device *device, const struct norm *norm, const struct norm_moments *moments,
                  const struct norm_gradient *gradient);

#endif
