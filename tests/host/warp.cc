/* What ptx.cuh and wgmma.cuh need of the host runtime: values of a whole warp, asynchronous copies to shared memory, and
 * products of four warps. */
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "ptx.cuh"
#include "runtime.h"
#include "wgmma.cuh"

namespace {

enum { MOST = 1024, LANES = 32, GROUP = 4 * LANES };

unsigned this_thread() {
  return threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
}

[[noreturn]] void fail(const char *why) {
  fprintf(stderr, "host runtime: %s\n", why);
  abort();
}

struct copy {
  void *to;
  const void *from;
  size_t bytes;
  bool there;
};

enum { UNDER_WAY = 128 };

/** What a thread has under way, in order, and how many groups it has closed. No memory of the heap: ThreadSanitizer knows who
 *  takes and returns that. */
template <typename T, unsigned MOST_UNDER_WAY>
struct queue {
  T items[MOST_UNDER_WAY];
  unsigned groups[MOST_UNDER_WAY]; /**< of each item */
  unsigned first, count, closed;

  T *add() {
    if (count == MOST_UNDER_WAY) fail("too much is under way at once");
    unsigned at = (first + count++) % MOST_UNDER_WAY;
    groups[at] = closed;
    return &items[at];
  }
  /** The oldest that is in none of the `most` latest groups, or NULL. */
  T *take(int most) {
    if (!count || closed - groups[first] <= (unsigned)most) return nullptr;
    T *item = &items[first];
    count--, first = (first + 1) % MOST_UNDER_WAY;
    return item;
  }
};

queue<copy, UNDER_WAY> queues[MOST];
bool any_copies;

bool unfenced[MOST]; /**< threads that waited for copies, and have not yet made products see them */

struct product {
  void (*run)(const void *);
  alignas(8) char what[HOST_PRODUCT_MOST];
};

/** A thread, and its products. */
struct asker {
  bool begun;
  unsigned asked;
  queue<product, 32> under_way;
} products[MOST];

/** Words, by a loop that does not become memcpy(), whose callers ThreadSanitizer knows. */
void copy_unseen(void *to, const void *from, size_t bytes) {
  for (size_t i = 0; i < bytes / 4; i++) ((volatile uint32_t *)to)[i] = ((const volatile uint32_t *)from)[i];
}

void run(const copy &c) {
  if (c.there) {
    memcpy(c.to, c.from, c.bytes);
  } else {
    memset(c.to, 0, c.bytes);
  }
}

/** Whether a copy is done when it is asked for, as early as a GPU may, and not when it is waited for. */
bool early() {
  host_schedule schedule = host_schedule_of_tests();
  return schedule == HOST_REVERSE || (schedule == HOST_RANDOM && host_random(2));
}

}  // namespace

void host_gather(const void *mine, size_t bytes, void *all) {
  static char slots[2][MOST][HOST_GATHER_MOST]; /* two sets take turns: a lane may be one gathering ahead */
  static unsigned turns[MOST];
  unsigned me = this_thread(), first = me / LANES * LANES, set = turns[me]++ % 2;
  copy_unseen(slots[set][me], mine, bytes);
  __shfl_sync(0xffffffffu, 0, (int)(me % LANES));
  for (unsigned lane = 0; lane < LANES; lane++)
    copy_unseen((char *)all + lane * bytes, slots[set][first + lane], bytes);
}

void host_copy_async(void *to, const void *from, size_t bytes, bool there) {
  if ((uintptr_t)to % bytes || (uintptr_t)from % bytes) fail("an asynchronous copy is not aligned to its size");
  if (early()) return run({to, from, bytes, there});
  *queues[this_thread()].add() = {to, from, bytes, there};
  any_copies = true;
}

void host_copy_async_commit() {
  queues[this_thread()].closed++;
}

void host_copy_async_wait(int most) {
  while (const copy *c = queues[this_thread()].take(most)) run(*c);
  unfenced[this_thread()] = true;
}

/* ---- products of warp groups ---------------------------------------------------------------------------------- */

void host_fence_async() {
  unfenced[this_thread()] = false;
}

void host_products_begin() {
  products[this_thread()].begun = true;
}

void host_product_async(void (*run)(const void *), const void *what, size_t bytes) {
  asker &mine = products[this_thread()];
  if (!mine.begun) fail("a product of a warp group without products_begin()");
  for (unsigned i = 0; i < blockDim.x; i++)
    if (unfenced[i]) fail("a product of a warp group may read what was copied without fence_async_shared()");
  mine.asked++;
  any_copies = true;
  if (!mine.under_way.count && early()) return run(what);
  product *p = mine.under_way.add();
  p->run = run;
  copy_unseen(p->what, what, bytes);
}

void host_products_commit() {
  products[this_thread()].begun = false;
  products[this_thread()].under_way.closed++;
}

void host_products_wait(int most) {
  while (const product *p = products[this_thread()].under_way.take(most)) p->run(p->what);
}

/* ---- blocks --------------------------------------------------------------------------------------------------- */

void host_begin_block() {
  memset(unfenced, 0, sizeof unfenced);
  if (!any_copies) return;
  for (auto &q : queues) q.first = q.count = q.closed = 0;
  for (asker &a : products) a.begun = false, a.asked = a.under_way.first = a.under_way.count = a.under_way.closed = 0;
  any_copies = false;
}

bool host_end_block(unsigned threads) {
  for (unsigned i = 0; i < threads; i++)
    if (products[i].asked != products[i / GROUP * GROUP].asked) {
      fprintf(stderr, "host runtime: a product of a warp group that not all of its threads ask for\n");
      return false;
    }
  return true;
}
