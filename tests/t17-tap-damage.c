/**
 * @file t17-tap-damage.c
 * Segments that are not what they should be: flipped bits, cuts and lists that lie never stop a scan nor give other taps than
 * were written; whoever computes the rows again puts a whole file in a damaged one's place; pruning leaves what it does not
 * know.
 */
// RUN ranks=1 args=""
#include <limits.h>
#include <sys/stat.h>

#include "base/log.h"
#include "damage.h"
#include "tap_rows.h"

enum { COUNT = 10 };

static struct tap_format format;
static char *folder;

static struct tap_reader *open_store(int64_t rows) {
  struct tap_reader *reader = NULL;
  CHECK_OK(tap_reader_open(&reader, folder, &format, &data));
  CHECK_OK(tap_reader_scan(reader));
  CHECK(tap_reader_rows(reader) == rows);
  return reader;
}

/* ---- any byte --------------------------------------------------------------------------------------------- */

/* The store, whose one segment is a link to this file: all rows as they were written, or a row or the whole is damaged. */
static int read_store(const char *path) {
  struct tap_reader *reader = NULL;
  struct tap_planes planes;
  CHECK_OK(tap_planes_make(&planes, &format, LONGEST, LONGEST));
  CHECK_OK(tap_reader_open(&reader, folder, &format, &data));
  CHECK_OK(tap_reader_scan(reader));
  int status = tap_reader_rows(reader) == COUNT ? OK : ERR_INPUT;
  for (int64_t row = 0; status == OK && row < COUNT; row++) {
    status = tap_reader_read(reader, &row, 1, &planes);
    if (status == OK) check_row(reader, &format, row);
  }
  tap_reader_close(&reader);
  tap_planes_free(&planes);
  return status == OK ? OK : fail(status, "%s: %s", path, fail_message());
}

static void check_bytes(void) {
  char *whole = scratch_path("whole"), *store = folder, found[700] = "", path[700];
  folder = whole;
  write_rows(folder, &format, 0, COUNT, 100);
  find_segment(folder, found);
  folder = store;
  CHECK(mkdir(folder, 0700) == 0);
  snprintf(path, sizeof path, "%s/segment-0.h5", folder);
  CHECK(symlink("../damaged", path) == 0);
  damage_bits(found, 41, read_store);
  unlink(path);
  CHECK(symlink("../cut", path) == 0);
  damage_length(found, read_store);
  remove_folder(folder);
  remove_folder(whole);
  free(whole);
}

/* ---- lists that lie --------------------------------------------------------------------------------------- */

struct lists {
  int first, taps; /* of 3 */
  int64_t rows[2], tokens[3], labels[3];
  uint64_t hashes; /* columns */
  bool planes;     /* there are taps, as many as the lists say */
};

static int write_planes(struct h5_file *file, const struct tap_format *claimed, const struct lists *lists) {
  static const char bytes[1 << 16];
  for (int p = 0; p < TAP_PLANES; p++) {
    enum tap_plane plane = (enum tap_plane)p;
    uint64_t lines = (uint64_t)tap_plane_lines(plane, lists->tokens[2], lists->labels[2]);
    if (lines > 100) continue;
    TRY(h5_write(file, tap_plane_name(plane), tap_plane_type(claimed, plane), lines, tap_plane_cols(claimed, plane),
                 bytes));
  }
  return OK;
}

static int write_lists(struct h5_file *file, const struct lists *lists) {
  static const char bytes[2 * 64];
  TRY(h5_write(file, "/rows", H5_I64, 2, 0, lists->rows));
  TRY(h5_write(file, "/tokens", H5_I64, 3, 0, lists->tokens));
  TRY(h5_write(file, "/labels", H5_I64, 3, 0, lists->labels));
  return h5_write(file, "/hashes", H5_U8, 2, lists->hashes, bytes);
}

static void write_claim(const char *name, const struct lists *lists) {
  struct h5_file *file;
  struct tap_format claimed = format;
  char path[700];
  claimed.first = lists->first;
  claimed.taps = lists->taps;
  snprintf(path, sizeof path, "%s/segment-%s.h5", folder, name);
  CHECK_OK(h5_create(&file, path, "qst-taps", TAP_VERSION));
  CHECK_OK(tap_format_write(file, &claimed));
  CHECK_OK(write_lists(file, lists));
  if (lists->planes) CHECK_OK(write_planes(file, &format, lists));
  CHECK_OK(h5_publish(&file));
}

static void check_lists(void) {
  int64_t a = tap_row_tokens(&data, 0), b = a + tap_row_tokens(&data, 1);
  int64_t c = tap_row_labels(&data, 0), d = c + tap_row_labels(&data, 1);
  const struct lists truth = {0, 3, {0, 1}, {0, a, b}, {0, c, d}, 32, true};
  const struct lists lies[] = {
      {0, 3, {0, 1}, {0, a, b}, {0, c, d}, 32, false},        {-1, 3, {0, 1}, {0, a, b}, {0, c, d}, 32, true},
      {0, 4, {0, 1}, {0, a, b}, {0, c, d}, 32, true},         {0, 0, {0, 1}, {0, a, b}, {0, c, d}, 32, true},
      {0, INT_MAX, {0, 1}, {0, a, b}, {0, c, d}, 32, true},   {0, 3, {0, -1}, {0, a, b}, {0, c, d}, 32, true},
      {0, 3, {0, ROWS}, {0, a, b}, {0, c, d}, 32, true},      {0, 3, {0, INT64_MAX}, {0, a, b}, {0, c, d}, 32, true},
      {0, 3, {1, 0}, {0, a, b}, {0, c, d}, 32, true},         {0, 3, {0, 1}, {0, a + 1, b}, {0, c, d}, 32, true},
      {0, 3, {0, 1}, {1, a + 1, b + 1}, {0, c, d}, 32, true}, {0, 3, {0, 1}, {0, a, INT64_MIN}, {0, c, d}, 32, true},
      {0, 3, {0, 1}, {0, a, INT64_MAX}, {0, c, d}, 32, true}, {0, 3, {0, 1}, {0, a, b}, {0, c + 1, d}, 32, true},
      {0, 3, {0, 1}, {0, a, b}, {0, c, INT64_MIN}, 32, true}, {0, 3, {0, 1}, {0, a, b}, {0, c, d}, 64, true},
  };
  CHECK(mkdir(folder, 0700) == 0);
  for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
    char name[16];
    snprintf(name, sizeof name, "%02zu", i);
    write_claim(name, &lies[i]);
  }
  struct tap_reader *reader = open_store(0);
  CHECK(tap_reader_bytes(reader) == 0);
  write_claim("truth", &truth);
  CHECK_OK(tap_reader_scan(reader));
  CHECK(tap_reader_rows(reader) == 2);
  tap_reader_close(&reader);
  remove_folder(folder);
}

/* ---- repair and pruning ----------------------------------------------------------------------------------- */

/* A reader that passed over a damaged segment finds the whole one that comes in its place. */
static void check_repair(void) {
  char path[700] = "";
  write_rows(folder, &format, 0, COUNT, 100);
  find_segment(folder, path);
  CHECK(truncate(path, 5000) == 0);
  struct tap_reader *reader = open_store(0);
  CHECK_OK(tap_reader_scan(reader));
  CHECK(tap_reader_rows(reader) == 0);
  write_rows(folder, &format, 0, COUNT, 100);
  CHECK_OK(tap_reader_scan(reader));
  CHECK(tap_reader_rows(reader) == COUNT && tap_reader_bytes(reader) > 5000);
  for (int64_t row = 0; row < COUNT; row++) check_row(reader, &format, row);
  tap_reader_close(&reader);
  remove_folder(folder);
}

/* What a later version wrote is no damage; a pipe is not waited for. */
static void check_prune(void) {
  struct h5_file *file;
  struct tap_pruned pruned;
  char later[700], pipe[700];
  write_rows(folder, &format, 0, COUNT, 100);
  snprintf(later, sizeof later, "%s/segment-later.h5", folder);
  snprintf(pipe, sizeof pipe, "%s/segment-pipe.h5", folder);
  CHECK_OK(h5_create(&file, later, "qst-taps", TAP_VERSION + 1));
  CHECK_OK(h5_publish(&file));
  CHECK(mkfifo(pipe, 0600) == 0);
  struct tap_reader *reader = open_store(COUNT);
  CHECK_OK(tap_prune(reader, 0, &pruned));
  CHECK(pruned.damaged == 1 && access(later, F_OK) == 0 && access(pipe, F_OK) != 0);
  tap_reader_close(&reader);
  reader = open_store(COUNT);
  tap_reader_close(&reader);
  remove_folder(folder);
}

int main(void) {
  log_setup(1, true); /* thousands of warnings */
  scratch_make();
  make_data();
  folder = scratch_path("store");
  format = make_format(DTYPE_BF16, true);
  check_bytes();
  check_lists();
  check_repair();
  check_prune();
  free(folder);
  scratch_remove();
  return check_result();
}
