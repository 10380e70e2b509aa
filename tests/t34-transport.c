/* Device buffers between ranks: every collective and element type at odd sizes, many under way at once and between
 * messages; channels in both directions with several slots; wrong use is an error. */
#include "base/types.h"
#include "check.h"
#include "comm/transport.h"
#include "device_memory.h"

// RUN ranks=1,2,3,4
// RUN ranks=1,2,3 device=cuda

struct site {
  struct comm *comm;
  struct device *device;
  struct transport *transport;
};

/* ---- elements -------------------------------------------------------------------------------------------- */

/* Small whole numbers, so that every sum is exact in every type. */
static int value_of(int rank, size_t i) {
  return (int)((i * 7 + i / 251 + (size_t)rank * 5) % 23) - 9;
}

static void put(void *values, size_t i, enum element element, int value) {
  switch (element) {
    case ELEMENT_I64:
      ((int64_t *)values)[i] = value;
      break;
    case ELEMENT_F32:
      ((float *)values)[i] = (float)value;
      break;
    case ELEMENT_BF16:
      ((bf16 *)values)[i] = float_to_bf16((float)value);
      break;
    case ELEMENT_BYTE:
      ((int8_t *)values)[i] = (int8_t)value;
      break;
  }
}

static int get(const void *values, size_t i, enum element element) {
  switch (element) {
    case ELEMENT_I64:
      return (int)((const int64_t *)values)[i];
    case ELEMENT_F32:
      return (int)((const float *)values)[i];
    case ELEMENT_BF16:
      return (int)bf16_to_float(((const bf16 *)values)[i]);
    case ELEMENT_BYTE:
      break;
  }
  return ((const int8_t *)values)[i];
}

static void *shared(size_t count, enum element element) {
  void *values = NULL;
  CHECK_OK(shared_array(&values, count, element_size(element)));
  if (!values) exit(check_result());
  return values;
}

static void fill(void *values, size_t count, enum element element, int rank) {
  for (size_t i = 0; i < count; i++) put(values, i, element, value_of(rank, i));
}

static int sum_at(const struct comm *comm, size_t i) {
  int sum = 0;
  for (int rank = 0; rank < comm->size; rank++) sum += value_of(rank, i);
  return sum;
}

static size_t wrong_sums(const struct comm *comm, const void *values, size_t first, size_t count,
                         enum element element) {
  size_t wrong = 0;
  for (size_t i = 0; i < count; i++) wrong += get(values, i, element) != sum_at(comm, first + i);
  return wrong;
}

static size_t wrong_values(const void *values, size_t count, enum element element, int rank) {
  size_t wrong = 0;
  for (size_t i = 0; i < count; i++) wrong += get(values, i, element) != value_of(rank, i);
  return wrong;
}

/* ---- collectives ----------------------------------------------------------------------------------------- */

static void finish(struct site *site) {
  CHECK_OK(transport_wait(site->transport));
  CHECK_OK(device_synchronize(site->device));
}

static void test_sum(struct site *site, size_t count, enum element element) {
  void *values = shared(count, element);
  fill(values, count, element, site->comm->rank);
  CHECK_OK(transport_sum(site->transport, values, count, element));
  finish(site);
  CHECK(wrong_sums(site->comm, values, 0, count, element) == 0);
  shared_free(values);
}

static void test_reduce_scatter(struct site *site, size_t count, enum element element, bool in_place) {
  size_t all = count * (size_t)site->comm->size, mine = count * (size_t)site->comm->rank;
  char *values = shared(all, element);
  void *part = in_place ? values + mine * element_size(element) : shared(count, element);
  fill(values, all, element, site->comm->rank);
  CHECK_OK(transport_reduce_scatter(site->transport, part, values, count, element));
  finish(site);
  CHECK(wrong_sums(site->comm, part, mine, count, element) == 0);
  if (!in_place) shared_free(part);
  shared_free(values);
}

static void test_all_gather(struct site *site, size_t count, enum element element, bool in_place) {
  char *all = shared(count * (size_t)site->comm->size, element);
  size_t bytes = count * element_size(element);
  void *part = in_place ? all + (size_t)site->comm->rank * bytes : shared(count, element);
  fill(part, count, element, site->comm->rank);
  CHECK_OK(transport_all_gather(site->transport, all, part, count, element));
  finish(site);
  for (int rank = 0; rank < site->comm->size; rank++)
    CHECK(wrong_values(all + (size_t)rank * bytes, count, element, rank) == 0);
  if (!in_place) shared_free(part);
  shared_free(all);
}

static void test_broadcast(struct site *site, size_t count, enum element element) {
  void *values = shared(count, element);
  for (int root = 0; root < site->comm->size; root++) {
    fill(values, count, element, site->comm->rank);
    CHECK_OK(transport_broadcast(site->transport, values, count, element, root));
    finish(site);
    CHECK(wrong_values(values, count, element, root) == 0);
  }
  shared_free(values);
}

static void test_collectives(struct site *site, size_t count) {
  for (int i = ELEMENT_I64; i <= ELEMENT_BYTE; i++) {
    enum element element = (enum element)i;
    for (int in_place = 0; in_place < 2; in_place++) {
      if (element != ELEMENT_BYTE) test_reduce_scatter(site, count, element, in_place);
      test_all_gather(site, count, element, in_place);
    }
    if (element != ELEMENT_BYTE) test_sum(site, count, element);
    test_broadcast(site, count, element);
  }
}

/* Numbers whose sum depends on the order: all ranks must still hold the same bits, or replicas would drift apart. */
static void test_equal_bits(struct site *site, enum element element) {
  enum { COUNT = 4099 };
  char first[COUNT * sizeof(float)];
  void *values = shared(COUNT, element);
  for (size_t i = 0; i < COUNT; i++) {
    float value = ldexpf(1 + (float)i / COUNT, (int)(i * 5 + (size_t)site->comm->rank * 11) % 30);
    if (element == ELEMENT_F32) {
      ((float *)values)[i] = value;
    } else {
      ((bf16 *)values)[i] = float_to_bf16(value);
    }
  }
  CHECK_OK(transport_sum(site->transport, values, COUNT, element));
  finish(site);
  size_t bytes = COUNT * element_size(element);
  memcpy(first, values, bytes);
  CHECK_OK(comm_broadcast(site->comm, first, bytes, 0));
  CHECK(memcmp(first, values, bytes) == 0);
  shared_free(values);
}

/* ---- channels -------------------------------------------------------------------------------------------- */

enum { SLOTS = 3, PEERS = 4 };

/* What this rank has with one other: both directions. */
struct link {
  struct channel *out, *in;
  char *sent[SLOTS], *got[SLOTS];
};

static void open_link(struct site *site, struct link *link, int peer, size_t most) {
  /* The two ends open the pair in the same order: the lower rank's direction first. */
  bool lower = site->comm->rank < peer;
  struct channel **first = lower ? &link->out : &link->in, **second = lower ? &link->in : &link->out;
  enum channel_end end = lower ? CHANNEL_SENDS : CHANNEL_RECEIVES, other = lower ? CHANNEL_RECEIVES : CHANNEL_SENDS;
  CHECK_OK(channel_open(first, site->comm, site->device, peer, end, 0, SLOTS));
  CHECK_OK(channel_open(second, site->comm, site->device, peer, other, 1, SLOTS));
  for (int slot = 0; slot < SLOTS; slot++) {
    link->sent[slot] = shared(most, ELEMENT_BYTE);
    link->got[slot] = shared(most, ELEMENT_BYTE);
  }
}

static void close_link(struct link *link) {
  channel_close(&link->out);
  channel_close(&link->in);
  CHECK(!link->in);
  channel_close(&link->in);
  for (int slot = 0; slot < SLOTS; slot++) {
    shared_free(link->sent[slot]);
    shared_free(link->got[slot]);
  }
}

/* Message `turn` of a direction is told from every other by its content. */
static size_t wrong_message(const char *got, size_t bytes, int sender, int receiver, int turn) {
  return wrong_values(got, bytes, ELEMENT_BYTE, sender * 3 + receiver * 5 + turn * 7);
}

static void start_turn(struct site *site, struct link *link, int peer, int turn, size_t bytes) {
  int slot = turn % SLOTS;
  CHECK_OK(channel_wait(link->out, slot));
  CHECK_OK(device_synchronize(site->device));
  fill(link->sent[slot], bytes, ELEMENT_BYTE, site->comm->rank * 3 + peer * 5 + turn * 7);
  CHECK_OK(channel_start(link->in, slot, link->got[slot], bytes));
  CHECK_OK(channel_start(link->out, slot, link->sent[slot], bytes));
}

static void end_turn(struct site *site, struct link *link, int peer, int turn, size_t bytes) {
  int slot = turn % SLOTS;
  bool ready = false;
  if (turn % 2) CHECK_OK(channel_ready(link->in, slot, &ready));
  CHECK_OK(channel_wait(link->in, slot));
  CHECK_OK(device_synchronize(site->device));
  CHECK(wrong_message(link->got[slot], bytes, peer, site->comm->rank, turn) == 0);
  CHECK_OK(channel_ready(link->in, slot, &ready));
  CHECK(ready);
}

static size_t bytes_of(int turn) {
  static const size_t sizes[] = {1, 1001, 70001, 3, 333};
  return sizes[turn % 5];
}

/* Every rank with every other, SLOTS − 1 messages ahead, with sums under way all the time. */
static void test_channels(struct site *site) {
  enum { TURNS = 17, AHEAD = SLOTS - 1, SUMS = 257 };
  struct link links[PEERS] = {0};
  struct comm *comm = site->comm;
  int64_t *sums[TURNS + AHEAD];
  for (int peer = 0; peer < comm->size; peer++)
    if (peer != comm->rank) open_link(site, &links[peer], peer, 70001);
  for (int turn = 0; turn < TURNS + AHEAD; turn++) {
    sums[turn] = shared(SUMS, ELEMENT_I64);
    fill(sums[turn], SUMS, ELEMENT_I64, comm->rank);
    CHECK_OK(transport_sum(site->transport, sums[turn], SUMS, ELEMENT_I64));
    for (int peer = 0; peer < comm->size; peer++) {
      if (peer == comm->rank) continue;
      if (turn < TURNS) start_turn(site, &links[peer], peer, turn, bytes_of(turn));
      if (turn >= AHEAD) end_turn(site, &links[peer], peer, turn - AHEAD, bytes_of(turn - AHEAD));
    }
  }
  finish(site);
  for (int turn = 0; turn < TURNS + AHEAD; turn++) {
    CHECK(wrong_sums(comm, sums[turn], 0, SUMS, ELEMENT_I64) == 0);
    shared_free(sums[turn]);
  }
  for (int peer = 0; peer < comm->size; peer++)
    if (peer != comm->rank) close_link(&links[peer]);
}

/* 300 sums and broadcasts in turn, none waited for before the last was begun. */
static void test_many(struct site *site) {
  enum { MANY = 300, COUNT = 97 };
  int64_t *values = shared(MANY * COUNT, ELEMENT_I64);
  for (int i = 0; i < MANY; i++) fill(values + i * COUNT, COUNT, ELEMENT_I64, site->comm->rank);
  for (int i = 0; i < MANY; i++) {
    int64_t *at = values + i * COUNT;
    CHECK_OK(i % 2 ? transport_broadcast(site->transport, at, COUNT, ELEMENT_I64, i % site->comm->size)
                   : transport_sum(site->transport, at, COUNT, ELEMENT_I64));
  }
  finish(site);
  size_t wrong = 0;
  for (int i = 0; i < MANY; i++)
    wrong += i % 2 ? wrong_values(values + i * COUNT, COUNT, ELEMENT_I64, i % site->comm->size)
                   : wrong_sums(site->comm, values + i * COUNT, 0, COUNT, ELEMENT_I64);
  CHECK(wrong == 0);
  shared_free(values);
}

/* What a lane was given before an operation is in it, and what it is given after waiting sees the result, with no wait of
 * the host in between; the other lane is not held up. */
static void test_order(struct site *site) {
  enum { COUNT = 1001 };
  int64_t host[COUNT], *sums[LANE_COUNT];
  for (enum lane lane = 0; lane < LANE_COUNT; lane++) {
    CHECK_OK(device_allocate(site->device, MEMORY_WORKSPACE, &sums[lane], sizeof host));
    CHECK_OK(device_use_lane(site->device, lane));
    fill(host, COUNT, ELEMENT_I64, site->comm->rank + (int)lane);
    CHECK_OK(device_upload(site->device, sums[lane], host, sizeof host));
    CHECK_OK(transport_sum(site->transport, sums[lane], COUNT, ELEMENT_I64));
  }
  for (enum lane lane = 0; lane < LANE_COUNT; lane++) {
    CHECK_OK(device_use_lane(site->device, lane));
    CHECK_OK(transport_wait(site->transport));
    CHECK_OK(device_download(site->device, host, sums[lane], sizeof host));
    size_t wrong = 0;
    for (size_t i = 0; i < COUNT; i++) {
      int64_t sum = 0;
      for (int rank = 0; rank < site->comm->size; rank++) sum += value_of(rank + (int)lane, i);
      wrong += host[i] != sum;
    }
    CHECK(wrong == 0);
    device_release(site->device, MEMORY_WORKSPACE, &sums[lane], sizeof host);
  }
  CHECK_OK(device_use_lane(site->device, LANE_SIDE));
}

/* More than one piece. */
static void test_large(struct site *site) {
  size_t bytes = ((size_t)1 << 26) + 7;
  struct link link = {0};
  int peer = site->comm->rank ^ 1;
  test_sum(site, bytes / 8 + 1, ELEMENT_I64);
  if (peer >= site->comm->size) return;
  open_link(site, &link, peer, bytes);
  start_turn(site, &link, peer, 0, bytes);
  end_turn(site, &link, peer, 0, bytes);
  CHECK_OK(channel_wait(link.out, 0));
  CHECK_OK(device_synchronize(site->device));
  close_link(&link);
}

/* ---- wrong use ------------------------------------------------------------------------------------------- */

static void test_refusals(struct site *site) {
  struct channel *channel;
  struct comm *comm = site->comm;
  char *bytes = shared(8, ELEMENT_BYTE);
  CHECK_FAILS(ERR_INTERNAL, "sum of bytes", transport_sum(site->transport, bytes, 8, ELEMENT_BYTE));
  CHECK_FAILS(ERR_INTERNAL, "sum of bytes", transport_reduce_scatter(site->transport, bytes, bytes, 1, ELEMENT_BYTE));
  CHECK_FAILS(ERR_INTERNAL, "broadcast from", transport_broadcast(site->transport, bytes, 8, ELEMENT_BYTE, comm->size));
  CHECK_FAILS(ERR_INTERNAL, "channel between",
              channel_open(&channel, comm, site->device, comm->rank, CHANNEL_SENDS, 0, 1));
  CHECK(!channel);
  CHECK_FAILS(ERR_INTERNAL, "channel between",
              channel_open(&channel, comm, site->device, comm->size, CHANNEL_SENDS, 0, 1));
  if (comm->size > 1 && comm->rank < 2) {
    int peer = 1 - comm->rank;
    enum channel_end end = comm->rank == 0 ? CHANNEL_SENDS : CHANNEL_RECEIVES;
    CHECK_FAILS(ERR_INTERNAL, "tag -1", channel_open(&channel, comm, site->device, peer, end, -1, 1));
    CHECK_FAILS(ERR_INTERNAL, "0 slots", channel_open(&channel, comm, site->device, peer, end, 0, 0));
    CHECK_OK(channel_open(&channel, comm, site->device, peer, end, 5, 2));
    CHECK_FAILS(ERR_INTERNAL, "slot 2 of 2", channel_start(channel, 2, bytes, 8));
    CHECK_FAILS(ERR_INTERNAL, "in the turn of slot 0", channel_start(channel, 1, bytes, 8));
    CHECK_OK(channel_wait(channel, 1));
    CHECK_OK(channel_start(channel, 0, bytes, 8));
    CHECK_FAILS(ERR_INTERNAL, "under way", channel_start(channel, 0, bytes, 8));
    CHECK_OK(channel_wait(channel, 0));
    CHECK_OK(device_synchronize(site->device));
    channel_close(&channel);
  }
  shared_free(bytes);
}

/* A message that is shorter than its receiver expects; MPI tells. */
static void test_short_message(struct site *site) {
  struct channel *channel;
  struct comm *comm = site->comm;
  if (comm->size == 1 || comm->rank > 1 || testing_cuda()) return;
  int64_t message[2] = {0};
  CHECK_OK(channel_open(&channel, comm, site->device, 1 - comm->rank,
                        comm->rank == 0 ? CHANNEL_SENDS : CHANNEL_RECEIVES, 0, 1));
  CHECK_OK(channel_start(channel, 0, message, comm->rank == 0 ? 8 : 16));
  if (comm->rank == 0) CHECK_OK(channel_wait(channel, 0));
  if (comm->rank == 1)
    CHECK_FAILS(ERR_INTERNAL, "rank 0 sent 8 bytes where 16 were expected", channel_wait(channel, 0));
  channel_close(&channel);
}

int main(void) {
  struct site site = {0};
  CHECK_OK(comm_open(&site.comm));
  if (!site.comm) return 1;
  site.comm->timeout = 60;
  struct device_options options = {.name = test_device(), .local_rank = site.comm->local_rank};
  CHECK_OK(device_open(&site.device, &options));
  if (!site.device) return 1;
  CHECK_OK(transport_open(&site.transport, site.comm, site.device));
  if (!site.transport) return 1;
  const char *backend = testing_cuda() ? "nccl" : "mpi";
  CHECK(strcmp(transport_name(site.transport), site.comm->size == 1 ? "self" : backend) == 0);
  for (size_t count = 0; count < 20000; count = count * 5 + 1) test_collectives(&site, count);
  test_equal_bits(&site, ELEMENT_F32);
  test_equal_bits(&site, ELEMENT_BF16);
  test_many(&site);
  static const char *const schedules[] = {"forward", "reverse", "random"};
  for (int i = 0; i < (testing_cuda() ? 3 : 1); i++) {
    setenv("QST_HOST_SCHEDULE", schedules[i], 1); /* how far the host runtime lets a stream run ahead of others */
    test_order(&site);
    test_channels(&site);
  }
  test_large(&site);
  test_refusals(&site);
  test_short_message(&site);
  transport_close(&site.transport);
  CHECK(!site.transport);
  transport_close(&site.transport);
  device_close(&site.device);
  comm_close(&site.comm);
  return check_result();
}
