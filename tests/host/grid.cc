/* The threads of a block as fibers of the host thread. One runs until it reaches a barrier or a shuffle, or ends. */
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <sys/mman.h>
#include <vector>

#include "fiber.h"
#include "runtime.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

/** The block's shared memory, whole pages: what a kernel did not ask for is poisoned. */
extern "C++" {
alignas(4096) unsigned char shared_memory[(HOST_SHARED_MOST + 4095) / 4096 * 4096];
}

namespace {

enum { MOST = 1024, LANES = 32, STACK = 256 << 10 };
enum state { READY, AT_BARRIER, AT_EXCHANGE, ENDED };

/* ---- a block -------------------------------------------------------------------------------------------------- */

struct fiber {
  fiber_place place;
  state now;
  unsigned mask, from; /**< of the exchange it waits in */
  uint64_t value;      /**< given, then taken */
  uint3 index;
};

struct warp_barrier {
  uint64_t turn[2];
  unsigned done;
};

/** The threads of a block, and what orders them for ThreadSanitizer: barriers (a thread may reach the next one before another
 *  has left the last), and those of each warp and mask. */
struct team {
  fiber threads[MOST];
  uint64_t barrier[2];
  unsigned barriers;
  std::map<uint64_t, warp_barrier> warps;
};

/* Blocks take turns with two teams: the threads of one are others than those of the next, and nothing orders them. */
team teams[2], *block;
uint64_t start_of_block, end_of_grid;
fiber_place scheduler;
unsigned current;
char *stacks;
const std::function<void()> *body;

void fiber_main() {
  fiber_arrive(&block->threads[current].place, &scheduler);
  fiber_observe(&start_of_block);
  (*body)();
  fiber_publish(&end_of_grid);
  block->threads[current].now = ENDED;
  fiber_switch(&block->threads[current].place, &scheduler, true);
}

void prepare(unsigned i) {
  fiber *f = &block->threads[i];
  f->now = READY;
  f->index = {i % blockDim.x, i / blockDim.x % blockDim.y, i / (blockDim.x * blockDim.y)};
  fiber_prepare(&f->place, stacks + ((size_t)(block - teams) * MOST + i) * STACK, STACK, fiber_main);
}

void wait_as(state why) {
  fiber *f = &block->threads[current];
  f->now = why;
  fiber_switch(&f->place, &scheduler, false);
}

/* ---- whose turn it is ---------------------------------------------------------------------------------------- */

void fill_order(std::vector<unsigned> &order, unsigned threads) {
  const host_schedule chosen = host_schedule_of_tests();
  order.resize(threads);
  for (unsigned i = 0; i < threads; i++) order[i] = chosen == HOST_REVERSE ? threads - 1 - i : i;
  for (unsigned i = threads; chosen == HOST_RANDOM && i > 1; i--) std::swap(order[i - 1], order[host_random(i)]);
}

/** Lanes of a warp that wait in an exchange of `mask`, and those whose value they want. */
unsigned waiting_lanes(const fiber *warp, unsigned lanes, unsigned mask, unsigned *wanted) {
  unsigned waiting = *wanted = 0;
  for (unsigned lane = 0; lane < lanes; lane++)
    if (warp[lane].now == AT_EXCHANGE && warp[lane].mask == mask)
      waiting |= 1u << lane, *wanted |= 1u << warp[lane].from;
  return waiting;
}

/** Lets go the lanes whose exchange is complete: each takes the value of another. */
bool release_warp(fiber *warp, unsigned lanes) {
  bool any = false;
  for (unsigned first = 0; first < lanes; first++) {
    unsigned mask = warp[first].mask, wanted;
    if (warp[first].now != AT_EXCHANGE || waiting_lanes(warp, lanes, mask, &wanted) != mask || wanted & ~mask) continue;
    uint64_t values[LANES];
    for (unsigned lane = 0; lane < lanes; lane++) values[lane] = warp[lane].value;
    for (unsigned lane = 0; lane < lanes; lane++)
      if (mask >> lane & 1) warp[lane].value = values[warp[lane].from], warp[lane].now = READY;
    any = true;
  }
  return any;
}

/** After every thread has run as far as it could: who may go on. False when nobody may. */
bool release(unsigned threads, unsigned *ended) {
  unsigned at_barrier = 0;
  bool any = false;
  *ended = 0;
  for (unsigned i = 0; i < threads; i++) {
    at_barrier += block->threads[i].now == AT_BARRIER;
    *ended += block->threads[i].now == ENDED;
  }
  if (at_barrier == threads) {
    block->barriers++;
    for (unsigned i = 0; i < threads; i++) block->threads[i].now = READY;
    return true;
  }
  for (unsigned first = 0; first < threads; first += LANES)
    any |= release_warp(block->threads + first, std::min(threads - first, (unsigned)LANES));
  return any;
}

cudaError_t run_block(unsigned threads) {
  static std::vector<unsigned> order;
  unsigned ended;
  for (unsigned i = 0; i < threads; i++) prepare(i);
  fiber_publish(&start_of_block);
  do {
    fill_order(order, threads);
    for (unsigned i : order) {
      if (block->threads[i].now != READY) continue;
      current = i;
      threadIdx = block->threads[i].index;
      fiber_switch(&scheduler, &block->threads[i].place, false);
    }
  } while (release(threads, &ended));
  if (ended == threads) return cudaSuccess;
  fprintf(stderr, "host runtime: block %u %u %u: some threads wait at a barrier or shuffle that others never reach\n",
          blockIdx.x, blockIdx.y, blockIdx.z);
  return cudaErrorLaunchFailure;
}

/** NaN; to ThreadSanitizer memory that no other block has used. */
void prepare_shared(size_t bytes) {
  if (bytes && fiber_races())
    mmap(shared_memory, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
#if defined(__SANITIZE_ADDRESS__)
  ASAN_UNPOISON_MEMORY_REGION(shared_memory, sizeof shared_memory);
#endif
  memset(shared_memory, 0xff, bytes);
#if defined(__SANITIZE_ADDRESS__)
  ASAN_POISON_MEMORY_REGION(shared_memory + bytes, sizeof shared_memory - bytes);
#endif
}

}  // namespace

unsigned host_lane() {
  return current % LANES;
}

void __syncthreads() {
  uint64_t *barrier = &block->barrier[block->barriers % 2];
  fiber_publish(barrier);
  wait_as(AT_BARRIER);
  fiber_observe(barrier);
}

/** A shuffle orders no memory; __syncwarp() does. */
uint64_t host_exchange(unsigned mask, uint64_t value, unsigned from) {
  fiber *f = &block->threads[current];
  f->mask = mask, f->from = from, f->value = value;
  wait_as(AT_EXCHANGE);
  return f->value;
}

void __syncwarp(unsigned mask) {
  if (!fiber_races()) {
    host_exchange(mask, 0, host_lane());
    return;
  }
  warp_barrier *barrier = &block->warps[(uint64_t)(current / LANES) << 32 | mask];
  unsigned mine = barrier->done;
  fiber_publish(&barrier->turn[mine % 2]);
  host_exchange(mask, 0, host_lane());
  barrier->done = mine + 1;
  fiber_observe(&barrier->turn[mine % 2]);
}

cudaError_t host_run_grid(const cudaLaunchConfig_t &config, const std::function<void()> &thread) {
  unsigned threads = config.blockDim.x * config.blockDim.y * config.blockDim.z;
  if (!stacks) {
    void *memory = mmap(nullptr, (size_t)2 * MOST * STACK, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    if (memory == MAP_FAILED) return cudaErrorMemoryAllocation;
    stacks = (char *)memory;
  }
  fiber_adopt(&scheduler);
  body = &thread;
  gridDim = config.gridDim;
  blockDim = config.blockDim;
  cudaError_t status = cudaSuccess;
  for (unsigned z = 0; z < gridDim.z; z++)
    for (unsigned y = 0; y < gridDim.y; y++)
      for (unsigned x = 0; x < gridDim.x && status == cudaSuccess; x++) {
        blockIdx = {x, y, z};
        block = &teams[(x + y + z) % 2];
        prepare_shared(config.dynamicSmemBytes);
        host_begin_block();
        status = run_block(threads);
        if (status == cudaSuccess && !host_end_block(threads)) status = cudaErrorLaunchFailure;
      }
  fiber_observe(&end_of_grid);
  return status;
}
