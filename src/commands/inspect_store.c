/* inspect for our own HDF5 files. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "commands/inspect.h"
#include "io/backbone_file.h"
#include "io/checkpoint.h"
#include "io/h5.h"
#include "io/token_file.h"

static int add_attribute(void *context, struct h5_file *file, const char *object, const char *name,
                         enum h5_attribute_kind kind) {
  json_t *out = context;
  if (kind == H5_TEXT) {
    char *text;
    TRY(h5_get_text(file, object, name, &text));
    inspect_set_text(out, name, text);
    free(text);
  } else if (kind == H5_INTEGER) {
    int64_t value;
    TRY(h5_get_integer(file, object, name, &value));
    inspect_set_integer(out, name, value);
  } else {
    double value;
    TRY(h5_get_number(file, object, name, &value));
    json_object_set_new(out, name, isfinite(value) ? json_real(value) : json_null());
  }
  return OK;
}

static int add_dataset(void *context, struct h5_file *file, const struct h5_dataset *dataset) {
  json_t *out = context;
  struct hash_text checksum;
  TRY(h5_checksum(file, dataset->name, &checksum));
  int status = h5_verify(file, dataset->name);
  if (status != OK) inspect_damaged(out, fail_message());
  json_t *shape = dataset->cols ? json_pack("[I, I]", (json_int_t)dataset->rows, (json_int_t)dataset->cols)
                                : json_pack("[I]", (json_int_t)dataset->rows);
  json_t *entry =
      json_pack("{s:s, s:s, s:o, s:I, s:s, s:b}", "name", dataset->name, "type", h5_type_name(dataset->type), "shape",
                shape, "bytes", (json_int_t)dataset->bytes, "xxh3", checksum.hex, "holds", status == OK);
  json_array_append_new(json_object_get(out, "datasets"), entry);
  return OK;
}

static int describe(struct h5_file *file, json_t *out) {
  inspect_set_text(out, "format", h5_format(file));
  TRY(h5_each_attribute(file, "/", add_attribute, out));
  if (h5_has(file, "/config")) {
    json_object_set_new(out, "config", json_object());
    TRY(h5_each_attribute(file, "/config", add_attribute, json_object_get(out, "config")));
  }
  json_object_set_new(out, "datasets", json_array());
  return h5_each(file, add_dataset, out);
}

/* What the reader of the format itself has to say. */

static int describe_backbone(const char *path, json_t *out) {
  struct backbone_file *file;
  TRY(backbone_file_open(&file, path));
  inspect_set_text(out, "digest", backbone_file_digest(file));
  backbone_file_close(&file);
  return OK;
}

static int describe_tokens(const char *path, json_t *out) {
  struct token_file data;
  TRY(token_file_read(path, &data));
  int64_t longest = 0, completions = 0;
  for (int64_t row = 0; row < data.rows; row++) {
    int64_t length = data.offsets[row + 1] - data.offsets[row];
    longest = length > longest ? length : longest;
    completions += data.completions[row] >= 0;
  }
  inspect_set_integer(out, "longest_row", longest);
  inspect_set_integer(out, "rows_with_completion", completions);
  inspect_set_text(out, "digest", data.digest);
  token_file_free(&data);
  return OK;
}

struct tensor_sums {
  int64_t tensors, parameters;
};

static int add_tensor(void *context, const char *name, int64_t rows, int64_t cols) {
  (void)name;
  struct tensor_sums *sums = context;
  sums->tensors++;
  sums->parameters += rows * (cols ? cols : 1);
  return OK;
}

static int describe_checkpoint(const char *path, json_t *out) {
  struct checkpoint *checkpoint;
  struct tensor_sums sums = {0};
  TRY(checkpoint_open(&checkpoint, path));
  int status = checkpoint_each(checkpoint, add_tensor, &sums);
  inspect_set_integer(out, "tensors", sums.tensors);
  inspect_set_integer(out, "parameters", sums.parameters);
  json_object_set_new(out, "optimizer_state", json_boolean(checkpoint_has_moments(checkpoint)));
  checkpoint_close(&checkpoint);
  return status;
}

static int describe_format(const char *format, const char *path, json_t *out) {
  if (strcmp(format, "qst-backbone") == 0) return describe_backbone(path, out);
  if (strcmp(format, "qst-tokens") == 0) return describe_tokens(path, out);
  if (strcmp(format, "qst-checkpoint") == 0) return describe_checkpoint(path, out);
  return OK;
}

int inspect_store(const char *path, json_t *out) {
  struct h5_file *file;
  TRY(h5_open(&file, path, NULL, 0));
  int status = describe(file, out);
  h5_close(&file);
  TRY(status);
  if (json_array_size(json_object_get(out, "damaged")) > 0) return OK;
  status = describe_format(json_string_value(json_object_get(out, "format")), path, out);
  if (status != ERR_INPUT) return status;
  inspect_damaged(out, fail_message());
  return OK;
}
