/* What ptx.cuh needs of the host runtime: values of a whole warp, and asynchronous copies to shared memory. */
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <vector>

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

struct groups {
  std::vector<copy> open;
  std::deque<std::vector<copy>> closed;
};

groups copies[MOST];
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
  if ((uintptr_t)to % bytes || (uintptr_t)from % bytes) {
    fprintf(stderr, "host runtime: an asynchronous copy of %zu bytes is not aligned\n", bytes);
    abort();
  }
  if (early()) return run({to, from, bytes, there});
  any_copies = true;
  copies[this_thread()].open.push_back({to, from, bytes, there});
}

void host_copy_async_commit() {
  groups &g = copies[this_thread()];
  g.closed.push_back(std::move(g.open));
  g.open.clear();
}

void host_copy_async_wait(int most) {
  groups &g = copies[this_thread()];
  for (; g.closed.size() > (size_t)most; g.closed.pop_front())
    for (const copy &c : g.closed.front()) run(c);
}

void host_drop_copies() {
  if (!any_copies) return;
  for (groups &g : copies) g.open.clear(), g.closed.clear();
  any_copies = false;
}
