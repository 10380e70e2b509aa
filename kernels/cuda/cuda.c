#include "kernels/cuda/cuda.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "base/options.h"
#include "kernels/cuda/product.h"

int cuda_check(cudaError_t error, const char *what) {
  if (error == cudaSuccess) return OK;
  if (error == cudaErrorMemoryAllocation)
    return fail(ERR_MEMORY, "cuda: %s: not enough memory on the GPU: lower --micro-batch-tokens", what);
  return fail(ERR_SYSTEM, "cuda: %s: %s", what, cudaGetErrorString(error));
}

/* ---- faults ---------------------------------------------------------------------------------------------- */

static int describe_fault(const struct cuda_fault *f) {
  switch ((enum cuda_fault_kind)f->kind) {
    case FAULT_TOKEN:
      return fail(ERR_INTERNAL, "embed: row %d has token %d, not in the vocabulary of %d", f->where, f->value,
                  f->limit);
    case FAULT_POSITION:
      return fail(ERR_INTERNAL, "row %d is at position %d of %d", f->where, f->value, f->limit);
    case FAULT_LABEL:
      return fail(ERR_INTERNAL, "row %d has label %d of %d", f->where, f->value, f->limit);
    case FAULT_SAMPLE:
      return fail(ERR_INTERNAL, "sample %d: %d keys, %d queries, or it is not where it can be", f->where, f->value,
                  f->limit);
    case FAULT_SAMPLES:
      return fail(ERR_INTERNAL, "the samples have queries %d to %d, not 0 to %d", f->where, f->value, f->limit);
    case FAULT_NONE:
      break;
  }
  return OK;
}

/** Waits for everything asked so far and reports what a kernel has found. */
static int cuda_wait(struct cuda_state *state, const char *what) {
  struct cuda_context *c = &state->context;
  TRY(cuda_check(cudaMemcpyAsync(state->found, c->fault, sizeof *c->fault, cudaMemcpyDeviceToHost, c->stream), what));
  TRY(cuda_check(cudaStreamSynchronize(c->stream), what));
  if (state->found->kind == FAULT_NONE) return OK;
  TRY(cuda_check(cudaMemsetAsync(c->fault, 0, sizeof *c->fault, c->stream), what));
  return describe_fault(state->found);
}

/* ---- memory ---------------------------------------------------------------------------------------------- */

static int cuda_allocate(struct device *device, void **out, size_t bytes) {
  cudaError_t error = cudaMalloc(out, bytes ? bytes : 1);
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError(); /* not to be reported again by the next call */
    return fail(ERR_MEMORY, "cuda: no %.1f MB of memory left on the GPU", (double)bytes / 1e6);
  }
  TRY(cuda_check(error, "allocation"));
  return cuda_check(cudaMemsetAsync(*out, 0, bytes, cuda_state(device)->context.stream), "allocation");
}

static void cuda_release(struct device *device, void *block) {
  (void)device;
  cudaFree(block); /* waits for what uses it; at a program's end there may be nothing left to free it from */
}

/** From memory that is not pinned: the runtime has read it when this returns. */
static int cuda_upload(struct device *device, void *to_device, const void *from_host, size_t bytes) {
  cudaStream_t stream = cuda_state(device)->context.stream;
  return cuda_check(cudaMemcpyAsync(to_device, from_host, bytes, cudaMemcpyHostToDevice, stream), "upload");
}

static int cuda_download(struct device *device, void *to_host, const void *from_device, size_t bytes) {
  struct cuda_state *state = cuda_state(device);
  TRY(cuda_check(cudaMemcpyAsync(to_host, from_device, bytes, cudaMemcpyDeviceToHost, state->context.stream),
                 "download"));
  return cuda_wait(state, "download");
}

static int cuda_zero(struct device *device, void *block, size_t bytes) {
  return cuda_check(cudaMemsetAsync(block, 0, bytes, cuda_state(device)->context.stream), "zeroing");
}

static int cuda_synchronize(struct device *device) {
  return cuda_wait(cuda_state(device), "synchronization");
}

static void cuda_close(struct device *device) {
  struct cuda_state *state = cuda_state(device);
  if (!state) return;
  cuda_product_close(device);
  device_release(device, MEMORY_WORKSPACE, &state->workspace, state->workspace_bytes);
  if (state->found) cudaFreeHost(state->found);
  if (state->context.stream) cudaStreamDestroy(state->context.stream);
  free(state);
  device->state = NULL;
}

static const struct device_memory cuda_memory = {
    .allocate = cuda_allocate,
    .release = cuda_release,
    .upload = cuda_upload,
    .download = cuda_download,
    .zero = cuda_zero,
    .synchronize = cuda_synchronize,
    .close = cuda_close,
};

/* ---- opening --------------------------------------------------------------------------------------------- */

bool cuda_present(void) {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess && count > 0) return true;
  cudaGetLastError();
  return false;
}

/** A scheduler shows each task its own GPU, or all of them to every task. */
static int choose_gpu(const struct device_options *options, struct cudaDeviceProp *properties) {
  int count = 0, chosen = 0;
  cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess || count == 0)
    return fail(ERR_SYSTEM, "cuda: no GPU to compute on (%s): --device cpu computes without one",
                error == cudaSuccess ? "none is visible" : cudaGetErrorString(error));
  if (count > 1) chosen = options->local_rank;
  if (chosen >= count)
    return fail(ERR_USAGE, "cuda: rank %d of this host has no GPU of its own: there are %d; start fewer ranks", chosen,
                count);
  TRY(cuda_check(cudaSetDevice(chosen), "choice of the GPU"));
  TRY(cuda_check(cudaGetDeviceProperties(properties, chosen), "properties of the GPU"));
  if (properties->major >= 8) return OK;
  return fail(ERR_SYSTEM, "cuda: %s has compute capability %d.%d; 8.0 or later is needed: --device cpu",
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

/** A piece of the workspace: 256-byte aligned, like every allocation of CUDA. */
static void *take(char **at, size_t bytes) {
  char *piece = *at;
  *at += (bytes + 255) / 256 * 256;
  return piece;
}

/** Places everything of the context from `at` on; the end. */
static char *place(struct cuda_context *c, char *at, float **maps) {
  *maps = take(&at, MAPS_SIZE * sizeof(float));
  c->maps = *maps;
  c->fault = take(&at, sizeof *c->fault);
  c->sums = take(&at, SUM_SIZE * sizeof(float));
  c->squares = take(&at, SQUARE_BLOCKS * sizeof(double));
  c->deltas = take(&at, c->delta_size * sizeof(float));
  return at;
}

static int lay_out_workspace(struct device *device, const struct device_limits *limits) {
  struct cuda_state *state = cuda_state(device);
  float *maps, host_maps[MAPS_SIZE];
  state->context.delta_size = (size_t)limits->rows * (size_t)limits->side_hidden;
  state->workspace_bytes = (size_t)(place(&state->context, (char *)256, &maps) - (char *)256);
  TRY(device_allocate(device, MEMORY_WORKSPACE, &state->workspace, state->workspace_bytes));
  place(&state->context, state->workspace, &maps);
  memcpy(host_maps + MAPS_NF4, nf4_map, sizeof nf4_map);
  memcpy(host_maps + MAPS_FP4, fp4_map, sizeof fp4_map);
  memcpy(host_maps + MAPS_DYNAMIC, dynamic_map, sizeof dynamic_map);
  return device_upload(device, maps, host_maps, sizeof host_maps);
}

int cuda_open(struct device *device, const struct device_options *options) {
  struct cuda_state *state = NULL;
  struct cudaDeviceProp properties;
  TRY(memory_array(&state, 1, sizeof *state));
  device->state = state;
  device->memory = &cuda_memory;
  device->operations = &cuda_operations;
  TRY(choose_act(&device->act, options->act));
  const struct device_limits *limits = &options->limits;
  if (limits->rows < 0 || limits->hidden < 0 || limits->side_hidden < 0)
    return fail(ERR_INTERNAL, "cuda: negative limits (a fault of this program, please report it)");
  TRY(choose_gpu(options, &properties));
  state->context.act = device->act;
  TRY(cuda_check(cudaStreamCreateWithFlags(&state->context.stream, cudaStreamNonBlocking), "stream"));
  TRY(cuda_check(cudaMallocHost((void **)&state->found, sizeof *state->found), "pinned memory"));
  TRY(lay_out_workspace(device, limits));
  TRY(cuda_product_open(device, options));
  snprintf(device->description, sizeof device->description, "cuda, %.60s, %.0f GB, sm_%d%d, %s activations",
           properties.name, (double)properties.totalGlobalMem / 1e9, properties.major, properties.minor,
           device->act == DTYPE_BF16 ? "bf16" : "fp32");
  return OK;
}
