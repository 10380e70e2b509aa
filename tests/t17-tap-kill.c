/**
 * @file t17-tap-kill.c
 * A writer of taps that dies with a segment half written, at many places of it: what was sealed before is all there and
 * whole, the half is no segment and goes when the next writer comes, which then makes the very files that were missing. And one
 * that lives on where the disk was full: nothing is left of the segment.
 */
// RUN ranks=1 args=""
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "damage.h"
#include "tap_rows.h"

enum { SEGMENT = 10 }; /* rows: 40 tokens */

/* Writes a segment, then another of which no more than `most` bytes get into the file: the kernel ends the process within the
 * write, as SIGKILL would. */
static void die_writing(const char *folder, const struct tap_format *format, rlim_t most) {
  write_rows(folder, format, 0, SEGMENT, 100);
  setrlimit(RLIMIT_CORE, &(struct rlimit){0});
  setrlimit(RLIMIT_FSIZE, &(struct rlimit){.rlim_cur = most, .rlim_max = most});
  write_rows(folder, format, SEGMENT, 2 * SEGMENT, 100);
  _exit(0);
}

static void fork_and_die(const char *folder, const struct tap_format *format, rlim_t most) {
  int status = 0;
  pid_t child = fork();
  if (child == 0) die_writing(folder, format, most);
  CHECK(child > 0 && waitpid(child, &status, 0) == child);
  CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGXFSZ);
}

/* Files of the folder whose names contain the text; the last one in `path`. */
static int find_files(const char *folder, const char *text, char path[700]) {
  int count = 0;
  DIR *entries = opendir(folder);
  for (struct dirent *entry; (entry = readdir(entries));)
    if (strstr(entry->d_name, text) && ++count) snprintf(path, 700, "%s/%s", folder, entry->d_name);
  closedir(entries);
  return count;
}

static void check_rows(const char *folder, const struct tap_format *format, int64_t rows) {
  struct tap_reader *reader = NULL;
  CHECK_OK(tap_reader_open(&reader, folder, format, &data));
  CHECK_OK(tap_reader_scan(reader));
  CHECK(tap_reader_rows(reader) == rows);
  for (int64_t row = 0; row < rows; row++) check_row(reader, format, row);
  tap_reader_close(&reader);
}

static void check_same_files(const char *folder, const char *whole) {
  DIR *entries = opendir(whole);
  for (struct dirent *entry; (entry = readdir(entries));) {
    char a[700], b[700];
    snprintf(a, sizeof a, "%s/%s", whole, entry->d_name);
    snprintf(b, sizeof b, "%s/%s", folder, entry->d_name);
    if (entry->d_name[0] != '.') CHECK(same_bytes(a, b));
  }
  closedir(entries);
}

static void check_death(const char *folder, const char *whole, const struct tap_format *format, rlim_t most) {
  char path[700] = "";
  struct stat half = {0};
  fork_and_die(folder, format, most);
  CHECK(find_files(folder, ".tmp-", path) == 1 && stat(path, &half) == 0 && half.st_size <= (off_t)most);
  CHECK(find_files(folder, "", path) == 2 + 2);
  check_rows(folder, format, SEGMENT);
  write_rows(folder, format, SEGMENT, 2 * SEGMENT, 100);
  CHECK(find_files(folder, ".tmp-", path) == 0);
  check_rows(folder, format, 2 * SEGMENT);
  check_same_files(folder, whole);
  remove_folder(folder);
}

/* As SIGXFSZ, which the program ignores: a write that fails. */
static void check_full(const char *folder, const struct tap_format *format, rlim_t most) {
  struct rlimit all;
  struct tap_writer *writer = NULL;
  char path[700];
  write_rows(folder, format, 0, SEGMENT, 100);
  getrlimit(RLIMIT_FSIZE, &all);
  CHECK_OK(tap_writer_open(&writer, folder, format, 100));
  add_rows(writer, format, SEGMENT, 2 * SEGMENT);
  setrlimit(RLIMIT_FSIZE, &(struct rlimit){.rlim_cur = most, .rlim_max = all.rlim_max});
  CHECK_FAILS(ERR_SYSTEM, "File too large", tap_writer_seal(writer));
  setrlimit(RLIMIT_FSIZE, &all);
  tap_writer_close(&writer);
  CHECK(find_files(folder, "", path) == 1 + 2);
  check_rows(folder, format, SEGMENT);
  remove_folder(folder);
}

int main(void) {
  struct tap_format format = make_format(DTYPE_BF16, true);
  scratch_make();
  make_data();
  char *folder = scratch_path("store"), *whole = scratch_path("whole"), path[700] = "";
  write_rows(whole, &format, 0, SEGMENT, 100);
  write_rows(whole, &format, SEGMENT, 2 * SEGMENT, 100);
  struct stat segment = {0};
  CHECK(find_files(whole, "segment-", path) == 2 && stat(path, &segment) == 0);
  for (rlim_t most = 0; most < (rlim_t)segment.st_size; most += 977) check_death(folder, whole, &format, most);
  signal(SIGXFSZ, SIG_IGN);
  for (rlim_t most = 0; most < (rlim_t)segment.st_size; most += 977) check_full(folder, &format, most);
  remove_folder(whole);
  free(folder);
  free(whole);
  scratch_remove();
  return check_result();
}
