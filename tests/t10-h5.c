/**
 * @file t10-h5.c
 * The HDF5 layer: round trips, equal content gives equal bytes, every damaged byte and every truncation is harmless or
 * one error line, files that are not what they should be, a full disk.
 */
// RUN ranks=1 args=""
#include <fcntl.h>
#include <hdf5.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "damage.h"
#include "io/h5.h"

enum { ROWS = 300, COLS = 40 };

static float values[ROWS * COLS];

static int write_sample(const char *path) {
  struct h5_file *file;
  TRY(h5_create(&file, path, "qst-sample", 2));
  int status = h5_write(file, "/a/b/matrix", H5_F32, ROWS, COLS, values);
  if (status == OK) status = h5_write(file, "/a/bytes", H5_U8, 5, 0, "bytes");
  if (status == OK) status = h5_write(file, "/a/empty", H5_I32, 0, 0, NULL);
  if (status == OK) status = h5_write_begin(file, "/pieces", H5_F32, ROWS, COLS);
  for (int part = 0; status == OK && part < 3; part++)
    status = h5_write_more(file, values + part * (ROWS * COLS / 3), ROWS * COLS / 3);
  if (status == OK) status = h5_write_end(file);
  if (status == OK) status = h5_set_text(file, "/config", "text", "größer\n");
  if (status == OK) status = h5_set_text(file, "/config", "nothing", "");
  if (status == OK) status = h5_set_number(file, "/a/bytes", "number", -INFINITY);
  if (status == OK) status = h5_set_integer(file, "/", "integer", INT64_MIN);
  if (status == OK) return h5_publish(&file);
  h5_close(&file);
  return status;
}

static int count_dataset(void *context, struct h5_file *file, const struct h5_dataset *dataset) {
  static const char *const names[] = {"/a/b/matrix", "/a/bytes", "/a/empty", "/pieces"};
  int *count = context;
  CHECK(*count < 4 && strcmp(names[*count], dataset->name) == 0);
  (*count)++;
  return h5_verify(file, dataset->name);
}

static int read_sample(const char *path) {
  struct h5_file *file;
  TRY(h5_open(&file, path, "qst-sample", 2));
  static float got[ROWS * COLS];
  char bytes[5], *text = NULL;
  double number;
  int64_t integer;
  int status = h5_read(file, "/a/b/matrix", H5_F32, ROWS, COLS, got);
  if (status == OK) CHECK(memcmp(got, values, sizeof values) == 0);
  if (status == OK) status = h5_read(file, "/pieces", H5_F32, ROWS, COLS, got);
  if (status == OK) CHECK(memcmp(got, values, sizeof values) == 0);
  if (status == OK) status = h5_read(file, "/a/bytes", H5_U8, 5, 0, bytes);
  if (status == OK) CHECK(memcmp(bytes, "bytes", 5) == 0);
  if (status == OK) status = h5_read(file, "/a/empty", H5_I32, 0, 0, NULL);
  if (status == OK) status = h5_get_text(file, "/config", "text", &text);
  if (status == OK) CHECK(strcmp(text, "größer\n") == 0);
  free(text);
  text = NULL;
  if (status == OK) status = h5_get_text(file, "/config", "nothing", &text);
  if (status == OK) CHECK(strcmp(text, "") == 0);
  free(text);
  if (status == OK) status = h5_get_number(file, "/a/bytes", "number", &number);
  if (status == OK) CHECK(number == -INFINITY);
  if (status == OK) status = h5_get_integer(file, "/", "integer", &integer);
  if (status == OK) CHECK(integer == INT64_MIN);
  int count = 0;
  if (status == OK) status = h5_each(file, count_dataset, &count);
  if (status == OK) CHECK(count == 4);
  h5_close(&file);
  CHECK(file == NULL);
  return status;
}

static void test_round_trip(void) {
  char *a = scratch_path("a.h5"), *b = scratch_path("b.h5");
  CHECK_OK(write_sample(a));
  CHECK_OK(read_sample(a));
  sleep(1); /* a time in the file would differ */
  CHECK_OK(write_sample(b));
  CHECK(same_bytes(a, b));
  free(a);
  free(b);
}

static void test_wrong_uses(void) {
  char *path = scratch_path("a.h5"), *other = scratch_path("unpublished.h5");
  struct h5_file *file;
  float number;
  CHECK_FAILS(ERR_INPUT, "qst-sample file where a qst-tokens file is needed", h5_open(&file, path, "qst-tokens", 1));
  CHECK_FAILS(ERR_INPUT, "version 2", h5_open(&file, path, "qst-sample", 1));
  CHECK_OK(h5_open(&file, path, NULL, 0));
  CHECK(strcmp(h5_format(file), "qst-sample") == 0);
  CHECK(h5_has(file, "/a/b") && h5_has(file, "/a/bytes") && !h5_has(file, "/a/c") && !h5_has(file, "/c/a"));
  CHECK_FAILS(ERR_INPUT, "/pieces is f32 [300, 40] where f32 [300, 41]",
              h5_read(file, "/pieces", H5_F32, 300, 41, &number));
  CHECK_FAILS(ERR_INPUT, "where i32", h5_read(file, "/pieces", H5_I32, 300, 40, &number));
  CHECK_FAILS(ERR_INPUT, "has no /nowhere",
              h5_read(file, "/nowhere/x", H5_I32, 300, 40, &number) == OK
                  ? OK
                  : h5_read(file, "/nowhere", H5_I32, 300, 40, &number));
  CHECK_FAILS(ERR_INPUT, "/a", h5_read(file, "/a", H5_F32, 1, 0, &number));
  CHECK_FAILS(ERR_INPUT, "another type", h5_get_integer(file, "/a/bytes", "number", &(int64_t){0}));
  CHECK_FAILS(ERR_INPUT, "no attribute", h5_get_integer(file, "/a/bytes", "numbers", &(int64_t){0}));
  h5_close(&file);
  CHECK_FAILS(ERR_INPUT, "No such file", h5_open(&file, other, NULL, 0));
  CHECK_FAILS(ERR_INPUT, "is not a file", h5_open(&file, "/", NULL, 0));
  CHECK_FAILS(ERR_INPUT, "not an HDF5 file", h5_open(&file, "Makefile", NULL, 0));
  CHECK_OK(h5_create(&file, other, "qst-sample", 1));
  CHECK_OK(h5_write_begin(file, "/x", H5_F32, 2, 0));
  CHECK_FAILS(ERR_INTERNAL, "more data", h5_write_more(file, values, 3));
  CHECK_FAILS(ERR_INTERNAL, "before all", h5_write_end(file));
  CHECK_FAILS(ERR_INTERNAL, "incomplete", h5_publish(&file));
  CHECK(file == NULL && access(other, F_OK) != 0);
  free(path);
  free(other);
}

static void test_damage(void) {
  char *path = scratch_path("a.h5");
  damage_bits(path, 97, read_sample);
  damage_length(path, read_sample);
  free(path);
}

/* Where a group has more datasets than fit into its header, HDF5 keeps them in a tree of their own. */
enum { MANY = 20 };

static int write_many(const char *path) {
  struct h5_file *file;
  char name[32];
  TRY(h5_create(&file, path, "qst-sample", 2));
  int status = OK;
  for (int i = 0; status == OK && i < MANY; i++) {
    snprintf(name, sizeof name, "/many/%02d", (7 * i) % MANY);
    status = h5_write(file, name, H5_U8, 5, 0, "bytes");
  }
  if (status == OK) return h5_publish(&file);
  h5_close(&file);
  return status;
}

static int expect_next(void *context, struct h5_file *file, const struct h5_dataset *dataset) {
  char name[32];
  (void)file;
  snprintf(name, sizeof name, "/many/%02d", (*(int *)context)++);
  CHECK(strcmp(name, dataset->name) == 0);
  return OK;
}

static int list_many(const char *path) {
  struct h5_file *file;
  int count = 0;
  TRY(h5_open(&file, path, "qst-sample", 2));
  int status = h5_each(file, expect_next, &count);
  if (status == OK) CHECK(count == MANY);
  h5_close(&file);
  return status;
}

/* In order, and after damage to that tree without a use of what HDF5 left unset (which AddressSanitizer sees). */
static void test_many(void) {
  char *path = scratch_path("many.h5");
  CHECK_OK(write_many(path));
  CHECK_OK(list_many(path));
  damage_bits(path, 29, list_many);
  free(path);
}

/* What HDF5 allows and we do not. */
static hid_t foreign(const char *path) {
  struct h5_file *file;
  CHECK_OK(h5_create(&file, path, "qst-sample", 1));
  CHECK_OK(h5_set_text(file, "/group", "x", "x"));
  CHECK_OK(h5_publish(&file));
  return H5Fopen(path, H5F_ACC_RDWR, H5P_DEFAULT);
}

static void put(hid_t file, const char *name, hid_t type, hid_t creation, hsize_t rows, hsize_t most) {
  hid_t space = H5Screate_simple(1, &rows, &most);
  hid_t dataset = H5Dcreate2(file, name, type, space, H5P_DEFAULT, creation, H5P_DEFAULT);
  CHECK(dataset >= 0);
  H5Dclose(dataset);
  H5Sclose(space);
}

static void test_foreign_contents(void) {
  char *path = scratch_path("foreign.h5"), *raw = scratch_path("a.h5");
  hid_t id = foreign(path);
  hid_t external = H5Pcreate(H5P_DATASET_CREATE), chunked = H5Pcreate(H5P_DATASET_CREATE);
  hid_t compact = H5Pcreate(H5P_DATASET_CREATE);
  hsize_t chunk = 8;
  H5Pset_external(external, raw, 0, 400);
  H5Pset_chunk(chunked, 1, &chunk);
  H5Pset_deflate(chunked, 1);
  H5Pset_layout(compact, H5D_COMPACT);
  put(id, "/external", H5T_STD_I32LE, external, 100, 100);
  put(id, "/chunked", H5T_STD_I32LE, chunked, 100, 100);
  put(id, "/compact", H5T_STD_I32LE, compact, 10, 10);
  put(id, "/doubles", H5T_IEEE_F64LE, H5P_DEFAULT, 10, 10);
  put(id, "/big_endian", H5T_STD_I32BE, H5P_DEFAULT, 10, 10);
  put(id, "/huge", H5T_STD_I32LE, H5P_DEFAULT, (hsize_t)1 << 60, (hsize_t)1 << 60);
  put(id, "/unwritten", H5T_STD_I32LE, H5P_DEFAULT, 10, 10);
  H5Lcreate_soft("/unwritten", id, "/soft", H5P_DEFAULT, H5P_DEFAULT);
  H5Lcreate_external(raw, "/a", id, "/elsewhere", H5P_DEFAULT, H5P_DEFAULT);
  H5Lcreate_hard(id, "/", id, "/group/loop", H5P_DEFAULT, H5P_DEFAULT);
  H5Fclose(id);
  H5Pclose(external);
  H5Pclose(chunked);
  H5Pclose(compact);
  struct h5_file *file;
  int32_t numbers[100];
  CHECK_OK(h5_open(&file, path, "qst-sample", 1));
  CHECK_FAILS(ERR_INPUT, "/external is not stored", h5_read(file, "/external", H5_I32, 100, 0, numbers));
  CHECK_FAILS(ERR_INPUT, "/chunked is not stored", h5_read(file, "/chunked", H5_I32, 100, 0, numbers));
  CHECK_FAILS(ERR_INPUT, "/compact is not stored", h5_read(file, "/compact", H5_I32, 10, 0, numbers));
  CHECK_FAILS(ERR_INPUT, "number format", h5_read(file, "/doubles", H5_F32, 10, 0, numbers));
  CHECK_FAILS(ERR_INPUT, "number format", h5_read(file, "/big_endian", H5_I32, 10, 0, numbers));
  CHECK_FAILS(ERR_INPUT, "cannot hold", h5_read(file, "/huge", H5_I32, 1, 0, numbers));
  CHECK_FAILS(ERR_INPUT, "outside", h5_read(file, "/unwritten", H5_I32, 10, 0, numbers));
  CHECK_FAILS(ERR_INPUT, "link to elsewhere", h5_read(file, "/soft", H5_I32, 10, 0, numbers));
  CHECK_FAILS(ERR_INPUT, "link to elsewhere", h5_read(file, "/elsewhere/bytes", H5_U8, 5, 0, numbers));
  CHECK_FAILS(ERR_INPUT, path, h5_each(file, count_dataset, &(int){4}));
  h5_close(&file);
  free(path);
  free(raw);
}

/* HDF5's oldest format has no checksums in its catalogue. */
static void test_old_format(void) {
  char *path = scratch_path("old.h5");
  H5Fclose(H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT));
  struct h5_file *file;
  CHECK_FAILS(ERR_INPUT, "oldest format", h5_open(&file, path, NULL, 0));
  CHECK(file == NULL);
  free(path);
}

/* A limit on file sizes fails writes as a full disk does, at any place: in the data, in the catalogue, at closing. */
static void test_full_disk(void) {
  char *path = scratch_path("full.h5");
  signal(SIGXFSZ, SIG_IGN);
  struct rlimit old;
  getrlimit(RLIMIT_FSIZE, &old);
  for (rlim_t size = 0; size < 170000; size += 4099) {
    struct rlimit tight = {size, old.rlim_max};
    setrlimit(RLIMIT_FSIZE, &tight);
    int status = write_sample(path);
    char message[ERROR_LINE];
    snprintf(message, sizeof message, "%s", fail_message());
    setrlimit(RLIMIT_FSIZE, &old);
    CHECK(status == OK || (status == ERR_SYSTEM && strstr(message, path) && strstr(message, "File too large")));
    CHECK((access(path, F_OK) == 0) == (status == OK));
    CHECK(scratch_count("full.h5") == (status == OK));
    if (status == OK) CHECK_OK(read_sample(path));
    unlink(path);
  }
  CHECK_OK(write_sample(path)); /* the library has survived */
  CHECK_FAILS(ERR_SYSTEM, "No such file", write_sample("/nowhere/at/all.h5"));
  CHECK_FAILS(ERR_SYSTEM, "Not a directory", write_sample("Makefile/all.h5"));
  free(path);
}

int main(void) {
  for (int i = 0; i < ROWS * COLS; i++) values[i] = (float)i / 7;
  scratch_make();
  test_round_trip();
  test_wrong_uses();
  test_damage();
  test_many();
  test_foreign_contents();
  test_old_format();
  test_full_disk();
  scratch_remove();
  return check_result();
}
