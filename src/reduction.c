#include "reduction.h"

#include <string.h>

#include "base/error.h"

/* ---- opening -------------------------------------------------------------------------------------------- */

static size_t wire_bytes(const struct reduction *reduction) {
  return device_act_bytes(reduction->side->device, reduction->side->size);
}

static int64_t *sums_at(const struct reduction *reduction, int64_t begin) {
  return reduction->sums->sums + ((size_t)begin - reduction->sums->begin);
}

static void *wire_at(const struct reduction *reduction, int64_t begin) {
  return device_act_at(reduction->side->device, reduction->wire, (size_t)begin - reduction->side->begin);
}

/* The side network's scratch is free for a part once the last micro-batch's gradients of it were collected. */
static int give(void *context, int64_t begin, int64_t end) {
  struct reduction *reduction = context;
  struct side *side = reduction->side;
  size_t count = (size_t)(end - begin);
  if (reduction->kind == REDUCE_EXACT)
    return transport_sum(reduction->transport, sums_at(reduction, begin), count, ELEMENT_I64);
  float *gradient = side_gradient(side, begin);
  TRY(device_fixed_get(
      side->device, &(struct fixed_get_args){
                        .y = gradient, .sums = sums_at(reduction, begin), .scale = reduction->scale, .count = count}));
  if (reduction->kind == REDUCE_FAST) return transport_sum(reduction->transport, gradient, count, ELEMENT_F32);
  void *wire = wire_at(reduction, begin);
  TRY(device_to_act(side->device, &(struct to_act_args){.y = wire, .x = gradient, .count = count}));
  return transport_sum(reduction->transport, wire, count, ELEMENT_BF16);
}

static int choose_kind(struct reduction *reduction, const char *name) {
  reduction->kind = REDUCE_EXACT;
  if (strcmp(name, "fast") == 0) reduction->kind = REDUCE_FAST;
  if (strcmp(name, "fast-bf16") == 0) reduction->kind = REDUCE_FAST_BF16;
  if (reduction->kind != REDUCE_FAST_BF16 || reduction->side->device->act == DTYPE_BF16) return OK;
  return fail(ERR_USAGE, "--reduction fast-bf16 needs bf16 activations: leave out --act fp32, or use --reduction fast");
}

int reduction_open(struct reduction *reduction, struct side *side, struct gradient_sums *sums,
                   struct transport *transport, const char *kind) {
  *reduction = (struct reduction){
      .side = side, .sums = sums, .transport = transport, .listener = {.collected = give, .context = reduction}};
  TRY(choose_kind(reduction, kind));
  if (reduction->kind != REDUCE_FAST_BF16) return OK;
  return device_allocate(side->device, MEMORY_COMMUNICATION, &reduction->wire, wire_bytes(reduction));
}

void reduction_close(struct reduction *reduction) {
  if (!reduction->side) return;
  device_release(reduction->side->device, MEMORY_COMMUNICATION, &reduction->wire, wire_bytes(reduction));
  *reduction = (struct reduction){0};
}

/* ---- use ------------------------------------------------------------------------------------------------ */

int reduction_of_nothing(struct reduction *reduction) {
  for (int part = side_parts(reduction->side) - 1; part >= 0; part--) {
    int64_t begin, end;
    side_part(reduction->side, part, &begin, &end);
    TRY(give(reduction, begin, end));
  }
  return OK;
}

int reduction_gradient(struct reduction *reduction) {
  struct side *side = reduction->side;
  switch (reduction->kind) {
    case REDUCE_EXACT:
      return device_fixed_get(
          side->device,
          &(struct fixed_get_args){
              .y = side->gradient, .sums = reduction->sums->sums, .scale = reduction->scale, .count = side->size});
    case REDUCE_FAST_BF16:
      return device_from_act(side->device,
                             &(struct from_act_args){.y = side->gradient, .x = reduction->wire, .count = side->size});
    case REDUCE_FAST:
      break;
  }
  return OK;
}
