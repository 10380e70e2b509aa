#include "kernels/cpu/cpu.h"

#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/error.h"
#include "base/memory.h"
#include "base/options.h"
#include "kernels/cpu/product.h"

static const char *const isa_names[CPU_ISAS + 1] = {
    [CPU_PLAIN] = "plain", [CPU_AVX2] = "avx2", [CPU_AVX512] = "avx512-bf16"};

static const struct device_operations *const isa_operations[CPU_ISAS] = {
    [CPU_PLAIN] = &cpu_operations_plain, [CPU_AVX2] = &cpu_operations_avx2, [CPU_AVX512] = &cpu_operations_avx512};

const char *cpu_isa_name(enum cpu_isa isa) {
  return isa_names[isa];
}

enum cpu_isa cpu_isa_best(void) {
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return CPU_PLAIN;
  bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512bf16");
  return avx512 ? CPU_AVX512 : CPU_AVX2;
}

static int choose_isa(enum cpu_isa *out, const char *name) {
  static const char *const choices[] = {"auto", "plain", "avx2", "avx512-bf16", NULL};
  *out = cpu_isa_best();
  if (!name || strcmp(name, "auto") == 0) return OK;
  for (int isa = 0; isa < CPU_ISAS; isa++) {
    if (strcmp(name, isa_names[isa]) != 0) continue;
    if (isa > (int)*out)
      return fail(ERR_USAGE, "--cpu-isa %s: this machine lacks it; its best is %s", name, isa_names[*out]);
    *out = (enum cpu_isa)isa;
    return OK;
  }
  const char *nearest = nearest_name(name, choices);
  return fail(ERR_USAGE, "--cpu-isa \"%s\" is unknown: %s%s", name, nearest ? "did you mean " : "",
              nearest ? nearest : "there are auto, plain, avx2, avx512-bf16");
}

static int choose_act(enum dtype *out, const char *name, enum cpu_isa isa) {
  static const char *const choices[] = {"auto", "bf16", "fp32", NULL};
  *out = isa == CPU_AVX512 ? DTYPE_BF16 : DTYPE_F32;
  if (!name || strcmp(name, "auto") == 0) return OK;
  *out = strcmp(name, "bf16") == 0 ? DTYPE_BF16 : DTYPE_F32;
  if (*out == DTYPE_BF16 || strcmp(name, "fp32") == 0) return OK;
  const char *nearest = nearest_name(name, choices);
  return fail(ERR_USAGE, "--act \"%s\" is unknown: %s%s", name, nearest ? "did you mean " : "",
              nearest ? nearest : "there are auto, bf16, fp32");
}

/* ---- memory ---------------------------------------------------------------------------------------------- */

enum { CACHE_LINE = 64, HUGE_PAGE = 2 << 20 };

static int cpu_allocate(struct device *device, void **out, size_t bytes) {
  (void)device;
  bool huge = bytes >= 2 * HUGE_PAGE;
  if (posix_memalign(out, huge ? HUGE_PAGE : CACHE_LINE, bytes ? bytes : 1) != 0)
    return fail(ERR_MEMORY, "cpu: no %.1f MB of memory left", (double)bytes / 1e6);
  if (huge) madvise(*out, bytes - bytes % HUGE_PAGE, MADV_HUGEPAGE); /* a wish: slower without, never wrong */
  memset(*out, 0, bytes);
  return OK;
}

static void cpu_release(struct device *device, void *block) {
  (void)device;
  free(block);
}

static int cpu_copy(struct device *device, void *to, const void *from, size_t bytes) {
  (void)device;
  memcpy(to, from, bytes);
  return OK;
}

static int cpu_zero(struct device *device, void *block, size_t bytes) {
  (void)device;
  memset(block, 0, bytes);
  return OK;
}

static int cpu_synchronize(struct device *device) {
  (void)device;
  return OK;
}

static void cpu_close(struct device *device) {
  struct cpu_state *state = cpu_state(device);
  if (!state) return;
  product_close(device);
  device_release(device, MEMORY_WORKSPACE, &state->scratch, state->scratch_bytes);
  device_release(device, MEMORY_WORKSPACE, &state->sums, state->sums_bytes);
  device_release(device, MEMORY_WORKSPACE, &state->gradients, state->gradients_bytes);
  free(state);
  device->state = NULL;
}

static const struct device_memory cpu_memory = {
    .allocate = cpu_allocate,
    .release = cpu_release,
    .upload = cpu_copy,
    .download = cpu_copy,
    .zero = cpu_zero,
    .synchronize = cpu_synchronize,
    .close = cpu_close,
};

/* ---- opening --------------------------------------------------------------------------------------------- */

/* Sizes by the limits and state->threads. */
static void size_workspace(struct cpu_state *state, const struct device_limits *limits) {
  state->scratch_bytes = (size_t)state->threads * CPU_THREAD_SCRATCH * sizeof(float);
  state->sum_width = 2 * limits->hidden;
  state->sums_bytes = (size_t)CPU_SUM_BLOCKS * (size_t)state->sum_width * sizeof(float);
  state->gradient_size = (size_t)limits->rows * (size_t)limits->side_hidden;
  state->gradients_bytes = 3 * state->gradient_size * sizeof(float);
}

size_t cpu_workspace_bytes(const struct device_limits *limits, int threads) {
  struct cpu_state state = {.threads = threads};
  size_workspace(&state, limits);
  return state.scratch_bytes + state.sums_bytes + state.gradients_bytes + product_bytes(limits, threads);
}

int cpu_choose_act(enum dtype *out, const struct device_options *options) {
  enum cpu_isa isa;
  TRY(choose_isa(&isa, options->cpu_isa));
  return choose_act(out, options->act, isa);
}

static int lay_out_workspace(struct device *device, const struct device_limits *limits) {
  struct cpu_state *state = cpu_state(device);
  size_workspace(state, limits);
  TRY(device_allocate(device, MEMORY_WORKSPACE, &state->scratch, state->scratch_bytes));
  TRY(device_allocate(device, MEMORY_WORKSPACE, &state->sums, state->sums_bytes));
  return device_allocate(device, MEMORY_WORKSPACE, &state->gradients, state->gradients_bytes);
}

bool cpu_present(void) {
  return true;
}

int cpu_open(struct device *device, const struct device_options *options) {
  struct cpu_state *state = NULL;
  TRY(memory_array(&state, 1, sizeof *state));
  device->state = state;
  device->memory = &cpu_memory;
  device->reads_host = true;
  device->logit_rows = CPU_LOGIT_ROWS;
  TRY(choose_isa(&state->isa, options->cpu_isa));
  TRY(choose_act(&device->act, options->act, state->isa));
  device->operations = isa_operations[state->isa];
  if (options->threads < 0) return fail(ERR_USAGE, "--threads %d: give 1 or more, or 0 for all", options->threads);
  state->threads = options->threads ? options->threads : omp_get_max_threads();
  const struct device_limits *limits = &options->limits;
  if (limits->rows < 0 || limits->hidden < 0 || limits->side_hidden < 0)
    return fail(ERR_INTERNAL, "cpu: negative limits (a fault of this program, please report it)");
  TRY(lay_out_workspace(device, limits));
  snprintf(device->description, sizeof device->description, "cpu, %d thread%s, %s kernels, %s activations",
           state->threads, state->threads == 1 ? "" : "s", cpu_isa_name(state->isa),
           device->act == DTYPE_BF16 ? "bf16" : "fp32");
  return product_open(device, options);
}
