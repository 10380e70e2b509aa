/**
 * @file fiber.h
 * Stacks that one host thread switches between, and what the sanitizers are told of it: AddressSanitizer which stack is in
 * use, ThreadSanitizer that each fiber is a thread of its own. A switch orders nothing for ThreadSanitizer; only
 * fiber_publish() and fiber_observe() do.
 */
#ifndef QST_TESTS_HOST_FIBER_H
#define QST_TESTS_HOST_FIBER_H

#include <cstddef>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

struct fiber_place {
#if defined(__x86_64__)
  void *pointer;
#else
  ucontext_t context;
#endif
  void *fake = nullptr; /**< AddressSanitizer's */
  const void *bottom = nullptr;
  size_t size = 0;
  void *races = nullptr; /**< ThreadSanitizer's; kept when the stack is used again */
};

/** The next switch to it calls `main`, which must not return. */
void fiber_prepare(fiber_place *place, char *stack, size_t size, void (*main)());
/** First thing on a new stack. */
void fiber_arrive(fiber_place *here, fiber_place *from);
/** Leaves `from`, for ever when its stack is not to be used on. */
void fiber_switch(fiber_place *from, fiber_place *to, bool forever);
/** Of the host thread itself, before the first switch from it. */
void fiber_adopt(fiber_place *place);

/** Whether ThreadSanitizer watches: only kernels are compiled for it, so nothing but its functions shows that. */
bool fiber_races();
/** What this fiber did before is seen by whoever observes the address later. */
void fiber_publish(void *at);
void fiber_observe(void *at);

#endif
