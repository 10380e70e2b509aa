#include "projection.h"

#include <math.h>
#include <stdlib.h>

#include "base/error.h"
#include "base/memory.h"
#include "principal.h"

struct projection {
  struct backbone *backbone;
  struct device *device;
  int count;
  size_t floats; /* of a module: A [count][hidden], a [count] */
  /* device */
  float *norm;   /* [hidden] 1/√hidden */
  float *master; /* [depth][floats] */
  void *weights; /* act [depth][floats]: A as it is multiplied with */
  void *normed;  /* act [capacity, hidden] */
};

static size_t total_floats(const struct projection *p) {
  return (size_t)stage_depth(&p->backbone->stage) * p->floats;
}

static size_t normed_bytes(const struct projection *p) {
  return device_act_bytes(p->device, (size_t)p->backbone->capacity * (size_t)p->backbone->config.hidden);
}

static int set_norm(struct projection *p) {
  float *norm;
  size_t hidden = (size_t)p->backbone->config.hidden;
  TRY(memory_array(&norm, hidden, sizeof *norm));
  for (size_t i = 0; i < hidden; i++) norm[i] = (float)(1 / sqrt((double)hidden));
  int status = device_upload(p->device, p->norm, norm, hidden * sizeof *norm);
  free(norm);
  return status;
}

int projection_open(struct projection **out, struct backbone *backbone, int count) {
  TRY(memory_array(out, 1, sizeof **out));
  struct projection *p = *out;
  struct device *device = backbone->device;
  *p = (struct projection){.backbone = backbone,
                           .device = device,
                           .count = count,
                           .floats = principal_floats(backbone->config.hidden, count)};
  size_t total = total_floats(p);
  TRY(device_allocate(device, MEMORY_TAPS, &p->norm, (size_t)backbone->config.hidden * sizeof *p->norm));
  TRY(device_allocate(device, MEMORY_TAPS, &p->master, total * sizeof *p->master));
  TRY(device_allocate(device, MEMORY_TAPS, &p->weights, device_act_bytes(device, total)));
  TRY(device_allocate(device, MEMORY_TAPS, &p->normed, normed_bytes(p)));
  return set_norm(p);
}

void projection_close(struct projection **projection) {
  struct projection *p = *projection;
  if (!p) return;
  size_t total = total_floats(p);
  device_release(p->device, MEMORY_TAPS, &p->norm, (size_t)p->backbone->config.hidden * sizeof *p->norm);
  device_release(p->device, MEMORY_TAPS, &p->master, total * sizeof *p->master);
  device_release(p->device, MEMORY_TAPS, &p->weights, device_act_bytes(p->device, total));
  device_release(p->device, MEMORY_TAPS, &p->normed, normed_bytes(p));
  free(p);
  *projection = NULL;
}

int projection_set(struct projection *projection, const float *frozen) {
  struct projection *p = projection;
  size_t total = total_floats(p), first = (size_t)p->backbone->stage.first * p->floats;
  TRY(device_upload(p->device, p->master, frozen + first, total * sizeof *p->master));
  TRY(device_to_act(p->device, &(struct to_act_args){.y = p->weights, .x = p->master, .count = total}));
  return device_synchronize(p->device); /* the other lane reads them */
}

int projection_run(struct projection *projection, int i, void *y, const void *x, int rows) {
  struct projection *p = projection;
  const struct model_config *config = &p->backbone->config;
  size_t at = (size_t)(i > 0 ? i - 1 : 0) * p->floats; /* the embedding shares the first module */
  TRY(device_rmsnorm(p->device, &(struct rmsnorm_args){.y = p->normed,
                                                       .x = x,
                                                       .w = p->norm,
                                                       .rows = rows,
                                                       .cols = config->hidden,
                                                       .epsilon = config->norm_epsilon}));
  return device_linear(p->device,
                       &(struct linear_args){.y = y,
                                             .x = p->normed,
                                             .w = device_act_at(p->device, p->weights, at),
                                             .bias = p->master + at + (size_t)p->count * (size_t)config->hidden,
                                             .rows = rows,
                                             .n = p->count,
                                             .k = config->hidden});
}
