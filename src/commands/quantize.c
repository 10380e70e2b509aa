/* quantize --model DIR|FILE.gguf --out B.h5: a published model becomes a backbone file, tensor by tensor. The matrices of
 * the layers are dealt out to the ranks in turn; rank 0 collects and writes them in their order, so that the bytes of the
 * file do not depend on the number of ranks. A rank holds one matrix in fp32 and one quantized. */
#include "kernels/quantize.h"

#include <limits.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/threads.h"
#include "commands/commands.h"
#include "io/backbone_file.h"
#include "io/model_source.h"

enum { TABLE_PIECE = 1 << 22 }; /* elements of the embedding and the head in memory at once */

struct job {
  struct comm *comm;
  struct model_source *source;
  const struct model_config *config;
  enum model_family family;
  struct backbone_writer *writer; /* rank 0 */
  enum weight_format format;
  bool double_quantized;
  enum backbone_matrix kinds[MATRIX_COUNT]; /* those that a layer of this model has */
  int kind_count;
  float *weights;       /* one matrix, or a piece of a table, as fp32 */
  char *packed;         /* one quantized matrix: struct matrix with its arrays behind it, as it travels */
  struct matrix matrix; /* its arrays point into `packed` */
  double started, layers_started, reported;
};

static bool time_to_report(struct job *job) {
  enum { SECONDS_BETWEEN_LINES = 1 };
  double time = clock_seconds();
  if (time - job->reported < SECONDS_BETWEEN_LINES) return false;
  job->reported = time;
  return true;
}

static int matrix_count(const struct job *job) {
  return job->config->layers * job->kind_count;
}

static struct matrix matrix_shape(const struct job *job, enum backbone_matrix which) {
  struct matrix shape = {.format = job->format, .double_quantized = job->double_quantized};
  backbone_matrix_shape(job->config, which, &shape.rows, &shape.cols);
  return shape;
}

static void list_kinds(struct job *job) {
  for (enum backbone_matrix which = 0; which < MATRIX_COUNT; which++)
    if (matrix_shape(job, which).rows > 0) job->kinds[job->kind_count++] = which;
}

/* ---- a quantized matrix as one block of bytes: mean, codes, scales, scale codes, scale scales ---- */

static size_t padded(size_t bytes) {
  return (bytes + 63) / 64 * 64;
}

static size_t scales_bytes(const struct matrix *matrix) {
  return matrix->double_quantized ? 0 : padded(matrix_blocks(matrix) * sizeof(float));
}

static size_t scale_codes_bytes(const struct matrix *matrix) {
  return matrix->double_quantized ? padded(matrix_blocks(matrix)) : 0;
}

static size_t packed_bytes(const struct matrix *matrix) {
  return padded(sizeof matrix->scale_mean) + padded(matrix_code_bytes(matrix)) + scales_bytes(matrix) +
         scale_codes_bytes(matrix) + padded(matrix_scale_blocks(matrix) * sizeof(float));
}

static void place_arrays(struct job *job, enum backbone_matrix which) {
  struct matrix *matrix = &job->matrix;
  *matrix = matrix_shape(job, which);
  char *at = job->packed + padded(sizeof matrix->scale_mean);
  matrix->codes = at;
  at += padded(matrix_code_bytes(matrix));
  matrix->scales = (float *)at;
  at += scales_bytes(matrix);
  matrix->scale_codes = (uint8_t *)at;
  at += scale_codes_bytes(matrix);
  matrix->scale_scales = (float *)at;
}

static int send_matrix(struct job *job) {
  memcpy(job->packed, &job->matrix.scale_mean, sizeof job->matrix.scale_mean);
  return comm_send(job->comm, job->packed, packed_bytes(&job->matrix), 0);
}

static int receive_matrix(struct job *job, enum backbone_matrix which, int from) {
  place_arrays(job, which);
  TRY(comm_receive(job->comm, job->packed, packed_bytes(&job->matrix), from));
  memcpy(&job->matrix.scale_mean, job->packed, sizeof job->matrix.scale_mean);
  return OK;
}

/* ---- what rank 0 writes by itself ---- */

static int write_table(struct job *job, enum backbone_table table) {
  int64_t piece = TABLE_PIECE / job->config->hidden, total = backbone_table_rows(job->config, table);
  const char *name = backbone_table_name(job->family, table);
  if (piece < 1) piece = 1;
  for (int64_t first = 0; first < total; first += piece) {
    int64_t left = total - first, rows = left < piece ? left : piece;
    TRY(model_source_read(job->source, name, backbone_table_skip(table) + first, rows, job->weights));
    struct matrix rounded = {
        .format = WEIGHT_BF16, .rows = (int)rows, .cols = job->config->hidden, .codes = job->packed};
    TRY(fail_at(quantize_matrix(&rounded, job->weights), "%s", name));
    TRY(backbone_writer_rows(job->writer, table, rows, rounded.codes));
    if (time_to_report(job))
      log_progress("quantize  %s  %3.0f %%", name, 100.0 * (double)(first + rows) / (double)total);
  }
  return OK;
}

static int read_vector(struct job *job, const char *name, int size) {
  TRY(model_source_read(job->source, name, 0, size, job->weights));
  for (int i = 0; i < size; i++)
    if (!isfinite(job->weights[i])) return fail(ERR_INPUT, "%s holds infinities or NaN; the model is damaged", name);
  return OK;
}

static int write_vectors(struct job *job, int layer) {
  for (enum backbone_vector which = 0; which < VECTOR_COUNT; which++) {
    int size = backbone_vector_size(job->config, which);
    if (size == 0) continue;
    char name[96];
    backbone_vector_name(job->family, layer, which, name);
    TRY(read_vector(job, name, size));
    TRY(backbone_writer_vector(job->writer, layer, which, job->weights));
  }
  return OK;
}

static int write_tokenizer(struct job *job) {
  struct tokenizer *tokenizer;
  TRY(model_source_tokenizer(job->source, &tokenizer));
  if (!tokenizer) {
    log_warning(
        "the model comes without a tokenizer.json (save_pretrained() of transformers' AutoTokenizer writes one): only "
        "rows with input_ids can be used with this backbone");
    return OK;
  }
  if (tokenizer_size(tokenizer) > (size_t)job->config->vocabulary)
    log_warning("the tokenizer has %zu tokens, the model %d: tokens beyond them cannot be used",
                tokenizer_size(tokenizer), job->config->vocabulary);
  int status = backbone_writer_tokenizer(job->writer, tokenizer);
  tokenizer_destroy(&tokenizer);
  return status;
}

static int write_beginning(struct job *job) {
  TRY(write_tokenizer(job));
  for (enum backbone_table table = 0; table < TABLE_COUNT; table++) TRY(write_table(job, table));
  for (enum backbone_final which = 0; which < FINAL_COUNT; which++) {
    int size = backbone_final_size(job->config, which);
    if (size == 0) continue;
    TRY(read_vector(job, backbone_final_name(job->family, which), size));
    TRY(backbone_writer_final(job->writer, which, job->weights));
  }
  return OK;
}

/* ---- the layers' matrices ---- */

static enum backbone_matrix kind_of(const struct job *job, int index) {
  return job->kinds[index % job->kind_count];
}

static int quantize_one(struct job *job, int index) {
  enum backbone_matrix which = kind_of(job, index);
  char name[96];
  backbone_matrix_name(job->family, index / job->kind_count, which, name);
  place_arrays(job, which);
  TRY(model_source_read(job->source, name, 0, job->matrix.rows, job->weights));
  return fail_at(quantize_matrix(&job->matrix, job->weights), "%s", name);
}

static int write_one(struct job *job, int index) {
  int layer = index / job->kind_count;
  if (index % job->kind_count == 0) TRY(write_vectors(job, layer));
  return backbone_writer_matrix(job->writer, layer, kind_of(job, index), &job->matrix);
}

/* Rank 0 takes what was sent to it even when it could not write what came before: nobody waits for ever. *written is the
 * status of the writing, the result that of the communication. */
static int collect(struct job *job, int first, int *written) {
  int total = matrix_count(job), size = job->comm->size, rank = job->comm->rank;
  *written = OK;
  if (rank > 0) return first + rank < total ? send_matrix(job) : OK;
  for (int from = 0; from < size && first + from < total; from++) {
    if (from > 0) TRY(receive_matrix(job, kind_of(job, first + from), from));
    if (*written == OK) *written = write_one(job, first + from);
  }
  return OK;
}

static void report_layers(struct job *job, int done) {
  if (!time_to_report(job)) return;
  double part = (double)done / matrix_count(job);
  char left[24];
  clock_format((clock_seconds() - job->layers_started) * (1 - part) / part, left);
  log_progress("quantize  %d of %d layers  %3.0f %%  %s left", done / job->kind_count, job->config->layers, 100 * part,
               left);
}

/* In each round every rank quantizes one matrix; all agree that it went well before anything is sent. */
static int quantize_layers(struct job *job) {
  int status = OK;
  job->layers_started = clock_seconds();
  for (int first = 0; first < matrix_count(job); first += job->comm->size) {
    if (status == OK && first + job->comm->rank < matrix_count(job))
      status = quantize_one(job, first + job->comm->rank);
    TRY(comm_agree(job->comm, status));
    TRY(collect(job, first, &status));
    report_layers(job, first + job->comm->size < matrix_count(job) ? first + job->comm->size : matrix_count(job));
  }
  return comm_agree(job->comm, status);
}

/* ---- beginning and end ---- */

static enum weight_format parse_format(const char *name) {
  return strcmp(name, "bf16") == 0 ? WEIGHT_BF16 : strcmp(name, "fp4") == 0 ? WEIGHT_FP4 : WEIGHT_NF4;
}

/* The arrays hold the largest matrix, a piece of a table, and the largest vector. */
static int allocate(struct job *job) {
  size_t elements = TABLE_PIECE, bytes = 2 * TABLE_PIECE;
  if (elements < (size_t)job->config->hidden) elements = (size_t)job->config->hidden;
  if (bytes < 2 * elements) bytes = 2 * elements;
  for (enum backbone_matrix which = 0; which < MATRIX_COUNT; which++) {
    struct matrix shape = matrix_shape(job, which);
    if (elements < matrix_elements(&shape)) elements = matrix_elements(&shape);
    if (bytes < packed_bytes(&shape)) bytes = packed_bytes(&shape);
  }
  TRY(memory_array(&job->weights, elements, sizeof *job->weights));
  return memory_array(&job->packed, bytes, 1);
}

static int create_file(struct job *job, const char *path) {
  struct buffer provenance = {0};
  int status = model_source_describe(job->source, &provenance);
  if (status == OK)
    status =
        backbone_writer_create(&job->writer, path, job->config, job->format, job->double_quantized, provenance.data);
  buffer_free(&provenance);
  return status;
}

static double parameters(const struct job *job, double *in_matrices) {
  double tables = 0, vectors = 0;
  *in_matrices = 0;
  for (enum backbone_matrix which = 0; which < MATRIX_COUNT; which++) {
    struct matrix shape = matrix_shape(job, which);
    *in_matrices += (double)matrix_elements(&shape) * job->config->layers;
  }
  for (enum backbone_vector which = 0; which < VECTOR_COUNT; which++)
    vectors += (double)backbone_vector_size(job->config, which) * job->config->layers;
  for (enum backbone_final which = 0; which < FINAL_COUNT; which++) vectors += backbone_final_size(job->config, which);
  for (enum backbone_table table = 0; table < TABLE_COUNT; table++)
    tables += (double)backbone_table_rows(job->config, table) * job->config->hidden;
  return *in_matrices + tables + vectors;
}

static int begin(struct job *job, const struct options *options) {
  TRY(model_source_open(&job->source, options->model));
  job->config = model_source_config(job->source);
  job->family = model_family(job->config);
  list_kinds(job);
  TRY(allocate(job));
  job->started = job->reported = clock_seconds();
  double in_matrices;
  log_note("quantize  %s: %s, %d layers, %.1f M parameters", options->model, job->config->architecture,
           job->config->layers, parameters(job, &in_matrices) * 1e-6);
  if (job->comm->rank > 0) return OK;
  TRY(create_file(job, options->out));
  return write_beginning(job);
}

static double bits_per_weight(const struct job *job) {
  double bits = 0, weights = 0;
  for (enum backbone_matrix which = 0; which < MATRIX_COUNT; which++) {
    struct matrix shape = matrix_shape(job, which);
    size_t blocks = matrix_blocks(&shape), scale_size = job->double_quantized ? sizeof(uint8_t) : sizeof(float);
    weights += (double)matrix_elements(&shape);
    bits += CHAR_BIT *
            (double)(matrix_code_bytes(&shape) + blocks * scale_size + matrix_scale_blocks(&shape) * sizeof(float));
  }
  return bits / weights;
}

static void summarize(const struct job *job, const struct options *options) {
  struct stat about;
  double in_matrices, all = parameters(job, &in_matrices),
                      bytes = stat(options->out, &about) ? 0 : (double)about.st_size;
  double seconds = clock_seconds() - job->started;
  log_note("quantize  %.1f M weights at %.3f bits (%s%s); %.1f MB at 16 bits, %.1f MB now; %.1f s", in_matrices * 1e-6,
           bits_per_weight(job), options->format, job->double_quantized ? ", double quantization" : "", 2e-6 * all,
           1e-6 * bytes, seconds);
  log_note("next      qst-mpi tokenize --backbone %s --in ROWS.jsonl --out TOKENS.h5", options->out);
}

static int run(struct job *job, const struct options *options) {
  TRY(comm_agree(job->comm, begin(job, options)));
  TRY(quantize_layers(job));
  int status = job->comm->rank == 0 ? backbone_writer_publish(&job->writer) : OK;
  TRY(comm_agree(job->comm, status));
  summarize(job, options);
  return OK;
}

int command_quantize(const struct options *options, struct comm *comm) {
  struct job job = {.comm = comm, .format = parse_format(options->format)};
  job.double_quantized = options->double_quant && job.format != WEIGHT_BF16;
  omp_set_num_threads(options->threads > 0 ? (int)options->threads : threads_of_rank(comm->local_size));
  int status = run(&job, options);
  backbone_writer_close(&job.writer);
  model_source_close(&job.source);
  free(job.packed);
  free(job.weights);
  return status;
}
