/* random-backbone: a backbone file of a published model's shape with random weights, for measuring training where there is
 * no checkpoint. One decoder layer is made; all layers of the file are links to it, so that 70B takes a gigabyte on the
 * disk and as much memory on the device as ever. What the model says means nothing; what it costs is right. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/text.h"
#include "io/backbone_parts.h"
#include "io/h5_internal.h"
#include "io/model_shapes.h"

static const char usage[] =
    "random-backbone SHAPE FILE\n"
    "SHAPE: a model's name, such as llama-2-7b (the words of plan --model-shape), or its config.json. NF4, double\n"
    "quantized.\n";

struct maker {
  struct h5_file *file;
  uint64_t random;
};

static uint32_t next(struct maker *maker) {
  maker->random = maker->random * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)(maker->random >> 32);
}

/** Weights of about 0.02: block maxima of 0.05, some more and some less. Norms of one, biases of zero. */
static int write_random(struct maker *maker, const struct backbone_part *part) {
  const float scale = strstr(part->name, "scale_scales") ? 0.01f : text_ends_with(part->name, "_bias") ? 0.0f : 1.0f;
  size_t count = part->rows * (part->cols ? part->cols : 1), size = h5_type_size(part->type);
  char *data;
  TRY(memory_array(&data, count, size));
  for (size_t i = 0; i < count; i++) {
    if (part->type == H5_U8) data[i] = (char)(next(maker) & 0xff);
    if (part->type == H5_U16) ((bf16 *)data)[i] = float_to_bf16((float)(int32_t)next(maker) * 0x1p-31f * 0.03f);
    if (part->type == H5_F32) ((float *)data)[i] = scale;
  }
  int status = h5_write(maker->file, part->name, part->type, part->rows, part->cols, data);
  free(data);
  if (status == OK && strstr(part->name, "scale_codes"))
    status = h5_set_number(maker->file, part->name, "scale_mean", 0.05);
  return status;
}

static int make_part(void *context, const struct backbone_part *part) {
  static const char first[] = "/layers/000", layers[] = "/layers/";
  struct maker *maker = context;
  char group[sizeof first];
  if (strncmp(part->name, layers, strlen(layers)) != 0 || strncmp(part->name, first, strlen(first)) == 0)
    return write_random(maker, part);
  snprintf(group, sizeof group, "%.*s", (int)strlen(first), part->name);
  if (H5Lexists(maker->file->id, group, H5P_DEFAULT) > 0) return OK;
  if (H5Lcreate_hard(maker->file->id, first, maker->file->id, group, H5P_DEFAULT, H5P_DEFAULT) < 0)
    return h5_fault(maker->file, "%s cannot be a link", group);
  return OK;
}

static int read_shape(const char *name, struct model_config *out) {
  struct buffer text = {0};
  if (!strstr(name, ".json")) return model_shape_find(name, out);
  int status = file_read(name, 1 << 20, &text);
  if (status == OK) status = model_config_parse(text.data, out);
  buffer_free(&text);
  return status;
}

static int make(const char *name, const char *path) {
  struct maker maker = {.random = 1};
  struct backbone_shape shape = {.format = WEIGHT_NF4, .double_quantized = true};
  int status;
  TRY(read_shape(name, &shape.config));
  TRY(h5_create(&maker.file, path, "qst-backbone", BACKBONE_VERSION));
  TRY_GOTO(status, cleanup, backbone_shape_write(maker.file, &shape));
  TRY_GOTO(status, cleanup, h5_set_text(maker.file, "/", "source", "random weights"));
  TRY_GOTO(status, cleanup, h5_set_text(maker.file, "/", "libraries", h5_libraries()));
  TRY_GOTO(status, cleanup, backbone_each_part(&shape, make_part, &maker));
  TRY_GOTO(status, cleanup, h5_publish(&maker.file));
cleanup:
  h5_close(&maker.file);
  return status;
}

int main(int count, char **words) {
  if (count != 3) {
    fputs(usage, stderr);
    return ERR_USAGE;
  }
  int status = make(words[1], words[2]);
  if (status != OK) fprintf(stderr, "random-backbone: %s\n", fail_message());
  return status;
}
