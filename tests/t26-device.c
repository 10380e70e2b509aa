/* Opening a device by name, its memory by kind, and broken contracts, which are errors before any device runs.
 *
 * RUN ranks=1 */
#include "kernels.h"

static struct device_options options(void) {
  return (struct device_options){.name = "cpu", .threads = 2, .limits = {.rows = 8, .hidden = 16, .side_hidden = 8}};
}

static int try_open(const char *name, const char *isa, const char *act, int threads) {
  struct device *device;
  struct device_options o = options();
  o.name = name, o.cpu_isa = isa, o.act = act, o.threads = threads;
  int status = device_open(&device, &o);
  CHECK((status == OK) == (device != NULL));
  device_close(&device);
  CHECK(!device);
  device_close(&device);
  return status;
}

static void test_names(void) {
  CHECK(strstr(device_list(), "cpu") == device_list());
  if (!strstr(device_list(), "cuda")) CHECK_FAILS(ERR_USAGE, "not compiled", try_open("cuda", "auto", "auto", 0));
  CHECK_OK(try_open("auto", "auto", "auto", 0));
  CHECK_OK(try_open("cpu", "auto", "auto", 0));
  CHECK_OK(try_open("cpu", "plain", "bf16", 3));
  CHECK_OK(try_open("cpu", "plain", "fp32", 1));
  CHECK_FAILS(ERR_USAGE, "did you mean cpu", try_open("cpuu", "auto", "auto", 0));
  CHECK_FAILS(ERR_USAGE, "there are: auto, cpu", try_open("quantum-computer", "auto", "auto", 0));
  CHECK_FAILS(ERR_USAGE, "plan runs on", try_open("null", "auto", "auto", 0));
  CHECK_FAILS(ERR_USAGE, "did you mean avx2", try_open("cpu", "avx3", "auto", 0));
  CHECK_FAILS(ERR_USAGE, "did you mean bf16", try_open("cpu", "auto", "bf15", 0));
  CHECK_FAILS(ERR_USAGE, "threads", try_open("cpu", "auto", "auto", -1));
}

static void test_memory(void) {
  struct device *device;
  struct device_options o = options();
  CHECK_OK(device_open(&device, &o));
  CHECK(strcmp(device->name, "cpu") == 0 && strstr(device->description, "cpu, 2 threads"));
  size_t workspace = device->allocated[MEMORY_WORKSPACE], sizes[] = {0, 1, 100, 5 << 20};
  for (int i = 0; i < 4; i++) {
    char *block = NULL, *text = "what goes up comes down", back[24];
    CHECK_OK(device_allocate(device, MEMORY_TAPS, &block, sizes[i]));
    CHECK(block && (uintptr_t)block % 64 == 0);
    CHECK(device->allocated[MEMORY_TAPS] == sizes[i]);
    for (size_t j = 0; j < sizes[i]; j++)
      if (block[j]) CHECK(block[j] == 0);
    if (sizes[i] >= sizeof back) {
      CHECK_OK(device_upload(device, block + 3, text, sizeof back));
      CHECK_OK(device_synchronize(device));
      CHECK_OK(device_download(device, back, block + 3, sizeof back));
      CHECK(strcmp(back, text) == 0);
      CHECK_OK(device_zero(device, block + 4, 2));
      CHECK(block[3] == 'w' && !block[4] && !block[5] && block[6] == 't');
    }
    device_release(device, MEMORY_TAPS, &block, sizes[i]);
    CHECK(!block && device->allocated[MEMORY_TAPS] == 0);
    device_release(device, MEMORY_TAPS, &block, sizes[i]);
  }
  CHECK(device->allocated[MEMORY_WORKSPACE] == workspace);
  void *huge = NULL;
  CHECK_FAILS(ERR_MEMORY, "memory", device_allocate(device, MEMORY_SIDE, &huge, SIZE_MAX / 2));
  CHECK(!huge && device->allocated[MEMORY_SIDE] == 0);
  device_close(&device);
}

/** One broken contract of every operation; `x` stands for any buffer. */
static void test_contracts(void) {
  struct device *d;
  struct device_options o = options();
  float x[64] = {0}, y[64];
  int32_t n[64] = {0};
  int64_t k[2] = {0};
  CHECK_OK(device_open(&d, &o));
#define BROKEN(name, ...) \
  CHECK_FAILS(ERR_INTERNAL, "operation " #name, device_##name(d, &(struct name##_args){__VA_ARGS__}))
  struct matrix nf4 = {.format = WEIGHT_NF4, .rows = 4, .cols = 4, .codes = x}, plain = nf4;
  plain.format = WEIGHT_BF16;
  struct matrix wider = plain;
  wider.cols = 8;
  BROKEN(embed, .y = y, .table = &nf4, .tokens = n, .rows = 1);
  BROKEN(embed, .y = y, .table = &plain, .tokens = n, .positions = n, .rows = 1);
  BROKEN(embed, .y = y, .table = &plain, .position_table = &plain, .tokens = n, .rows = 1);
  BROKEN(embed, .y = y, .table = &plain, .position_table = &nf4, .tokens = n, .positions = n, .rows = 1);
  BROKEN(embed, .y = y, .table = &plain, .position_table = &wider, .tokens = n, .positions = n, .rows = 1);
  BROKEN(frozen_linear, .y = y, .x = x, .parts = {&nf4}, .part_count = 1, .rows = 1);
  BROKEN(frozen_linear, .y = y, .x = x, .parts = {&plain}, .part_count = 4, .rows = 1);
  BROKEN(frozen_linear, .y = x, .x = x, .parts = {&plain}, .part_count = 1, .rows = 1);
  BROKEN(frozen_logits, .logits = y, .x = x, .weight = &nf4, .rows = 1);
  BROKEN(frozen_input_grad, .dx = x, .dy = x, .weight = &plain, .rows = 1);
  BROKEN(linear, .y = y, .x = x, .w = x, .rows = 1, .n = 0, .k = 4);
  BROKEN(linear, .y = y, .x = NULL, .w = x, .rows = 1, .n = 4, .k = 4);
  BROKEN(linear_input_grad, .dx = y, .dy = x, .w = NULL, .rows = 1, .n = 4, .k = 4);
  BROKEN(linear_weight_grad, .dw = NULL, .dy = x, .x = x, .rows = 1, .n = 4, .k = 4);
  BROKEN(rmsnorm, .y = y, .x = x, .w = x, .rows = -1, .cols = 4);
  BROKEN(rmsnorm, .y = x, .x = x, .w = x, .rows = 1, .cols = 4);
  BROKEN(rmsnorm_backward, .dx = y, .dw = x, .dy = x, .x = x, .w = x, .rows = 1, .cols = 4);
  BROKEN(rmsnorm_backward, .dx = y, .dw = x, .dy = x, .x = x, .w = x, .rstd = x, .rows = 1, .cols = 40);
  BROKEN(layernorm, .y = y, .mean = x, .x = x, .w = x, .b = x, .rows = 1, .cols = 4);
  BROKEN(layernorm_backward, .dx = y, .dw = x, .dy = x, .x = x, .w = x, .mean = x, .rstd = x, .rows = 1, .cols = 4);
  BROKEN(layernorm_backward, .dx = y, .dw = x, .db = x, .dy = x, .x = x, .w = x, .mean = x, .rstd = x, .rows = 1,
         .cols = 17);
  BROKEN(rope, .x = x, .positions = n, .cosines = x, .sines = x, .rows = 1, .stride = 8, .heads = 3, .head_dim = 4,
         .table_positions = 1);
  BROKEN(rope, .x = x, .positions = n, .cosines = x, .sines = x, .rows = 1, .stride = 9, .heads = 3, .head_dim = 3,
         .table_positions = 1);
  BROKEN(attention, .o = y, .q = x, .k = x, .v = x, .rows = 1, .q_stride = 8, .kv_stride = 8, .heads = 4, .kv_heads = 3,
         .head_dim = 2);
  BROKEN(attention, .o = y, .q = x, .k = x, .v = x, .rows = 1, .q_stride = 8, .kv_stride = 8, .heads = 4, .kv_heads = 4,
         .head_dim = 2);
  BROKEN(attention_backward, .dq = y, .dk = y, .dv = y, .d_o = x, .o = x, .q = x, .k = x, .v = x, .rows = 1,
         .q_stride = 8, .kv_stride = 8, .heads = 4, .kv_heads = 4, .head_dim = 2);
  BROKEN(swiglu, .y = x, .x = x, .rows = 1, .cols = 4);
  BROKEN(swiglu_backward, .dx = x, .dy = y, .x = x, .rows = 1, .cols = 4);
  BROKEN(silu, .y = x, .x = NULL, .rows = 1, .cols = 4);
  BROKEN(silu_backward, .dx = x, .dy = y, .x = x, .rows = 1, .cols = 4);
  BROKEN(relu, .y = y, .x = x, .rows = 1, .cols = 0);
  BROKEN(relu, .y = y, .x = NULL, .rows = 1, .cols = 4);
  BROKEN(relu_backward, .dx = x, .dy = x, .y = NULL, .rows = 1, .cols = 4);
  BROKEN(relu_backward, .dx = y, .dy = x, .y = y, .rows = 1, .cols = 4);
  BROKEN(pool, .y = y, .x = x, .rows = 1, .cols = 4, .window = 0);
  BROKEN(pool, .y = y, .x = x, .rows = 1, .cols = 4, .window = POOL_WINDOW_MAX + 1);
  BROKEN(gate, .u = y, .d = x, .s = x, .z = NULL, .rows = 1, .cols = 4);
  BROKEN(gate_backward, .dd = y, .ds = y, .dz = x, .du = x, .d = x, .s = x, .z = x, .rows = 1, .cols = 4);
  BROKEN(gate_backward, .dd = y, .ds = x, .dz = x, .du = x, .d = x, .s = x, .z = x, .rows = 1, .cols = 99);
  BROKEN(mix, .y = y, .h = x, .side = x, .weight = NULL, .kind = MIX_ALPHA, .rows = 1, .cols = 4);
  BROKEN(mix_backward, .dside = y, .dy = x, .h = x, .side = x, .weight = x, .kind = MIX_GATE, .rows = 1, .cols = 4);
  BROKEN(copy_rows, .y = y, .x = x, .rows = 1, .cols = 4, .y_stride = 3, .x_stride = 4);
  BROKEN(copy_rows, .y = y, .x = x, .rows = 1, .cols = 4, .y_stride = 5, .x_stride = 4, .zero_rows = 1);
  BROKEN(to_act, .y = NULL, .x = x, .count = 1);
  BROKEN(from_act, .y = x, .x = NULL, .count = 1);
  BROKEN(cross_entropy, .loss = y, .logits = x, .labels = NULL, .rows = 1, .cols = 4);
  BROKEN(argmax, .index = n, .logits = x, .rows = 1, .cols = 0);
  BROKEN(fixed_add, .sums = k, .faults = NULL, .x = x, .count = 1);
  BROKEN(fixed_total, .sum = NULL, .faults = k, .x = x, .count = 1);
  BROKEN(fixed_get, .y = NULL, .sums = k, .count = 1);
  BROKEN(sum_squares, .result = NULL, .x = x, .count = 1);
  BROKEN(adamw, .master = x, .m = x, .v = x, .gradient = y, .count = 1, .step = 0);
  BROKEN(adamw, .master = x, .m = x, .v = NULL, .gradient = y, .count = 1, .step = 1);
#undef BROKEN
  device_close(&d);
}

int main(void) {
  test_names();
  test_memory();
  test_contracts();
  return check_result();
}
