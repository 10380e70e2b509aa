/**
 * @file t17-tap-file.c
 * A store of taps on its own: what was added comes back from any rank's segments, in any order and from more segments than
 * files may be open; int8 is as near as its blocks allow; what is not sealed is not there; damaged and foreign segments; what
 * the index shows.
 */
// RUN ranks=1 args=""
#include "tap_rows.h"

/* ---- round trips ---------------------------------------------------------------------------------------- */

static void check_round_trip(const char *folder, const struct tap_format *format) {
  write_rows(folder, format, 0, 200, LONGEST); /* a segment holds a row or two */
  struct tap_reader *reader = NULL;
  CHECK_OK(tap_reader_open(&reader, folder, format, &data));
  CHECK_OK(tap_reader_scan(reader));
  CHECK(tap_reader_rows(reader) == 200 && !tap_reader_has(reader, 200));
  for (int64_t i = 0; i < 200; i++) check_row(reader, format, i * 77 % 200);
  write_rows(folder, format, 150, ROWS, 100); /* some rows a second time */
  CHECK_OK(tap_reader_scan(reader));
  CHECK(tap_reader_rows(reader) == ROWS);
  for (int64_t i = 0; i < ROWS; i++) check_row(reader, format, i * 77 % ROWS);
  CHECK_OK(tap_reader_write_index(reader));
  tap_reader_close(&reader);
}

/* Requests taken as asked, not as asked, and without asking. */
static void check_prefetch(const char *folder, const struct tap_format *format) {
  struct tap_reader *reader = NULL;
  struct tap_prefetch *prefetch = NULL;
  CHECK_OK(tap_reader_open(&reader, folder, format, &data));
  CHECK_OK(tap_reader_scan(reader));
  CHECK_OK(tap_prefetch_open(&prefetch, reader, format, 4 * LONGEST));
  struct tap_planes want;
  CHECK_OK(tap_planes_make(&want, format, LONGEST, LONGEST));
  for (int64_t i = 0; i < 40; i++) {
    int64_t rows[] = {i * 7 % ROWS, i * 11 % ROWS}, other[] = {i, i};
    if (i % 3 != 2) tap_prefetch_ask(prefetch, i % 3 ? other : rows, 2, 2 * LONGEST);
    const void *taps, *normed;
    CHECK_OK(tap_prefetch_take(prefetch, rows, 2, 2 * LONGEST, &taps, &normed));
    fill_planes(format, rows[0], &want);
    size_t bytes = (size_t)tap_row_tokens(&data, rows[0]) * tap_plane_bytes(format, TAP_PLANE_TAPS);
    CHECK(memcmp(taps, want.at[TAP_PLANE_TAPS], bytes) == 0);
  }
  tap_planes_free(&want);
  tap_prefetch_close(&prefetch);
  tap_reader_close(&reader);
}

/* ---- stages ----------------------------------------------------------------------------------------------- */

static struct tap_format with_range(const struct tap_format *format, int first, int taps) {
  struct tap_format out = *format;
  out.first = first;
  out.taps = taps;
  return out;
}

/* The part of a row's planes that a range of its taps has. */
static void cut_planes(const struct tap_format *whole, const struct tap_format *part, int64_t row,
                       struct tap_planes *out) {
  struct tap_planes all;
  CHECK_OK(tap_planes_make(&all, whole, LONGEST, LONGEST));
  fill_planes(whole, row, &all);
  for (int p = 0; p < TAP_PLANES; p++) {
    enum tap_plane plane = (enum tap_plane)p;
    size_t line = tap_plane_bytes(whole, plane), own = tap_plane_bytes(part, plane);
    size_t skip = plane == TAP_PLANE_NORMED ? 0 : line / (size_t)whole->taps * (size_t)part->first;
    int64_t lines = plane == TAP_PLANE_NORMED ? tap_row_labels(&data, row) : tap_row_tokens(&data, row);
    for (int64_t i = 0; i < lines; i++) memcpy(out->at[p] + (size_t)i * own, all.at[p] + (size_t)i * line + skip, own);
  }
  tap_planes_free(&all);
}

static void write_part(const char *folder, const struct tap_format *whole, int first, int taps, int64_t from,
                       int64_t to) {
  struct tap_format part = with_range(whole, first, taps);
  struct tap_writer *writer = NULL;
  struct tap_planes planes;
  CHECK_OK(tap_planes_make(&planes, &part, LONGEST, LONGEST));
  CHECK_OK(tap_writer_open(&writer, folder, &part, 100));
  for (int64_t row = from; row < to; row++) {
    cut_planes(whole, &part, row, &planes);
    CHECK_OK(tap_writer_add(writer, row, tap_row_tokens(&data, row), tap_row_labels(&data, row), &planes));
  }
  CHECK_OK(tap_writer_seal(writer));
  tap_writer_close(&writer);
  tap_planes_free(&planes);
}

static void check_part(const char *folder, const struct tap_format *whole, int first, int taps, int64_t rows,
                       int64_t held) {
  struct tap_format part = with_range(whole, first, taps);
  struct tap_reader *reader = NULL;
  struct tap_planes want, got;
  CHECK_OK(tap_planes_make(&want, &part, LONGEST, LONGEST));
  CHECK_OK(tap_planes_make(&got, &part, LONGEST, LONGEST));
  CHECK_OK(tap_reader_open(&reader, folder, &part, &data));
  CHECK_OK(tap_reader_scan(reader));
  CHECK(tap_reader_rows(reader) == rows);
  for (int64_t row = 0; row < ROWS; row++) {
    struct hash_text a, b;
    CHECK(tap_reader_has(reader, row) == (row < rows));
    CHECK(tap_reader_holds(reader, row) == (row < held));
    if (row >= held) continue;
    cut_planes(whole, &part, row, &want);
    CHECK_OK(tap_reader_read(reader, &row, 1, &got));
    CHECK_OK(tap_planes_hash(&part, &want, tap_row_tokens(&data, row), tap_row_labels(&data, row), &a));
    CHECK_OK(tap_planes_hash(&part, &got, tap_row_tokens(&data, row), tap_row_labels(&data, row), &b));
    CHECK(strcmp(a.hex, b.hex) == 0);
  }
  CHECK_OK(tap_reader_write_index(reader));
  tap_reader_close(&reader);
  tap_planes_free(&want);
  tap_planes_free(&got);
}

/* Rows come together of the segments of stages, by any split, and are read by any other. */
static void check_stages(const char *folder, const struct tap_format *whole) {
  write_part(folder, whole, 0, 2, 0, 200);
  check_part(folder, whole, 0, 2, 0, 200);
  check_part(folder, whole, 0, 3, 0, 0);
  write_part(folder, whole, 1, 2, 0, 150); /* overlaps */
  write_part(folder, whole, 0, 3, 100, 120);
  check_part(folder, whole, 0, 3, 150, 150);
  check_part(folder, whole, 1, 1, 150, 200);
  check_part(folder, whole, 2, 1, 150, 150);
  check_part(folder, whole, 0, 1, 150, 200);
}

/* ---- int8 ----------------------------------------------------------------------------------------------- */

/* Each number is at most half a code, 1/254 of its block's largest, away; fp32 throughout. */
static void check_int8(void) {
  struct tap_format format = make_format(DTYPE_F32, true);
  enum { NUMBERS = 2 * 3 * 70 };
  float taps[NUMBERS], back[NUMBERS];
  for (int i = 0; i < NUMBERS; i++)
    taps[i] = (i / 70 == 3 ? 0 : sinf((float)i)) * (float)(1 << i / 70) + (i == 65 ? 500 : 0);
  struct tap_planes planes;
  CHECK_OK(tap_planes_make(&planes, &format, 2, 0));
  tap_encode(&format, taps, 2, &planes);
  tap_decode(&format, &planes, 2, back);
  for (int tap = 0; tap < NUMBERS; tap += 70)
    for (int first = 0; first < 70; first += TAP_BLOCK) {
      int end = first + TAP_BLOCK < 70 ? first + TAP_BLOCK : 70;
      float largest = 0;
      for (int i = first; i < end; i++) largest = fmaxf(largest, fabsf(taps[tap + i]));
      for (int i = first; i < end; i++) CHECK(fabsf(taps[tap + i] - back[tap + i]) <= largest / 253);
    }
  tap_planes_free(&planes);
}

/* A number that is not finite spoils its block, so that no training goes on over it, and no other; next to nothing is nothing. */
static void check_int8_extremes(void) {
  static const float extremes[] = {NAN, -NAN, INFINITY, -INFINITY, 1e-38f, 0};
  struct tap_format format = make_format(DTYPE_F32, true);
  enum { COLS = 70, NUMBERS = 3 * COLS };
  float taps[NUMBERS], back[NUMBERS];
  struct tap_planes planes;
  CHECK_OK(tap_planes_make(&planes, &format, 1, 0));
  for (size_t e = 0; e < sizeof extremes / sizeof *extremes; e++) {
    for (int i = 0; i < NUMBERS; i++) taps[i] = i / COLS == 1 && i % COLS < TAP_BLOCK ? 0 : 1;
    taps[COLS + 9] = extremes[e];
    tap_encode(&format, taps, 1, &planes);
    tap_decode(&format, &planes, 1, back);
    for (int i = 0; i < NUMBERS; i++)
      if (taps[i] == 1 || isfinite(extremes[e]))
        CHECK(fabsf(back[i] - taps[i]) < 1e-6f);
      else
        CHECK(isnan(back[i]));
  }
  tap_planes_free(&planes);
}

/* ---- what must not count --------------------------------------------------------------------------------- */

static void check_unsealed(const char *folder, const struct tap_format *format) {
  struct tap_writer *writer = NULL;
  struct tap_reader *reader = NULL;
  CHECK_OK(tap_reader_open(&reader, folder, format, &data));
  CHECK_OK(tap_reader_scan(reader)); /* no folder: no rows */
  CHECK(tap_reader_rows(reader) == 0);
  CHECK_OK(tap_writer_open(&writer, folder, format, 100));
  add_rows(writer, format, 0, 5);
  tap_writer_close(&writer);
  CHECK_OK(tap_reader_scan(reader));
  CHECK(tap_reader_rows(reader) == 0);
  tap_reader_close(&reader);
}

/* Overwrites these bytes where they stand in the file; its size. */
static long damage(const char *path, const char *bytes, size_t count) {
  static char content[1 << 20];
  FILE *file = fopen(path, "r+b");
  size_t size = fread(content, 1, sizeof content, file);
  char *at = memmem(content, size, bytes, count);
  CHECK(at != NULL && fseek(file, (long)(at - content), SEEK_SET) == 0 && fwrite("damaged", 1, 7, file) == 7);
  fclose(file);
  return (long)size;
}

/* A row whose bytes changed is named; a segment cut off is passed over. */
static void check_damage(const char *folder, const struct tap_format *format) {
  char path[700] = "";
  struct tap_reader *reader = NULL;
  struct tap_planes planes;
  CHECK_OK(tap_planes_make(&planes, format, TOTAL, TOTAL));
  write_rows(folder, format, 0, 10, 100);
  find_segment(folder, path);
  fill_planes(format, 3, &planes);
  long size = damage(path, planes.at[TAP_PLANE_TAPS], 32);
  CHECK_OK(tap_reader_open(&reader, folder, format, &data));
  CHECK_OK(tap_reader_scan(reader));
  int64_t rows[10] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9};
  CHECK_OK(tap_reader_read(reader, rows, 3, &planes));
  CHECK_FAILS(ERR_INPUT, "the taps of row 4 are damaged: their hash does not hold",
              tap_reader_read(reader, rows, 10, &planes));
  tap_reader_close(&reader);
  CHECK(truncate(path, size / 2) == 0);
  CHECK_OK(tap_reader_open(&reader, folder, format, &data));
  CHECK_OK(tap_reader_scan(reader));
  CHECK(tap_reader_rows(reader) == 0);
  tap_reader_close(&reader);
  tap_planes_free(&planes);
}

/* Nothing but segments of something else is a mistake. Among them each format finds its own, of the same rows too. */
static void check_foreign(const char *folder, const struct tap_format *format) {
  struct tap_reader *reader = NULL;
  struct tap_format other = *format;
  snprintf(other.backbone, sizeof other.backbone, "another");
  write_rows(folder, format, 0, 10, 100);
  CHECK_OK(tap_reader_open(&reader, folder, &other, &data));
  CHECK_FAILS(ERR_INPUT, "holds taps of another backbone (backbone b, needed is another)", tap_reader_scan(reader));
  write_rows(folder, &other, 0, 10, 100);
  CHECK_OK(tap_reader_scan(reader));
  CHECK(tap_reader_rows(reader) == 10);
  check_row(reader, &other, 9);
  struct tap_pruned pruned;
  CHECK_OK(tap_prune(reader, 0, &pruned));
  CHECK(pruned.damaged == 0 && pruned.doubled == 0);
  tap_reader_close(&reader);
  CHECK_OK(tap_reader_open(&reader, folder, format, &data));
  CHECK_OK(tap_reader_scan(reader));
  CHECK(tap_reader_rows(reader) == 10);
  check_row(reader, format, 9);
  tap_reader_close(&reader);
}

/* Rows whose stages' segments lack some, and whole ones of the same rows: the index shows those. */
static void check_index(const char *folder, const struct tap_format *whole) {
  struct tap_reader *reader = NULL;
  struct h5_file *index = NULL;
  enum h5_type type;
  uint64_t rows = 0, cols;
  write_part(folder, whole, 0, 2, 0, 50);
  write_part(folder, whole, 0, 1, 0, 50);
  write_part(folder, whole, 1, 2, 0, 20);
  write_part(folder, whole, 0, 3, 0, 40);
  CHECK_OK(tap_reader_open(&reader, folder, whole, &data));
  CHECK_OK(tap_reader_scan(reader));
  CHECK_OK(tap_reader_write_index(reader));
  tap_reader_close(&reader);
  char path[700];
  snprintf(path, sizeof path, "%s/index.h5", folder);
  CHECK_OK(h5_open(&index, path, "qst-taps-index", TAP_VERSION));
  CHECK_OK(h5_shape(index, "/rows", &type, &rows, &cols));
  CHECK(rows == 40);
  h5_close(&index);
}

int main(void) {
  scratch_make();
  make_data();
  check_int8();
  check_int8_extremes();
  for (int i = 0; i < 3; i++) {
    struct tap_format format = make_format(i == 1 ? DTYPE_F32 : DTYPE_BF16, i == 2);
    char *folder = scratch_path("store"), *other = scratch_path("other"), *foreign = scratch_path("foreign");
    check_unsealed(other, &format);
    check_damage(other, &format);
    check_round_trip(folder, &format);
    check_foreign(foreign, &format);
    if (!format.int8) check_prefetch(folder, &format);
    remove_folder(folder);
    remove_folder(other);
    remove_folder(foreign);
    check_stages(folder, &format);
    remove_folder(folder);
    check_index(folder, &format);
    remove_folder(folder);
    free(folder);
    free(other);
    free(foreign);
  }
  scratch_remove();
  return check_result();
}
