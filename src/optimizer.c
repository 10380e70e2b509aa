#include "optimizer.h"

#include <math.h>
#include <string.h>

#include "base/error.h"

/* ---- parts ---------------------------------------------------------------------------------------------- */

/* A part that this replica updates, and where its moments lie. */
struct owned_part {
  int part;
  size_t at;          /* in m and v */
  int64_t begin, end; /* in the layout */
};

/* The next one; false at the end. Start from {.part = -1}. */
static bool next_part(const struct optimizer *optimizer, struct owned_part *owned) {
  owned->at += (size_t)(owned->end - owned->begin);
  for (owned->part++; owned->part < side_parts(optimizer->side); owned->part++) {
    if (optimizer_owner(optimizer, owned->part) != optimizer->replica) continue;
    side_part(optimizer->side, owned->part, &owned->begin, &owned->end);
    return true;
  }
  return false;
}

int optimizer_open(struct optimizer *optimizer, struct side *side, const struct options *options, int replica,
                   int replicas) {
  *optimizer = (struct optimizer){.side = side,
                                  .replica = replica,
                                  .replicas = replicas,
                                  .clip = options->clip,
                                  .beta1 = (float)options->beta1,
                                  .beta2 = (float)options->beta2,
                                  .epsilon = (float)options->epsilon,
                                  .decay = (float)options->weight_decay};
  struct owned_part owned = {.part = -1};
  while (next_part(optimizer, &owned)) optimizer->size += (size_t)(owned.end - owned.begin);
  size_t bytes = optimizer->size * sizeof(float);
  TRY(device_allocate(side->device, MEMORY_OPTIMIZER, &optimizer->m, bytes));
  return device_allocate(side->device, MEMORY_OPTIMIZER, &optimizer->v, bytes);
}

void optimizer_close(struct optimizer *optimizer) {
  if (!optimizer->side) return;
  struct device *device = optimizer->side->device;
  size_t bytes = optimizer->size * sizeof(float);
  device_release(device, MEMORY_OPTIMIZER, &optimizer->m, bytes);
  device_release(device, MEMORY_OPTIMIZER, &optimizer->v, bytes);
  *optimizer = (struct optimizer){0};
}

/* ---- the update ------------------------------------------------------------------------------------------ */

static bool is_in(const struct owned_part *owned, const struct side_tensor *tensor) {
  return (int64_t)tensor->offset >= owned->begin && (int64_t)tensor->offset < owned->end;
}

int optimizer_squares(struct optimizer *optimizer, double *squares) {
  struct side *side = optimizer->side;
  const struct side_layout *layout = &side->layout;
  struct owned_part owned = {.part = -1};
  int i = 0; /* tensors and parts are both in the layout's order */
  while (next_part(optimizer, &owned)) {
    while (!is_in(&owned, &layout->tensors[i])) i++;
    for (; i < layout->count && is_in(&owned, &layout->tensors[i]); i++)
      TRY(device_sum_squares(side->device,
                             &(struct sum_squares_args){.result = squares + i,
                                                        .x = side_gradient(side, (int64_t)layout->tensors[i].offset),
                                                        .count = side_tensor_size(&layout->tensors[i])}));
  }
  return OK;
}

double optimizer_norm(const struct side_layout *layout, const double *squares) {
  double total = 0;
  for (int i = 0; i < layout->count; i++) total += squares[i];
  return sqrt(total);
}

static int update_tensor(struct optimizer *optimizer, const struct owned_part *owned, const struct side_tensor *tensor,
                         double scale, double lr, int64_t step) {
  struct side *side = optimizer->side;
  int64_t offset = (int64_t)tensor->offset;
  size_t at = owned->at + (size_t)(offset - owned->begin);
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
  struct owned_part owned = {.part = -1};
  int i = 0;
  while (next_part(optimizer, &owned)) {
    while (!is_in(&owned, &layout->tensors[i])) i++;
    for (; i < layout->count && is_in(&owned, &layout->tensors[i]); i++)
      TRY(update_tensor(optimizer, &owned, &layout->tensors[i], scale, lr, step));
  }
  return OK;
}

int optimizer_share(struct optimizer *optimizer, struct transport *transport) {
  struct side *side = optimizer->side;
  if (optimizer->replicas == 1) return OK;
  for (int part = 0; part < side_parts(side); part++) {
    int64_t begin, end;
    side_part(side, part, &begin, &end);
    TRY(transport_broadcast(transport, side_master(side, begin), (size_t)(end - begin), ELEMENT_F32,
                            optimizer_owner(optimizer, part)));
  }
  TRY(transport_wait(transport));
  return device_to_act(side->device, &(struct to_act_args){.y = side->weights, .x = side->master, .count = side->size});
}

/* ---- moments and the host -------------------------------------------------------------------------------- */

int optimizer_upload(struct optimizer *optimizer, const float *m, const float *v) {
  const struct side *side = optimizer->side;
  struct owned_part owned = {.part = -1};
  while (next_part(optimizer, &owned)) {
    size_t from = (size_t)owned.begin - side->begin, bytes = (size_t)(owned.end - owned.begin) * sizeof(float);
    TRY(device_upload(side->device, optimizer->m + owned.at, m + from, bytes));
    TRY(device_upload(side->device, optimizer->v + owned.at, v + from, bytes));
  }
  return OK;
}

int optimizer_download(struct optimizer *optimizer, float *m, float *v) {
  const struct side *side = optimizer->side;
  struct owned_part owned = {.part = -1};
  while (next_part(optimizer, &owned)) {
    size_t to = (size_t)owned.begin - side->begin, bytes = (size_t)(owned.end - owned.begin) * sizeof(float);
    TRY(device_download(side->device, m + to, optimizer->m + owned.at, bytes));
    TRY(device_download(side->device, v + to, optimizer->v + owned.at, bytes));
  }
  return OK;
}

/* ---- the learning rate ----------------------------------------------------------------------------------- */

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
