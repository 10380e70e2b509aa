#include "optimizer.h"

#include <math.h>
#include <string.h>

#include "base/error.h"

int optimizer_open(struct optimizer *optimizer, struct side *side, const struct options *options) {
  *optimizer = (struct optimizer){.side = side,
                                  .clip = options->clip,
                                  .beta1 = (float)options->beta1,
                                  .beta2 = (float)options->beta2,
                                  .epsilon = (float)options->epsilon,
                                  .decay = (float)options->weight_decay};
  size_t bytes = side->layout.size * sizeof(float);
  TRY(device_allocate(side->device, MEMORY_OPTIMIZER, &optimizer->m, bytes));
  TRY(device_allocate(side->device, MEMORY_OPTIMIZER, &optimizer->v, bytes));
  return device_allocate(side->device, MEMORY_OPTIMIZER, &optimizer->squares, sizeof(double));
}

void optimizer_close(struct optimizer *optimizer) {
  if (!optimizer->side) return;
  struct device *device = optimizer->side->device;
  size_t bytes = optimizer->side->layout.size * sizeof(float);
  device_release(device, MEMORY_OPTIMIZER, &optimizer->m, bytes);
  device_release(device, MEMORY_OPTIMIZER, &optimizer->v, bytes);
  device_release(device, MEMORY_OPTIMIZER, &optimizer->squares, sizeof(double));
  *optimizer = (struct optimizer){0};
}

static int gradient_norm(struct optimizer *optimizer, double *norm) {
  const struct side_layout *layout = &optimizer->side->layout;
  struct device *device = optimizer->side->device;
  double total = 0;
  for (int i = 0; i < layout->count; i++) {
    const struct side_tensor *tensor = &layout->tensors[i];
    double squares = 0;
    TRY(device_sum_squares(device, &(struct sum_squares_args){.result = optimizer->squares,
                                                              .x = optimizer->side->gradient + tensor->offset,
                                                              .count = side_tensor_size(tensor)}));
    TRY(device_download(device, &squares, optimizer->squares, sizeof squares));
    total += squares;
  }
  *norm = sqrt(total);
  return OK;
}

static int update_tensor(struct optimizer *optimizer, const struct side_tensor *tensor, double scale, double lr,
                         int64_t step) {
  struct side *side = optimizer->side;
  size_t at = tensor->offset;
  return device_adamw(side->device, &(struct adamw_args){.master = side->master + at,
                                                         .m = optimizer->m + at,
                                                         .v = optimizer->v + at,
                                                         .weights = side_weight(side, (int64_t)at),
                                                         .gradient = side->gradient + at,
                                                         .count = side_tensor_size(tensor),
                                                         .gradient_scale = (float)scale,
                                                         .lr = (float)lr,
                                                         .beta1 = optimizer->beta1,
                                                         .beta2 = optimizer->beta2,
                                                         .epsilon = optimizer->epsilon,
                                                         .decay = tensor->cols ? optimizer->decay : 0.0f,
                                                         .step = step});
}

int optimizer_step(struct optimizer *optimizer, const struct gradient_sums *sums, int64_t label_tokens, double lr,
                   int64_t step, double *norm) {
  struct side *side = optimizer->side;
  TRY(device_fixed_get(
      side->device,
      &(struct fixed_get_args){
          .y = side->gradient, .sums = sums->sums, .scale = 1.0 / (double)label_tokens, .count = side->layout.size}));
  TRY(gradient_norm(optimizer, norm));
  double scale = optimizer->clip > 0 && *norm > optimizer->clip ? optimizer->clip / *norm : 1.0;
  for (int i = 0; i < side->layout.count; i++) TRY(update_tensor(optimizer, &side->layout.tensors[i], scale, lr, step));
  return OK;
}

double schedule_rate(enum schedule schedule, double peak, int64_t warmup, int64_t total, int64_t step) {
  if (step <= warmup) return peak * (double)step / (double)warmup;
  double progress = total > warmup ? (double)(step - 1 - warmup) / (double)(total - warmup) : 0;
  switch (schedule) {
    case SCHEDULE_LINEAR:
      return peak * (1 - progress);
    case SCHEDULE_COSINE:
      return peak * 0.5 * (1 + cos(3.141592653589793 * progress));
    case SCHEDULE_CONSTANT:
      break;
  }
  return peak;
}

int schedule_parse(const char *name, enum schedule *out) {
  static const char *const names[] = {"constant", "linear", "cosine"};
  for (unsigned i = 0; i < 3; i++)
    if (strcmp(name, names[i]) == 0) {
      *out = (enum schedule)i;
      return OK;
    }
  return fail(ERR_USAGE, "--schedule '%s' is not constant, linear or cosine", name);
}
