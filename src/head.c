#include "head.h"

#include "base/error.h"

/* ---- memory --------------------------------------------------------------------------------------------- */

struct head_part {
  enum memory_kind kind;
  void *block; /* address of the pointer */
  size_t bytes;
};

enum { HEAD_PARTS = 11 };

static int list_parts(struct head *head, struct head_part parts[HEAD_PARTS]) {
  size_t rows = (size_t)head->capacity, chunk = (size_t)head->chunk;
  size_t logits = chunk * (size_t)head->backbone->config.vocabulary;
  size_t wide = device_act_bytes(head->device, rows * (size_t)head->backbone->config.hidden);
  int count = 0;
  parts[count++] = (struct head_part){MEMORY_WORKSPACE, &head->logits, logits * sizeof(float)};
  parts[count++] = (struct head_part){MEMORY_WORKSPACE, &head->loss, chunk * sizeof(float)};
  if (!head->side) return count;
  size_t narrow = device_act_bytes(head->device, rows * (size_t)head->side->layout.shape.width);
  parts[count++] = (struct head_part){MEMORY_SIDE, &head->lifted, wide};
  parts[count++] = (struct head_part){MEMORY_SIDE, &head->mixed, wide};
  parts[count++] = (struct head_part){MEMORY_SIDE, &head->s_picked, narrow};
  parts[count++] = (struct head_part){MEMORY_SIDE, &head->s_normed, narrow};
  parts[count++] = (struct head_part){MEMORY_SIDE, &head->s_moments.rstd, rows * sizeof(float)};
  if (head->side->layout.final_norm.bias != SIDE_ABSENT)
    parts[count++] = (struct head_part){MEMORY_SIDE, &head->s_moments.mean, rows * sizeof(float)};
  if (!head->side->training) return count;
  parts[count++] = (struct head_part){MEMORY_SIDE, &head->ds_picked, narrow};
  parts[count++] = (struct head_part){MEMORY_SIDE, &head->dy, wide};
  parts[count++] = (struct head_part){MEMORY_WORKSPACE, &head->dlogits, device_act_bytes(head->device, logits)};
  return count;
}

int head_open(struct head *head, struct backbone *backbone, struct side *side, int capacity) {
  int chunk = capacity < backbone->device->logit_rows ? capacity : backbone->device->logit_rows;
  *head = (struct head){
      .device = backbone->device, .backbone = backbone, .side = side, .capacity = capacity, .chunk = chunk};
  struct head_part parts[HEAD_PARTS];
  int count = list_parts(head, parts);
  for (int i = 0; i < count; i++) TRY(device_allocate(head->device, parts[i].kind, parts[i].block, parts[i].bytes));
  return OK;
}

void head_close(struct head *head) {
  if (!head->device) return;
  struct head_part parts[HEAD_PARTS];
  int count = list_parts(head, parts);
  for (int i = 0; i < count; i++) device_release(head->device, parts[i].kind, parts[i].block, parts[i].bytes);
  *head = (struct head){0};
}

/* ---- forward -------------------------------------------------------------------------------------------- */

static int pick(struct head *head, const struct micro_batch *batch, void *y, const void *x, int cols) {
  return device_copy_rows(head->device, &(struct copy_rows_args){.y = y,
                                                                 .x = x,
                                                                 .x_index = batch->label_rows,
                                                                 .rows = batch->label_count,
                                                                 .cols = cols,
                                                                 .y_stride = cols,
                                                                 .x_stride = cols});
}

/* lifted = U · norm_side(s_L) + b on label rows */
static int side_output(struct head *head, const struct micro_batch *batch, const void *s) {
  struct side *side = head->side;
  const struct side_layout *layout = &side->layout;
  TRY(pick(head, batch, head->s_picked, s, layout->shape.width));
  struct norm norm = side_norm(side, layout->final_norm, layout->shape.norm_epsilon);
  TRY(norm_forward(head->device, &norm, head->s_normed, &head->s_moments, head->s_picked, batch->label_count));
  return device_linear(head->device, &(struct linear_args){.y = head->lifted,
                                                           .x = head->s_normed,
                                                           .w = side_weight(side, layout->upsample.weight),
                                                           .bias = side_master(side, layout->upsample.bias),
                                                           .rows = batch->label_count,
                                                           .n = layout->shape.hidden,
                                                           .k = layout->shape.width});
}

int head_forward(struct head *head, const struct micro_batch *batch, const struct taps *taps, const void *s) {
  if (batch->label_count > head->capacity)
    return fail(ERR_INTERNAL, "%d label rows in a head for %d", batch->label_count, head->capacity);
  head->y = head->side ? head->mixed : taps->normed;
  if (!head->side) return OK;
  TRY(side_output(head, batch, s));
  const struct side_shape *shape = &head->side->layout.shape;
  return device_mix(head->device, &(struct mix_args){.y = head->mixed,
                                                     .h = taps->normed,
                                                     .side = head->lifted,
                                                     .weight = side_master(head->side, head->side->layout.mix),
                                                     .kind = shape->mix,
                                                     .rows = batch->label_count,
                                                     .cols = shape->hidden});
}

/* ---- loss ----------------------------------------------------------------------------------------------- */

static void *hidden_rows(const struct head *head, const void *block, int first) {
  return device_act_at(head->device, block, (size_t)first * (size_t)head->backbone->config.hidden);
}

int head_logits(struct head *head, int first, int count) {
  return device_frozen_logits(head->device, &(struct frozen_logits_args){.logits = head->logits,
                                                                         .x = hidden_rows(head, head->y, first),
                                                                         .weight = &head->backbone->head,
                                                                         .rows = count});
}

/* Loss of one chunk of label rows, and its gradient in head->dlogits when asked. */
static int chunk_loss(struct head *head, const struct micro_batch *batch, int first, int count, void *dlogits,
                      struct gradient_sums *sums) {
  TRY(head_logits(head, first, count));
  TRY(device_cross_entropy(head->device, &(struct cross_entropy_args){.loss = head->loss,
                                                                      .dlogits = dlogits,
                                                                      .logits = head->logits,
                                                                      .labels = batch->label_ids + first,
                                                                      .rows = count,
                                                                      .cols = head->backbone->config.vocabulary}));
  return device_fixed_total(
      head->device,
      &(struct fixed_total_args){.sum = sums->loss, .faults = sums->faults, .x = head->loss, .count = (size_t)count});
}

static int chunk_rows(const struct head *head, const struct micro_batch *batch, int first) {
  int left = batch->label_count - first;
  return left < head->chunk ? left : head->chunk;
}

int head_loss(struct head *head, const struct micro_batch *batch, struct gradient_sums *sums) {
  for (int first = 0; first < batch->label_count; first += head->chunk)
    TRY(chunk_loss(head, batch, first, chunk_rows(head, batch, first), NULL, sums));
  return OK;
}

static int loss_backward(struct head *head, const struct micro_batch *batch, struct gradient_sums *sums) {
  for (int first = 0; first < batch->label_count; first += head->chunk) {
    int count = chunk_rows(head, batch, first);
    TRY(chunk_loss(head, batch, first, count, head->dlogits, sums));
    TRY(device_frozen_input_grad(head->device,
                                 &(struct frozen_input_grad_args){.dx = hidden_rows(head, head->dy, first),
                                                                  .dy = head->dlogits,
                                                                  .weight = &head->backbone->head,
                                                                  .rows = count}));
  }
  return OK;
}

static int mix_backward(struct head *head, const struct taps *taps, int rows) {
  struct side *side = head->side;
  int64_t weight = side->layout.mix;
  return device_mix_backward(head->device, &(struct mix_backward_args){.dside = head->dy,
                                                                       .dweight = side_gradient(side, weight),
                                                                       .dy = head->dy,
                                                                       .h = taps->normed,
                                                                       .side = head->lifted,
                                                                       .weight = side_master(side, weight),
                                                                       .kind = side->layout.shape.mix,
                                                                       .rows = rows,
                                                                       .cols = side->layout.shape.hidden});
}

/* From the gradient of `lifted` to those of U, b, norm_side and the label rows of s_L. */
static int upsample_backward(struct head *head, int rows) {
  struct side *side = head->side;
  const struct side_layout *layout = &side->layout;
  int hidden = layout->shape.hidden, width = layout->shape.width;
  TRY(device_linear_weight_grad(head->device,
                                &(struct linear_weight_grad_args){.dw = side_gradient(side, layout->upsample.weight),
                                                                  .dbias = side_gradient(side, layout->upsample.bias),
                                                                  .dy = head->dy,
                                                                  .x = head->s_normed,
                                                                  .rows = rows,
                                                                  .n = hidden,
                                                                  .k = width}));
  TRY(device_linear_input_grad(head->device,
                               &(struct linear_input_grad_args){.dx = head->s_normed,
                                                                .dy = head->dy,
                                                                .w = side_weight(side, layout->upsample.weight),
                                                                .rows = rows,
                                                                .n = hidden,
                                                                .k = width}));
  struct norm norm = side_norm(side, layout->final_norm, layout->shape.norm_epsilon);
  return norm_backward(head->device, &norm, &head->s_moments,
                       &(struct norm_gradient){.dx = head->ds_picked,
                                               .dweight = side_gradient(side, layout->final_norm.weight),
                                               .dbias = side_gradient(side, layout->final_norm.bias),
                                               .dy = head->s_normed,
                                               .x = head->s_picked,
                                               .rows = rows});
}

int head_backward(struct head *head, const struct micro_batch *batch, const struct taps *taps, void *ds,
                  struct gradient_sums *sums) {
  struct side *side = head->side;
  int width = side->layout.shape.width;
  TRY(loss_backward(head, batch, sums));
  TRY(mix_backward(head, taps, batch->label_count));
  TRY(upsample_backward(head, batch->label_count));
  TRY(side_collect(side, side_head_begin(&side->layout), (int64_t)side->layout.size, sums));
  return device_copy_rows(head->device, &(struct copy_rows_args){.y = ds,
                                                                 .x = head->ds_picked,
                                                                 .y_index = batch->label_rows,
                                                                 .rows = batch->label_count,
                                                                 .cols = width,
                                                                 .y_stride = width,
                                                                 .x_stride = width,
                                                                 .zero_rows = batch->rows});
}
