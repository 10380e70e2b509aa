/**
 * @file tiny.h
 * A tiny model of tests/fixtures, its side network and head, opened on a device: what the trainer wires together, in
 * short. Every failure is a failed check.
 */
#ifndef QST_TESTS_TINY_H
#define QST_TESTS_TINY_H

#include <stdlib.h>

#include "device_memory.h"
#include "head.h"
#include "io/model_source.h"
#include "kernels/cpu/cpu.h"
#include "kernels/quantize.h"
#include "reference.h"
#include "scratch.h"
#include "side.h"

/** A way to compute: the plain reference path, or the best this machine has. On another device than the cpu: with fp32 or
 *  with bf16 activations. */
struct tiny_path {
  const char *name, *isa, *act;
  int threads;
};
static const struct tiny_path plain_path = {"plain", "plain", "fp32", 1}, fast_path = {"fast", "auto", "bf16", 2};

/** The other ways, those of this machine; their number. */
static inline int tiny_other_paths(struct tiny_path paths[4]) {
  paths[0] = (struct tiny_path){"plain bf16", "plain", "bf16", 2};
  paths[1] = (struct tiny_path){"avx2 fp32", "avx2", "fp32", 2};
  paths[2] = (struct tiny_path){"avx2 bf16", "avx2", "bf16", 2};
  paths[3] = (struct tiny_path){"avx512 fp32", "avx512-bf16", "fp32", 2};
  if (testing_cuda()) return 0;
  return cpu_isa_best() == CPU_PLAIN ? 1 : cpu_isa_best() == CPU_AVX2 ? 3 : 4;
}

static inline bool tiny_is_fp32(const struct tiny_path *path) {
  return strcmp(path->act, "fp32") == 0;
}

enum { TINY_ROWS = 96, TINY_SAMPLES = 8, TINY_POSITIONS = 64 };

struct tiny {
  struct device *device;
  struct backbone backbone;
  struct side side;
  struct head head;
  struct micro_batch batch;
  bool has_side;
  struct tap_source source;
  struct taps taps;
  size_t own_memory; /**< workspace of the device itself */
  struct gradient_sums sums;
};

/* ---- a backbone file from published weights -------------------------------------------------------------- */

static inline int tiny_write_matrix(struct backbone_writer *writer, struct model_source *source, int layer,
                                    enum backbone_matrix which, enum weight_format format) {
  char name[96];
  struct matrix m = {.format = format, .double_quantized = format != WEIGHT_BF16};
  const struct model_config *config = model_source_config(source);
  backbone_matrix_shape(config, which, &m.rows, &m.cols);
  if (m.rows == 0) return OK;
  backbone_matrix_name(model_family(config), layer, which, name);
  float *weights = calloc(matrix_elements(&m), sizeof *weights);
  m.codes = calloc(matrix_code_bytes(&m), 1);
  m.scale_codes = calloc(matrix_blocks(&m) + 1, 1);
  m.scale_scales = calloc(matrix_scale_blocks(&m) + 1, sizeof *m.scale_scales);
  int status = model_source_read(source, name, 0, m.rows, weights);
  if (status == OK) status = quantize_matrix(&m, weights);
  if (status == OK) status = backbone_writer_matrix(writer, layer, which, &m);
  free(weights);
  free(m.codes);
  free(m.scale_codes);
  free(m.scale_scales);
  return status;
}

static inline int tiny_write_table(struct backbone_writer *writer, struct model_source *source,
                                   enum backbone_table table) {
  const struct model_config *config = model_source_config(source);
  int rows = backbone_table_rows(config, table);
  if (rows == 0) return OK;
  const char *name = backbone_table_name(model_family(config), table);
  size_t count = (size_t)rows * (size_t)config->hidden;
  float *values = calloc(count, sizeof *values);
  bf16 *rounded = calloc(count, sizeof *rounded);
  int status = model_source_read(source, name, backbone_table_skip(table), rows, values);
  for (size_t i = 0; i < count; i++) rounded[i] = float_to_bf16(values[i]);
  if (status == OK) status = backbone_writer_rows(writer, table, rows, rounded);
  free(values);
  free(rounded);
  return status;
}

static inline int tiny_write_vectors(struct backbone_writer *writer, struct model_source *source, int layer) {
  const struct model_config *config = model_source_config(source);
  for (int which = 0; which < VECTOR_COUNT; which++) {
    int size = backbone_vector_size(config, (enum backbone_vector)which);
    if (size == 0) continue;
    char name[96];
    backbone_vector_name(model_family(config), layer, (enum backbone_vector)which, name);
    float *values = calloc((size_t)size, sizeof *values);
    int status = model_source_read(source, name, 0, size, values);
    if (status == OK) status = backbone_writer_vector(writer, layer, (enum backbone_vector)which, values);
    free(values);
    TRY(status);
  }
  return OK;
}

static inline int tiny_write_final(struct backbone_writer *writer, struct model_source *source,
                                   enum backbone_final which) {
  const struct model_config *config = model_source_config(source);
  int size = backbone_final_size(config, which);
  if (size == 0) return OK;
  float *values = calloc((size_t)size, sizeof *values);
  int status = model_source_read(source, backbone_final_name(model_family(config), which), 0, size, values);
  if (status == OK) status = backbone_writer_final(writer, which, values);
  free(values);
  return status;
}

static inline int tiny_write_parts(struct backbone_writer *writer, struct model_source *source,
                                   enum weight_format format) {
  for (int table = 0; table < TABLE_COUNT; table++) TRY(tiny_write_table(writer, source, (enum backbone_table)table));
  for (int which = 0; which < FINAL_COUNT; which++) TRY(tiny_write_final(writer, source, (enum backbone_final)which));
  for (int l = 0; l < model_source_config(source)->layers; l++) {
    TRY(tiny_write_vectors(writer, source, l));
    for (int which = 0; which < MATRIX_COUNT; which++)
      TRY(tiny_write_matrix(writer, source, l, (enum backbone_matrix)which, format));
  }
  return OK;
}

/** Writes the model at `path` (a folder or GGUF) as a backbone file in the scratch folder; the caller frees the result. */
static inline char *tiny_backbone_file(const char *path, enum weight_format format) {
  struct model_source *source = NULL;
  struct backbone_writer *writer = NULL;
  char *out = scratch_path("backbone.h5");
  CHECK_OK(model_source_open(&source, path));
  if (!source) return out;
  CHECK_OK(backbone_writer_create(&writer, out, model_source_config(source), format, true, "a test"));
  CHECK_OK(tiny_write_parts(writer, source, format));
  CHECK_OK(backbone_writer_publish(&writer));
  model_source_close(&source);
  return out;
}

/* ---- opening ---------------------------------------------------------------------------------------------- */

/** Stage `index` of `stages` of the model alone. `rows`: capacity of a micro-batch. */
static inline void tiny_open_stage(struct tiny *tiny, const struct tiny_path *path, const char *model,
                                   enum weight_format format, int rows, int positions, int stages, int index) {
  *tiny = (struct tiny){0};
  char *name = tiny_backbone_file(model, format);
  struct backbone_file *file = NULL;
  CHECK_OK(backbone_file_open(&file, name));
  free(name);
  if (!file) exit(check_result());
  struct device_options options = {
      .name = test_device(), .cpu_isa = path->isa, .act = path->act, .threads = path->threads};
  options.limits = backbone_limits(backbone_file_config(file), rows);
  options.limits.side_hidden = options.limits.hidden;
  CHECK_OK(device_open(&tiny->device, &options));
  if (!tiny->device) exit(check_result());
  tiny->own_memory = tiny->device->allocated[MEMORY_WORKSPACE];
  struct stage stage = stage_share(backbone_file_config(file), 0, stages, index);
  CHECK_OK(backbone_open(&tiny->backbone, tiny->device, file, &stage, rows, positions));
  CHECK_OK(micro_batch_open(&tiny->batch, tiny->device, rows, TINY_SAMPLES));
  backbone_file_close(&file);
}

/** All of it. */
static inline void tiny_open_backbone(struct tiny *tiny, const struct tiny_path *path, const char *model,
                                      enum weight_format format, int rows, int positions) {
  tiny_open_stage(tiny, path, model, format, rows, positions, 1, 0);
}

/** The side network and the sums of its gradients, all parameters zero. */
static inline void tiny_open_side(struct tiny *tiny, const struct options *options, bool training) {
  struct side_shape shape;
  int rows = tiny->backbone.capacity;
  CHECK_OK(side_shape_make(&shape, &tiny->backbone.config, options));
  struct side_use use = {
      .stage = tiny->backbone.stage, .capacity = rows, .positions = TINY_POSITIONS, .frames = 1, .training = training};
  CHECK_OK(side_open(&tiny->side, tiny->device, &tiny->backbone.config, &shape, &use));
  tiny->sums.size = tiny->side.layout.size;
  CHECK_OK(device_allocate(tiny->device, MEMORY_OPTIMIZER, &tiny->sums.sums, (tiny->sums.size + 1) * sizeof(int64_t)));
  tiny->sums.loss = tiny->sums.sums + tiny->sums.size;
  CHECK_OK(device_allocate(tiny->device, MEMORY_OPTIMIZER, &tiny->sums.faults, sizeof(int64_t)));
  tiny->has_side = true;
}

/** The source of taps and the head, after the side network, if there is to be one. */
static inline void tiny_open_head(struct tiny *tiny) {
  const struct side_shape *shape = &tiny->side.layout.shape;
  enum tap_kind kind = tiny->has_side ? side_tap_kind(shape) : TAPS_HIDDEN;
  int cols = tiny->has_side ? side_tap_cols(shape) : tiny->backbone.config.hidden;
  CHECK_OK(tap_source_open(&tiny->source, &tiny->backbone, kind, cols, 1));
  CHECK_OK(head_open(&tiny->head, &tiny->backbone, tiny->has_side ? &tiny->side : NULL, tiny->backbone.capacity));
}

static inline void tiny_close(struct tiny *tiny) {
  struct device *device = tiny->device;
  head_close(&tiny->head);
  tap_source_close(&tiny->source);
  if (tiny->has_side) {
    device_release(device, MEMORY_OPTIMIZER, &tiny->sums.sums, (tiny->sums.size + 1) * sizeof(int64_t));
    device_release(device, MEMORY_OPTIMIZER, &tiny->sums.faults, sizeof(int64_t));
    side_close(&tiny->side);
  }
  micro_batch_close(&tiny->batch, device);
  backbone_close(&tiny->backbone);
  for (int kind = 0; kind < MEMORY_KINDS; kind++)
    CHECK(device->allocated[kind] == (kind == MEMORY_WORKSPACE ? tiny->own_memory : 0));
  device_close(&tiny->device);
}

/** The frozen tensors of a reference file, where the side network has some. */
static inline void tiny_set_frozen(struct tiny *tiny, const struct safetensors *reference) {
  const struct side_layout *layout = &tiny->side.layout;
  for (int i = layout->count; i < side_tensor_count(layout); i++) {
    const struct side_tensor *tensor = &layout->tensors[i];
    float *values = reference_read(reference, "frozen/", tensor->name, side_tensor_size(tensor));
    memcpy(tiny->side.frozen + tensor->offset, values, side_tensor_size(tensor) * sizeof *values);
    free(values);
  }
  if (tiny->side.frozen) CHECK_OK(tap_source_project(&tiny->source, tiny->side.frozen));
}

/** Everything that a reference file's metadata describes, with its parameters `prefix`NAME. */
static inline void tiny_open_reference(struct tiny *tiny, const struct tiny_path *path,
                                       const struct safetensors *reference, bool training) {
  char model[128], downsample[32], mix[32];
  snprintf(model, sizeof model, "tests/fixtures/%s", reference_text(reference, "model"));
  snprintf(downsample, sizeof downsample, "%s", reference_text(reference, "downsample"));
  snprintf(mix, sizeof mix, "%s", reference_text(reference, "mix"));
  struct options options = {.reduction_factor = (int64_t)reference_number(reference, "reduction_factor"),
                            .rank = (int64_t)reference_number(reference, "rank"),
                            .side_heads = (int64_t)reference_number(reference, "side_heads"),
                            .downsample = downsample,
                            .mix = mix};
  tiny_open_backbone(tiny, path, model, WEIGHT_BF16, TINY_ROWS, TINY_POSITIONS);
  tiny_open_side(tiny, &options, training);
  tiny_open_head(tiny);
  tiny_set_frozen(tiny, reference);
}

/** The flat buffer of a reference file's tensors `prefix`NAME, one for each tensor of the layout, and no others; the caller
 *  frees it. */
static inline float *tiny_flat(const struct tiny *tiny, const struct safetensors *reference, const char *prefix) {
  const struct side_layout *layout = &tiny->side.layout;
  float *flat = calloc(layout->size, sizeof *flat);
  size_t named = 0;
  for (size_t i = 0; i < safetensors_count(reference); i++)
    named += strncmp(safetensors_at(reference, i)->name, prefix, strlen(prefix)) == 0;
  CHECK(named == (size_t)layout->count);
  for (int i = 0; i < layout->count; i++) {
    const struct side_tensor *tensor = &layout->tensors[i];
    float *values = reference_read(reference, prefix, tensor->name, side_tensor_size(tensor));
    memcpy(flat + tensor->offset, values, side_tensor_size(tensor) * sizeof *values);
    free(values);
  }
  return flat;
}

/* ---- running ---------------------------------------------------------------------------------------------- */

static inline void tiny_load(struct tiny *tiny, const struct token_file *data, const int64_t *rows, int count) {
  CHECK_OK(micro_batch_load(&tiny->batch, tiny->device, data, rows, count));
}

/** Makes every row of the loaded micro-batch a label row, against label 0: logits of all positions. */
static inline void tiny_score_all(struct tiny *tiny) {
  int32_t rows[TINY_ROWS], zeros[TINY_ROWS] = {0};
  for (int i = 0; i < TINY_ROWS; i++) rows[i] = i;
  size_t bytes = (size_t)tiny->batch.rows * sizeof(int32_t);
  CHECK_OK(device_upload(tiny->device, tiny->batch.label_rows, rows, bytes));
  CHECK_OK(device_upload(tiny->device, tiny->batch.label_ids, zeros, bytes));
  tiny->batch.label_count = tiny->batch.rows;
}

static inline void tiny_forward(struct tiny *tiny, struct kv_cache *cache, struct kv_cache *side_cache) {
  CHECK_OK(tap_source_run(&tiny->source, 0, &tiny->batch, cache, &tiny->taps));
  struct side_frame *frame = tiny->has_side ? &tiny->side.frames[0] : NULL;
  if (frame) CHECK_OK(side_forward(&tiny->side, frame, &tiny->batch, &tiny->taps, side_cache));
  CHECK_OK(head_forward(&tiny->head, &tiny->batch, &tiny->taps, frame ? frame->s_out : NULL));
}

/** Forward and backward of the loaded micro-batch, added to the sums. */
static inline void tiny_train(struct tiny *tiny) {
  tiny_forward(tiny, NULL, NULL);
  struct side_frame *frame = &tiny->side.frames[0];
  CHECK_OK(head_backward(&tiny->head, &tiny->batch, &tiny->taps, frame->ds, &tiny->sums));
  CHECK_OK(side_backward(&tiny->side, frame, &tiny->batch, &tiny->taps, &tiny->sums, NULL));
}

static inline void tiny_zero_sums(struct tiny *tiny) {
  CHECK_OK(device_zero(tiny->device, tiny->sums.sums, (tiny->sums.size + 1) * sizeof(int64_t)));
  CHECK_OK(device_zero(tiny->device, tiny->sums.faults, sizeof(int64_t)));
}

/** The sums, [sums.size + 1], none of them faulty; the caller frees them. */
static inline int64_t *tiny_sums(struct tiny *tiny) {
  int64_t *sums = calloc(tiny->sums.size + 1, sizeof *sums), faults = -1;
  CHECK_OK(device_download(tiny->device, sums, tiny->sums.sums, (tiny->sums.size + 1) * sizeof *sums));
  CHECK_OK(device_download(tiny->device, &faults, tiny->sums.faults, sizeof faults));
  CHECK(faults == 0);
  return sums;
}

static inline double tiny_fixed(int64_t sum) {
  return ldexp((double)sum, -FIXED_FRACTION_BITS);
}

/** Logits of all label rows, [label_count, vocabulary]; the caller frees them. */
static inline float *tiny_logits(struct tiny *tiny) {
  size_t cols = (size_t)tiny->backbone.config.vocabulary;
  int total = tiny->batch.label_count;
  float *out = calloc((size_t)total * cols + 1, sizeof *out);
  for (int first = 0; first < total; first += tiny->head.chunk) {
    int count = total - first < tiny->head.chunk ? total - first : tiny->head.chunk;
    CHECK_OK(head_logits(&tiny->head, first, count));
    CHECK_OK(device_download(tiny->device, out + (size_t)first * cols, tiny->head.logits,
                             (size_t)count * cols * sizeof *out));
  }
  return out;
}

/** Activations as fp32; the caller frees them. */
static inline float *tiny_activations(struct tiny *tiny, const void *block, size_t count) {
  float *out = calloc(count + 1, sizeof *out);
  CHECK_OK(device_download(tiny->device, out, block, device_act_bytes(tiny->device, count)));
  if (tiny->device->act == DTYPE_BF16)
    for (size_t i = count; i-- > 0;) {
      bf16 value;
      memcpy(&value, (char *)out + 2 * i, sizeof value);
      out[i] = bf16_to_float(value);
    }
  return out;
}

#endif
