/* Kernels with a bug each, and the same without: what the host runtime catches (tests/t65-planted-bugs.sh).
 *
 *     planted NAME [fixed]      exit status 0 when the result is right, 1 when it is not or the runtime refused */
#include <cstdio>
#include <cstring>

#include "kernels/cuda/kernel.cuh"

constexpr int COUNT = 128;

/** y[i] = x[COUNT − 1 − i] through shared memory. */
static __global__ void reversed(float *y, const float *x, bool fixed) {
  float *all = reinterpret_cast<float *>(shared_memory);
  all[threadIdx.x] = x[threadIdx.x];
  if (fixed) __syncthreads();
  y[threadIdx.x] = all[COUNT - 1 - threadIdx.x];
}

/** Half of the threads leave before the barrier. */
static __global__ void divergent(float *y, const float *x, bool fixed) {
  if (!fixed && threadIdx.x >= COUNT / 2) return;
  __syncthreads();
  y[threadIdx.x] = x[COUNT - 1 - threadIdx.x];
}

/** Adds to shared memory that nobody has set. */
static __global__ void unset(float *y, const float *x, bool fixed) {
  float *all = reinterpret_cast<float *>(shared_memory);
  if (fixed) all[threadIdx.x] = 0;
  all[threadIdx.x] += x[COUNT - 1 - threadIdx.x];
  y[threadIdx.x] = all[threadIdx.x];
}

/** One element beyond the result. */
static __global__ void beyond(float *y, const float *x, bool fixed) {
  y[threadIdx.x + (fixed ? 0 : 1)] = x[COUNT - 1 - threadIdx.x];
}

/** Lanes of a warp read what others are still writing. */
static __global__ void warp_late(float *y, const float *x, bool fixed) {
  float *all = reinterpret_cast<float *>(shared_memory);
  int lane = (int)threadIdx.x % WARP, warp = (int)threadIdx.x - lane;
  all[threadIdx.x] = x[COUNT - 1 - threadIdx.x];
  if (fixed) __syncwarp();
  y[warp + WARP - 1 - lane] = all[warp + WARP - 1 - lane];
}

/** A second stream copies from a slot that the first fills. Bugs: it does not wait for that ("unfilled"), or the first does
 *  not wait until the slot has been read before it is used again ("overwritten"). */
static bool second_stream(const cuda_context *first, float *y, const float *x, const char *bug) {
  constexpr size_t BYTES = COUNT * sizeof(float);
  cudaStream_t second;
  cudaEvent_t filled, taken;
  float *slot;
  bool good = cudaMalloc((void **)&slot, BYTES) == cudaSuccess &&
              cudaStreamCreateWithFlags(&second, cudaStreamNonBlocking) == cudaSuccess &&
              cudaEventCreateWithFlags(&filled, cudaEventDisableTiming) == cudaSuccess &&
              cudaEventCreateWithFlags(&taken, cudaEventDisableTiming) == cudaSuccess &&
              launch(first, reversed, dim3(1), COUNT, BYTES, slot, x, true) == cudaSuccess &&
              cudaEventRecord(filled, first->stream) == cudaSuccess;
  if (good && strcmp(bug, "unfilled")) good = cudaStreamWaitEvent(second, filled, 0) == cudaSuccess;
  good = good && cudaMemcpyAsync(y, slot, BYTES, cudaMemcpyDeviceToDevice, second) == cudaSuccess &&
         cudaEventRecord(taken, second) == cudaSuccess;
  if (good && strcmp(bug, "overwritten")) good = cudaStreamWaitEvent(first->stream, taken, 0) == cudaSuccess;
  good = good && cudaMemsetAsync(slot, 0, BYTES, first->stream) == cudaSuccess &&
         cudaStreamSynchronize(first->stream) == cudaSuccess && cudaStreamSynchronize(second) == cudaSuccess;
  cudaFree(slot);
  cudaEventDestroy(filled);
  cudaEventDestroy(taken);
  cudaStreamDestroy(second);
  return good;
}

static bool right(const float *y, const float *x) {
  for (int i = 0; i < COUNT; i++)
    if (y[i] != x[COUNT - 1 - i]) return false;
  return true;
}

int main(int count, char **words) {
  const struct {
    const char *name;
    void (*kernel)(float *, const float *, bool);
  } cases[] = {{"barrier", reversed},       {"divergent", divergent}, {"unset", unset},       {"beyond", beyond},
               {"warp-barrier", warp_late}, {"early-read", reversed}, {"long-copy", reversed}};
  const char *name = count > 1 ? words[1] : "";
  bool fixed = count > 2, good = false;
  cuda_context context = {};
  float *x, *y, host[COUNT + 1];
  for (int i = 0; i <= COUNT; i++) host[i] = (float)i + 0.5f;
  if (cudaMalloc((void **)&x, COUNT * sizeof(float)) != cudaSuccess) return 2;
  if (cudaMallocManaged((void **)&y, COUNT * sizeof(float), cudaMemAttachGlobal) != cudaSuccess) return 2;
  if (cudaStreamCreateWithFlags(&context.stream, cudaStreamNonBlocking) != cudaSuccess) return 2;
  bool copied = cudaMemcpyAsync(x, host, sizeof(float) * (COUNT + (!fixed && !strcmp(name, "long-copy"))),
                                cudaMemcpyHostToDevice, context.stream) == cudaSuccess;
  if (!strcmp(name, "unfilled") || !strcmp(name, "overwritten"))
    good = copied && second_stream(&context, y, x, fixed ? "" : name) && right(y, host);
  for (const auto &c : cases) {
    if (strcmp(name, c.name) != 0) continue;
    bool whole = fixed || !strcmp(name, "early-read") || !strcmp(name, "long-copy");
    good = copied && launch(&context, c.kernel, dim3(1), COUNT, COUNT * sizeof(float), y, x, whole) == cudaSuccess;
    if (good && !fixed && !strcmp(name, "early-read")) return right(y, host) ? 0 : 1;
    good = good && cudaStreamSynchronize(context.stream) == cudaSuccess && right(y, host);
  }
  cudaFree(x);
  cudaFree(y);
  cudaStreamDestroy(context.stream);
  return good ? 0 : 1;
}
