/* The null device: what each operation is counted to cost, against numbers worked out by hand; time, memory, addresses.
 *
 * RUN ranks=1
 * RUN ranks=1 device=cuda */
#include <stdlib.h>

#include "base/memory.h"
#include "check.h"
#include "device_memory.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cuda/workspace.h"
#include "kernels/null/null.h"

/* 1 TFLOP/s of products, 0.1 of the rest, 100 GB/s, 1 us a launch, as measured: no fractions of peaks. */
static const struct hardware plain = {.name = "plain",
                                      .achieved = true,
                                      .matrix_bf16 = 1e12,
                                      .vector = 1e11,
                                      .memory_bandwidth = 1e11,
                                      .launch = 1e-6,
                                      .host = {1e10, 2e-6}};

static struct device *open_null(const struct hardware *hardware, const char *act) {
  struct device *device = NULL;
  CHECK_OK(device_open(&device, &(struct device_options){.name = "null",
                                                         .act = act,
                                                         .threads = 2,
                                                         .hardware = hardware,
                                                         .limits = {.rows = 8, .hidden = 16, .side_hidden = 8}}));
  return device;
}

static bool close_to(double got, double want) {
  return fabs(got - want) <= 1e-9 * fabs(want);
}

static void check_work(struct device *device, enum operation operation, double flops, double bytes) {
  const struct counted *work = null_counted(device, LANE_SIDE, (int)operation);
  bool good = work->calls == 1 && close_to(work->flops, flops) && close_to(work->bytes, bytes);
  if (!good)
    fprintf(stderr, "%s: %lld calls, %.0f FLOPs and %.0f bytes; by hand %.0f and %.0f\n", operation_name(operation),
            (long long)work->calls, work->flops, work->bytes, flops, bytes);
  CHECK(good);
  null_reset(device);
}

/* Nothing is behind these addresses; all operands are different. */
static char at[64];
#define ADDRESS(i) ((void *)(at + (i)))

#define COUNTED(name, flops, bytes, ...)                                 \
  do {                                                                   \
    CHECK_OK(device_##name(device, &(struct name##_args){__VA_ARGS__})); \
    check_work(device, OPERATION_##name, (flops), (bytes));              \
  } while (0)

/* 64 x 128 in NF4: 4096 bytes of codes, 128 blocks; their scales twice quantized: 128 bytes and one fp32. */
static const struct matrix nf4 = {.format = WEIGHT_NF4,
                                  .double_quantized = true,
                                  .rows = 64,
                                  .cols = 128,
                                  .codes = at,
                                  .scale_codes = (uint8_t *)at,
                                  .scale_scales = (float *)at};
static const struct matrix bf16_matrix = {.format = WEIGHT_BF16, .rows = 10, .cols = 6, .codes = at};

static void test_products(struct device *device) {
  COUNTED(embed, 0, 5 * (6 * (2 + 2) + 4), .y = ADDRESS(0), .table = &bf16_matrix, .tokens = ADDRESS(4), .rows = 5);
  COUNTED(embed, 0, 5 * (6 * (2 + 2 + 2) + 4 + 4), .y = ADDRESS(0), .table = &bf16_matrix,
          .position_table = &bf16_matrix, .tokens = ADDRESS(4), .positions = ADDRESS(8), .rows = 5);
  /* 3 rows, n = 128, k = 128; weights 2 * 4228; the residual is read, the bias is fp32 */
  COUNTED(frozen_linear, 2 * 3 * 128 * 128, 2 * 3 * (128 + 128 + 128) + 2 * (4096 + 128 + 4) + 4 * 128, .y = ADDRESS(0),
          .x = ADDRESS(1), .parts = {&nf4, &nf4}, .part_count = 2, .bias = ADDRESS(8), .residual = ADDRESS(2),
          .rows = 3);
  COUNTED(frozen_logits, 2 * 4 * 60, 2 * 4 * 6 + 2 * 60 + 4 * 4 * 10, .logits = ADDRESS(0), .x = ADDRESS(1),
          .weight = &bf16_matrix, .rows = 4);
  COUNTED(frozen_input_grad, 2 * 4 * 60, 2 * 4 * (6 + 10) + 2 * 60, .dx = ADDRESS(0), .dy = ADDRESS(1),
          .weight = &bf16_matrix, .rows = 4);
  COUNTED(linear, 2 * 7 * 3 * 5, 2 * 7 * (5 + 3) + 2 * 15 + 4 * 3, .y = ADDRESS(0), .x = ADDRESS(1), .w = ADDRESS(2),
          .bias = ADDRESS(4), .rows = 7, .n = 3, .k = 5);
  COUNTED(linear, 2 * 7 * 3 * 5, 2 * 7 * (5 + 3 + 3) + 2 * 15 + 4 * 3, .y = ADDRESS(0), .x = ADDRESS(1),
          .w = ADDRESS(2), .bias = ADDRESS(4), .residual = ADDRESS(0), .rows = 7, .n = 3, .k = 5);
  COUNTED(linear_input_grad, 2 * 7 * 3 * 5, 2 * 7 * (3 + 5 + 5) + 2 * 15, .dx = ADDRESS(0), .dy = ADDRESS(1),
          .w = ADDRESS(2), .rows = 7, .n = 3, .k = 5, .accumulate = true);
  COUNTED(linear_weight_grad, 2 * 7 * 3 * 5, 2 * 7 * (3 + 5) + 4 * 15 + 4 * 3, .dw = ADDRESS(0), .dbias = ADDRESS(4),
          .dy = ADDRESS(8), .x = ADDRESS(9), .rows = 7, .n = 3, .k = 5);
}

static void test_norms(struct device *device) {
  /* 7 rows of 6: a tensor is 84 bytes, a vector 24, one number a row 28 */
  COUNTED(rmsnorm, 0, 2 * 84 + 24 + 28, .y = ADDRESS(0), .rstd = ADDRESS(4), .x = ADDRESS(1), .w = ADDRESS(8),
          .rows = 7, .cols = 6);
  COUNTED(rmsnorm_backward, 0, 4 * 84 + 2 * 24 + 28, .dx = ADDRESS(0), .dw = ADDRESS(4), .dy = ADDRESS(1),
          .x = ADDRESS(2), .w = ADDRESS(8), .rstd = ADDRESS(12), .rows = 7, .cols = 6, .accumulate = true);
  COUNTED(layernorm, 0, 2 * 84 + 2 * 24 + 2 * 28, .y = ADDRESS(0), .mean = ADDRESS(4), .rstd = ADDRESS(8),
          .x = ADDRESS(1), .w = ADDRESS(12), .b = ADDRESS(16), .rows = 7, .cols = 6);
  COUNTED(layernorm_backward, 0, 3 * 84 + 3 * 24 + 2 * 28, .dx = ADDRESS(0), .dw = ADDRESS(4), .db = ADDRESS(8),
          .dy = ADDRESS(1), .x = ADDRESS(2), .w = ADDRESS(12), .mean = ADDRESS(16), .rstd = ADDRESS(20), .rows = 7,
          .cols = 6);
  COUNTED(layernorm_backward, 0, 4 * 84 + 3 * 24 + 2 * 28, .dx = ADDRESS(0), .dw = ADDRESS(4), .db = ADDRESS(8),
          .dy = ADDRESS(1), .x = ADDRESS(2), .w = ADDRESS(12), .mean = ADDRESS(16), .rstd = ADDRESS(20), .rows = 7,
          .cols = 6, .accumulate = true);
}

static void test_attention(struct device *device) {
  /* Samples of 3 and 4 tokens: 6 + 10 pairs. 4 query heads and 2 key heads of 8. */
  struct segments segments = {.count = 2,
                              .q_start = ADDRESS(0),
                              .k_start = ADDRESS(0),
                              .k_length = ADDRESS(4),
                              .max_queries = 4,
                              .max_keys = 4,
                              .pairs = 16};
  COUNTED(rope, 0, 7 * (2 * 2 * 6 * 8 + 4 + 4 * 8), .x = ADDRESS(1), .positions = ADDRESS(4), .cosines = ADDRESS(8),
          .sines = ADDRESS(12), .rows = 7, .stride = 64, .heads = 6, .head_dim = 8, .table_positions = 4);
  COUNTED(attention, 4 * 16 * 32, 7 * (2 * (32 + 16 + 16 + 32) + 4 * 4), .o = ADDRESS(1), .lse = ADDRESS(8),
          .q = ADDRESS(2), .k = ADDRESS(3), .v = ADDRESS(4), .segments = segments, .rows = 7, .q_stride = 64,
          .kv_stride = 64, .heads = 4, .kv_heads = 2, .head_dim = 8);
  COUNTED(attention_backward, 10 * 16 * 32, 7 * (2 * 2 * (32 + 16 + 16 + 32) + 4 * 4), .dq = ADDRESS(1),
          .dk = ADDRESS(2), .dv = ADDRESS(3), .d_o = ADDRESS(4), .o = ADDRESS(5), .lse = ADDRESS(8), .q = ADDRESS(6),
          .k = ADDRESS(7), .v = ADDRESS(9), .segments = segments, .rows = 7, .q_stride = 64, .kv_stride = 64,
          .heads = 4, .kv_heads = 2, .head_dim = 8);
}

static void test_elementwise(struct device *device) {
  COUNTED(swiglu, 0, 3 * 84, .y = ADDRESS(0), .x = ADDRESS(1), .rows = 7, .cols = 6);
  COUNTED(swiglu_backward, 0, 5 * 84, .dx = ADDRESS(0), .dy = ADDRESS(1), .x = ADDRESS(2), .rows = 7, .cols = 6);
  COUNTED(silu, 0, 2 * 84, .y = ADDRESS(0), .x = ADDRESS(1), .rows = 7, .cols = 6);
  COUNTED(silu_backward, 0, 3 * 84, .dx = ADDRESS(0), .dy = ADDRESS(1), .x = ADDRESS(2), .rows = 7, .cols = 6);
  COUNTED(relu, 0, 2 * 84, .y = ADDRESS(0), .x = ADDRESS(1), .rows = 7, .cols = 6);
  COUNTED(relu_backward, 0, 3 * 84, .dx = ADDRESS(0), .dy = ADDRESS(1), .y = ADDRESS(2), .rows = 7, .cols = 6);
  COUNTED(pool, 0, 84 + 4 * 84, .y = ADDRESS(0), .x = ADDRESS(1), .rows = 7, .cols = 6, .window = 4);
  COUNTED(gate, 0, 3 * 84 + 24, .u = ADDRESS(0), .d = ADDRESS(1), .s = ADDRESS(2), .z = ADDRESS(4), .rows = 7,
          .cols = 6);
  COUNTED(gate_backward, 0, 5 * 84 + 2 * 24, .dd = ADDRESS(0), .ds = ADDRESS(1), .dz = ADDRESS(4), .du = ADDRESS(2),
          .d = ADDRESS(3), .s = ADDRESS(5), .z = ADDRESS(8), .rows = 7, .cols = 6);
  COUNTED(mix, 0, 3 * 84 + 24, .y = ADDRESS(0), .h = ADDRESS(1), .side = ADDRESS(2), .weight = ADDRESS(4),
          .kind = MIX_GATE, .rows = 7, .cols = 6);
  COUNTED(mix_backward, 0, 4 * 84 + 2 * 24, .dside = ADDRESS(0), .dweight = ADDRESS(4), .dy = ADDRESS(1),
          .h = ADDRESS(2), .side = ADDRESS(3), .weight = ADDRESS(8), .kind = MIX_GATE, .rows = 7, .cols = 6);
  COUNTED(mix_backward, 0, 2 * 84, .dside = ADDRESS(0), .dy = ADDRESS(1), .h = ADDRESS(2), .side = ADDRESS(3),
          .kind = MIX_RESIDUAL, .rows = 7, .cols = 6);
  COUNTED(copy_rows, 0, 2 * 84 + 9 * 12 + 4 * 7, .y = ADDRESS(0), .x = ADDRESS(1), .y_index = ADDRESS(4), .rows = 7,
          .cols = 6, .y_stride = 6, .x_stride = 6, .zero_rows = 9);
  COUNTED(to_act, 0, 100 * 6, .y = ADDRESS(0), .x = ADDRESS(4), .count = 100);
  COUNTED(from_act, 0, 100 * 6, .y = ADDRESS(0), .x = ADDRESS(4), .count = 100);
}

static void test_sums(struct device *device) {
  COUNTED(cross_entropy, 0, 7 * (6 * (4 + 2) + 8), .loss = ADDRESS(0), .dlogits = ADDRESS(1), .logits = ADDRESS(4),
          .labels = ADDRESS(8), .rows = 7, .cols = 6);
  COUNTED(argmax, 0, 7 * (6 * 4 + 4), .index = ADDRESS(0), .logits = ADDRESS(4), .rows = 7, .cols = 6);
  COUNTED(fixed_add, 0, 2000, .sums = ADDRESS(0), .faults = ADDRESS(8), .x = ADDRESS(16), .count = 100);
  COUNTED(fixed_total, 0, 416, .sum = ADDRESS(0), .faults = ADDRESS(8), .x = ADDRESS(16), .count = 100);
  COUNTED(fixed_get, 0, 1200, .y = ADDRESS(0), .sums = ADDRESS(8), .scale = 1, .count = 100);
  COUNTED(sum_squares, 0, 408, .result = ADDRESS(0), .x = ADDRESS(8), .count = 100);
  COUNTED(adamw, 0, 3000, .master = ADDRESS(0), .m = ADDRESS(4), .v = ADDRESS(8), .weights = ADDRESS(12),
          .gradient = ADDRESS(16), .count = 100, .beta1 = 0.9f, .beta2 = 0.9f, .step = 1);
}

static void test_names(void) {
  for (int i = 0; i < OPERATION_COUNT; i++) CHECK((int)operation_find(operation_name((enum operation)i)) == i);
  CHECK(operation_find("attention_sideways") == OPERATION_COUNT);
}

static int run_linear(struct device *device, int rows) {
  return device_linear(
      device,
      &(struct linear_args){.y = ADDRESS(0), .x = ADDRESS(1), .w = ADDRESS(2), .rows = rows, .n = 1000, .k = 1000});
}

static void test_time(struct device *device) {
  /* 4 GFLOP at 1 TFLOP/s; few rows: 2 MB of weights at 100 GB/s; nothing: a launch */
  CHECK_OK(run_linear(device, 2000));
  CHECK(close_to(null_lane(device, LANE_SIDE).seconds, 4e-3));
  null_reset(device);
  CHECK_OK(device_use_lane(device, LANE_BACKBONE));
  CHECK_OK(run_linear(device, 1));
  CHECK(close_to(null_lane(device, LANE_BACKBONE).seconds, 2.004e-5));
  CHECK_OK(run_linear(device, 0));
  CHECK(null_lane(device, LANE_BACKBONE).calls == 2 && null_lane(device, LANE_SIDE).calls == 0);
  null_reset(device);
  CHECK_OK(device_use_lane(device, LANE_SIDE));
  CHECK_OK(device_upload(device, ADDRESS(0), at, 1000000));
  CHECK(close_to(null_counted(device, LANE_SIDE, WORK_TRANSFER)->seconds, 102e-6));
  CHECK_OK(device_zero(device, ADDRESS(0), 1000000));
  CHECK(close_to(null_counted(device, LANE_SIDE, WORK_ZERO)->seconds, 1e-5));
  null_reset(device);
}

/* Where operations were measured, time goes by the one that is closest in size. */
static void test_measured(void) {
  static const struct measured_cost measured[] = {
      {OPERATION_linear, {.flops = 2e9, .bytes = 6e6}, 4e-3},  /* half of the peak */
      {OPERATION_linear, {.flops = 2e6, .bytes = 2e6}, 80e-6}, /* a quarter of the bandwidth */
      {OPERATION_embed, {.bytes = 1}, 1},
  };
  struct hardware hardware = plain;
  hardware.measured = measured;
  hardware.measured_count = 3;
  struct cost large = {.flops = 4e9, .bytes = 1e7}, small = {.flops = 1e6, .bytes = 1e6};
  CHECK(close_to(hardware_seconds(&hardware, OPERATION_linear, &large), 8e-3));
  CHECK(close_to(hardware_seconds(&hardware, OPERATION_linear, &small), 40e-6));
  CHECK(close_to(hardware_seconds(&hardware, OPERATION_gate, &small), 1e-5));
}

static void test_gpus(void) {
  const struct hardware *h100, *a100;
  CHECK_OK(hardware_find("h100-80", &h100));
  CHECK_OK(hardware_find("a100-40", &a100));
  CHECK_FAILS(ERR_USAGE, "did you mean h100-80", hardware_find("h100-88", &h100));
  CHECK_FAILS(ERR_USAGE, "there are: cpu, a100-40", hardware_find("abacus", &h100));
  CHECK_OK(hardware_find("h100-80", &h100));
  CHECK(hardware_recognize("cuda, NVIDIA H100 80GB HBM3, 85 GB, sm_90, bf16 activations") == h100);
  CHECK(strcmp(hardware_recognize("cuda, NVIDIA L40S, 48 GB")->name, "l40s") == 0);
  CHECK(strcmp(hardware_recognize("cuda, NVIDIA L4, 24 GB")->name, "l4") == 0);
  CHECK(!hardware_recognize("cpu, 2 threads") && !hardware_recognize("cuda, NVIDIA L400, 48 GB"));
  /* weights are dequantized into memory first: a write and a read more */
  struct cost product = {.flops = 1e12}, frozen = {.flops = 1e12, .unpacked = 1e9},
              narrow = {.flops = 1e9, .narrow = true};
  CHECK(close_to(hardware_seconds(h100, OPERATION_linear, &product), 1e12 / (989.4e12 * ACHIEVED_MATRIX)));
  CHECK(close_to(hardware_seconds(h100, OPERATION_frozen_linear, &frozen),
                 1e12 / (989.4e12 * ACHIEVED_MATRIX) + 2e9 / (3.35e12 * ACHIEVED_MEMORY)));
  CHECK(close_to(hardware_seconds(h100, OPERATION_attention, &narrow), 1e9 / (66.9e12 * ACHIEVED_VECTOR)));
  CHECK(hardware_seconds(a100, OPERATION_linear, &product) > 2 * hardware_seconds(h100, OPERATION_linear, &product));
}

static void test_memory(struct device *device) {
  struct device_limits limits = {.rows = 8, .hidden = 16, .side_hidden = 8};
  CHECK(device->allocated[MEMORY_WORKSPACE] == cpu_workspace_bytes(&limits, 2));
  char *first, *second, back[8] = "not zero";
  CHECK_OK(device_allocate(device, MEMORY_TAPS, &first, 1000));
  CHECK_OK(device_allocate(device, MEMORY_TAPS, &second, (size_t)1 << 50));
  CHECK(first && (uintptr_t)first % 64 == 0 && (uintptr_t)second % 64 == 0 && second >= first + 1000);
  CHECK(device->allocated[MEMORY_TAPS] == 1000 + ((size_t)1 << 50));
  CHECK_OK(device_download(device, back, first, sizeof back));
  CHECK(memcmp(back, "\0\0\0\0\0\0\0", sizeof back) == 0);
  device_release(device, MEMORY_TAPS, &first, 1000);
  device_release(device, MEMORY_TAPS, &second, (size_t)1 << 50);
  CHECK(device->allocated[MEMORY_TAPS] == 0);
}

/* Products with frozen weights at fp8's rate, everything else as ever. */
static void test_fp8(void) {
  const struct hardware *gpu;
  struct device *device, *none;
  struct device_options options = {
      .name = "null", .limits = {.rows = 8, .hidden = 16, .side_hidden = 8, .fp8 = true, .widest_input = 128}};
  CHECK_OK(hardware_find("h100-80", &gpu));
  options.hardware = gpu;
  CHECK_OK(device_open(&device, &options));
  CHECK_OK(device_frozen_linear(
      device, &(struct frozen_linear_args){
                  .y = ADDRESS(0), .x = ADDRESS(1), .parts = {&nf4}, .part_count = 1, .rows = 1 << 20}));
  double flops = 2.0 * 64 * 128 * (1 << 20), bytes = 2.0 * (64 + 128) * (1 << 20) + 4096 + 128 + 4;
  double products = flops / (1978.9e12 * ACHIEVED_MATRIX), memory = bytes / (3.35e12 * ACHIEVED_MEMORY);
  double unpacked = 2 * 64 * 128 / (3.35e12 * ACHIEVED_MEMORY);
  CHECK(close_to(null_lane(device, LANE_SIDE).seconds, (products > memory ? products : memory) + unpacked));
  device_close(&device);
  struct cost eight = {.flops = 1e12, .fp8 = true};
  CHECK(close_to(hardware_seconds(gpu, OPERATION_frozen_linear, &eight), 1e12 / (1978.9e12 * ACHIEVED_MATRIX)));
  CHECK_OK(hardware_find("a100-80", &options.hardware));
  CHECK_FAILS(ERR_USAGE, "use bf16", device_open(&none, &options));
}

/* And one for a GPU what the cuda device does, where this program has it. */
static void test_cuda_workspace(struct device_options *options) {
  struct device *cuda, *null;
  options->name = "null";
  CHECK_OK(hardware_find("l40s", &options->hardware));
  CHECK_OK(device_open(&null, options));
  CHECK(null->act == DTYPE_BF16 && null->logit_rows == CUDA_LOGIT_ROWS);
  if (testing_cuda()) {
    options->name = "cuda";
    CHECK_OK(device_open(&cuda, options));
    CHECK(cuda->act == null->act && cuda->logit_rows == null->logit_rows);
    CHECK(cuda->allocated[MEMORY_WORKSPACE] == null->allocated[MEMORY_WORKSPACE]);
    device_close(&cuda);
  }
  device_close(&null);
}

/* A plan for the cpu counts the workspace that the cpu device lays out. */
static void test_workspace(void) {
  struct device_options options = {
      .name = "cpu", .threads = 3, .limits = {.rows = 100, .hidden = 64, .side_hidden = 12}};
  struct device *cpu, *null;
  CHECK_OK(device_open(&cpu, &options));
  options.name = "null", options.hardware = &plain;
  CHECK_OK(device_open(&null, &options));
  CHECK(cpu->act == null->act && cpu->logit_rows == null->logit_rows);
  CHECK(cpu->allocated[MEMORY_WORKSPACE] == null->allocated[MEMORY_WORKSPACE]);
  device_close(&cpu);
  device_close(&null);
  test_cuda_workspace(&options);
}

int main(void) {
  struct device *device = open_null(&plain, "bf16");
  test_products(device);
  test_norms(device);
  test_attention(device);
  test_elementwise(device);
  test_sums(device);
  test_time(device);
  test_memory(device);
  device_close(&device);
  test_names();
  test_measured();
  test_gpus();
  test_workspace();
  test_fp8();
  return check_result();
}
