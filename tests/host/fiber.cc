#include "fiber.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

/* There in a program that is linked with ThreadSanitizer (sanitizer/tsan_interface.h). */
extern "C" {
__attribute__((weak)) void *__tsan_get_current_fiber(void);
__attribute__((weak)) void *__tsan_create_fiber(unsigned flags);
__attribute__((weak)) void __tsan_switch_to_fiber(void *fiber, unsigned flags);
__attribute__((weak)) void __tsan_acquire(void *address);
__attribute__((weak)) void __tsan_release(void *address);
}

namespace {

constexpr unsigned NO_SYNC = 1;

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

void leave(fiber_place *from, fiber_place *to, bool forever) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(forever ? nullptr : &from->fake, to->bottom, to->size);
#else
  (void)from, (void)forever;
#endif
  if (fiber_races()) __tsan_switch_to_fiber(to->races, NO_SYNC);
}

}  // namespace

bool fiber_races() {
  return __tsan_create_fiber != nullptr;
}

void fiber_publish(void *at) {
  if (fiber_races()) __tsan_release(at);
}

void fiber_observe(void *at) {
  if (fiber_races()) __tsan_acquire(at);
}

void fiber_adopt(fiber_place *place) {
  if (fiber_races()) place->races = __tsan_get_current_fiber();
}

void fiber_arrive(fiber_place *here, fiber_place *from) {
#if defined(__SANITIZE_ADDRESS__)
  const void *bottom;
  size_t size;
  __sanitizer_finish_switch_fiber(here->fake, &bottom, &size);
  if (!from->size) from->bottom = bottom, from->size = size;
#else
  (void)here, (void)from;
#endif
}

void fiber_switch(fiber_place *from, fiber_place *to, bool forever) {
  leave(from, to, forever);
#if defined(__x86_64__)
  host_switch_stack(&from->pointer, to->pointer);
#else
  swapcontext(&from->context, &to->context);
#endif
  fiber_arrive(from, to);
}

void fiber_prepare(fiber_place *place, char *stack, size_t size, void (*main)()) {
  place->bottom = stack, place->size = size, place->fake = nullptr;
  if (fiber_races() && !place->races) place->races = __tsan_create_fiber(0);
#if defined(__x86_64__)
  void **top = (void **)(stack + size);
  *--top = nullptr; /* where main would return to: it does not; and keeps the stack aligned */
  *--top = (void *)main;
  for (int k = 0; k < 6; k++) *--top = nullptr;
  place->pointer = top;
#else
  getcontext(&place->context);
  place->context.uc_stack.ss_sp = stack;
  place->context.uc_stack.ss_size = size;
  place->context.uc_link = nullptr;
  makecontext(&place->context, main, 0);
#endif
}
