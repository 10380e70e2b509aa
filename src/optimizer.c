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
  size_t bytes = side->size * sizeof(float);
  TRY(device_allocate(side->device, MEMORY_OPTIMIZER, &optimizer->m, bytes));
  return device_allocate(side->device, MEMORY_OPTIMIZER, &optimizer->v, bytes);
}

void optimizer_close(struct optimizer *optimizer) {
  if (!optimizer->side) return;
  struct device *device = optimizer->side->device;
  size_t bytes = optimizer->side->size * sizeof(float);
  device_release(device, MEMORY_OPTIMIZER, &optimizer->m, bytes);
  device_release(device, MEMORY_OPTIMIZER, &optimizer->v, bytes);
  *optimizer = (struct optimizer){0};
}

static bool is_ours(const struct optimizer *optimizer, const struct side_tensor *tensor) {
  const struct side *side = optimizer->side;
  return tensor->offset >= side->begin && tensor->offset < side->begin + side->size;
}

int optimizer_gradient(struct optimizer *optimizer, const struct gradient_sums *sums, int64_t label_tokens,
                       double *squares) {
  struct side *side = optimizer->side;
  TRY(device_fixed_get(
      side->device,
      &(struct fixed_get_args){
          .y = side->gradient, .sums = sums->sums, .scale = 1.0 / (double)label_tokens, .count = side->size}));
  for (int i = 0; squares && i < side->layout.count; i++) {
    const struct side_tensor *tensor = &side->layout.tensors[i];
    if (!is_ours(optimizer, tensor)) continue;
    TRY(device_sum_squares(side->device, &(struct sum_squares_args){.result = squares + i,
                                                                    .x = side_gradient(side, (int64_t)tensor->offset),
                                                                    .count = side_tensor_size(tensor)}));
  }
  return OK;
}

double optimizer_norm(const struct side_layout *layout, const double *squares) {
  double total = 0;
  for (int i = 0; i < layout->count; i++) total += squares[i];
  return sqrt(total);
}

static int update_tensor(struct optimizer *optimizer, const struct side_tensor *tensor, double scale, double lr,
                         int64_t step) {
  struct side *side = optimizer->side;
  int64_t offset = (int64_t)tensor->offset;
  size_t at = tensor->offset - side->begin;
  return device_adamw(side->device, &(struct adamw_args){.master = side_master(side, offset),
                                                         .m = optimizer->m + at,
                                                         .v = optimizer->v + at,
                                                         .weights = side_weight(side, offset),
                                                         .gradient = side_gradient(side, offset),
                                                         .count = side_tensor_size(tensor),
                                                         .gradient_scale = (float)scale,
                                                         .lr = (float)lr,
                                                         .beta1 = optimizer->beta1,
                                                         .beta2 = optimizer->beta2,
                                                         .epsilon = optimizer->epsilon,
                                                         .decay = tensor->cols ? optimizer->decay : 0.0f,
                                                         .step = step});
}

int optimizer_update(struct optimizer *optimizer, double norm, double lr, int64_t step) {
  const struct side_layout *layout = &optimizer->side->layout;
  double scale = optimizer->clip > 0 && norm > optimizer->clip ? optimizer->clip / norm : 1.0;
  for (int i = 0; i < layout->count; i++)
    if (is_ours(optimizer, &layout->tensors[i])) TRY(update_tensor(optimizer, &layout->tensors[i], scale, lr, step));
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
