#include "tap_store.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "base/memory.h"
#include "io/tap_cache.h"

/* Bytes of a segment: large enough for full speed of a disk, small enough to lose in a crash. */
static const int64_t segment_bytes = (int64_t)64 << 20;

/* ---- opening -------------------------------------------------------------------------------------------- */

static const char *const kind_names[] = {
    [TAPS_HIDDEN] = "hidden", [TAPS_MAXPOOL] = "maxpool", [TAPS_AVGPOOL] = "avgpool", [TAPS_PCA] = "pca"};

static void describe(struct tap_store *store, const struct options *options, const struct tap_identity *of) {
  const struct tap_source *source = store->source;
  const struct model_config *config = &source->backbone->config;
  const struct stage *stage = &source->backbone->stage;
  int first = stage_begins(stage) ? 0 : stage->first + 1; /* of layer l the tap is l + 1; tap 0 is the first stage's */
  store->format = (struct tap_format){.layers = config->layers,
                                      .hidden = config->hidden,
                                      .cols = source->cols,
                                      .window = source->window,
                                      .first = first,
                                      .taps = stage->end + 1 - first,
                                      .act = store->device->act,
                                      .int8 = strcmp(options->tap_format, "int8") == 0};
  snprintf(store->format.compute, sizeof store->format.compute, "%s", store->device->fp8 ? "fp8" : "bf16");
  snprintf(store->format.backbone, sizeof store->format.backbone, "%s", of->backbone);
  snprintf(store->format.directions, sizeof store->format.directions, "%s", of->directions.hex);
  snprintf(store->format.data, sizeof store->format.data, "%s", store->data->digest);
  snprintf(store->format.kind, sizeof store->format.kind, "%s", kind_names[source->kind]);
}

/* The same on all stages, so that their segments have the same rows. */
static int64_t segment_tokens(const struct tap_store *store) {
  struct tap_format whole = tap_format_whole(&store->format);
  int64_t tokens = segment_bytes / tap_bytes(&whole, 1, 1), most = store->data->total;
  tokens = tokens < most ? tokens : most;
  return tokens < store->source->capacity ? store->source->capacity : tokens;
}

static size_t packed_elements(const struct tap_store *store) {
  return (size_t)store->source->capacity * tap_plane_cols(&store->format, TAP_PLANE_TAPS);
}

static size_t packed_bytes(const struct tap_store *store) {
  return device_act_bytes(store->device, packed_elements(store));
}

/* A cache that cannot be made is no reason not to train. */
static void open_cache(struct tap_store *store, const char *folder) {
  struct tap_cache *cache = NULL;
  if (!folder) return;
  if (tap_cache_open(&cache, folder, store->folder, &store->format, store->comm->local_rank == 0) == OK) {
    tap_reader_use_cache(store->reader, cache);
  } else {
    log_warning("%s; there is no tap cache", fail_message());
    tap_cache_close(&cache);
  }
}

int tap_store_open(struct tap_store *store, const struct options *options, struct tap_source *source,
                   const struct tap_identity *of, const struct token_file *data, struct comm *comm) {
  bool int8 = strcmp(options->tap_format, "int8") == 0;
  *store = (struct tap_store){.source = source,
                              .device = source->backbone->device,
                              .comm = comm,
                              .data = data,
                              .folder = options->taps,
                              .writing = true,
                              .phase = -1};
  store->alone = stage_depth(&source->backbone->stage) == source->backbone->config.layers;
  describe(store, options, of);
  TRY(tap_reader_open(&store->reader, store->folder, &store->format, data));
  open_cache(store, options->tap_cache);
  TRY(tap_reader_scan(store->reader));
  if (!store->alone) TRY(memory_array(&store->missing, (size_t)data->rows, sizeof *store->missing));
  if (!store->alone) TRY(memory_array(&store->damaged, (size_t)data->rows, sizeof *store->damaged));
  TRY(tap_writer_open(&store->writer, store->folder, &store->format, segment_tokens(store)));
  TRY(tap_prefetch_open(&store->prefetch, store->reader, &store->format, source->capacity));
  TRY(tap_planes_make(&store->planes, &store->format, source->capacity, source->capacity));
  if (int8) TRY(tap_source_separate_output(source)); /* the next stage goes on from taps that are not rounded */
  if (int8) TRY(memory_array(&store->host, packed_elements(store), dtype_size(store->device->act)));
  return device_allocate(store->device, MEMORY_TAPS, &store->packed, packed_bytes(store));
}

void tap_store_close(struct tap_store *store) {
  if (!store->device) return;
  tap_prefetch_close(&store->prefetch);
  tap_writer_close(&store->writer);
  tap_reader_close(&store->reader);
  tap_planes_free(&store->planes);
  free(store->host);
  free(store->missing);
  free(store->damaged);
  device_release(store->device, MEMORY_TAPS, &store->packed, packed_bytes(store));
  *store = (struct tap_store){0};
}

/* ---- between the source's layout and the files' ---------------------------------------------------------- */

/* Tap l of a slot; tap 0 of a stage but the first is not its own. */
static void *layer_of(const struct tap_store *store, int slot, int l) {
  const struct tap_source *source = store->source;
  size_t skipped = stage_begins(&source->backbone->stage) ? 0 : 1;
  return device_act_at(store->device, source->slots[slot].reduced,
                       ((size_t)l + skipped) * (size_t)source->capacity * (size_t)source->cols);
}

/* packed[tokens][taps][cols] = [depth + 1][capacity][cols] of a slot */
static int pack_layers(struct tap_store *store, int slot, int rows) {
  int cols = store->source->cols, line = (int)tap_plane_cols(&store->format, TAP_PLANE_TAPS);
  for (int l = 0; l < store->format.taps; l++)
    TRY(device_copy_rows(store->device, &(struct copy_rows_args){
                                            .y = device_act_at(store->device, store->packed, (size_t)l * (size_t)cols),
                                            .x = layer_of(store, slot, l),
                                            .rows = rows,
                                            .cols = cols,
                                            .y_stride = line,
                                            .x_stride = cols}));
  return OK;
}

/* The way back; `packed` is what the device reads. */
static int unpack_layers(struct tap_store *store, int slot, const void *packed, int rows) {
  int cols = store->source->cols, line = (int)tap_plane_cols(&store->format, TAP_PLANE_TAPS);
  for (int l = 0; l < store->format.taps; l++)
    TRY(device_copy_rows(store->device,
                         &(struct copy_rows_args){.y = layer_of(store, slot, l),
                                                  .x = device_act_at(store->device, packed, (size_t)l * (size_t)cols),
                                                  .rows = rows,
                                                  .cols = cols,
                                                  .y_stride = cols,
                                                  .x_stride = line}));
  return OK;
}

static size_t taps_bytes(const struct tap_store *store, int rows) {
  return device_act_bytes(store->device, (size_t)rows * tap_plane_cols(&store->format, TAP_PLANE_TAPS));
}

/* 0 but on the last stage. */
static size_t normed_bytes(const struct tap_store *store, int labels) {
  return (size_t)labels * tap_plane_bytes(&store->format, TAP_PLANE_NORMED);
}

/* ---- live ----------------------------------------------------------------------------------------------- */

/* The planes of the micro-batch just run; with int8, its taps as they come back from there. */
static int take_planes(struct tap_store *store, int slot, const struct micro_batch *batch) {
  const struct tap_source *source = store->source;
  TRY(pack_layers(store, slot, batch->rows));
  size_t normed = normed_bytes(store, batch->label_count);
  if (normed > 0)
    TRY(device_download(store->device, store->planes.at[TAP_PLANE_NORMED], source->slots[slot].normed, normed));
  size_t bytes = taps_bytes(store, batch->rows);
  if (!store->format.int8)
    return device_download(store->device, store->planes.at[TAP_PLANE_TAPS], store->packed, bytes);
  TRY(device_download(store->device, store->host, store->packed, bytes));
  tap_encode(&store->format, store->host, batch->rows, &store->planes);
  tap_decode(&store->format, &store->planes, batch->rows, store->host);
  TRY(device_upload(store->device, store->packed, store->host, bytes));
  return unpack_layers(store, slot, store->packed, batch->rows);
}

static int add_rows(struct tap_store *store, const int64_t *rows, int count) {
  struct tap_planes planes = store->planes;
  for (int i = 0; i < count; i++) {
    int64_t tokens = tap_row_tokens(store->data, rows[i]), labels = tap_row_labels(store->data, rows[i]);
    if (!tap_reader_holds(store->reader, rows[i])) TRY(tap_writer_add(store->writer, rows[i], tokens, labels, &planes));
    planes = tap_planes_at(&store->format, &planes, tokens, labels);
  }
  return OK;
}

static void stop_writing(struct tap_store *store) {
  store->writing = false;
  log_warning("%s; training goes on without adding to the store", fail_message());
}

int tap_store_add(struct tap_store *store, int slot, const struct micro_batch *batch, const int64_t *rows, int count) {
  store->live += batch->rows;
  if (!store->writing && !store->format.int8) return OK;
  double begin = clock_seconds();
  TRY(take_planes(store, slot, batch));
  if (store->writing && add_rows(store, rows, count) != OK) stop_writing(store);
  store->write_nanoseconds += (int64_t)(1e9 * (clock_seconds() - begin));
  return OK;
}

/* ---- replayed ------------------------------------------------------------------------------------------- */

bool tap_store_has(const struct tap_store *store, const int64_t *rows, int count) {
  for (int i = 0; i < count; i++)
    if (store->missing ? store->missing[rows[i]] > 0 : !tap_reader_has(store->reader, rows[i])) return false;
  return true;
}

static int64_t tokens_of(const struct tap_store *store, const int64_t *rows, int count) {
  int64_t tokens = 0;
  for (int i = 0; i < count; i++) tokens += tap_row_tokens(store->data, rows[i]);
  return tokens;
}

static int fill_slot(struct tap_store *store, int slot, const struct micro_batch *batch, const void *taps,
                     const void *normed) {
  size_t normed_size = normed_bytes(store, batch->label_count);
  if (!store->device->reads_host)
    TRY(device_upload(store->device, store->packed, taps, taps_bytes(store, batch->rows)));
  if (normed_size > 0) TRY(device_upload(store->device, store->source->slots[slot].normed, normed, normed_size));
  store->replayed += batch->rows;
  return unpack_layers(store, slot, store->device->reads_host ? taps : store->packed, batch->rows);
}

/* The other stages have replayed the micro-batch, or will: this one goes on with them, and says that it had nothing. */
static int fill_slot_with_zeros(struct tap_store *store, int slot, const struct micro_batch *batch, const int64_t *rows,
                                int count) {
  store->unread = true;
  for (int i = 0; i < count; i++) store->damaged[rows[i]] = true;
  size_t normed_size = normed_bytes(store, batch->label_count);
  TRY(device_zero(store->device, store->packed, taps_bytes(store, batch->rows)));
  if (normed_size > 0) TRY(device_zero(store->device, store->source->slots[slot].normed, normed_size));
  return unpack_layers(store, slot, store->packed, batch->rows);
}

/* *done is false when the rows have to be computed here. */
static int replay(struct tap_store *store, int slot, const struct micro_batch *batch, const int64_t *rows, int count,
                  bool *done, struct taps *out) {
  const void *taps, *normed;
  bool read = tap_prefetch_take(store->prefetch, rows, count, batch->rows, &taps, &normed) == OK;
  *done = read || !store->alone;
  *out = tap_source_view(store->source, slot);
  if (read) return fill_slot(store, slot, batch, taps, normed);
  store->unreadable++;
  if (store->unreadable == 1) log_warning("%s; computed again", fail_message());
  return store->alone ? OK : fill_slot_with_zeros(store, slot, batch, rows, count);
}

int tap_store_run(struct tap_store *store, int slot, const struct micro_batch *batch, const int64_t *rows, int count,
                  struct taps *out) {
  bool replayed = false;
  if (tap_store_has(store, rows, count)) TRY(replay(store, slot, batch, rows, count, &replayed, out));
  if (replayed) return OK;
  TRY(tap_source_run(store->source, slot, batch, NULL, out));
  return tap_store_add(store, slot, batch, rows, count);
}

void tap_store_expect(struct tap_store *store, const int64_t *rows, int count) {
  if (tap_store_has(store, rows, count)) tap_prefetch_ask(store->prefetch, rows, count, tokens_of(store, rows, count));
}

/* ---- together ------------------------------------------------------------------------------------------- */

/* Another run may add a segment while the ranks look one after the other. */
static int compare_finds(struct tap_store *store) {
  if (!store->missing) return OK;
  for (int64_t row = 0; row < store->data->rows; row++)
    store->missing[row] = store->damaged[row] || !tap_reader_has(store->reader, row);
  return comm_sum_i64(store->comm, store->missing, (size_t)store->data->rows);
}

static void look_again(struct tap_store *store) {
  if (tap_reader_scan(store->reader) == OK || store->blind) return;
  log_warning("%s; what is new there is not used", fail_message());
  store->blind = true;
}

/* After this every rank knows what any of them has written. */
static int share(struct tap_store *store) {
  if (store->writing && tap_writer_seal(store->writer) != OK) stop_writing(store);
  TRY(comm_barrier(store->comm));
  tap_prefetch_wait(store->prefetch);
  look_again(store);
  return compare_finds(store);
}

int tap_store_enter(struct tap_store *store, int64_t phase) {
  if (phase == store->phase) return OK;
  store->phase = phase;
  return share(store);
}

int tap_store_mend(struct tap_store *store) {
  tap_prefetch_wait(store->prefetch);
  store->unread = false;
  return compare_finds(store);
}

int tap_store_finish(struct tap_store *store) {
  TRY(share(store));
  int64_t counts = store->format.first == 0; /* of the stages of a pipeline one */
  int64_t sums[] = {counts * store->live, counts * store->replayed, store->write_nanoseconds, store->unreadable,
                    tap_reader_cached_bytes(store->reader)};
  TRY(comm_sum_i64(store->comm, sums, sizeof sums / sizeof *sums));
  store->unreadable = sums[3];
  /* Who only reads a store may have no right to write there. */
  if (store->comm->rank == 0 && tap_reader_write_index(store->reader) != OK && sums[0] > 0)
    log_warning("%s; the store has no new index for other tools", fail_message());
  log_note("taps       %lld tokens live (storing them took %.1f s), %lld replayed; %s has %lld of %lld rows, %.1f MB",
           (long long)sums[0], (double)sums[2] / 1e9, (long long)sums[1], store->folder,
           (long long)tap_reader_rows(store->reader), (long long)store->data->rows,
           (double)tap_reader_bytes(store->reader) / 1e6);
  if (sums[4] > 0) log_note("           %.1f MB of them from the tap cache", (double)sums[4] / 1e6);
  return comm_share_warnings(store->comm);
}
