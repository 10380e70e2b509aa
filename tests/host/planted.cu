/* Kernels and host code with a bug each, and the same without: what the host runtime and the sanitizers catch
 * (tests/t65-planted-bugs.sh).
 *
 *     planted NAME [fixed]      exit status 0 when the result is right; else what went wrong on stderr */
#include <cstdio>
#include <cstring>
#include <ptx.cuh>
#include <wgmma.cuh>

#include "kernels/cuda/kernel.cuh"

namespace {

constexpr int COUNT = 128, BLOCKS = 4;
constexpr size_t BYTES = COUNT * sizeof(float);

/* ---- kernels: y[i] = x[COUNT − 1 − i] -------------------------------------------------------------------------- */

__device__ inline float *shared() {
  return reinterpret_cast<float *>(shared_memory);
}

/** Threads read what others are still writing. */
__global__ void barrier(float *y, const float *x, bool fixed) {
  shared()[threadIdx.x] = x[threadIdx.x];
  if (fixed) __syncthreads();
  y[threadIdx.x] = shared()[COUNT - 1 - threadIdx.x];
}

/** Lanes of a warp do. */
__global__ void warp_barrier(float *y, const float *x, bool fixed) {
  int lane = (int)threadIdx.x % WARP, other = (int)threadIdx.x - lane + WARP - 1 - lane;
  shared()[threadIdx.x] = x[COUNT - 1 - threadIdx.x];
  if (fixed) __syncwarp();
  y[other] = shared()[other];
}

/** A shuffle is no barrier for memory. */
__global__ void shuffle_order(float *y, const float *x, bool fixed) {
  int lane = (int)threadIdx.x % WARP, other = (int)threadIdx.x - lane + WARP - 1 - lane;
  shared()[threadIdx.x] = x[COUNT - 1 - threadIdx.x];
  other = __shfl_sync(ALL_LANES, other, lane);
  if (fixed) __syncwarp();
  y[other] = shared()[other];
}

/** Half of the threads leave before the barrier. */
__global__ void divergent(float *y, const float *x, bool fixed) {
  if (!fixed && threadIdx.x >= COUNT / 2) return;
  __syncthreads();
  y[threadIdx.x] = x[COUNT - 1 - threadIdx.x];
}

/** Adds to shared memory that nobody has set. */
__global__ void unset(float *y, const float *x, bool fixed) {
  if (fixed) shared()[threadIdx.x] = 0;
  shared()[threadIdx.x] += x[COUNT - 1 - threadIdx.x];
  y[threadIdx.x] = shared()[threadIdx.x];
}

/** One element beyond the result. */
__global__ void beyond(float *y, const float *x, bool fixed) {
  y[threadIdx.x] = x[COUNT - 1 - threadIdx.x];
  if (!fixed && threadIdx.x == 0) y[COUNT] = 0;
}

/** One element beyond the shared memory that was asked for. */
__global__ void beyond_shared(float *y, const float *x, bool fixed) {
  if (!fixed) shared()[threadIdx.x + 1] = 0;
  y[threadIdx.x] = x[COUNT - 1 - threadIdx.x];
}

/** 16 bytes from an address that is none of 16. */
__global__ void misaligned(float *y, const float *x, bool fixed) {
  float four[4];
  load<4>(four, x, fixed ? 0 : 1);
  y[threadIdx.x] = four[0] > 0 ? x[COUNT - 1 - threadIdx.x] : 0;
}

/** Threads count without an atomic addition. */
__global__ void lost_update(float *y, const float *x, bool fixed) {
  int *counted = reinterpret_cast<int *>(shared_memory);
  if (threadIdx.x == 0) *counted = 0;
  __syncthreads();
  if (fixed) {
    atomicMin(counted, -1);
  } else {
    *counted = *counted - 1;
  }
  __syncthreads();
  y[threadIdx.x] = *counted < 0 ? x[COUNT - 1 - threadIdx.x] : 0;
}

/** Blocks write one element, of which the last one's value is right: here they run in order, on a GPU in none. */
__global__ void lost_between_blocks(float *y, const float *x, bool fixed) {
  bool last = blockIdx.x + 1 == BLOCKS;
  if (last && threadIdx.x > 0) y[threadIdx.x] = x[COUNT - 1 - threadIdx.x];
  if (threadIdx.x == 0 && (last || !fixed)) y[0] = x[last ? COUNT - 1 : 0];
}

/** Reads what an asynchronous copy brings without a wait for it. */
__global__ void weak_wait(float *y, const float *x, bool fixed) {
  unsigned i = threadIdx.x;
  if (i % 4 == 0) ptx::copy_async_16(shared() + i, x + i, true);
  ptx::copy_async_commit();
  if (fixed) ptx::copy_async_wait<0>();
  __syncthreads();
  y[i] = shared()[COUNT - 1 - i];
}

/** An asynchronous copy overwrites what others may not have read yet. */
__global__ void early_refill(float *y, const float *x, bool fixed) {
  unsigned i = threadIdx.x;
  shared()[i] = x[i];
  __syncthreads();
  y[i] = shared()[COUNT - 1 - i];
  if (fixed) __syncthreads();
  if (i % 4 == 0) ptx::copy_async_16(shared() + i, x + COUNT / 2, true);
  ptx::copy_async_commit();
  ptx::copy_async_wait<0>();
}

enum group_bug { UNFENCED, UNBEGUN, UNAWAITED, REFILLED, INCOMPLETE };

constexpr size_t GROUP_BYTES = 1024 + (64 + COUNT) * 128;

/** A row of ones times the column x, by a product of a warp group: what it reads is not fenced, its registers are not announced,
 *  its sums are read too early, its factors are overwritten too early, or one warp stays away. */
template <group_bug BUG>
__global__ void group_product(float *y, const float *x, bool fixed) {
  unsigned i = threadIdx.x, past = ptx::shared_address(shared_memory) % 1024;
  __nv_bfloat16 *ones = reinterpret_cast<__nv_bfloat16 *>(shared_memory + (1024 - past) % 1024),
                *column = ones + 64 * 64;
  auto well = [&](group_bug bug) { return fixed || BUG != bug; };
  for (unsigned k = 0; k < 16; k++) {
    unsigned at = i * 64 + (k / 8 ^ i % 8) * 8 + k % 8;
    if (i < 64) ones[at] = __float2bfloat16_rn(k == 0);
    column[at] = __float2bfloat16_rn(k == 0 ? x[COUNT - 1 - i] : 0);
  }
  ptx::copy_async_wait<0>();
  if (well(UNFENCED)) ptx::fence_async_shared();
  __syncthreads();
  float c[16][4];
  if (well(UNBEGUN)) ptx::products_begin();
  if (well(INCOMPLETE) || i >= WARP)
    ptx::multiply_panels<false>(c, ptx::describe_panels(ones, 0), ptx::describe_panels(column, 0));
  ptx::products_commit();
  if (well(UNAWAITED) && well(REFILLED)) ptx::products_wait<0>(c);
  __syncthreads();
  column[i * 64 + i % 8 * 8] = __float2bfloat16_rn(0);
  if (!well(REFILLED)) ptx::products_wait<0>(c);
  for (unsigned n = 0; n < 16 && i < 4; n++)
    for (unsigned e = 0; e < 2; e++) y[n * 8 + i * 2 + e] = c[n][e];
}

/* ---- host code ------------------------------------------------------------------------------------------------- */

struct place {
  cuda_context context;
  float *x, *y;            /**< device memory; memory that host and device reach */
  float values[COUNT + 1]; /**< of x */
};

bool good(cudaError_t error) {
  return error == cudaSuccess;
}

bool finish(const place &p) {
  return good(cudaStreamSynchronize(p.context.stream));
}

using kernel_of = void (*)(float *, const float *, bool);

template <kernel_of KERNEL, int GRID = 1, size_t SHARED = BYTES>
bool run(place &p, bool fixed) {
  return good(launch(&p.context, KERNEL, dim3(GRID), COUNT, SHARED, p.y, p.x, fixed)) && finish(p);
}

/** Reads a result that nobody has waited for. */
bool early_read(place &p, bool fixed) {
  if (!good(launch(&p.context, barrier, dim3(1), COUNT, BYTES, p.y, p.x, true)) || (fixed && !finish(p))) return false;
  if (p.y[0] == p.values[COUNT - 1]) return true;
  fprintf(stderr, "read too early\n");
  return finish(p) && false;
}

bool long_copy(place &p, bool fixed) {
  return good(cudaMemcpyAsync(p.x, p.values, BYTES + !fixed * sizeof(float), cudaMemcpyHostToDevice,
                              p.context.stream)) &&
         run<barrier>(p, true);
}

/** Host code that reads device memory. */
bool host_reads(place &p, bool fixed) {
  return (fixed || *(volatile float *)p.x != 0) && run<barrier>(p, true);
}

/** A kernel that is given host memory. */
bool host_pointer(place &p, bool fixed) {
  return good(launch(&p.context, barrier, dim3(1), COUNT, BYTES, p.y, fixed ? p.x : p.values, true)) && finish(p);
}

bool high_grid(place &p, bool fixed) {
  return good(launch(&p.context, barrier, dim3(1, fixed ? 1 : 65536), COUNT, BYTES, p.y, p.x, true)) && finish(p);
}

/** More than 48 KB of shared memory without asking for it. */
bool unasked_shared(place &p, bool fixed) {
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(1), config.blockDim = dim3(COUNT), config.stream = p.context.stream;
  config.dynamicSmemBytes = fixed ? SHARED_WITHOUT_ASKING : SHARED_WITHOUT_ASKING + 1;
  return good(cudaLaunchKernelEx(&config, barrier, p.y, (const float *)p.x, true)) && finish(p);
}

/** A second stream copies from a slot that the first fills. Bugs: it does not wait for that, or the first does not wait
 *  until the slot has been read before it is used again. */
bool two_streams(place &p, bool waits, bool waits_again) {
  cudaStream_t first = p.context.stream, second;
  cudaEvent_t filled, taken;
  float *slot;
  bool well =
      good(cudaMalloc((void **)&slot, BYTES)) && good(cudaStreamCreateWithFlags(&second, cudaStreamNonBlocking)) &&
      good(cudaEventCreateWithFlags(&filled, cudaEventDisableTiming)) &&
      good(cudaEventCreateWithFlags(&taken, cudaEventDisableTiming)) &&
      good(launch(&p.context, barrier, dim3(1), COUNT, BYTES, slot, p.x, true)) && good(cudaEventRecord(filled, first));
  if (waits) well = well && good(cudaStreamWaitEvent(second, filled, 0));
  well = well && good(cudaMemcpyAsync(p.y, slot, BYTES, cudaMemcpyDeviceToDevice, second)) &&
         good(cudaEventRecord(taken, second));
  if (waits_again) well = well && good(cudaStreamWaitEvent(first, taken, 0));
  well = well && good(cudaMemsetAsync(slot, 0, BYTES, first)) && finish(p) && good(cudaStreamSynchronize(second));
  cudaFree(slot);
  cudaEventDestroy(filled);
  cudaEventDestroy(taken);
  cudaStreamDestroy(second);
  return well;
}

bool unfilled(place &p, bool fixed) {
  return two_streams(p, fixed, true);
}

bool overwritten(place &p, bool fixed) {
  return two_streams(p, true, fixed);
}

constexpr struct {
  const char *name;
  bool (*run)(place &, bool fixed);
} cases[] = {{"barrier", run<barrier>},
             {"warp-barrier", run<warp_barrier>},
             {"shuffle-order", run<shuffle_order>},
             {"divergent", run<divergent>},
             {"unset", run<unset>},
             {"beyond", run<beyond>},
             {"beyond-shared", run<beyond_shared>},
             {"misaligned", run<misaligned>},
             {"lost-update", run<lost_update>},
             {"lost-between-blocks", run<lost_between_blocks, BLOCKS>},
             {"weak-wait", run<weak_wait>},
             {"early-refill", run<early_refill>},
             {"unfenced", run<group_product<UNFENCED>, 1, GROUP_BYTES>},
             {"unbegun", run<group_product<UNBEGUN>, 1, GROUP_BYTES>},
             {"unawaited", run<group_product<UNAWAITED>, 1, GROUP_BYTES>},
             {"refilled", run<group_product<REFILLED>, 1, GROUP_BYTES>},
             {"incomplete", run<group_product<INCOMPLETE>, 1, GROUP_BYTES>},
             {"early-read", early_read},
             {"long-copy", long_copy},
             {"host-reads", host_reads},
             {"host-pointer", host_pointer},
             {"high-grid", high_grid},
             {"unasked-shared", unasked_shared},
             {"unfilled", unfilled},
             {"overwritten", overwritten}};

bool right(const place &p) {
  for (int i = 0; i < COUNT; i++)
    if (p.y[i] != p.values[COUNT - 1 - i]) {
      fprintf(stderr, "wrong result\n");
      return false;
    }
  return true;
}

}  // namespace

int main(int count, char **words) {
  place p = {};
  bool fixed = count > 2, well = false;
  for (int i = 0; i <= COUNT; i++) p.values[i] = (float)i + 0.5f;
  if (!good(cudaMalloc((void **)&p.x, BYTES)) || !good(cudaMallocManaged((void **)&p.y, BYTES, cudaMemAttachGlobal)) ||
      !good(cudaStreamCreateWithFlags(&p.context.stream, cudaStreamNonBlocking)) ||
      !good(cudaMemcpyAsync(p.x, p.values, BYTES, cudaMemcpyHostToDevice, p.context.stream)))
    return 2;
  for (const auto &c : cases)
    if (count > 1 && strcmp(words[1], c.name) == 0) {
      well = c.run(p, fixed);
      if (!well) fprintf(stderr, "refused\n");
      well = well && right(p);
    }
  cudaFree(p.x);
  cudaFree(p.y);
  cudaStreamDestroy(p.context.stream);
  return well ? 0 : 1;
}
