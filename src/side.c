#include "side.h"

#include <math.h>

#include "base/error.h"

/* ---- small phrases -------------------------------------------------------------------------------------- */

/* y = x · w[n, k]ᵀ + bias + residual with the trained pair at `at` */
static int multiply(struct side *side, void *y, const void *x, struct side_pair at, int rows, int n, int k,
                    const void *residual) {
  return device_linear(side->device, &(struct linear_args){.y = y,
                                                           .x = x,
                                                           .w = side_weight(side, at.weight),
                                                           .bias = side_master(side, at.bias),
                                                           .residual = residual,
                                                           .rows = rows,
                                                           .n = n,
                                                           .k = k});
}

/* The gradient of `multiply`: dw (and dbias) from dy and x, and dx unless it is NULL. */
static int multiply_backward(struct side *side, void *dx, const void *dy, const void *x, struct side_pair at, int rows,
                             int n, int k) {
  TRY(device_linear_weight_grad(side->device, &(struct linear_weight_grad_args){.dw = side_gradient(side, at.weight),
                                                                                .dbias = side_gradient(side, at.bias),
                                                                                .dy = dy,
                                                                                .x = x,
                                                                                .rows = rows,
                                                                                .n = n,
                                                                                .k = k}));
  if (!dx) return OK;
  return device_linear_input_grad(
      side->device, &(struct linear_input_grad_args){
                        .dx = dx, .dy = dy, .w = side_weight(side, at.weight), .rows = rows, .n = n, .k = k});
}

static int normalize(struct side *side, void *y, const struct norm_moments *moments, const void *x, struct side_pair at,
                     int rows) {
  struct norm norm = side_norm(side, at, side->layout.shape.norm_epsilon);
  return norm_forward(side->device, &norm, y, moments, x, rows);
}

/* dx += gradient of `normalize` */
static int normalize_backward(struct side *side, void *dx, const void *dy, const void *x,
                              const struct norm_moments *moments, struct side_pair at, int rows) {
  struct norm norm = side_norm(side, at, side->layout.shape.norm_epsilon);
  return norm_backward(side->device, &norm, moments,
                       &(struct norm_gradient){.dx = dx,
                                               .dweight = side_gradient(side, at.weight),
                                               .dbias = side_gradient(side, at.bias),
                                               .dy = dy,
                                               .x = x,
                                               .rows = rows,
                                               .accumulate = true});
}

static int rotate(struct side *side, void *qkv, const struct micro_batch *batch, bool inverse) {
  const struct side_shape *shape = &side->layout.shape;
  if (shape->family == FAMILY_OPT) return OK; /* positions came with h_0 */
  return device_rope(side->device, &(struct rope_args){.x = qkv,
                                                       .positions = batch->positions,
                                                       .cosines = side->rope.cosines,
                                                       .sines = side->rope.sines,
                                                       .rows = batch->rows,
                                                       .stride = side_qkv(shape),
                                                       .heads = shape->heads + shape->kv_heads,
                                                       .head_dim = shape->head_dim,
                                                       .table_positions = side->rope.positions,
                                                       .inverse = inverse});
}

static struct side_activations *set_of(const struct side *side, const struct side_frame *frame, int l) {
  return &frame->sets[(l - side->stage.first) % side->set_count];
}

/* ---- downsample ----------------------------------------------------------------------------------------- */

/* reduced = what the variant makes of h, [T, hidden] → [T, width]; pooled taps are that already */
static int reduce(struct side *side, const struct side_layer_layout *at, struct down_activations *down, const void *h,
                  int rows) {
  const struct side_shape *shape = &side->layout.shape;
  switch (shape->downsample) {
    case DOWNSAMPLE_ADAPTER:
      TRY(multiply(side, down->low, h, at->adapter_a, rows, shape->rank, shape->hidden, NULL));
      TRY(device_silu(side->device,
                      &(struct silu_args){.y = down->activated, .x = down->low, .rows = rows, .cols = shape->rank}));
      break;
    case DOWNSAMPLE_LORA:
      TRY(multiply(side, down->low, h, at->adapter_a, rows, shape->rank, shape->hidden, NULL));
      break;
    case DOWNSAMPLE_LINEAR:
      return multiply(side, down->reduced, h, at->adapter_a, rows, shape->width, shape->hidden, NULL);
    case DOWNSAMPLE_PCA:
      return multiply(side, down->reduced, h, at->adapter_b, rows, shape->width, shape->rank, NULL);
    case DOWNSAMPLE_MAXPOOL:
    case DOWNSAMPLE_AVGPOOL:
      return OK;
  }
  return multiply(side, down->reduced, down->activated, at->adapter_b, rows, shape->width, shape->rank, NULL);
}

static const void *norm_input(const struct down_activations *down, const void *h) {
  return down->reduced ? down->reduced : h;
}

static int down_forward(struct side *side, int l, struct down_activations *down, const void *h, int rows) {
  const struct side_layer_layout *at = &side->layout.layers[l];
  TRY(reduce(side, at, down, h, rows));
  struct norm norm = side_norm(side, at->down_norm, SIDE_LAYER_NORM_EPSILON);
  return norm_forward(side->device, &norm, down->out, &down->moments, norm_input(down, h), rows);
}

/* Gradients of `reduce`; `d` is the gradient of `reduced`. */
static int reduce_backward(struct side *side, const struct side_layer_layout *at, const struct down_activations *down,
                           const void *h, const void *d, int rows) {
  const struct side_shape *shape = &side->layout.shape;
  if (shape->downsample == DOWNSAMPLE_PCA)
    return multiply_backward(side, NULL, d, h, at->adapter_b, rows, shape->width, shape->rank);
  if (at->adapter_a.weight == SIDE_ABSENT) return OK; /* pooling has no weights */
  if (shape->downsample == DOWNSAMPLE_LINEAR)
    return multiply_backward(side, NULL, d, h, at->adapter_a, rows, shape->width, shape->hidden);
  TRY(multiply_backward(side, side->d_low, d, down->activated, at->adapter_b, rows, shape->width, shape->rank));
  if (shape->downsample == DOWNSAMPLE_ADAPTER)
    TRY(device_silu_backward(
        side->device, &(struct silu_backward_args){
                          .dx = side->d_low, .dy = side->d_low, .x = down->low, .rows = rows, .cols = shape->rank}));
  return multiply_backward(side, NULL, side->d_low, h, at->adapter_a, rows, shape->rank, shape->hidden);
}

/* `d`: gradient of D(h), [T, width]; overwritten. */
static int down_backward(struct side *side, int l, const struct down_activations *down, const void *h, void *d,
                         int rows) {
  const struct side_layer_layout *at = &side->layout.layers[l];
  struct norm norm = side_norm(side, at->down_norm, SIDE_LAYER_NORM_EPSILON);
  TRY(norm_backward(side->device, &norm, &down->moments,
                    &(struct norm_gradient){.dx = d,
                                            .dweight = side_gradient(side, at->down_norm.weight),
                                            .dbias = side_gradient(side, at->down_norm.bias),
                                            .dy = d,
                                            .x = norm_input(down, h),
                                            .rows = rows}));
  return reduce_backward(side, at, down, h, d, rows);
}

/* ---- one layer ------------------------------------------------------------------------------------------ */

/* v = u + Attention(norm(u)) */
static int attention_forward(struct side *side, struct side_activations *a, int l, const struct micro_batch *batch,
                             struct kv_cache *cache) {
  const struct side_shape *shape = &side->layout.shape;
  const struct side_layer_layout *at = &side->layout.layers[l];
  int rows = batch->rows, q = shape->heads * shape->head_dim, kv = shape->kv_heads * shape->head_dim;
  TRY(normalize(side, a->normed_u, &a->moments_u, a->u, at->input_norm, rows));
  TRY(multiply(side, a->qkv, a->normed_u, at->qkv, rows, side_qkv(shape), shape->width, NULL));
  TRY(rotate(side, a->qkv, batch, false));
  const void *keys = device_act_at(side->device, a->qkv, (size_t)q);
  if (cache) {
    void *cached = kv_cache_layer(cache, side->device, l);
    TRY(device_copy_rows(side->device, &(struct copy_rows_args){.y = cached,
                                                                .x = keys,
                                                                .y_index = batch->cache_rows,
                                                                .rows = rows,
                                                                .cols = 2 * kv,
                                                                .y_stride = 2 * kv,
                                                                .x_stride = side_qkv(shape)}));
    keys = cached;
  }
  TRY(device_attention(side->device, &(struct attention_args){.o = a->attended,
                                                              .lse = a->lse,
                                                              .q = a->qkv,
                                                              .k = keys,
                                                              .v = device_act_at(side->device, keys, (size_t)kv),
                                                              .segments = batch->segments,
                                                              .rows = rows,
                                                              .q_stride = side_qkv(shape),
                                                              .kv_stride = cache ? 2 * kv : side_qkv(shape),
                                                              .heads = shape->heads,
                                                              .kv_heads = shape->kv_heads,
                                                              .head_dim = shape->head_dim,
                                                              .scale = 1.0f / sqrtf((float)shape->head_dim)}));
  return multiply(side, a->v, a->attended, at->o, rows, shape->width, q, a->u);
}

/* product = swiglu(normed_v · [Wgate; Wup]ᵀ), or relu(normed_v · Wᵀ + b) */
static int activate(struct side *side, struct side_activations *a, struct side_pair up, int rows) {
  const struct side_shape *shape = &side->layout.shape;
  int ff = shape->feed_forward;
  bool relu = shape->family == FAMILY_OPT;
  TRY(multiply(side, relu ? a->product : a->gate_up, a->normed_v, up, rows, side_up(shape), shape->width, NULL));
  if (relu)
    return device_relu(side->device, &(struct relu_args){.y = a->product, .x = a->product, .rows = rows, .cols = ff});
  return device_swiglu(side->device, &(struct swiglu_args){.y = a->product, .x = a->gate_up, .rows = rows, .cols = ff});
}

/* From the gradient of `product` in d_product to that of what was activated, in *d_up. */
static int activate_backward(struct side *side, const struct side_activations *a, int rows, void **d_up) {
  const struct side_shape *shape = &side->layout.shape;
  int ff = shape->feed_forward;
  if (shape->family == FAMILY_OPT) {
    *d_up = side->d_product;
    return device_relu_backward(
        side->device, &(struct relu_backward_args){
                          .dx = side->d_product, .dy = side->d_product, .y = a->product, .rows = rows, .cols = ff});
  }
  *d_up = side->d_wide;
  return device_swiglu_backward(
      side->device, &(struct swiglu_backward_args){
                        .dx = side->d_wide, .dy = side->d_product, .x = a->gate_up, .rows = rows, .cols = ff});
}

/* s = v + FeedForward(norm(v)) */
static int feed_forward(struct side *side, struct side_activations *a, int l, int rows, void *s) {
  const struct side_shape *shape = &side->layout.shape;
  const struct side_layer_layout *at = &side->layout.layers[l];
  TRY(normalize(side, a->normed_v, &a->moments_v, a->v, at->post_norm, rows));
  TRY(activate(side, a, at->up, rows));
  return multiply(side, s, a->product, at->down, rows, shape->width, shape->feed_forward, a->v);
}

/* ds ← gradient of v */
static int feed_forward_backward(struct side *side, struct side_activations *a, int l, int rows, void *ds) {
  const struct side_shape *shape = &side->layout.shape;
  const struct side_layer_layout *at = &side->layout.layers[l];
  void *d_up;
  TRY(multiply_backward(side, side->d_product, ds, a->product, at->down, rows, shape->width, shape->feed_forward));
  TRY(activate_backward(side, a, rows, &d_up));
  TRY(multiply_backward(side, side->d_width, d_up, a->normed_v, at->up, rows, side_up(shape), shape->width));
  return normalize_backward(side, ds, side->d_width, a->v, &a->moments_v, at->post_norm, rows);
}

static int heads_backward(struct side *side, struct side_activations *a, const struct micro_batch *batch) {
  const struct side_shape *shape = &side->layout.shape;
  size_t q = (size_t)shape->heads * (size_t)shape->head_dim, kv = (size_t)shape->kv_heads * (size_t)shape->head_dim;
  return device_attention_backward(
      side->device, &(struct attention_backward_args){.dq = side->d_qkv,
                                                      .dk = device_act_at(side->device, side->d_qkv, q),
                                                      .dv = device_act_at(side->device, side->d_qkv, q + kv),
                                                      .d_o = side->d_attended,
                                                      .o = a->attended,
                                                      .lse = a->lse,
                                                      .q = a->qkv,
                                                      .k = device_act_at(side->device, a->qkv, q),
                                                      .v = device_act_at(side->device, a->qkv, q + kv),
                                                      .segments = batch->segments,
                                                      .rows = batch->rows,
                                                      .q_stride = side_qkv(shape),
                                                      .kv_stride = side_qkv(shape),
                                                      .heads = shape->heads,
                                                      .kv_heads = shape->kv_heads,
                                                      .head_dim = shape->head_dim,
                                                      .scale = 1.0f / sqrtf((float)shape->head_dim)});
}

/* ds: gradient of v → gradient of u */
static int attention_backward(struct side *side, struct side_activations *a, int l, const struct micro_batch *batch,
                              void *ds) {
  const struct side_shape *shape = &side->layout.shape;
  const struct side_layer_layout *at = &side->layout.layers[l];
  int rows = batch->rows, q = shape->heads * shape->head_dim;
  TRY(multiply_backward(side, side->d_attended, ds, a->attended, at->o, rows, shape->width, q));
  TRY(heads_backward(side, a, batch));
  TRY(rotate(side, side->d_qkv, batch, true));
  TRY(multiply_backward(side, side->d_width, side->d_qkv, a->normed_u, at->qkv, rows, side_qkv(shape), shape->width));
  return normalize_backward(side, ds, side->d_width, a->u, &a->moments_u, at->input_norm, rows);
}

/* ---- the whole ------------------------------------------------------------------------------------------ */

static const void *tap_of(const struct side *side, const struct taps *taps, int l) {
  return taps_at(taps, side->device, l - side->stage.first);
}

/* s_{l−1} */
static void *s_before(const struct side *side, const struct side_frame *frame, int l) {
  if (l > side->stage.first) return frame->s[l - 1 - side->stage.first];
  return stage_begins(&side->stage) ? frame->embedding.out : frame->s_in;
}

static int layer_forward(struct side *side, struct side_frame *frame, int l, const struct micro_batch *batch,
                         const struct taps *taps, struct kv_cache *cache) {
  struct side_activations *a = set_of(side, frame, l);
  TRY(down_forward(side, l, &a->down, tap_of(side, taps, l + 1), batch->rows));
  TRY(device_gate(side->device, &(struct gate_args){.u = a->u,
                                                    .d = a->down.out,
                                                    .s = s_before(side, frame, l),
                                                    .z = side_master(side, side->layout.layers[l].gate),
                                                    .rows = batch->rows,
                                                    .cols = side->layout.shape.width}));
  TRY(attention_forward(side, a, l, batch, cache));
  return feed_forward(side, a, l, batch->rows, frame->s[l - side->stage.first]);
}

int side_forward(struct side *side, struct side_frame *frame, const struct micro_batch *batch, const struct taps *taps,
                 struct kv_cache *cache) {
  if (batch->rows > side->capacity)
    return fail(ERR_INTERNAL, "a micro-batch of %d rows in a side network for %d", batch->rows, side->capacity);
  if (stage_begins(&side->stage)) TRY(down_forward(side, 0, &frame->embedding, tap_of(side, taps, 0), batch->rows));
  for (int l = side->stage.first; l < side->stage.end; l++) TRY(layer_forward(side, frame, l, batch, taps, cache));
  return OK;
}

int side_collect(struct side *side, int64_t first, int64_t end, struct gradient_sums *sums) {
  return device_fixed_add(side->device, &(struct fixed_add_args){.sums = sums->sums + ((size_t)first - sums->begin),
                                                                 .faults = sums->faults,
                                                                 .x = side_gradient(side, first),
                                                                 .count = (size_t)(end - first)});
}

/* du (in ds) → gradient of D(h) in d_width and of s_{l−1} in ds */
static int gate_backward(struct side *side, struct side_activations *a, int l, int rows, const void *s, void *ds) {
  int64_t gate = side->layout.layers[l].gate;
  return device_gate_backward(side->device, &(struct gate_backward_args){.dd = side->d_width,
                                                                         .ds = ds,
                                                                         .dz = side_gradient(side, gate),
                                                                         .du = ds,
                                                                         .d = a->down.out,
                                                                         .s = s,
                                                                         .z = side_master(side, gate),
                                                                         .rows = rows,
                                                                         .cols = side->layout.shape.width});
}

/* ds: gradient of s_l → gradient of s_{l−1} */
static int layer_backward(struct side *side, struct side_frame *frame, int l, const struct micro_batch *batch,
                          const struct taps *taps, struct gradient_sums *sums) {
  struct side_activations *a = set_of(side, frame, l);
  const struct side_layout *layout = &side->layout;
  if (side->recompute) TRY(layer_forward(side, frame, l, batch, taps, NULL));
  TRY(feed_forward_backward(side, a, l, batch->rows, frame->ds));
  TRY(attention_backward(side, a, l, batch, frame->ds));
  TRY(gate_backward(side, a, l, batch->rows, s_before(side, frame, l), frame->ds));
  TRY(down_backward(side, l, &a->down, tap_of(side, taps, l + 1), side->d_width, batch->rows));
  return side_collect(side, side_layer_begin(layout, l), side_layer_end(layout, l), sums);
}

/* The embedding's tap goes through layer 1's module once more: its gradients are collected a second time. */
static int embedding_backward(struct side *side, struct side_frame *frame, const struct micro_batch *batch,
                              const struct taps *taps, struct gradient_sums *sums) {
  TRY(down_backward(side, 0, &frame->embedding, tap_of(side, taps, 0), frame->ds, batch->rows));
  return side_collect(side, side_layer_begin(&side->layout, 0), side->layout.layers[0].gate, sums);
}

int side_backward(struct side *side, struct side_frame *frame, const struct micro_batch *batch, const struct taps *taps,
                  struct gradient_sums *sums, const struct side_listener *listener) {
  for (int l = side->stage.end - 1; l >= side->stage.first; l--) {
    TRY(layer_backward(side, frame, l, batch, taps, sums));
    if (l == 0) TRY(embedding_backward(side, frame, batch, taps, sums));
    if (listener)
      TRY(listener->collected(listener->context, side_layer_begin(&side->layout, l), side_layer_end(&side->layout, l)));
  }
  return OK;
}
