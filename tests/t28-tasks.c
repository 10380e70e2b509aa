/* Tasks that repeat: replayed or done again, the results are those of doing the operations, with what is in device memory
 * at the time. And what a device finds out beforehand.
 *
 * RUN ranks=1
 * RUN ranks=1 device=cuda */
#include "kernels.h"

enum { ROWS = 20, IN = 40, OUT = 24, TIMES = 6, KEYS = 200 };

struct work {
  void *x, *w, *y;
  float *dw;
  size_t x_bytes, y_bytes;
};

static struct work work_open(enum dtype act) {
  return (struct work){.x = keep((size_t)ROWS * IN, dtype_size(act)),
                       .w = operand_random((size_t)OUT * IN, act, 1).data,
                       .y = keep((size_t)ROWS * OUT, dtype_size(act)),
                       .dw = keep((size_t)OUT * IN, sizeof(float)),
                       .x_bytes = (size_t)ROWS * IN * dtype_size(act),
                       .y_bytes = (size_t)ROWS * OUT * dtype_size(act)};
}

/** y = x · wᵀ, silu of it, dw = yᵀ · x, of the first `rows` rows. */
static int compute(struct device *device, const struct work *work, int rows) {
  TRY(device_zero(device, work->y, work->y_bytes));
  TRY(device_linear(device,
                    &(struct linear_args){.y = work->y, .x = work->x, .w = work->w, .rows = rows, .n = OUT, .k = IN}));
  TRY(device_silu(device, &(struct silu_args){.y = work->y, .x = work->y, .rows = rows, .cols = OUT}));
  return device_linear_weight_grad(
      device,
      &(struct linear_weight_grad_args){.dw = work->dw, .dy = work->y, .x = work->x, .rows = rows, .n = OUT, .k = IN});
}

static int compute_task(struct device *device, uint64_t key, const struct work *work, int rows, bool *replayed) {
  TRY(device_task_begin(device, key, replayed));
  if (!*replayed) TRY(compute(device, work, rows));
  return device_task_end(device);
}

/** Fresh contents of x; what the operations make of them, done by themselves. */
static void refresh(struct crew *crew, struct device *device, struct work *work, int rows, struct work *want) {
  memcpy(work->x, operand_random((size_t)ROWS * IN, crew->act, 1).data, work->x_bytes);
  *want = *work;
  want->y = keep(work->y_bytes, 1), want->dw = keep((size_t)OUT * IN, sizeof(float));
  CHECK_OK(compute(device, want, rows));
  CHECK_OK(device_synchronize(device));
}

static bool same(const struct work *a, const struct work *b) {
  return memcmp(a->y, b->y, a->y_bytes) == 0 && memcmp(a->dw, b->dw, sizeof(float) * OUT * IN) == 0;
}

/** Two keys in each of both lanes by turns. */
static void test_replay(struct crew *crew, struct device *device) {
  struct work works[LANE_COUNT][2], want;
  for (enum lane lane = 0; lane < LANE_COUNT; lane++)
    for (int key = 0; key < 2; key++) works[lane][key] = work_open(crew->act);
  for (int time = 0; time < TIMES; time++)
    for (enum lane lane = 0; lane < LANE_COUNT; lane++)
      for (int key = 0; key < 2; key++) {
        struct work *work = &works[lane][key];
        bool replayed;
        CHECK_OK(device_use_lane(device, lane));
        refresh(crew, device, work, ROWS - key, &want);
        CHECK_OK(compute_task(device, (uint64_t)key, work, ROWS - key, &replayed));
        CHECK_OK(device_synchronize(device));
        CHECK(same(work, &want));
        CHECK(replayed == (testing_cuda() && time >= 2));
      }
  CHECK_OK(device_use_lane(device, LANE_SIDE));
  forget_all();
}

/** More tasks than are kept: those forgotten are done as before. */
static void test_many(struct crew *crew, struct device *device) {
  struct work work = work_open(crew->act), want;
  for (int time = 0; time < 3; time++)
    for (uint64_t key = 0; key < KEYS; key++) {
      bool replayed;
      int rows = 1 + (int)key % ROWS;
      if (key < ROWS) refresh(crew, device, &work, rows, &want);
      CHECK_OK(compute_task(device, 1000 + key, &work, rows, &replayed));
      CHECK_OK(device_synchronize(device));
      if (key < ROWS) CHECK(same(&work, &want));
    }
  forget_all();
}

/* ---- what is found out beforehand -------------------------------------------------------------------------- */

struct preparation {
  struct device *device;
  const struct work *work;
  int calls, last;
};

static int prepare_rows(void *context, int rows) {
  struct preparation *p = context;
  CHECK(rows > p->last);
  p->calls++, p->last = rows;
  return compute(p->device, p->work, rows);
}

static int refuse_rows(void *context, int rows) {
  (void)context;
  return fail(ERR_INPUT, "not %d rows", rows);
}

static bool is_untouched(const void *block, size_t bytes) {
  const char *at = block;
  for (size_t i = 0; i < bytes; i++)
    if (at[i] != 0x5a) return false;
  return true;
}

/** Every number of rows that matters, the last one too; nothing is computed until it is over, or has failed. */
static void test_prepare(struct crew *crew, struct device *device) {
  struct work work = work_open(crew->act), want;
  struct preparation p = {.device = device, .work = &work};
  memset(work.y, 0x5a, work.y_bytes);
  memset(work.dw, 0x5a, sizeof *work.dw * OUT * IN);
  CHECK_OK(device_prepare(device, ROWS, prepare_rows, &p));
  CHECK_OK(device_synchronize(device));
  CHECK(testing_cuda() ? p.calls == 6 && p.last == ROWS : p.calls == 0);
  CHECK(is_untouched(work.y, work.y_bytes) && is_untouched(work.dw, sizeof *work.dw * OUT * IN));
  if (testing_cuda()) CHECK_FAILS(ERR_INPUT, "not 1 rows", device_prepare(device, ROWS, refuse_rows, NULL));
  refresh(crew, device, &work, ROWS - 3, &want);
  CHECK_OK(compute(device, &work, ROWS - 3));
  CHECK_OK(device_synchronize(device));
  CHECK(same(&work, &want));
  forget_all();
}

static void test_crew(struct crew *crew) {
  for (int run = 0; run < crew_runs(); run++) {
    test_prepare(crew, crew_device(crew, run));
    test_replay(crew, crew_device(crew, run));
    test_many(crew, crew_device(crew, run));
  }
}

int main(int count, char **words) {
  random_begin(count, words);
  for_each_crew((struct device_limits){.rows = ROWS, .hidden = IN, .side_hidden = OUT, .widest_product = IN * OUT},
                test_crew);
  return check_result();
}
