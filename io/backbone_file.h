/**
 * @file backbone_file.h
 * The quantized model, format "qst-backbone" version 1 (HDF5, io/h5.h):
 *
 *   / attributes: format, version, weight_format, double_quantized, source, libraries; /config attributes: one per
 *   field of struct model_config
 *   /embedding            bf16 as uint16 [vocabulary, hidden]
 *   /positions            bf16 [max_positions, hidden]; only of OPT. Row p is position p: the two rows ahead of it in published
 *                         checkpoints are left out
 *   /head                 bf16 [vocabulary, hidden]; absent when tied
 *   /final_norm           f32 [hidden]; of OPT also final_norm_bias
 *   /layers/NNN/input_norm, post_attention_norm   f32 [hidden]; of OPT also input_norm_bias, post_attention_norm_bias
 *   /layers/NNN/{q,k,v}_bias                      f32 [rows]; only with attention_bias
 *   /layers/NNN/{o,up,down}_bias                  f32 [rows]; only of OPT
 *   /layers/NNN/{q,k,v,o,gate,up,down}_proj/{codes,scales | scale_codes,scale_scales}   base/types.h; the attribute
 *                         scale_mean on scale_codes. OPT has no gate; its fc1 is up, its fc2 down
 *   /tokenizer            uint8 image (io/tokenizer.h); absent when the model has none
 */
#ifndef QST_IO_BACKBONE_FILE_H
#define QST_IO_BACKBONE_FILE_H

#include "base/types.h"
#include "io/h5.h"
#include "io/model_config.h"
#include "io/tokenizer.h"

enum backbone_matrix { MATRIX_Q, MATRIX_K, MATRIX_V, MATRIX_O, MATRIX_GATE, MATRIX_UP, MATRIX_DOWN, MATRIX_COUNT };
enum backbone_vector {
  VECTOR_INPUT_NORM,
  VECTOR_POST_NORM,
  VECTOR_Q_BIAS,
  VECTOR_K_BIAS,
  VECTOR_V_BIAS,
  VECTOR_INPUT_NORM_BIAS,
  VECTOR_POST_NORM_BIAS,
  VECTOR_O_BIAS,
  VECTOR_UP_BIAS,
  VECTOR_DOWN_BIAS,
  VECTOR_COUNT
};
/** What there is once in a model. */
enum backbone_table { TABLE_EMBEDDING, TABLE_HEAD, TABLE_POSITIONS, TABLE_COUNT };
enum backbone_final { FINAL_NORM, FINAL_NORM_BIAS, FINAL_COUNT };

/** Rows and columns of a layer's matrix, by configuration; 0 and 0: this model has none. */
void backbone_matrix_shape(const struct model_config *config, enum backbone_matrix which, int *rows, int *cols);
/** Numbers in the matrices of a layer, which are multiply-adds a token. */
double backbone_layer_weights(const struct model_config *config);
int backbone_vector_size(const struct model_config *config, enum backbone_vector which); /**< 0: this model has none */
int backbone_table_rows(const struct model_config *config, enum backbone_table table); /**< 0: it has none of its own */
int backbone_final_size(const struct model_config *config, enum backbone_final which); /**< 0: it has none */
/** Hugging Face names, of parts that the family has: "model.layers.3.self_attn.q_proj.weight" into `name[96]`. */
void backbone_matrix_name(enum model_family family, int layer, enum backbone_matrix which, char name[96]);
void backbone_vector_name(enum model_family family, int layer, enum backbone_vector which, char name[96]);
const char *backbone_layers_name(enum model_family family); /**< what a layer's number follows: "model.layers." */
const char *backbone_table_name(enum model_family family, enum backbone_table table);
const char *backbone_final_name(enum model_family family, enum backbone_final which);
/** Rows of a published table ahead of those that the file holds: OPT's positions begin at row 2. */
int backbone_table_skip(enum backbone_table table);

struct backbone_file;

int backbone_file_open(struct backbone_file **out, const char *path);
/** A backbone by its shape alone (io/model_shapes.h), for planning: no file, no tokenizer, and whoever reads weights finds
 *  his buffers as they were. `format`: "nf4", "fp4" or "bf16". */
int backbone_file_open_shape(struct backbone_file **out, const char *shape, const char *format, bool double_quantized);
void backbone_file_close(struct backbone_file **file);
const struct model_config *backbone_file_config(const struct backbone_file *file);
enum weight_format backbone_file_format(const struct backbone_file *file);
bool backbone_file_double_quantized(const struct backbone_file *file);
/** A digest of the model itself (configuration, weight format and the checksums of all datasets but the tokenizer),
 *  by which side networks and token files name their backbone. */
const char *backbone_file_digest(const struct backbone_file *file);

/** Fills the arrays of `out` (host memory; format, shape, double_quantized set by the caller from the functions
 *  above) and its scale_mean. */
int backbone_file_matrix(struct backbone_file *file, int layer, enum backbone_matrix which, struct matrix *out);
int backbone_file_vector(struct backbone_file *file, int layer, enum backbone_vector which, float *out);
/** bf16 [rows, hidden]; TABLE_HEAD of a model that ties it is the embedding. Nothing is read of what the model has not. */
int backbone_file_table(struct backbone_file *file, enum backbone_table table, bf16 *out);
int backbone_file_final(struct backbone_file *file, enum backbone_final which, float *out);
/** *out = NULL when the file has none. */
int backbone_file_tokenizer(struct backbone_file *file, struct tokenizer **out);

/** Writing, by one rank. All of the model must be given, each part once, in any order; pointers are borrowed for the
 *  call. Equal parts in equal order give equal bytes. */
struct backbone_writer;

/** Begins `path` under a temporary name. `source`: provenance, lines of text (model_source_describe()). `double_quantized`
 *  is ignored for WEIGHT_BF16. */
int backbone_writer_create(struct backbone_writer **out, const char *path, const struct model_config *config,
                           enum weight_format format, bool double_quantized, const char *source);
int backbone_writer_matrix(struct backbone_writer *writer, int layer, enum backbone_matrix which,
                           const struct matrix *matrix);
int backbone_writer_vector(struct backbone_writer *writer, int layer, enum backbone_vector which, const float *data);
int backbone_writer_final(struct backbone_writer *writer, enum backbone_final which, const float *data);
/** A table that the model has in pieces of whole rows in order: bf16 [rows, hidden] a call until all rows are there. Nothing
 *  else may be written between its pieces. */
int backbone_writer_rows(struct backbone_writer *writer, enum backbone_table table, int64_t rows, const bf16 *data);
/** At most once; without it the file has no tokenizer. */
int backbone_writer_tokenizer(struct backbone_writer *writer, const struct tokenizer *tokenizer);
/** ERR_INTERNAL when a part is missing; otherwise the file appears under its name. The handle is gone afterwards. */
int backbone_writer_publish(struct backbone_writer **writer);
/** Closes; what was not published is removed. NULL-safe; resets the pointer. */
void backbone_writer_close(struct backbone_writer **writer);

#endif
