#include <stdlib.h>

#include "io/backbone_parts.h"

struct backbone_writer {
  struct h5_file *h5;
  struct backbone_shape shape;
  int64_t rows_written[TABLE_COUNT];
};

int backbone_writer_create(struct backbone_writer **out, const char *path, const struct model_config *config,
                           enum weight_format format, bool double_quantized, const char *source) {
  struct backbone_writer *writer;
  int status;
  *out = NULL;
  TRY(memory_array(&writer, 1, sizeof *writer));
  writer->shape = (struct backbone_shape){*config, format, double_quantized && format != WEIGHT_BF16};
  TRY_GOTO(status, failed, h5_create(&writer->h5, path, "qst-backbone", BACKBONE_VERSION));
  TRY_GOTO(status, failed, backbone_shape_write(writer->h5, &writer->shape));
  TRY_GOTO(status, failed, h5_set_text(writer->h5, "/", "source", source));
  TRY_GOTO(status, failed, h5_set_text(writer->h5, "/", "libraries", h5_libraries()));
  *out = writer;
  return OK;
failed:
  backbone_writer_close(&writer);
  return status;
}

void backbone_writer_close(struct backbone_writer **writer) {
  if (!*writer) return;
  h5_close(&(*writer)->h5);
  free(*writer);
  *writer = NULL;
}

/* Of a part that the model has not, nothing is written. */
static int write_part(struct backbone_writer *writer, const struct backbone_part *part, const void *data) {
  if (part->rows == 0) return OK;
  return h5_write(writer->h5, part->name, part->type, part->rows, part->cols, data);
}

int backbone_writer_matrix(struct backbone_writer *writer, int layer, enum backbone_matrix which,
                           const struct matrix *matrix) {
  struct matrix want = backbone_matrix_of(&writer->shape, which);
  if (matrix->format != want.format || matrix->rows != want.rows || matrix->cols != want.cols ||
      matrix->double_quantized != want.double_quantized)
    return fail(ERR_INTERNAL, "%s: matrix %d of layer %d is given in another shape", h5_path(writer->h5), which, layer);
  struct backbone_part parts[MATRIX_PARTS];
  void *data[MATRIX_PARTS];
  int count = backbone_matrix_parts(matrix, layer, which, parts, data);
  for (int i = 0; i < count; i++) TRY(write_part(writer, &parts[i], data[i]));
  if (!matrix->double_quantized || matrix->rows == 0) return OK;
  return h5_set_number(writer->h5, parts[1].name, "scale_mean", (double)matrix->scale_mean);
}

int backbone_writer_vector(struct backbone_writer *writer, int layer, enum backbone_vector which, const float *data) {
  struct backbone_part part = backbone_vector_part(&writer->shape, layer, which);
  return write_part(writer, &part, data);
}

int backbone_writer_final(struct backbone_writer *writer, enum backbone_final which, const float *data) {
  struct backbone_part part = backbone_final_part(&writer->shape, which);
  return write_part(writer, &part, data);
}

int backbone_writer_rows(struct backbone_writer *writer, enum backbone_table table, int64_t rows, const bf16 *data) {
  struct backbone_part part = backbone_table_part(&writer->shape, table);
  int64_t *written = &writer->rows_written[table];
  if (*written == 0) TRY(h5_write_begin(writer->h5, part.name, part.type, part.rows, part.cols));
  TRY(h5_write_more(writer->h5, data, (uint64_t)rows * part.cols));
  *written += rows;
  return *written == (int64_t)part.rows ? h5_write_end(writer->h5) : OK;
}

int backbone_writer_tokenizer(struct backbone_writer *writer, const struct tokenizer *tokenizer) {
  struct buffer image = {0};
  int status = tokenizer_save(tokenizer, &image);
  if (status == OK) status = h5_write(writer->h5, "/tokenizer", H5_U8, image.size, 0, image.data);
  buffer_free(&image);
  return status;
}

static int require_part(void *context, const struct backbone_part *part) {
  struct h5_file *h5 = context;
  return h5_has(h5, part->name) ? OK : fail(ERR_INTERNAL, "%s: %s was not given", h5_path(h5), part->name);
}

int backbone_writer_publish(struct backbone_writer **writer) {
  int status = backbone_each_part(&(*writer)->shape, require_part, (*writer)->h5);
  if (status == OK) status = h5_publish(&(*writer)->h5);
  backbone_writer_close(writer);
  return status;
}
