/**
 * @file backbone_parts.h
 * The datasets of a backbone file, by configuration: what its reader expects and its writer must have been given.
 */
#ifndef QST_IO_BACKBONE_PARTS_H
#define QST_IO_BACKBONE_PARTS_H

#include "io/backbone_file.h"

enum { BACKBONE_VERSION = 1 };

struct backbone_shape {
  struct model_config config;
  enum weight_format format;
  bool double_quantized;
};

struct backbone_part {
  char name[64];
  enum h5_type type;
  uint64_t rows, cols; /**< as in io/h5.h */
};

/** Calls `visit` for every dataset but the tokenizer, always in the same order; stops at the first status not OK. */
int backbone_each_part(const struct backbone_shape *shape,
                       int (*visit)(void *context, const struct backbone_part *part), void *context);

/** A matrix of a layer by its shape, without memory. */
struct matrix backbone_matrix_of(const struct backbone_shape *shape, enum backbone_matrix which);

enum { MATRIX_PARTS = 3 };
/** The datasets of a matrix and where their bytes are in `matrix` (data[i] for parts[i]); returns how many. What the model has
 *  not has no rows, here and below. */
int backbone_matrix_parts(const struct matrix *matrix, int layer, enum backbone_matrix which,
                          struct backbone_part parts[MATRIX_PARTS], void *data[MATRIX_PARTS]);
struct backbone_part backbone_vector_part(const struct backbone_shape *shape, int layer, enum backbone_vector which);
struct backbone_part backbone_table_part(const struct backbone_shape *shape, enum backbone_table table);
struct backbone_part backbone_final_part(const struct backbone_shape *shape, enum backbone_final which);

/** The attributes of / and /config that describe the shape, and back (checked). */
int backbone_shape_write(struct h5_file *file, const struct backbone_shape *shape);
int backbone_shape_read(struct h5_file *file, struct backbone_shape *out);
/** "key = value" lines of the shape, for the digest. */
int backbone_shape_print(const struct backbone_shape *shape, struct buffer *out);

const char *weight_format_name(enum weight_format format); /**< "nf4", "fp4", "bf16" */

#endif
