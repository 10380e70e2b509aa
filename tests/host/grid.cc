/* The threads of a block as fibers of the host thread. One runs until it reaches a barrier or a shuffle, or ends. */
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sys/mman.h>
#include <vector>

#include "runtime.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

/** The block's shared memory: what a kernel did not ask for is poisoned. */
extern "C++" {
alignas(1024) unsigned char shared_memory[HOST_SHARED_MOST];
}

namespace {

enum { MOST = 1024, LANES = 32, STACK = 256 << 10 };
enum state { READY, AT_BARRIER, AT_EXCHANGE, ENDED };

/* ---- switching from one stack to another -------------------------------------------------------------------- */

struct stack_place {
#if defined(__x86_64__)
  void *pointer;
#else
  ucontext_t context;
#endif
  void *fake = nullptr; /**< AddressSanitizer's */
  const void *bottom = nullptr;
  size_t size = 0;
};

#if defined(__x86_64__)
extern "C" void host_switch_stack(void **save, void *load);
asm(R"(
.text
.globl host_switch_stack
.type host_switch_stack, @function
host_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size host_switch_stack, .-host_switch_stack
)");
#endif

void begin_switch(stack_place *from, stack_place *to, bool forever) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(forever ? nullptr : &from->fake, to->bottom, to->size);
#else
  (void)from, (void)to, (void)forever;
#endif
}

void end_switch(stack_place *here, stack_place *from) {
#if defined(__SANITIZE_ADDRESS__)
  const void *bottom;
  size_t size;
  __sanitizer_finish_switch_fiber(here->fake, &bottom, &size);
  if (!from->size) from->bottom = bottom, from->size = size;
#else
  (void)here, (void)from;
#endif
}

void jump(stack_place *from, stack_place *to, bool forever) {
  begin_switch(from, to, forever);
#if defined(__x86_64__)
  host_switch_stack(&from->pointer, to->pointer);
#else
  swapcontext(&from->context, &to->context);
#endif
  end_switch(from, to);
}

/* ---- a block -------------------------------------------------------------------------------------------------- */

struct fiber {
  stack_place place;
  state now;
  unsigned mask;      /**< of the exchange it waits in */
  unsigned exchanges; /**< done so far: two sets of slots take turns */
  uint3 index;
};

fiber fibers[MOST];
char slots[2][MOST][8];
stack_place scheduler;
unsigned current;
char *stacks;
const std::function<void()> *body;

void fiber_main() {
  end_switch(&fibers[current].place, &scheduler);
  (*body)();
  fibers[current].now = ENDED;
  jump(&fibers[current].place, &scheduler, true);
}

void prepare(unsigned i) {
  fiber *f = &fibers[i];
  char *bottom = stacks + (size_t)i * STACK;
  f->now = READY;
  f->exchanges = 0;
  f->place.bottom = bottom, f->place.size = STACK, f->place.fake = nullptr;
  f->index = {i % blockDim.x, i / blockDim.x % blockDim.y, i / (blockDim.x * blockDim.y)};
#if defined(__x86_64__)
  void **top = (void **)(bottom + STACK);
  *--top = nullptr; /* where fiber_main would return to: it does not; and keeps the stack aligned */
  *--top = (void *)fiber_main;
  for (int k = 0; k < 6; k++) *--top = nullptr;
  f->place.pointer = top;
#else
  getcontext(&f->place.context);
  f->place.context.uc_stack.ss_sp = bottom;
  f->place.context.uc_stack.ss_size = STACK;
  f->place.context.uc_link = nullptr;
  makecontext(&f->place.context, fiber_main, 0);
#endif
}

void wait_as(state why) {
  fiber *f = &fibers[current];
  f->now = why;
  jump(&f->place, &scheduler, false);
}

/* ---- whose turn it is ---------------------------------------------------------------------------------------- */

void fill_order(std::vector<unsigned> &order, unsigned threads) {
  const host_schedule chosen = host_schedule_of_tests();
  order.resize(threads);
  for (unsigned i = 0; i < threads; i++) order[i] = chosen == HOST_REVERSE ? threads - 1 - i : i;
  for (unsigned i = threads; chosen == HOST_RANDOM && i > 1; i--) std::swap(order[i - 1], order[host_random(i)]);
}

/** Lets go the lanes of a warp whose exchange is complete. */
bool release_warp(unsigned first, unsigned threads) {
  unsigned waiting = 0, mask = 0;
  for (unsigned lane = 0; lane < LANES && first + lane < threads; lane++)
    if (fibers[first + lane].now == AT_EXCHANGE) waiting |= 1u << lane, mask |= fibers[first + lane].mask;
  if (!waiting || waiting != mask) return false;
  for (unsigned lane = 0; lane < LANES && first + lane < threads; lane++)
    if (waiting >> lane & 1) fibers[first + lane].now = READY;
  return true;
}

/** After every thread has run as far as it could: who may go on. False when nobody may. */
bool release(unsigned threads, unsigned *ended) {
  unsigned at_barrier = 0;
  bool any = false;
  *ended = 0;
  for (unsigned i = 0; i < threads; i++) {
    at_barrier += fibers[i].now == AT_BARRIER;
    *ended += fibers[i].now == ENDED;
  }
  if (at_barrier == threads) {
    for (unsigned i = 0; i < threads; i++) fibers[i].now = READY;
    return true;
  }
  for (unsigned first = 0; first < threads; first += LANES) any |= release_warp(first, threads);
  return any;
}

cudaError_t run_block(unsigned threads) {
  static std::vector<unsigned> order;
  unsigned ended;
  for (unsigned i = 0; i < threads; i++) prepare(i);
  do {
    fill_order(order, threads);
    for (unsigned i : order) {
      if (fibers[i].now != READY) continue;
      current = i;
      threadIdx = fibers[i].index;
      jump(&scheduler, &fibers[i].place, false);
    }
  } while (release(threads, &ended));
  if (ended == threads) return cudaSuccess;
  fprintf(stderr, "host runtime: block %u %u %u: some threads wait at a barrier or shuffle that others never reach\n",
          blockIdx.x, blockIdx.y, blockIdx.z);
  return cudaErrorLaunchFailure;
}

void prepare_shared(size_t bytes) {
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
  wait_as(AT_BARRIER);
}

void host_exchange(unsigned mask, void *value, size_t bytes, unsigned from) {
  fiber *f = &fibers[current];
  unsigned me = current, warp = me / LANES * LANES, set = f->exchanges++ % 2;
  memcpy(slots[set][me], value, bytes);
  f->mask = mask;
  wait_as(AT_EXCHANGE);
  memcpy(value, slots[set][warp + from], bytes);
}

void __syncwarp(unsigned mask) {
  char nothing = 0;
  host_exchange(mask, &nothing, 1, host_lane());
}

cudaError_t host_run_grid(const cudaLaunchConfig_t &config, const std::function<void()> &thread) {
  unsigned threads = config.blockDim.x * config.blockDim.y * config.blockDim.z;
  if (!stacks) {
    void *memory = mmap(nullptr, (size_t)MOST * STACK, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    if (memory == MAP_FAILED) return cudaErrorMemoryAllocation;
    stacks = (char *)memory;
  }
  body = &thread;
  gridDim = config.gridDim;
  blockDim = config.blockDim;
  cudaError_t status = cudaSuccess;
  for (unsigned z = 0; z < gridDim.z; z++)
    for (unsigned y = 0; y < gridDim.y; y++)
      for (unsigned x = 0; x < gridDim.x && status == cudaSuccess; x++) {
        blockIdx = {x, y, z};
        prepare_shared(config.dynamicSmemBytes);
        host_drop_copies();
        status = run_block(threads);
      }
  return status;
}
