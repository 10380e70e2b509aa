#include "io/backbone_file.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/backbone_parts.h"
#include "io/model_shapes.h"

struct backbone_file {
  struct h5_file *h5; /* NULL: a shape without weights */
  struct backbone_shape shape;
  struct hash_text digest;
};

struct digest {
  struct h5_file *h5;
  struct buffer text;
};

static int check_part(struct h5_file *h5, const struct backbone_part *part) {
  enum h5_type type;
  uint64_t rows, cols;
  TRY(h5_shape(h5, part->name, &type, &rows, &cols));
  if (type == part->type && rows == part->rows && cols == part->cols) return OK;
  return fail(ERR_INPUT, "%s: %s is %s [%llu, %llu], its configuration says %s [%llu, %llu]", h5_path(h5), part->name,
              h5_type_name(type), (unsigned long long)rows, (unsigned long long)cols, h5_type_name(part->type),
              (unsigned long long)part->rows, (unsigned long long)part->cols);
}

static bool has_scale_mean(const char *name) {
  const char *last = strrchr(name, '/');
  return strcmp(last, "/scale_codes") == 0;
}

static int get_scale_mean(struct h5_file *h5, const char *name, float *out) {
  double value;
  TRY(h5_get_number(h5, name, "scale_mean", &value));
  *out = (float)value;
  return isfinite(*out) ? OK : fail(ERR_INPUT, "%s: scale_mean of %s is not finite", h5_path(h5), name);
}

static int add_part(void *context, const struct backbone_part *part) {
  struct digest *digest = context;
  struct hash_text checksum;
  TRY(check_part(digest->h5, part));
  TRY(h5_checksum(digest->h5, part->name, &checksum));
  TRY(buffer_print(&digest->text, "%s %s", part->name, checksum.hex));
  if (has_scale_mean(part->name)) {
    float mean;
    TRY(get_scale_mean(digest->h5, part->name, &mean));
    TRY(buffer_print(&digest->text, " %a", (double)mean));
  }
  return buffer_append(&digest->text, "\n", 1);
}

/* Looks at every dataset but reads none: the file is whole as far as its catalogue says. */
static int make_digest(struct backbone_file *file) {
  struct digest digest = {.h5 = file->h5};
  int status = backbone_shape_print(&file->shape, &digest.text);
  if (status == OK) status = backbone_each_part(&file->shape, add_part, &digest);
  if (status == OK) file->digest = hash_bytes(digest.text.data, digest.text.size);
  buffer_free(&digest.text);
  return status;
}

int backbone_file_open(struct backbone_file **out, const char *path) {
  struct backbone_file *file;
  int status;
  *out = NULL;
  TRY(memory_array(&file, 1, sizeof *file));
  TRY_GOTO(status, failed, h5_open(&file->h5, path, "qst-backbone", BACKBONE_VERSION));
  TRY_GOTO(status, failed, backbone_shape_read(file->h5, &file->shape));
  TRY_GOTO(status, failed, make_digest(file));
  *out = file;
  return OK;
failed:
  backbone_file_close(&file);
  return status;
}

static int take_shape(struct backbone_shape *out, const char *shape, const char *format, bool double_quantized) {
  TRY(model_shape_find(shape, &out->config));
  out->format = WEIGHT_NF4;
  while (out->format < WEIGHT_BF16 && strcmp(weight_format_name(out->format), format) != 0) out->format++;
  out->double_quantized = double_quantized && out->format != WEIGHT_BF16;
  return OK;
}

int backbone_file_open_shape(struct backbone_file **out, const char *shape, const char *format, bool double_quantized) {
  struct backbone_file *file;
  struct buffer text = {0};
  int status;
  *out = NULL;
  TRY(memory_array(&file, 1, sizeof *file));
  TRY_GOTO(status, cleanup, take_shape(&file->shape, shape, format, double_quantized));
  TRY_GOTO(status, cleanup, backbone_shape_print(&file->shape, &text));
  file->digest = hash_bytes(text.data, text.size);
  *out = file;
  file = NULL;
cleanup:
  buffer_free(&text);
  backbone_file_close(&file);
  return status;
}

void backbone_file_close(struct backbone_file **file) {
  if (!*file) return;
  h5_close(&(*file)->h5);
  free(*file);
  *file = NULL;
}

const struct model_config *backbone_file_config(const struct backbone_file *file) {
  return &file->shape.config;
}

enum weight_format backbone_file_format(const struct backbone_file *file) {
  return file->shape.format;
}

bool backbone_file_double_quantized(const struct backbone_file *file) {
  return file->shape.double_quantized;
}

const char *backbone_file_digest(const struct backbone_file *file) {
  return file->digest.hex;
}

static const char *name_of(const struct backbone_file *file) {
  return file->h5 ? h5_path(file->h5) : "a shape";
}

static int check_layer(const struct backbone_file *file, int layer) {
  if (layer >= 0 && layer < file->shape.config.layers) return OK;
  return fail(ERR_INTERNAL, "%s: there is no layer %d", name_of(file), layer);
}

/* A part that the model has not, and all of a shape, leave `out` as it is. */
static int read_part(struct backbone_file *file, const struct backbone_part *part, void *out) {
  return file->h5 && part->rows > 0 ? h5_read(file->h5, part->name, part->type, part->rows, part->cols, out) : OK;
}

int backbone_file_matrix(struct backbone_file *file, int layer, enum backbone_matrix which, struct matrix *out) {
  TRY(check_layer(file, layer));
  struct matrix want = backbone_matrix_of(&file->shape, which);
  if (out->format != want.format || out->rows != want.rows || out->cols != want.cols ||
      out->double_quantized != want.double_quantized)
    return fail(ERR_INTERNAL, "%s: matrix %d of layer %d is asked for in another shape", name_of(file), which, layer);
  struct backbone_part parts[MATRIX_PARTS];
  void *data[MATRIX_PARTS];
  int count = backbone_matrix_parts(out, layer, which, parts, data);
  for (int i = 0; i < count; i++) {
    TRY(read_part(file, &parts[i], data[i]));
    if (file->h5 && parts[i].rows > 0 && has_scale_mean(parts[i].name))
      TRY(get_scale_mean(file->h5, parts[i].name, &out->scale_mean));
  }
  return OK;
}

int backbone_file_vector(struct backbone_file *file, int layer, enum backbone_vector which, float *out) {
  TRY(check_layer(file, layer));
  struct backbone_part part = backbone_vector_part(&file->shape, layer, which);
  return read_part(file, &part, out);
}

int backbone_file_table(struct backbone_file *file, enum backbone_table table, bf16 *out) {
  if (table == TABLE_HEAD && file->shape.config.tied_head) table = TABLE_EMBEDDING;
  struct backbone_part part = backbone_table_part(&file->shape, table);
  return read_part(file, &part, out);
}

int backbone_file_final(struct backbone_file *file, enum backbone_final which, float *out) {
  struct backbone_part part = backbone_final_part(&file->shape, which);
  return read_part(file, &part, out);
}

static int load_tokenizer(struct h5_file *h5, struct tokenizer **out) {
  enum h5_type type;
  uint64_t rows, cols;
  TRY(h5_shape(h5, "/tokenizer", &type, &rows, &cols));
  if (type != H5_U8 || cols != 0) return fail(ERR_INPUT, "%s: /tokenizer is no string of bytes", h5_path(h5));
  char *image;
  TRY(memory_array(&image, rows, 1));
  int status = h5_read(h5, "/tokenizer", H5_U8, rows, 0, image);
  if (status == OK) status = fail_at(tokenizer_load(image, rows, out), "%s: /tokenizer", h5_path(h5));
  free(image);
  return status;
}

int backbone_file_tokenizer(struct backbone_file *file, struct tokenizer **out) {
  *out = NULL;
  return file->h5 && h5_has(file->h5, "/tokenizer") ? load_tokenizer(file->h5, out) : OK;
}
