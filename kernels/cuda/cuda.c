#include "kernels/cuda/cuda.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "base/options.h"
#include "kernels/cuda/product.h"
#include "kernels/cuda/stream.h"

/* Faults of the hardware, which another GPU may not have. */
static bool is_broken(cudaError_t error) {
  return error == cudaErrorECCUncorrectable || error == cudaErrorNvlinkUncorrectable;
}

int cuda_check(cudaError_t error, const char *what) {
  if (error == cudaSuccess) return OK;
  if (error == cudaErrorMemoryAllocation)
    return fail(ERR_MEMORY, "cuda: %s: not enough memory on the GPU: lower --micro-batch-tokens", what);
  return fail(is_broken(error) ? ERR_LOST : ERR_SYSTEM, "cuda: %s: %s", what, cudaGetErrorString(error));
}

/* ---- opening --------------------------------------------------------------------------------------------- */

/** Before the runtime starts: lanes, collectives and channels have a stream each, and streams that have to share one of the
 *  usual 8 queues wait for each other, which with messages between ranks may be for ever. */
static cudaError_t count_gpus(int *count) {
  setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", 0);
  return cudaGetDeviceCount(count);
}

/** Whether there is a driver, but none that this program's runtime can use. */
static bool driver_is_old(cudaError_t error) {
  int driver = 0;
  return error == cudaErrorInsufficientDriver && cudaDriverGetVersion(&driver) == cudaSuccess && driver > 0;
}

bool cuda_present(void) {
  int count = 0;
  cudaError_t error = count_gpus(&count);
  if (error == cudaSuccess && count > 0) return true;
  cudaGetLastError();
  return driver_is_old(error); /* which opening will say */
}

static int refuse_gpus(cudaError_t error) {
  int driver = 0, runtime = 0;
  const char *why = error == cudaSuccess                   ? "none is visible"
                    : error == cudaErrorInsufficientDriver ? "there is no driver"
                                                           : cudaGetErrorString(error);
  if (!driver_is_old(error))
    return fail(ERR_SYSTEM, "cuda: no GPU to compute on (%s): --device cpu computes without one", why);
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  return fail(
      ERR_SYSTEM,
      "cuda: the driver knows CUDA %d.%d, this program was built with %d.%d: update the driver, or build with a "
      "toolkit that it knows; --device cpu computes without a GPU",
      driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
}

/** A scheduler shows each task its own GPU, or all of them to every task. */
static int choose_gpu(int local_rank, int *gpu, struct cudaDeviceProp *properties) {
  int count = 0, chosen = 0;
  cudaError_t error = count_gpus(&count);
  if (error != cudaSuccess || count == 0) return refuse_gpus(error);
  if (count > 1) chosen = local_rank;
  if (chosen >= count)
    return fail(ERR_USAGE, "cuda: rank %d of this host has no GPU of its own: there are %d; start fewer ranks", chosen,
                count);
  *gpu = chosen;
  TRY(cuda_check(cudaSetDevice(chosen), "choice of the GPU"));
  TRY(cuda_check(cudaGetDeviceProperties(properties, chosen), "properties of the GPU"));
  if (properties->major >= 8) return OK;
  return fail(ERR_SYSTEM, "cuda: %s has compute capability %d.%d; 8.0 or later is needed: --device cpu",
              properties->name, properties->major, properties->minor);
}

int cuda_identify(int local_rank, char identity[DEVICE_IDENTITY]) {
  struct cudaDeviceProp properties;
  char address[16] = "", text[2 * sizeof properties.uuid.bytes + 1];
  int gpu;
  TRY(choose_gpu(local_rank, &gpu, &properties));
  TRY(cuda_check(cudaDeviceGetPCIBusId(address, sizeof address - 1, gpu), "properties of the GPU"));
  for (size_t i = 0; i < sizeof properties.uuid.bytes; i++)
    snprintf(text + 2 * i, 3, "%02x", (unsigned char)properties.uuid.bytes[i]);
  snprintf(identity, DEVICE_IDENTITY, "%s %s", address, text);
  return OK;
}

static int check_fp8(const struct device_limits *limits, const struct cudaDeviceProp *properties) {
  if (!limits->fp8 || properties->major * 10 + properties->minor >= 89) return OK;
  return fail(ERR_USAGE,
              "--backbone-compute fp8 needs a GPU of compute capability 8.9 or later; %s has %d.%d: use bf16",
              properties->name, properties->major, properties->minor);
}

static int choose_act(enum dtype *out, const char *name) {
  static const char *const choices[] = {"auto", "bf16", "fp32", NULL};
  *out = name && strcmp(name, "fp32") == 0 ? DTYPE_F32 : DTYPE_BF16;
  if (!name || *out == DTYPE_F32 || strcmp(name, "auto") == 0 || strcmp(name, "bf16") == 0) return OK;
  const char *nearest = nearest_name(name, choices);
  return fail(ERR_USAGE, "--act \"%s\" is unknown: %s%s", name, nearest ? "did you mean " : "",
              nearest ? nearest : "there are auto, bf16, fp32");
}

/** The compute capability that own kernels may use. */
static int choose_capability(int *out, const char *name, const struct cudaDeviceProp *properties) {
  static const char *const choices[] = {"auto", "sm_90a", "sm_80", NULL};
  *out = properties->major * 10 + properties->minor;
  if (!name || strcmp(name, "auto") == 0) return OK;
  if (strcmp(name, "sm_90a") == 0 && *out != 90)
    return fail(ERR_USAGE, "--gpu-isa sm_90a is for compute capability 9.0; %s has %d.%d: use auto", properties->name,
                properties->major, properties->minor);
  if (strcmp(name, "sm_90a") == 0) return OK;
  *out = 80;
  if (strcmp(name, "sm_80") == 0) return OK;
  const char *nearest = nearest_name(name, choices);
  return fail(ERR_USAGE, "--gpu-isa \"%s\" is unknown: %s%s", name, nearest ? "did you mean " : "",
              nearest ? nearest : "there are auto, sm_90a, sm_80");
}

/** A piece of the workspace (kernels/cuda/workspace.h). */
static void *take(char **at, size_t bytes) {
  char *piece = *at;
  *at += cuda_piece(bytes);
  return piece;
}

/** Places everything of the contexts from `at` on; the end. */
static char *place(struct cuda_state *state, char *at, float **maps) {
  *maps = take(&at, MAPS_SIZE * sizeof(float));
  for (enum lane lane = 0; lane < LANE_COUNT; lane++) {
    struct cuda_context *c = &state->lanes[lane];
    c->maps = *maps;
    c->fault = take(&at, sizeof *c->fault);
    c->sums = take(&at, SUM_SIZE * sizeof(float));
    c->squares = take(&at, SQUARE_BLOCKS * sizeof(double));
    c->deltas = take(&at, c->delta_size * sizeof(float));
  }
  return at;
}

static int lay_out_workspace(struct device *device, const struct device_limits *limits) {
  struct cuda_state *state = cuda_state(device);
  float *maps, host_maps[MAPS_SIZE];
  for (enum lane lane = 0; lane < LANE_COUNT; lane++)
    state->lanes[lane].delta_size = (size_t)limits->rows * (size_t)limits->side_hidden;
  state->workspace_bytes = (size_t)(place(state, (char *)CUDA_ALIGNMENT, &maps) - (char *)CUDA_ALIGNMENT);
  TRY(device_allocate(device, MEMORY_WORKSPACE, &state->workspace, state->workspace_bytes));
  place(state, state->workspace, &maps);
  memcpy(host_maps + MAPS_NF4, nf4_map, sizeof nf4_map);
  memcpy(host_maps + MAPS_FP4, fp4_map, sizeof fp4_map);
  memcpy(host_maps + MAPS_DYNAMIC, dynamic_map, sizeof dynamic_map);
  TRY(device_upload(device, maps, host_maps, sizeof host_maps));
  return device_synchronize(device); /* for every lane */
}

static int open_lanes(struct cuda_state *state, enum dtype act, int capability) {
  state->lane = LANE_SIDE;
  TRY(cuda_check(cudaMallocHost((void **)&state->found, LANE_COUNT * sizeof *state->found), "pinned memory"));
  for (enum lane lane = 0; lane < LANE_COUNT; lane++) {
    struct cuda_context *c = &state->lanes[lane];
    c->act = act, c->capability = capability;
    TRY(cuda_check(cuda_stream_open(&c->stream, lane == LANE_SIDE), "stream"));
  }
  return OK;
}

int cuda_open(struct device *device, const struct device_options *options) {
  struct cuda_state *state = NULL;
  struct cudaDeviceProp properties;
  int gpu, capability;
  TRY(memory_array(&state, 1, sizeof *state));
  device->state = state;
  device->memory = &cuda_memory;
  device->operations = &cuda_operations;
  device->lanes_overlap = true;
  device->logit_rows = CUDA_LOGIT_ROWS;
  TRY(choose_act(&device->act, options->act));
  const struct device_limits *limits = &options->limits;
  if (limits->rows < 0 || limits->hidden < 0 || limits->side_hidden < 0)
    return fail(ERR_INTERNAL, "cuda: negative limits (a fault of this program, please report it)");
  TRY(choose_gpu(options->local_rank, &gpu, &properties));
  TRY(check_fp8(limits, &properties));
  state->limits = *limits;
  for (int adds = 0; adds < 2; adds++) state->scales_rows[adds] = properties.major == 9;
  TRY(choose_capability(&capability, options->gpu_isa, &properties));
  TRY(open_lanes(state, device->act, capability));
  TRY(lay_out_workspace(device, limits));
  TRY(cuda_product_open(device));
  snprintf(device->description, sizeof device->description, "cuda, %.60s, %.0f GB, sm_%d%d, %s activations",
           properties.name, (double)properties.totalGlobalMem / 1e9, properties.major, properties.minor,
           device->act == DTYPE_BF16 ? "bf16" : "fp32");
  return OK;
}
