#include "norm.h"

int norm_forward(struct device *device, const struct norm *norm, void *y, const struct norm_moments *moments,
                 const void *x, int rows) {
  if (!norm->bias)
    return device_rmsnorm(device, &(struct rmsnorm_args){.y = y,
                                                         .rstd = moments ? moments->rstd : NULL,
                                                         .x = x,
                                                         .w = norm->weight,
                                                         .rows = rows,
                                                         .cols = norm->cols,
                                                         .epsilon = norm->epsilon});
  return device_layernorm(device, &(struct layernorm_args){.y = y,
                                                           .mean = moments ? moments->mean : NULL,
                                                           .rstd = moments ? moments->rstd : NULL,
                                                           .x = x,
                                                           .w = norm->weight,
                                                           .b = norm->bias,
                                                           .rows = rows,
                                                           .cols = norm->cols,
                                                           .epsilon = norm->epsilon});
}

int norm_backward(struct device *device, const struct norm *norm, const struct norm_moments *moments,
                  const struct norm_gradient *g) {
  if (!norm->bias)
    return device_rmsnorm_backward(device, &(struct rmsnorm_backward_args){.dx = g->dx,
                                                                           .dw = g->dweight,
                                                                           .dy = g->dy,
                                                                           .x = g->x,
                                                                           .w = norm->weight,
                                                                           .rstd = moments->rstd,
                                                                           .rows = g->rows,
                                                                           .cols = norm->cols,
                                                                           .accumulate = g->accumulate});
  return device_layernorm_backward(device, &(struct layernorm_backward_args){.dx = g->dx,
                                                                             .dw = g->dweight,
                                                                             .db = g->dbias,
                                                                             .dy = g->dy,
                                                                             .x = g->x,
                                                                             .w = norm->weight,
                                                                             .mean = moments->mean,
                                                                             .rstd = moments->rstd,
                                                                             .rows = g->rows,
                                                                             .cols = norm->cols,
                                                                             .accumulate = g->accumulate});
}
