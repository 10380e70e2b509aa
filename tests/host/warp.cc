/* What ptx.cuh needs of the host runtime: values of a whole warp, and asynchronous copies to shared memory. */
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "ptx.cuh"
#include "runtime.h"

namespace {

enum { MOST = 1024, LANES = 32 };

unsigned this_thread() {
  return threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
}

struct copy {
  void *to;
  const void *from;
  size_t bytes;
  bool there;
};

enum { UNDER_WAY = 128 };

/** A thread's copies that are not done, in order, and how many groups it has closed. No memory of the heap: ThreadSanitizer
 *  knows who takes and returns that. */
struct queue {
  copy copies[UNDER_WAY];
  unsigned groups[UNDER_WAY]; /**< of each copy */
  unsigned first, count, closed;
};

queue queues[MOST];
bool any_copies;

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
  queue &q = queues[this_thread()];
  if ((uintptr_t)to % bytes || (uintptr_t)from % bytes || q.count == UNDER_WAY) {
    fprintf(stderr, "host runtime: an asynchronous copy of %zu bytes is not aligned, or one of too many\n", bytes);
    abort();
  }
  if (early()) return run({to, from, bytes, there});
  unsigned at = (q.first + q.count++) % UNDER_WAY;
  q.copies[at] = {to, from, bytes, there};
  q.groups[at] = q.closed;
  any_copies = true;
}

void host_copy_async_commit() {
  queues[this_thread()].closed++;
}

void host_copy_async_wait(int most) {
  queue &q = queues[this_thread()];
  for (; q.count && q.closed - q.groups[q.first] > (unsigned)most; q.count--, q.first = (q.first + 1) % UNDER_WAY)
    run(q.copies[q.first]);
}

void host_drop_copies() {
  if (!any_copies) return;
  for (queue &q : queues) q.first = q.count = q.closed = 0;
  any_copies = false;
}
