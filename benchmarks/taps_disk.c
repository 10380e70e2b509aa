/* The tap store's way to and from the disk, without a backbone: segments written by each rank on its own against one file
 * written by all through parallel HDF5, and rows read back in a training run's order. benchmarks/taps-disk.sh runs it.
 *
 *   bench-taps write|parallel DIR ROWS      writes that many rows of taps, prints bytes a second
 *   bench-taps read DIR ROWS [SEED]         reads all rows of a store written so, in micro-batches of random rows */
#include <fcntl.h>
#include <hdf5.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/random.h"
#include "io/tap_prefetch.h"
#include "io/tap_writer.h"

/* Rows like the demo task's, taps like SmolLM2-135M's: 31 taps of 576 bf16 numbers. */
enum { ROW_TOKENS = 48, ROW_LABELS = 24, MICRO_BATCH = 40, LAYERS = 30, HIDDEN = 576, SEGMENT_TOKENS = 1800 };

static struct token_file data;
static const struct tap_format format = {.backbone = "none",
                                         .data = "none",
                                         .kind = "hidden",
                                         .directions = "-",
                                         .compute = "bf16",
                                         .layers = LAYERS,
                                         .hidden = HIDDEN,
                                         .cols = HIDDEN,
                                         .window = 1,
                                         .taps = LAYERS + 1,
                                         .act = DTYPE_BF16};

static int make_data(int64_t rows) {
  data = (struct token_file){.rows = rows, .total = rows * ROW_TOKENS, .vocabulary = 10};
  TRY(memory_array(&data.tokens, (size_t)data.total, sizeof *data.tokens));
  TRY(memory_array(&data.labels, (size_t)data.total, sizeof *data.labels));
  TRY(memory_array(&data.offsets, (size_t)rows + 1, sizeof *data.offsets));
  for (int64_t i = 0; i < data.total; i++) data.labels[i] = i % ROW_TOKENS >= ROW_TOKENS - ROW_LABELS ? 1 : -100;
  for (int64_t row = 0; row <= rows; row++) data.offsets[row] = row * ROW_TOKENS;
  return OK;
}

static void fill_planes(struct tap_planes *planes, int64_t row) {
  size_t sizes[TAP_PLANES] = {ROW_TOKENS * tap_plane_bytes(&format, TAP_PLANE_TAPS), 0,
                              ROW_LABELS * tap_plane_bytes(&format, TAP_PLANE_NORMED)};
  uint64_t state = (uint64_t)row + 1;
  for (int p = 0; p < TAP_PLANES; p++)
    for (size_t i = 0; i + sizeof state <= sizes[p]; i += sizeof state) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      memcpy(planes->at[p] + i, &state, sizeof state);
    }
}

/* ---- writing ------------------------------------------------------------------------------------------------ */

/* Rows are dealt out in turn. The time of making them is not counted. */
static int write_segments(const char *folder, const struct tap_planes *planes, int rank, int ranks) {
  struct tap_writer *writer;
  TRY(tap_writer_open(&writer, folder, &format, SEGMENT_TOKENS));
  int status = OK;
  for (int64_t row = rank; status == OK && row < data.rows; row += ranks)
    status = tap_writer_add(writer, row, ROW_TOKENS, ROW_LABELS, planes);
  if (status == OK) status = tap_writer_seal(writer);
  tap_writer_close(&writer);
  return status;
}

static hid_t make_dataset(hid_t file, const char *name, hsize_t lines, hsize_t cols) {
  hid_t space = H5Screate_simple(2, (hsize_t[]){lines, cols}, NULL);
  hid_t dataset = H5Dcreate2(file, name, H5T_STD_U16LE, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
  H5Sclose(space);
  return dataset;
}

static herr_t write_lines(hid_t dataset, hid_t transfer, hsize_t first, hsize_t lines, hsize_t cols, const void *from) {
  hid_t to = H5Dget_space(dataset), memory = H5Screate_simple(2, (hsize_t[]){lines, cols}, NULL);
  H5Sselect_hyperslab(to, H5S_SELECT_SET, (hsize_t[]){first, 0}, NULL, (hsize_t[]){lines, cols}, NULL);
  herr_t status = H5Dwrite(dataset, H5T_STD_U16LE, memory, to, transfer, from);
  H5Sclose(memory);
  H5Sclose(to);
  return status;
}

/* One file of all ranks: as many rows at a time as a segment has, side by side, collectively; rows gather in memory first
 * and are hashed, as a segment's are. */
static int write_parallel(const char *folder, const struct tap_planes *planes, int rank, int ranks) {
  enum { ROWS = SEGMENT_TOKENS / ROW_TOKENS };
  hsize_t taps_cols = tap_plane_cols(&format, TAP_PLANE_TAPS), whole = (hsize_t)data.rows;
  struct tap_planes gathered;
  char *path;
  TRY(file_make_folder(folder));
  TRY(file_join(folder, "parallel.h5", &path));
  TRY(tap_planes_make(&gathered, &format, ROWS * ROW_TOKENS, ROWS * ROW_LABELS));
  hid_t access = H5Pcreate(H5P_FILE_ACCESS), transfer = H5Pcreate(H5P_DATASET_XFER);
  H5Pset_fapl_mpio(access, MPI_COMM_WORLD, MPI_INFO_NULL);
  H5Pset_dxpl_mpio(transfer, H5FD_MPIO_COLLECTIVE);
  hid_t file = H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, access);
  hid_t taps = make_dataset(file, "taps", whole * ROW_TOKENS, taps_cols);
  hid_t normed = make_dataset(file, "normed", whole * ROW_LABELS, HIDDEN);
  herr_t bad = 0;
  for (hsize_t first = 0; first < whole; first += (hsize_t)ROWS * (hsize_t)ranks) {
    hsize_t own = first + (hsize_t)rank * ROWS, count = own >= whole ? 0 : whole - own < ROWS ? whole - own : ROWS;
    for (hsize_t i = 0; i < count; i++) {
      struct hash_text hash;
      struct tap_planes to = tap_planes_at(&format, &gathered, (int64_t)i * ROW_TOKENS, (int64_t)i * ROW_LABELS);
      memcpy(to.at[TAP_PLANE_TAPS], planes->at[TAP_PLANE_TAPS], ROW_TOKENS * taps_cols * 2);
      memcpy(to.at[TAP_PLANE_NORMED], planes->at[TAP_PLANE_NORMED], (size_t)ROW_LABELS * HIDDEN * 2);
      TRY(tap_planes_hash(&format, &to, ROW_TOKENS, ROW_LABELS, &hash));
    }
    bad |= write_lines(taps, transfer, own * ROW_TOKENS, count * ROW_TOKENS, taps_cols, gathered.at[TAP_PLANE_TAPS]);
    bad |= write_lines(normed, transfer, own * ROW_LABELS, count * ROW_LABELS, HIDDEN, gathered.at[TAP_PLANE_NORMED]);
  }
  bad |= H5Dclose(taps) | H5Dclose(normed) | H5Fflush(file, H5F_SCOPE_GLOBAL) | H5Fclose(file);
  H5Pclose(transfer);
  H5Pclose(access);
  int descriptor = open(path, O_RDWR | O_CLOEXEC); /* what the store's segments get, too */
  if (bad < 0 || descriptor < 0 || fsync(descriptor) != 0) return fail(ERR_SYSTEM, "%s: could not be written", path);
  close(descriptor);
  tap_planes_free(&gathered);
  free(path);
  return OK;
}

/* ---- reading ------------------------------------------------------------------------------------------------ */

static void shuffle(int64_t *rows, int64_t count, uint64_t seed) {
  struct random random = random_start(seed, RANDOM_DATA_ORDER, 0);
  for (int64_t i = 0; i < count; i++) rows[i] = i;
  for (int64_t i = count - 1; i > 0; i--) {
    int64_t j = (int64_t)random_below(&random, (uint64_t)i + 1), row = rows[i];
    rows[i] = rows[j];
    rows[j] = row;
  }
}

static int batch_size(int64_t first) {
  return (int)(data.rows - first < MICRO_BATCH ? data.rows - first : MICRO_BATCH);
}

/* As the trainer: the next micro-batch is asked for when one has been taken. */
static int read_rows(struct tap_prefetch *prefetch, const int64_t *rows) {
  for (int64_t first = 0; first < data.rows; first += MICRO_BATCH) {
    const void *taps, *normed;
    int count = batch_size(first);
    TRY(tap_prefetch_take(prefetch, rows + first, count, count * ROW_TOKENS, &taps, &normed));
    int64_t next = first + MICRO_BATCH;
    if (next < data.rows) tap_prefetch_ask(prefetch, rows + next, batch_size(next), batch_size(next) * ROW_TOKENS);
  }
  return OK;
}

static int read_store(const char *folder, uint64_t seed, double *seconds) {
  struct tap_reader *reader = NULL;
  struct tap_prefetch *prefetch = NULL;
  int64_t *rows;
  TRY(memory_array(&rows, (size_t)data.rows, sizeof *rows));
  shuffle(rows, data.rows, seed);
  int status = tap_reader_open(&reader, folder, &format, &data);
  if (status == OK) status = tap_reader_scan(reader);
  if (status == OK) status = tap_prefetch_open(&prefetch, reader, &format, MICRO_BATCH * ROW_TOKENS);
  double begin = clock_seconds();
  if (status == OK) status = read_rows(prefetch, rows);
  *seconds = clock_seconds() - begin;
  tap_prefetch_close(&prefetch);
  tap_reader_close(&reader);
  free(rows);
  return status;
}

static int run(int count, char **words, int rank, int ranks, double *seconds) {
  struct tap_planes planes;
  if (count < 4) return fail(ERR_USAGE, "usage: bench-taps write|parallel|read DIR ROWS [SEED]");
  TRY(make_data(strtoll(words[3], NULL, 10)));
  TRY(tap_planes_make(&planes, &format, ROW_TOKENS, ROW_LABELS));
  fill_planes(&planes, rank);
  MPI_Barrier(MPI_COMM_WORLD);
  double begin = clock_seconds();
  if (strcmp(words[1], "read") == 0)
    TRY(read_store(words[2], count > 4 ? strtoull(words[4], NULL, 10) : 1, seconds));
  else
    TRY((strcmp(words[1], "write") == 0 ? write_segments : write_parallel)(words[2], &planes, rank, ranks));
  MPI_Barrier(MPI_COMM_WORLD);
  if (strcmp(words[1], "read") != 0) *seconds = clock_seconds() - begin;
  tap_planes_free(&planes);
  return OK;
}

int main(int count, char **words) {
  int rank, ranks;
  double seconds = 0;
  MPI_Init(&count, &words);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &ranks);
  int status = run(count, words, rank, ranks, &seconds);
  if (status != OK) {
    fprintf(stderr, "bench-taps: %s\n", fail_message());
    MPI_Abort(MPI_COMM_WORLD, status);
  }
  double bytes = (double)tap_bytes(&format, data.total, data.rows * ROW_LABELS);
  if (rank == 0) printf("%.0f\n", bytes / seconds);
  MPI_Finalize();
  return status;
}
