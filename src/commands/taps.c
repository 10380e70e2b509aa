/* qst-mpi taps: computes the taps of all rows that a store lacks, and reads those it has; or prunes the store. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/statvfs.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "base/memory.h"
#include "commands/commands.h"
#include "commands/data.h"
#include "directions.h"
#include "io/disk_probe.h"
#include "io/tap_prune.h"
#include "principal.h"
#include "same_command.h"
#include "tap_store.h"

/* Rows are planned in groups of a fixed number, so that memory does not grow with the data. */
enum { ROWS_PER_PLAN = 512 };

struct taps_run {
  struct grid grid;
  struct engine engine;
  struct token_file data;
  struct tap_store store;
  struct step_plan plan;
  struct data_order order;
  float *frozen; /* directions of pca */
};

static int open_all(struct taps_run *run, const struct options *options) {
  TRY(token_file_read(options->data, &run->data));
  int longest = data_longest_row(&run->data, run->data.rows);
  int capacity = longest > (int)options->micro_batch_tokens ? longest : (int)options->micro_batch_tokens;
  TRY(engine_open(
      &run->engine, options, &run->grid,
      &(struct engine_plan){.use = ENGINE_TAPS, .capacity = capacity, .samples = capacity, .positions = longest}));
  TRY(data_check(&run->engine, &run->data, options->data));
  TRY(data_order_open(&run->order, run->data.rows, 0, false));
  TRY(step_plan_open(&run->plan, ROWS_PER_PLAN));
  run->engine.lanes.store = &run->store;
  return OK;
}

static int open_directions(struct taps_run *run, const struct options *options) {
  struct engine *engine = &run->engine;
  if (engine->source.kind != TAPS_PCA) return OK;
  const struct model_config *config = &engine->backbone.config;
  size_t floats = (size_t)config->layers * principal_floats(config->hidden, (int)options->rank);
  TRY(comm_agree(run->grid.world, memory_array(&run->frozen, floats, sizeof *run->frozen)));
  TRY(directions_get(engine, options, &run->data, run->frozen));
  return comm_agree(run->grid.world, tap_source_project(&engine->source, run->frozen));
}

static int open_store(struct taps_run *run, const struct options *options) {
  struct tap_identity of = {.backbone = run->engine.digest,
                            .directions = directions_digest(&run->engine, options->rank, run->frozen)};
  return tap_store_open(&run->store, options, &run->engine.source, &of, &run->data, run->grid.world);
}

/* Of all stages. */
static int64_t store_bytes(const struct taps_run *run) {
  struct tap_format whole = tap_format_whole(&run->store.format);
  return tap_bytes(&whole, run->data.total, run->data.label_tokens);
}

/* Before anything is computed: what the whole store takes, and whether the disk has that. */
static int check_size(const struct taps_run *run) {
  const struct tap_store *store = &run->store;
  int64_t whole = store_bytes(run), there = tap_reader_bytes(store->reader);
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

static double mean_flops(const struct taps_run *run) {
  double squares = 0;
  for (int64_t row = 0; row < run->data.rows; row++) {
    double length = (double)tap_row_tokens(&run->data, row);
    squares += length * length;
  }
  return engine_flops(&run->engine, run->data.total, 0, squares) / (double)run->data.total;
}

/* Which source is the faster one, by what each can do at best. On rank 0. */
static void compare_sources(const struct taps_run *run, const struct comm *comm) {
  enum { PROBE = 64 << 20 };
  struct disk_speed disk;
  if (disk_probe(run->store.folder, PROBE, &disk) != OK) {
    log_warning("%s; the disk was not measured", fail_message());
    return;
  }
  double token = (double)store_bytes(run) / (double)run->data.total;
  double replayed = disk.read / token, live = run->engine.peak * comm->size / mean_flops(run);
  log_note(
      "disk       reads %.0f MB/s, writes %.0f MB/s: at most %.0f tokens/s replayed, %.0f live: the %s is the faster "
      "source",
      disk.read / 1e6, disk.write / 1e6, replayed, live, replayed > live ? "disk" : "backbone");
}

static int run_group(struct taps_run *run, int64_t first, int count) {
  struct engine *engine = &run->engine;
  struct step_plan *plan = &run->plan;
  struct lanes_pass pass = {0};
  TRY(step_plan_make(plan, &run->data, &run->order, first, count, engine->capacity, run->grid.replicas));
  for (int i = 0; i < plan->micro_batches; i++) {
    if (plan->owner[i] != run->grid.replica) continue;
    TRY(lanes_add(&engine->lanes, &(struct work){.data = &run->data,
                                                 .rows = plan->rows + plan->start[i],
                                                 .count = plan->start[i + 1] - plan->start[i],
                                                 .tokens = plan->tokens[i],
                                                 .stored = true}));
    pass.count++;
  }
  return lanes_run(&engine->lanes, &pass);
}

static int run_groups(struct taps_run *run) {
  double begin = clock_seconds();
  for (int64_t first = 0; first < run->data.rows; first += ROWS_PER_PLAN) {
    int64_t left = run->data.rows - first;
    int count = (int)(left < ROWS_PER_PLAN ? left : ROWS_PER_PLAN);
    TRY(run_group(run, first, count));
    log_progress("row %lld/%lld  %.0f tokens/s", (long long)(first + count), (long long)run->data.rows,
                 (double)run->data.offsets[first + count] / (clock_seconds() - begin));
  }
  return OK;
}

static int fill(struct taps_run *run, const struct options *options, struct comm *comm) {
  if (options->pipeline_stages == OPTION_AUTO)
    return comm_agree(comm, fail(ERR_USAGE, "--pipeline-stages auto is planned for train: give taps a number"));
  TRY(grid_open(&run->grid, comm, (int)options->pipeline_stages, placement_of(options)));
  TRY(comm_agree(comm, open_all(run, options)));
  TRY(same_file(comm, options->data, run->data.digest));
  TRY(engine_connect(&run->engine));
  TRY(open_directions(run, options));
  TRY(comm_agree(comm, open_store(run, options)));
  engine_banner(&run->engine);
  TRY(comm_agree(comm, check_size(run)));
  if (comm->rank == 0) compare_sources(run, comm);
  TRY(tap_store_enter(&run->store, 0));
  TRY(run_groups(run));
  TRY(tap_store_finish(&run->store));
  if (run->store.unreadable > 0)
    return comm_agree(comm, fail(ERR_INPUT,
                                 "%s: rows of %lld micro-batches are damaged: remove them with taps --prune and "
                                 "repeat the command",
                                 options->taps, (long long)run->store.unreadable));
  int64_t missing = run->data.rows - tap_reader_rows(run->store.reader); /* a stage's own may differ */
  return comm_agree(comm, missing == 0 ? OK
                                       : fail(ERR_SYSTEM, "%s: %lld rows could not be stored: see the warnings",
                                              options->taps, (long long)missing));
}

/* ---- pruning ---------------------------------------------------------------------------------------------- */

/* A store of another backbone or other data is none of this command's business: the scan refuses it. */
static int choose_format(const struct options *options, const struct token_file *data, struct tap_format *format) {
  struct backbone_file *backbone;
  TRY(tap_store_format(options->taps, format));
  TRY(backbone_file_open(&backbone, options->backbone));
  snprintf(format->backbone, sizeof format->backbone, "%s", backbone_file_digest(backbone));
  snprintf(format->data, sizeof format->data, "%s", data->digest);
  backbone_file_close(&backbone);
  return OK;
}

static int prune_store(const struct options *options, const struct tap_format *format, const struct token_file *data,
                       struct tap_pruned *pruned) {
  struct tap_reader *reader = NULL;
  int status = tap_reader_open(&reader, options->taps, format, data);
  if (status == OK) status = tap_reader_scan(reader);
  if (status == OK) status = tap_prune(reader, options->limit_mb * 1000000, pruned);
  tap_reader_close(&reader);
  return status;
}

static int index_store(const struct options *options, const struct tap_format *format, const struct token_file *data,
                       const struct tap_pruned *pruned) {
  struct tap_reader *reader = NULL;
  int status = tap_reader_open(&reader, options->taps, format, data);
  if (status == OK) status = tap_reader_scan(reader);
  if (status == OK) status = tap_reader_write_index(reader);
  if (status == OK)
    log_note(
        "pruned     %.1f MB: %d segments were damaged, %d doubled, %d beyond the limit; %s has %lld of %lld rows, "
        "%.1f MB",
        (double)pruned->bytes / 1e6, pruned->damaged, pruned->doubled, pruned->beyond, options->taps,
        (long long)tap_reader_rows(reader), (long long)data->rows, (double)tap_reader_bytes(reader) / 1e6);
  tap_reader_close(&reader);
  return status;
}

static int prune(const struct options *options) {
  struct token_file data = {0};
  struct tap_format format;
  struct tap_pruned pruned;
  int status = token_file_read(options->data, &data);
  if (status == OK) status = choose_format(options, &data, &format);
  if (status == OK) status = tap_writer_clear(options->taps);
  if (status == OK) status = prune_store(options, &format, &data, &pruned);
  if (status == OK) status = index_store(options, &format, &data, &pruned);
  token_file_free(&data);
  return status;
}

int command_taps(const struct options *options, struct comm *comm) {
  if (options->prune) return comm_agree(comm, comm->rank == 0 ? prune(options) : OK);
  struct taps_run run = {0};
  int status = fill(&run, options, comm);
  comm_conclude(comm, status);
  tap_store_close(&run.store);
  free(run.frozen);
  step_plan_close(&run.plan);
  data_order_close(&run.order);
  engine_close(&run.engine);
  grid_close(&run.grid);
  token_file_free(&run.data);
  return status;
}
