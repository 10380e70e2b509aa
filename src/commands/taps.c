/* qst-mpi taps: computes the taps of all rows that a store lacks, and reads those it has. */
#include <string.h>
#include <sys/statvfs.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "commands/commands.h"
#include "commands/data.h"
#include "tap_store.h"

/* Rows are planned in groups of a fixed number, so that memory does not grow with the data. */
enum { ROWS_PER_PLAN = 512 };

struct taps_run {
  struct engine engine;
  struct token_file data;
  struct tap_store store;
  struct step_plan plan;
  struct data_order order;
};

static int open_all(struct taps_run *run, const struct options *options, struct comm *comm) {
  TRY(token_file_read(options->data, &run->data));
  int longest = data_longest_row(&run->data, run->data.rows);
  int capacity = longest > (int)options->micro_batch_tokens ? longest : (int)options->micro_batch_tokens;
  TRY(engine_open(
      &run->engine, options, comm,
      &(struct engine_plan){.use = ENGINE_TAPS, .capacity = capacity, .samples = capacity, .positions = longest}));
  TRY(data_check(&run->engine, &run->data, options->data));
  TRY(data_order_open(&run->order, run->data.rows, 0, false));
  TRY(step_plan_open(&run->plan, ROWS_PER_PLAN));
  return tap_store_open(&run->store, options->taps, strcmp(options->tap_format, "int8") == 0, &run->engine.source,
                        run->engine.digest, &run->data, comm);
}

/* Before anything is computed: what the whole store takes, and whether the disk has that. */
static int check_size(const struct taps_run *run) {
  const struct tap_store *store = &run->store;
  int64_t whole = tap_store_size(store), there = tap_reader_bytes(store->reader);
  log_note("store      %s: %.1f MB for %lld tokens and %lld label rows, %lld of %lld rows are there", store->folder,
           (double)whole / 1e6, (long long)run->data.total, (long long)run->data.label_tokens,
           (long long)tap_reader_rows(store->reader), (long long)run->data.rows);
  struct statvfs disk;
  if (statvfs(store->folder, &disk) != 0) return OK; /* the first write will tell */
  double space = (double)disk.f_bavail * (double)disk.f_frsize;
  if ((double)(whole - there) <= space) return OK;
  return fail(ERR_SYSTEM,
              "%s: the store takes %.1f MB more, its disk has %.1f MB: try --downsample avgpool, or "
              "--tap-format int8",
              store->folder, (double)(whole - there) / 1e6, space / 1e6);
}

static int run_group(struct taps_run *run, const struct comm *comm, int64_t first, int count) {
  struct engine *engine = &run->engine;
  struct step_plan *plan = &run->plan;
  TRY(step_plan_make(plan, &run->data, &run->order, first, count, engine->capacity, comm->size));
  for (int i = 0; i < plan->micro_batches; i++) {
    if (plan->owner[i] != comm->rank) continue;
    const int64_t *rows = plan->rows + plan->start[i];
    int samples = plan->start[i + 1] - plan->start[i];
    TRY(micro_batch_load(&engine->batch, engine->device, &run->data, rows, samples));
    TRY(tap_store_run(&run->store, &engine->batch, rows, samples, &engine->taps));
  }
  return OK;
}

static int run_groups(struct taps_run *run, const struct comm *comm) {
  double begin = clock_seconds();
  for (int64_t first = 0; first < run->data.rows; first += ROWS_PER_PLAN) {
    int64_t left = run->data.rows - first;
    int count = (int)(left < ROWS_PER_PLAN ? left : ROWS_PER_PLAN);
    TRY(run_group(run, comm, first, count));
    log_progress("row %lld/%lld  %.0f tokens/s", (long long)(first + count), (long long)run->data.rows,
                 (double)run->data.offsets[first + count] / (clock_seconds() - begin));
  }
  return OK;
}

static int fill(struct taps_run *run, const struct options *options, struct comm *comm) {
  TRY(comm_agree(comm, open_all(run, options, comm)));
  engine_banner(&run->engine, comm);
  TRY(comm_agree(comm, check_size(run)));
  TRY(run_groups(run, comm));
  TRY(tap_store_finish(&run->store));
  if (run->store.unreadable > 0)
    return comm_agree(comm, fail(ERR_INPUT,
                                 "%s: rows of %lld micro-batches are damaged: remove the segments that the warnings "
                                 "name and repeat the command",
                                 options->taps, (long long)run->store.unreadable));
  int64_t missing = run->data.rows - tap_reader_rows(run->store.reader);
  if (missing == 0) return OK;
  return comm_agree(
      comm, fail(ERR_SYSTEM, "%s: %lld rows could not be stored: see the warnings", options->taps, (long long)missing));
}

int command_taps(const struct options *options, struct comm *comm) {
  struct taps_run run = {0};
  int status = fill(&run, options, comm);
  tap_store_close(&run.store);
  step_plan_close(&run.plan);
  data_order_close(&run.order);
  engine_close(&run.engine);
  token_file_free(&run.data);
  return status;
}
