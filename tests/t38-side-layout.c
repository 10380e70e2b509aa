/**
 * @file t38-side-layout.c
 * The side network's tensors at the shapes of published models: as many numbers as the reference implementation trains
 * (its counts as published, halved there by mistake, counted again from its modules), in ascending order without overlap.
 */
#include "check.h"
#include "io/model_shapes.h"
#include "side_layout.h"

/* The reference freezes the last norm of each of OPT's side layers by mistake: 2 · width numbers more are trained here. */
static const struct {
  const char *shape;
  size_t trained;
} published[] = {{"llama-2-7b", 28623104}, {"llama-2-13b", 54756160}, {"llama-2-70b", 282944000},
                 {"opt-1.3b", 5863680},    {"opt-2.7b", 11709760},    {"opt-6.7b", 28566016},
                 {"opt-13b", 54462080},    {"opt-30b", 124982144},    {"opt-66b", 270675072}};

static void check_order(const struct side_layout *layout) {
  size_t end = 0;
  for (int i = 0; i < layout->count; i++) {
    CHECK(layout->tensors[i].offset >= end);
    end = layout->tensors[i].offset + side_tensor_size(&layout->tensors[i]);
  }
  CHECK(end <= layout->size);
}

static void check_count(const char *name, size_t trained, const struct options *options) {
  struct model_config config;
  struct side_shape shape;
  struct side_layout layout;
  CHECK_OK(model_shape_find(name, &config));
  CHECK_OK(side_shape_make(&shape, &config, options));
  CHECK_OK(side_layout_open(&layout, &shape));
  size_t frozen_there = shape.family == FAMILY_OPT ? (size_t)shape.layers * 2 * (size_t)shape.width : 0;
  printf("%s: %zu parameters, published %zu\n", name, layout.parameters, trained);
  CHECK(layout.parameters == trained + frozen_there);
  check_order(&layout);
  side_layout_close(&layout);
}

int main(void) {
  struct options options = {.reduction_factor = 16,
                            .rank = 16,
                            .downsample = (char *)(uintptr_t) "adapter",
                            .mix = (char *)(uintptr_t) "gate"};
  for (size_t i = 0; i < sizeof published / sizeof *published; i++)
    check_count(published[i].shape, published[i].trained, &options);
  return check_result();
}
