#include "benchmarks/kernels_cases.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "tests/device_memory.h"

/* ---- buffers -------------------------------------------------------------------------------------------- */

size_t bench_number_size(const struct bench *bench, enum number type) {
  switch (type) {
    case NUMBER_ACT:
      return dtype_size(bench->device->act);
    case NUMBER_F64:
    case NUMBER_I64:
      return 8;
    default:
      return 4;
  }
}

/** QST_BENCH_SHARED: another number, for rehearsals where there is no GPU. */
static size_t most_shared(void) {
  const char *most = getenv("QST_BENCH_SHARED");
  return most ? (size_t)atoll(most) : (size_t)32 << 20;
}

static int open_block(struct bench *bench, struct block *out, size_t bytes) {
  out->bytes = bytes;
  out->alone = testing_cuda() && bytes > most_shared();
  if (out->alone) return device_allocate(bench->device, MEMORY_WORKSPACE, &out->data, bytes);
  return shared_array(&out->data, bytes, 1);
}

/** Zeroed. */
static void *keep(struct bench *bench, size_t count, size_t size) {
  struct block *block = &bench->blocks[bench->block_count];
  int status = bench->block_count < MOST_BLOCKS ? open_block(bench, block, (count + 16) * size)
                                                : fail(ERR_INTERNAL, "a case has too many blocks");
  if (status == OK) return bench->blocks[bench->block_count++].data;
  if (bench->status == OK) bench->status = status;
  return NULL;
}

void bench_clear(struct bench *bench) {
  for (int i = 0; i < bench->block_count; i++) {
    struct block *block = &bench->blocks[i];
    if (block->alone) {
      device_release(bench->device, MEMORY_WORKSPACE, &block->data, block->bytes);
    } else {
      shared_free(block->data);
    }
  }
  bench->block_count = bench->result_count = 0;
}

bool bench_is_shared(const struct bench *bench) {
  for (int i = 0; i < bench->block_count; i++)
    if (bench->blocks[i].alone) return false;
  return true;
}

/* ---- numbers --------------------------------------------------------------------------------------------- */

static float random_float(struct bench *bench) {
  bench->random = bench->random * 6364136223846793005u + 1442695040888963407u;
  return (float)(int32_t)(bench->random >> 32) * 0x1p-31f;
}

/** Random numbers around `middle`, at most `spread` from it. */
static void write_numbers(struct bench *bench, void *to, size_t size, size_t count, float middle, float spread) {
  for (size_t i = 0; i < count; i++) {
    float value = middle + spread * random_float(bench);
    if (size == sizeof(float)) ((float *)to)[i] = value;
    if (size == sizeof(bf16)) ((bf16 *)to)[i] = float_to_bf16(value);
    if (size == 1) ((uint8_t *)to)[i] = (uint8_t)value;
  }
}

/** The same in the last block, which the host may not reach: a piece of it again and again. Elements of 4 bytes are floats, of 2
 *  bytes bf16, of one byte whole numbers. */
static void fill(struct bench *bench, size_t size, size_t count, float middle, float spread) {
  enum { PIECE = 1 << 20 };
  static char piece[PIECE * sizeof(float)];
  if (bench->status != OK) return;
  const struct block *block = &bench->blocks[bench->block_count - 1];
  if (!block->alone) {
    write_numbers(bench, block->data, size, count, middle, spread);
    return;
  }
  write_numbers(bench, piece, size, count < PIECE ? count : PIECE, middle, spread);
  for (size_t at = 0; at < count && bench->status == OK; at += PIECE)
    bench->status = device_upload(bench->device, (char *)block->data + at * size, piece,
                                  (count - at < PIECE ? count - at : PIECE) * size);
}

/** Integers and doubles are zero. */
static void *numbers_around(struct bench *bench, enum number type, size_t count, float middle, float spread) {
  size_t size = bench_number_size(bench, type);
  void *block = keep(bench, count, size);
  if (type == NUMBER_ACT || type == NUMBER_F32) fill(bench, size, count, middle, spread);
  return block;
}

/** In [-1, 1). */
static void *numbers(struct bench *bench, enum number type, size_t count) {
  return numbers_around(bench, type, count, 0, 1);
}

static void *act(struct bench *bench, size_t count) {
  return numbers(bench, NUMBER_ACT, count);
}

static float *f32(struct bench *bench, size_t count) {
  return numbers(bench, NUMBER_F32, count);
}

/** Numbers in [0.5, 1.5): variances, denominators, moments. */
static float *positive(struct bench *bench, size_t count) {
  return numbers_around(bench, NUMBER_F32, count, 1, 0.5f);
}

static int32_t *integers(struct bench *bench, size_t count, int below) {
  int32_t *x = keep(bench, count, sizeof *x);
  for (size_t i = 0; x && i < count; i++) x[i] = (int32_t)((random_float(bench) + 1) / 2 * (float)(below - 1));
  return x;
}

static void *result_around(struct bench *bench, enum number type, size_t count, float middle, float spread) {
  struct result *r = &bench->results[bench->result_count++];
  size_t size = bench_number_size(bench, type);
  *r = (struct result){.data = numbers_around(bench, type, count, middle, spread), .type = type, .count = count};
  if (!bench_is_shared(bench)) return r->data;
  r->before = keep(bench, count, size), r->after = keep(bench, count, size);
  if (r->data && r->before) memcpy(r->before, r->data, count * size);
  return r->data;
}

static void *result(struct bench *bench, enum number type, size_t count) {
  return result_around(bench, type, count, 0, 1);
}

static void *out_act(struct bench *bench, size_t count) {
  return result(bench, NUMBER_ACT, count);
}

static float *out_f32(struct bench *bench, size_t count) {
  return result(bench, NUMBER_F32, count);
}

/** As positive(), and written to. */
static float *out_positive(struct bench *bench, size_t count) {
  return result_around(bench, NUMBER_F32, count, 1, 0.5f);
}

/** Random codes are as good as any. */
static void *codes(struct bench *bench, size_t count) {
  void *block = keep(bench, count, 1);
  fill(bench, 1, count, 128, 127);
  return block;
}

static struct matrix frozen(struct bench *bench, enum weight_format format, int rows, int cols) {
  struct matrix w = {.format = format, .double_quantized = format != WEIGHT_BF16, .rows = rows, .cols = cols};
  if (format == WEIGHT_BF16) {
    w.codes = keep(bench, matrix_elements(&w), sizeof(bf16));
    fill(bench, sizeof(bf16), matrix_elements(&w), 0, 1.0f / 16);
    return w;
  }
  w.codes = codes(bench, matrix_code_bytes(&w));
  w.scale_codes = codes(bench, matrix_blocks(&w));
  w.scale_scales = keep(bench, matrix_scale_blocks(&w), sizeof(float));
  fill(bench, sizeof(float), matrix_scale_blocks(&w), 0.02f, 0);
  w.scale_mean = 0.06f;
  return w;
}

/* ---- calls ---------------------------------------------------------------------------------------------- */

#define RUN(name)                                                       \
  static int run_##name(struct device *device, const void *arguments) { \
    return device_##name(device, arguments);                            \
  }
DEVICE_OPERATIONS(RUN)
#undef RUN

/** Measures one case: its text, then the arguments as designated initialisers. */
#define CASE(name, what, ...)                                                                       \
  do {                                                                                              \
    struct name##_args case_arguments_ = {__VA_ARGS__};                                             \
    if (bench->status == OK && strstr(#name, bench->search))                                        \
      bench->status = bench->report(bench, OPERATION_##name, (what), run_##name, &case_arguments_); \
    bench_clear(bench);                                                                             \
  } while (0)

/* ---- frozen products ------------------------------------------------------------------------------------ */

struct frozen_case {
  const char *what;
  int rows, cols, parts[FROZEN_PARTS];
  bool residual;
};

static void frozen_linear_case(struct bench *bench, const struct frozen_case *c) {
  struct matrix parts[FROZEN_PARTS];
  int n = 0, count = 0;
  char what[64];
  for (; count < FROZEN_PARTS && c->parts[count]; n += c->parts[count++])
    parts[count] = frozen(bench, WEIGHT_NF4, c->parts[count], c->cols);
  void *y = out_act(bench, (size_t)c->rows * n);
  snprintf(what, sizeof what, "%s %d x %d x %d", c->what, c->rows, n, c->cols);
  CASE(frozen_linear, what, .y = y, .x = act(bench, (size_t)c->rows * c->cols),
       .parts = {&parts[0], &parts[1], &parts[2]}, .part_count = count, .residual = c->residual ? y : NULL,
       .rows = c->rows);
}

static void frozen_cases(struct bench *bench) {
  const struct model_shape *s = &bench->shape;
  int d = s->hidden, kv = d / s->heads * s->kv_heads;
  static const int few[] = {1, 16};
  for (int i = -1; i < 2; i++) {
    int rows = i < 0 ? s->rows : few[i];
    struct frozen_case cases[] = {{"qkv", rows, d, {d, kv, kv}, false},
                                  {"o", rows, d, {d}, true},
                                  {"gate up", rows, d, {s->ff, s->ff}, false},
                                  {"down", rows, s->ff, {d}, true}};
    for (int c = 0; c < 4; c++) frozen_linear_case(bench, &cases[c]);
  }
}

static void head_cases(struct bench *bench, int rows) {
  const struct model_shape *s = &bench->shape;
  size_t hidden = (size_t)rows * s->hidden, logits = (size_t)rows * s->vocabulary;
  char what[64];
  snprintf(what, sizeof what, "%d x %d x %d", rows, s->vocabulary, s->hidden);
  struct matrix head = frozen(bench, WEIGHT_BF16, s->vocabulary, s->hidden);
  CASE(frozen_logits, what, .logits = out_f32(bench, logits), .x = act(bench, hidden), .weight = &head, .rows = rows);
  head = frozen(bench, WEIGHT_BF16, s->vocabulary, s->hidden);
  CASE(frozen_input_grad, what, .dx = out_act(bench, hidden), .dy = act(bench, logits), .weight = &head, .rows = rows);
  head = frozen(bench, WEIGHT_BF16, s->vocabulary, s->hidden);
  snprintf(what, sizeof what, "%d x %d", s->rows, s->hidden);
  CASE(embed, what, .y = out_act(bench, (size_t)s->rows * s->hidden), .table = &head,
       .tokens = integers(bench, s->rows, s->vocabulary), .rows = s->rows);
  head = frozen(bench, WEIGHT_BF16, s->vocabulary, s->hidden);
  struct matrix positions = frozen(bench, WEIGHT_BF16, s->rows, s->hidden);
  snprintf(what, sizeof what, "%d x %d, positions", s->rows, s->hidden);
  CASE(embed, what, .y = out_act(bench, (size_t)s->rows * s->hidden), .table = &head, .position_table = &positions,
       .tokens = integers(bench, s->rows, s->vocabulary), .positions = integers(bench, s->rows, s->rows),
       .rows = s->rows);
}

/* ---- trained products ----------------------------------------------------------------------------------- */

static void linear_cases_of(struct bench *bench, const char *what_layer, int n, int k) {
  int rows = bench->shape.rows;
  size_t x = (size_t)rows * k, y = (size_t)rows * n, w = (size_t)n * k;
  char what[64];
  snprintf(what, sizeof what, "%s %d x %d x %d", what_layer, rows, n, k);
  CASE(linear, what, .y = out_act(bench, y), .x = act(bench, x), .w = act(bench, w), .rows = rows, .n = n, .k = k);
  CASE(linear_input_grad, what, .dx = out_act(bench, x), .dy = act(bench, y), .w = act(bench, w), .rows = rows, .n = n,
       .k = k);
  CASE(linear_weight_grad, what, .dw = out_f32(bench, w), .dy = act(bench, y), .x = act(bench, x), .rows = rows, .n = n,
       .k = k);
}

static void linear_cases(struct bench *bench) {
  const struct model_shape *s = &bench->shape;
  int d = s->hidden, side = d / s->reduction, side_kv = side / s->heads * s->kv_heads, side_ff = s->ff / s->reduction;
  linear_cases_of(bench, "adapter A", s->rank, d);
  linear_cases_of(bench, "adapter B", side, s->rank);
  linear_cases_of(bench, "qkv", side + 2 * side_kv, side);
  linear_cases_of(bench, "o", side, side);
  linear_cases_of(bench, "gate up", 2 * side_ff, side);
  linear_cases_of(bench, "down", side, side_ff);
  linear_cases_of(bench, "upsample", d, side);
}

/* ---- norms, attention ----------------------------------------------------------------------------------- */

static void norm_cases(struct bench *bench, int cols) {
  int rows = bench->shape.rows;
  size_t x = (size_t)rows * cols;
  char what[64];
  snprintf(what, sizeof what, "%d x %d", rows, cols);
  CASE(rmsnorm, what, .y = out_act(bench, x), .rstd = out_f32(bench, rows), .x = act(bench, x), .w = f32(bench, cols),
       .rows = rows, .cols = cols, .epsilon = 1e-5f);
  CASE(rmsnorm_backward, what, .dx = out_act(bench, x), .dw = out_f32(bench, cols), .dy = act(bench, x),
       .x = act(bench, x), .w = f32(bench, cols), .rstd = positive(bench, rows), .rows = rows, .cols = cols);
  CASE(layernorm, what, .y = out_act(bench, x), .mean = out_f32(bench, rows), .rstd = out_f32(bench, rows),
       .x = act(bench, x), .w = f32(bench, cols), .b = f32(bench, cols), .rows = rows, .cols = cols, .epsilon = 1e-5f);
  CASE(layernorm_backward, what, .dx = out_act(bench, x), .dw = out_f32(bench, cols), .db = out_f32(bench, cols),
       .dy = act(bench, x), .x = act(bench, x), .w = f32(bench, cols), .mean = f32(bench, rows),
       .rstd = positive(bench, rows), .rows = rows, .cols = cols);
}

/** Samples of equal length, packed. */
static struct segments samples(struct bench *bench) {
  int length = bench->shape.sample, count = bench->shape.rows / length;
  int32_t *start = keep(bench, count + 1, sizeof *start), *lengths = keep(bench, count, sizeof *lengths);
  for (int i = 0; start && i <= count; i++) start[i] = i * length;
  for (int i = 0; lengths && i < count; i++) lengths[i] = length;
  return (struct segments){.count = count,
                           .q_start = start,
                           .k_start = start,
                           .k_length = lengths,
                           .max_queries = length,
                           .max_keys = length,
                           .pairs = (int64_t)count * length * (length + 1) / 2};
}

static void attention_cases(struct bench *bench, const char *what_network, int hidden, bool backward) {
  const struct model_shape *s = &bench->shape;
  int head = hidden / s->heads, kv = head * s->kv_heads, stride = hidden + 2 * kv,
      rows = s->rows / s->sample * s->sample;
  size_t qkv = (size_t)rows * stride, o = (size_t)rows * hidden,
         place = (size_t)hidden * dtype_size(bench->device->act);
  char what[64];
  snprintf(what, sizeof what, "%s %d heads of %d", what_network, s->heads, head);
  char *x = act(bench, qkv);
  CASE(attention, what, .o = out_act(bench, o), .lse = out_f32(bench, (size_t)rows * s->heads), .q = x, .k = x + place,
       .v = x + place / hidden * (hidden + kv), .segments = samples(bench), .rows = rows, .q_stride = stride,
       .kv_stride = stride, .heads = s->heads, .kv_heads = s->kv_heads, .head_dim = head, .scale = 0.2f);
  if (!backward) return;
  x = act(bench, qkv);
  char *dx = out_act(bench, qkv);
  CASE(attention_backward, what, .dq = dx, .dk = dx + place, .dv = dx + place / hidden * (hidden + kv),
       .d_o = act(bench, o), .o = act(bench, o), .lse = positive(bench, (size_t)rows * s->heads), .q = x,
       .k = x + place, .v = x + place / hidden * (hidden + kv), .segments = samples(bench), .rows = rows,
       .q_stride = stride, .kv_stride = stride, .heads = s->heads, .kv_heads = s->kv_heads, .head_dim = head,
       .scale = 0.2f);
}

static void rope_case(struct bench *bench) {
  const struct model_shape *s = &bench->shape;
  size_t x = (size_t)s->rows * s->hidden;
  int head = s->hidden / s->heads;
  float *table = f32(bench, (size_t)s->rows * head);
  char what[64];
  snprintf(what, sizeof what, "%d x %d", s->rows, s->hidden);
  CASE(rope, what, .x = out_act(bench, x), .positions = integers(bench, s->rows, s->rows), .cosines = table,
       .sines = table, .rows = s->rows, .stride = s->hidden, .heads = s->heads, .head_dim = head,
       .table_positions = s->rows);
}

/* ---- element by element --------------------------------------------------------------------------------- */

static void activation_cases(struct bench *bench, int cols) {
  int rows = bench->shape.rows;
  size_t x = (size_t)rows * cols;
  char what[64];
  snprintf(what, sizeof what, "%d x %d", rows, cols);
  CASE(swiglu, what, .y = out_act(bench, x), .x = act(bench, 2 * x), .rows = rows, .cols = cols);
  CASE(swiglu_backward, what, .dx = out_act(bench, 2 * x), .dy = act(bench, x), .x = act(bench, 2 * x), .rows = rows,
       .cols = cols);
  CASE(silu, what, .y = out_act(bench, x), .x = act(bench, x), .rows = rows, .cols = cols);
  CASE(silu_backward, what, .dx = out_act(bench, x), .dy = act(bench, x), .x = act(bench, x), .rows = rows,
       .cols = cols);
  CASE(relu, what, .y = out_act(bench, x), .x = act(bench, x), .rows = rows, .cols = cols);
  CASE(relu_backward, what, .dx = out_act(bench, x), .dy = act(bench, x), .y = act(bench, x), .rows = rows,
       .cols = cols);
}

static void gate_cases(struct bench *bench, int cols) {
  int rows = bench->shape.rows;
  size_t x = (size_t)rows * cols;
  char what[64];
  snprintf(what, sizeof what, "%d x %d", rows, cols);
  CASE(gate, what, .u = out_act(bench, x), .d = act(bench, x), .s = act(bench, x), .z = f32(bench, cols), .rows = rows,
       .cols = cols);
  CASE(gate_backward, what, .dd = out_act(bench, x), .ds = out_act(bench, x), .dz = out_f32(bench, cols),
       .du = act(bench, x), .d = act(bench, x), .s = act(bench, x), .z = f32(bench, cols), .rows = rows, .cols = cols);
}

static void mix_cases(struct bench *bench, int cols) {
  int rows = bench->shape.rows, window = bench->shape.reduction;
  size_t x = (size_t)rows * cols;
  char what[64];
  snprintf(what, sizeof what, "%d x %d", rows, cols);
  CASE(mix, what, .y = out_act(bench, x), .h = act(bench, x), .side = act(bench, x), .weight = f32(bench, cols),
       .kind = MIX_GATE, .rows = rows, .cols = cols);
  CASE(mix_backward, what, .dside = out_act(bench, x), .dweight = out_f32(bench, cols), .dy = act(bench, x),
       .h = act(bench, x), .side = act(bench, x), .weight = f32(bench, cols), .kind = MIX_GATE, .rows = rows,
       .cols = cols);
  CASE(pool, what, .y = out_act(bench, x / window), .x = act(bench, x), .rows = rows, .cols = cols / window,
       .window = window);
  CASE(copy_rows, what, .y = out_act(bench, x), .x = act(bench, x), .rows = rows, .cols = cols,
       .x_index = integers(bench, rows, rows), .y_stride = cols, .x_stride = cols);
  CASE(to_act, what, .y = out_act(bench, x), .x = f32(bench, x), .count = x);
  CASE(from_act, what, .y = out_f32(bench, x), .x = act(bench, x), .count = x);
}

/* ---- loss, sums, optimizer ------------------------------------------------------------------------------ */

static void loss_cases(struct bench *bench, int rows, int cols) {
  size_t x = (size_t)rows * cols;
  char what[64];
  snprintf(what, sizeof what, "%d x %d", rows, cols);
  CASE(cross_entropy, what, .loss = out_f32(bench, rows), .dlogits = out_act(bench, x), .logits = f32(bench, x),
       .labels = integers(bench, rows, cols), .rows = rows, .cols = cols);
  CASE(argmax, what, .index = result(bench, NUMBER_I32, rows), .logits = f32(bench, x), .rows = rows, .cols = cols);
}

static void parameter_cases(struct bench *bench, size_t count) {
  char what[64];
  snprintf(what, sizeof what, "%zu numbers", count);
  CASE(fixed_add, what, .sums = result(bench, NUMBER_I64, count), .faults = result(bench, NUMBER_I64, 1),
       .x = f32(bench, count), .count = count);
  CASE(fixed_total, what, .sum = result(bench, NUMBER_I64, 1), .faults = result(bench, NUMBER_I64, 1),
       .x = f32(bench, count), .count = count);
  CASE(fixed_get, what, .y = out_f32(bench, count), .sums = numbers(bench, NUMBER_I64, count), .scale = 0.5,
       .count = count);
  CASE(sum_squares, what, .result = result(bench, NUMBER_F64, 1), .x = f32(bench, count), .count = count);
  CASE(adamw, what, .master = out_f32(bench, count), .m = out_f32(bench, count), .v = out_positive(bench, count),
       .weights = out_act(bench, count), .gradient = f32(bench, count), .count = count, .gradient_scale = 1,
       .lr = 1e-3f, .beta1 = 0.9f, .beta2 = 0.999f, .epsilon = 1e-8f, .decay = 0.01f, .step = 3);
}

int bench_cases(struct bench *bench) {
  const struct model_shape *s = &bench->shape;
  int side = s->hidden / s->reduction;
  frozen_cases(bench);
  head_cases(bench, s->logit_rows);
  linear_cases(bench);
  norm_cases(bench, s->hidden);
  norm_cases(bench, side);
  rope_case(bench);
  attention_cases(bench, "backbone", s->hidden, false);
  attention_cases(bench, "side", side, true);
  activation_cases(bench, s->ff);
  activation_cases(bench, s->ff / s->reduction);
  gate_cases(bench, side);
  mix_cases(bench, s->hidden);
  loss_cases(bench, s->logit_rows, s->vocabulary);
  parameter_cases(bench, (size_t)s->parameters);
  return bench->status;
}
