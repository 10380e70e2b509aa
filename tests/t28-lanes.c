/* Two lanes of a device: work of each in order, ordered between them by events alone, and each with scratch of its own.
 *
 * RUN ranks=1
 * RUN ranks=1 device=cuda */
#include "kernels.h"

enum { ROWS = 24, IN = 48, OUT = 32, SLOTS = 2, ROUNDS = 7 };

/** What both lanes compute: h = x · wᵀ + b (its sums pass through the lane's workspace), g = column sums of h. */
struct work {
  void *x, *w;
  float *bias, *dw, *dbias;
};

static struct work work_random(enum dtype act) {
  return (struct work){.x = operand_random((size_t)ROWS * IN, act, 1).data,
                       .w = operand_random((size_t)OUT * IN, act, 1).data,
                       .bias = operand_random(OUT, DTYPE_F32, 1).data,
                       .dw = keep((size_t)OUT * IN, sizeof(float)),
                       .dbias = keep(OUT, sizeof(float))};
}

static int forward(struct device *device, const struct work *work, void *h) {
  return device_linear(
      device,
      &(struct linear_args){.y = h, .x = work->x, .w = work->w, .bias = work->bias, .rows = ROWS, .n = OUT, .k = IN});
}

static int backward(struct device *device, const struct work *work, const void *h) {
  return device_linear_weight_grad(
      device, &(struct linear_weight_grad_args){
                  .dw = work->dw, .dbias = work->dbias, .dy = h, .x = work->x, .rows = ROWS, .n = OUT, .k = IN});
}

static bool same(const struct work *work, const float *dw, const float *dbias) {
  return memcmp(work->dw, dw, sizeof *dw * OUT * IN) == 0 && memcmp(work->dbias, dbias, sizeof *dbias * OUT) == 0;
}

/** Both lanes at once, no event: as each alone. */
static void test_apart(struct crew *crew) {
  struct work work[LANE_COUNT];
  float *dw[LANE_COUNT], *dbias[LANE_COUNT];
  void *h[LANE_COUNT];
  struct device *device = crew->devices[0];
  for (enum lane lane = 0; lane < LANE_COUNT; lane++) {
    work[lane] = work_random(crew->act);
    h[lane] = keep((size_t)ROWS * OUT, dtype_size(crew->act));
    CHECK_OK(forward(device, &work[lane], h[lane]));
    CHECK_OK(backward(device, &work[lane], h[lane]));
    CHECK_OK(device_synchronize(device));
    dw[lane] = work[lane].dw, dbias[lane] = work[lane].dbias;
    work[lane].dw = keep((size_t)OUT * IN, sizeof(float)), work[lane].dbias = keep(OUT, sizeof(float));
  }
  for (int run = 0; run < CREW; run++) {
    device = crew_device(crew, run);
    for (int step = 0; step < 2; step++)
      for (enum lane lane = 0; lane < LANE_COUNT; lane++) {
        CHECK_OK(device_use_lane(device, lane));
        CHECK_OK(step == 0 ? forward(device, &work[lane], h[lane]) : backward(device, &work[lane], h[lane]));
      }
    CHECK_OK(device_synchronize(device));
    for (enum lane lane = 0; lane < LANE_COUNT; lane++) CHECK(same(&work[lane], dw[lane], dbias[lane]));
  }
  forget_all();
}

/** A ring between the lanes: the backbone fills a slot, the side lane reads it; neither may be early. */
struct ring {
  struct device_event *filled[SLOTS], *taken[SLOTS];
  void *slots[SLOTS], *sum;
};

static int fill(struct device *device, struct ring *ring, const struct work *work, int round) {
  TRY(device_use_lane(device, LANE_BACKBONE));
  TRY(device_wait(device, ring->taken[round % SLOTS]));
  TRY(forward(device, work, ring->slots[round % SLOTS]));
  return device_record(device, ring->filled[round % SLOTS]);
}

/** What every slot held matters, and the order of the rounds: sum ← silu(sum + slot · oneᵀ). */
static int take(struct device *device, struct ring *ring, const void *one, int round) {
  TRY(device_use_lane(device, LANE_SIDE));
  TRY(device_wait(device, ring->filled[round % SLOTS]));
  TRY(device_linear(device, &(struct linear_args){.y = ring->sum,
                                                  .x = ring->slots[round % SLOTS],
                                                  .w = one,
                                                  .residual = ring->sum,
                                                  .rows = ROWS,
                                                  .n = OUT,
                                                  .k = OUT}));
  TRY(device_silu(device, &(struct silu_args){.y = ring->sum, .x = ring->sum, .rows = ROWS, .cols = OUT}));
  return device_record(device, ring->taken[round % SLOTS]);
}

static int run_ring(struct device *device, struct ring *ring, const struct work *works, const void *one, bool at_once) {
  memset(ring->sum, 0, (size_t)ROWS * OUT * dtype_size(device->act));
  for (int round = 0; round < ROUNDS; round++) {
    TRY(fill(device, ring, &works[round], round));
    if (at_once) TRY(device_synchronize(device));
    TRY(take(device, ring, one, round));
    if (at_once) TRY(device_synchronize(device));
  }
  return device_synchronize(device);
}

static void test_ring(struct crew *crew) {
  struct work works[ROUNDS];
  size_t bytes = (size_t)ROWS * OUT * dtype_size(crew->act);
  void *one = operand_random((size_t)OUT * OUT, crew->act, 0.2).data, *want = keep(bytes, 1);
  struct ring ring = {.sum = keep(bytes, 1)};
  for (int i = 0; i < ROUNDS; i++) works[i] = work_random(crew->act);
  for (int i = 0; i < SLOTS; i++) ring.slots[i] = keep(bytes, 1);
  for (int run = 0; run < CREW; run++) {
    struct device *device = crew_device(crew, run);
    for (int i = 0; i < SLOTS; i++) {
      CHECK_OK(device_event_open(device, &ring.filled[i]));
      CHECK_OK(device_event_open(device, &ring.taken[i]));
      CHECK((ring.filled[i] != NULL) == testing_cuda());
    }
    if (run == 0) {
      CHECK_OK(run_ring(device, &ring, works, one, true));
      memcpy(want, ring.sum, bytes);
    }
    CHECK_OK(run_ring(device, &ring, works, one, false));
    CHECK(memcmp(ring.sum, want, bytes) == 0);
    for (int i = 0; i < SLOTS; i++) {
      device_event_close(device, &ring.filled[i]);
      device_event_close(device, &ring.taken[i]);
      CHECK(!ring.filled[i] && !ring.taken[i]);
    }
  }
  forget_all();
}

/** What is uploaded is what the host memory held at the call; of memory for fast copies, until the upload is finished. */
static void test_staging(struct crew *crew) {
  enum { WORDS = 50 };
  int32_t *staging = NULL, *block = NULL, plain[WORDS], back[WORDS];
  struct device_event *read = NULL;
  for (int run = 0; run < crew_runs(); run++) {
    struct device *device = crew_device(crew, run);
    CHECK_OK(device_event_open(device, &read));
    CHECK_OK(device_finish(device, read)); /* it has not marked anything */
    CHECK_OK(device_host_allocate(device, &staging, sizeof plain));
    CHECK_OK(device_allocate(device, MEMORY_WORKSPACE, &block, 2 * sizeof plain));
    for (int i = 0; i < WORDS; i++) CHECK(staging[i] == 0);
    for (int i = 0; i < WORDS; i++) plain[i] = staging[i] = i;
    CHECK_OK(device_upload(device, block, plain, sizeof plain));
    memset(plain, 0, sizeof plain);
    CHECK_OK(device_upload(device, block + WORDS, staging, sizeof plain));
    CHECK_OK(device_record(device, read));
    CHECK_OK(device_finish(device, read));
    memset(staging, 0, sizeof plain);
    for (int half = 0; half < 2; half++) {
      CHECK_OK(device_download(device, back, block + half * WORDS, sizeof back));
      for (int i = 0; i < WORDS; i++) CHECK(back[i] == i);
    }
    device_release(device, MEMORY_WORKSPACE, &block, 2 * sizeof plain);
    device_host_release(device, &staging);
    CHECK(!staging);
    device_host_release(device, &staging);
    device_event_close(device, &read);
  }
}

/** A download waits for its own lane; a fault is told to the one who waits for the lane that found it. */
static void test_waits(struct crew *crew) {
  struct device *device = crew->devices[0];
  float *x = operand_random(64, DTYPE_F32, 1).data, back[64];
  int32_t *wrong = keep(1, sizeof *wrong);
  struct matrix table = {.format = WEIGHT_BF16, .rows = 4, .cols = 8, .codes = keep(32, 2)};
  float *y = NULL;
  void *act = keep(64, dtype_size(crew->act));
  wrong[0] = 4;
  for (enum lane lane = 0; lane < LANE_COUNT; lane++) {
    CHECK_OK(device_use_lane(device, lane));
    CHECK_OK(device_allocate(device, MEMORY_TAPS, &y, sizeof back));
    CHECK_OK(device_upload(device, y, x, sizeof back));
    CHECK_OK(device_download(device, back, y, sizeof back));
    CHECK(memcmp(back, x, sizeof back) == 0);
    device_release(device, MEMORY_TAPS, &y, sizeof back);
    struct embed_args embed = {.y = act, .table = &table, .tokens = wrong, .rows = 1};
    int status = device_embed(device, &embed);
    CHECK_OK(device_use_lane(device, (enum lane)(LANE_COUNT - 1 - lane)));
    if (status == OK) status = device_synchronize(device);
    CHECK(status == ERR_INTERNAL && strstr(fail_message(), "token 4"));
    CHECK_OK(device_synchronize(device));
  }
  CHECK_OK(device_use_lane(device, LANE_SIDE));
  forget_all();
}

static void test_crew(struct crew *crew) {
  test_apart(crew);
  test_ring(crew);
  test_staging(crew);
  test_waits(crew);
}

int main(int count, char **words) {
  random_begin(count, words);
  for_each_crew((struct device_limits){.rows = ROWS, .hidden = IN, .side_hidden = OUT, .widest_product = IN * OUT},
                test_crew);
  return check_result();
}
