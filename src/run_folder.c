#include "run_folder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"

/* ---- names ---------------------------------------------------------------------------------------------- */

enum { NAME_SIZE = 32 };

static void checkpoint_name(int64_t step, char name[NAME_SIZE]) {
  snprintf(name, NAME_SIZE, "step-%06lld.h5", (long long)step);
}

/* The step of a checkpoint's name, or -1 for any other name. */
static int64_t step_of(const char *name) {
  long long step;
  char again[NAME_SIZE];
  if (sscanf(name, "step-%lld.h5", &step) != 1 || step < 0) return -1;
  checkpoint_name(step, again);
  return strcmp(again, name) == 0 ? step : -1;
}

int run_folder_checkpoint(const struct run_folder *run, int64_t step, char **out) {
  char name[NAME_SIZE];
  checkpoint_name(step, name);
  return file_join(run->path, name, out);
}

/* ---- the lock ------------------------------------------------------------------------------------------- */

int run_folder_lock(struct run_folder *run) {
  char *path;
  TRY(file_join(run->path, "lock", &path));
  run->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  int status = run->lock < 0 ? fail(ERR_SYSTEM, "%s: %s", path, strerror(errno)) : OK;
  if (status == OK && flock(run->lock, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK)
    status = fail(ERR_USAGE, "%s: another process is training in this folder: wait for it, or give another --out",
                  run->path);
  free(path);
  return status;
}

void run_folder_unlock(struct run_folder *run) {
  if (run->lock >= 0) close(run->lock);
  run->lock = -1;
}

/* ---- listing -------------------------------------------------------------------------------------------- */

struct steps {
  int64_t *values;
  size_t count;
};

static int descending(const void *left, const void *right) {
  int64_t a = *(const int64_t *)left, b = *(const int64_t *)right;
  return a > b ? -1 : a < b;
}

static int each_name(const char *path, int (*visit)(void *context, const char *name), void *context) {
  DIR *folder = opendir(path);
  if (!folder) return fail(ERR_SYSTEM, "%s: %s", path, strerror(errno));
  int status = OK;
  for (struct dirent *entry; status == OK && (entry = readdir(folder));) status = visit(context, entry->d_name);
  closedir(folder);
  return status;
}

static int note_step(void *context, const char *name) {
  struct steps *steps = context;
  int64_t step = step_of(name);
  if (step < 0) return OK;
  int64_t *longer = realloc(steps->values, (steps->count + 1) * sizeof *longer);
  if (!longer) return fail(ERR_MEMORY, "not enough memory to list checkpoints");
  steps->values = longer;
  steps->values[steps->count++] = step;
  return OK;
}

/* Steps of all checkpoints, newest first; values is to be freed. */
static int list_steps(const struct run_folder *run, struct steps *steps) {
  *steps = (struct steps){0};
  TRY(each_name(run->path, note_step, steps));
  if (steps->count) qsort(steps->values, steps->count, sizeof *steps->values, descending);
  return OK;
}

static bool checkpoint_is_whole(const struct run_folder *run, int64_t step, bool warns) {
  char *path;
  if (run_folder_checkpoint(run, step, &path) != OK) return false;
  int status = checkpoint_verify(path);
  if (status != OK && warns) log_warning("passed over a damaged checkpoint: %s", fail_message());
  free(path);
  return status == OK;
}

static int find_newest(const struct run_folder *run, int64_t *step, bool warns) {
  *step = -1;
  struct stat info;
  if (stat(run->path, &info) != 0 && errno == ENOENT) return OK;
  struct steps steps;
  int status = list_steps(run, &steps);
  for (size_t i = 0; status == OK && i < steps.count && *step < 0; i++)
    if (checkpoint_is_whole(run, steps.values[i], warns)) *step = steps.values[i];
  free(steps.values);
  return status;
}

int run_folder_newest(const struct run_folder *run, int64_t *step) {
  return find_newest(run, step, true);
}

int run_folder_settings(const struct run_folder *run, struct buffer *out) {
  int64_t step;
  char *path;
  struct checkpoint *source;
  TRY(find_newest(run, &step, false));
  if (step < 0) return OK;
  TRY(run_folder_checkpoint(run, step, &path));
  int status = checkpoint_open(&source, path);
  free(path);
  TRY(status);
  status = buffer_append(out, checkpoint_state(source)->settings.data, checkpoint_state(source)->settings.size);
  checkpoint_close(&source);
  return status;
}

/* ---- saving --------------------------------------------------------------------------------------------- */

static bool has_checkpoint(const struct run_folder *run, int64_t step) {
  char *path;
  if (step < 0 || run_folder_checkpoint(run, step, &path) != OK) return false;
  bool has = access(path, F_OK) == 0;
  free(path);
  return has;
}

/* Turns RUN/<link> to the checkpoint of `step`, in one go: readers find the old one or the new one. */
static int turn_link(const struct run_folder *run, const char *link, int64_t step) {
  if (!has_checkpoint(run, step)) return OK;
  char target[NAME_SIZE], *path = NULL, *temporary = NULL;
  checkpoint_name(step, target);
  int status;
  TRY_GOTO(status, cleanup, file_join(run->path, link, &path));
  TRY_GOTO(status, cleanup, file_temporary(path, &temporary));
  unlink(temporary);
  if (symlink(target, temporary) != 0 || rename(temporary, path) != 0)
    status = fail(ERR_SYSTEM, "%s: %s", path, strerror(errno));
cleanup:
  free(path);
  free(temporary);
  return status;
}

static void remove_checkpoint(const struct run_folder *run, int64_t step) {
  char *path;
  if (run_folder_checkpoint(run, step, &path) != OK) return;
  if (unlink(path) != 0) log_warning("%s: %s", path, strerror(errno));
  free(path);
}

/* A damaged checkpoint of a later step, which a run that goes on has passed over, counts as newer. */
static int remove_old(const struct run_folder *run, const struct checkpoint_state *state) {
  struct steps steps;
  int status = list_steps(run, &steps);
  for (size_t i = (size_t)run->keep; status == OK && i < steps.count; i++)
    if (steps.values[i] != state->best_step && steps.values[i] != state->step) remove_checkpoint(run, steps.values[i]);
  free(steps.values);
  return status;
}

int run_folder_link(const struct run_folder *run, const struct checkpoint_state *state) {
  TRY(turn_link(run, "latest", state->step));
  return turn_link(run, "best", state->best_step);
}

int run_folder_save(const struct run_folder *run, const struct checkpoint_state *state,
                    const struct named_tensor *tensors, int count) {
  char *path;
  TRY(run_folder_checkpoint(run, state->step, &path));
  int status = checkpoint_write(path, state, tensors, count);
  free(path);
  TRY(status);
  TRY(run_folder_link(run, state));
  return remove_old(run, state);
}

static int remove_temporary(void *context, const char *name) {
  const struct run_folder *run = context;
  if (!strstr(name, ".tmp-")) return OK;
  char *path;
  TRY(file_join(run->path, name, &path));
  unlink(path);
  free(path);
  return OK;
}

int run_folder_clean(const struct run_folder *run) {
  struct run_folder copy = *run;
  return each_name(run->path, remove_temporary, &copy);
}
