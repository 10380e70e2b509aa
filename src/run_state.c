#include "run_state.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "side_source.h"

/* ---- opening -------------------------------------------------------------------------------------------- */

static void copy_digest(char out[33], const char *digest) {
  strncpy(out, digest, 32);
  out[32] = 0;
}

int run_state_open(struct run_state *run, struct optimizer *optimizer, const struct options *options,
                   const char *backbone_digest, const char *data_digest) {
  const struct side_layout *layout = &optimizer->side->layout;
  *run = (struct run_state){.state = {.best_loss = INFINITY, .best_step = -1},
                            .folder = {.path = options->out, .keep = options->keep, .lock = -1},
                            .optimizer = optimizer,
                            .options = options};
  copy_digest(run->state.backbone, backbone_digest);
  copy_digest(run->state.data, data_digest);
  TRY(options_print(options, true, &run->state.settings));
  TRY(memory_array(&run->flat, 3 * layout->size, sizeof *run->flat));
  run->m = run->flat + layout->size;
  run->v = run->m + layout->size;
  TRY(memory_array(&run->views, (size_t)layout->count, sizeof *run->views));
  side_layout_views(layout, run->flat, run->m, run->v, run->views);
  return OK;
}

void run_state_close(struct run_state *run) {
  buffer_free(&run->state.settings);
  free(run->flat);
  free(run->views);
  if (run->options) run_folder_unlock(&run->folder);
  *run = (struct run_state){0};
}

/* ---- starting ------------------------------------------------------------------------------------------- */

/* From the staging to the device. */
static int upload(struct run_state *run) {
  struct side *side = run->optimizer->side;
  size_t bytes = side->layout.size * sizeof(float);
  TRY(side_upload(side, run->flat));
  TRY(device_upload(side->device, run->optimizer->m, run->m, bytes));
  return device_upload(side->device, run->optimizer->v, run->v, bytes);
}

/* The first line of `ours` that is not in `theirs`, into `line`; false when there is none. */
static bool differing_line(const char *ours, const char *theirs, char *line, size_t size) {
  while (*ours && *theirs) {
    size_t a = strcspn(ours, "\n"), b = strcspn(theirs, "\n");
    if (a != b || memcmp(ours, theirs, a) != 0) break;
    ours += a + (ours[a] != 0);
    theirs += b + (theirs[b] != 0);
  }
  if (!*ours && !*theirs) return false;
  snprintf(line, size, "it has \"%.*s\", the command says \"%.*s\"", (int)strcspn(theirs, "\n"), theirs,
           (int)strcspn(ours, "\n"), ours);
  return true;
}

static int check_same_run(const struct run_state *run, struct checkpoint *source, const char *path) {
  const struct checkpoint_state *stored = checkpoint_state(source);
  char difference[256];
  TRY(side_source_check_backbone(source, path, run->state.backbone));
  if (strcmp(stored->data, run->state.data) != 0)
    return fail(ERR_INPUT, "%s: was trained on other data than %s: give the same --data to resume", path,
                run->options->data);
  if (!differing_line(run->state.settings.data, stored->settings.size ? stored->settings.data : "", difference,
                      sizeof difference))
    return OK;
  return fail(ERR_INPUT,
              "%s: is of a run with other options: %s; to go on from it with new options start another run "
              "with --init",
              path, difference);
}

static int resume(struct run_state *run, int64_t step) {
  char *path;
  struct checkpoint *source = NULL;
  TRY(run_folder_checkpoint(&run->folder, step, &path));
  int status;
  TRY_GOTO(status, cleanup, checkpoint_open(&source, path));
  TRY_GOTO(status, cleanup, check_same_run(run, source, path));
  TRY_GOTO(status, cleanup, side_source_read(source, &run->optimizer->side->layout, run->flat, run->m, run->v));
  const struct checkpoint_state *stored = checkpoint_state(source);
  run->state.step = stored->step;
  run->state.best_loss = stored->best_loss;
  run->state.best_step = stored->best_step;
  TRY_GOTO(status, cleanup, upload(run));
cleanup:
  checkpoint_close(&source);
  free(path);
  return status;
}

static int initialize(struct run_state *run) {
  const struct side_layout *layout = &run->optimizer->side->layout;
  const char *from = run->options->init;
  if (!from) {
    side_layout_initialize(layout, (uint64_t)run->options->seed, run->flat);
    return upload(run);
  }
  struct checkpoint *source;
  TRY(checkpoint_open(&source, from));
  int status = side_source_check_backbone(source, from, run->state.backbone);
  if (status == OK) status = fail_at(side_source_read(source, layout, run->flat, NULL, NULL), "--init");
  if (status == OK) status = upload(run);
  checkpoint_close(&source);
  return status;
}

static int prepare_folder(struct run_state *run, int64_t *newest) {
  TRY(file_make_folder(run->folder.path));
  TRY(run_folder_lock(&run->folder));
  TRY(run_folder_clean(&run->folder));
  TRY(run_folder_newest(&run->folder, newest));
  if (*newest >= 0 && !run->options->resume)
    return fail(ERR_USAGE, "%s already holds a run, at step %lld: go on with --resume, or give another --out",
                run->folder.path, (long long)*newest);
  struct buffer text = {0};
  char *path = NULL;
  int status;
  TRY_GOTO(status, cleanup, options_print(run->options, false, &text));
  TRY_GOTO(status, cleanup, file_join(run->folder.path, "options", &path));
  TRY_GOTO(status, cleanup, file_write(path, text.data, text.size));
cleanup:
  free(path);
  buffer_free(&text);
  return status;
}

int run_state_start(struct run_state *run, struct comm *comm) {
  int64_t newest = -1;
  TRY(comm_agree(comm, comm->rank == 0 ? prepare_folder(run, &newest) : OK));
  TRY(comm_broadcast(comm, &newest, sizeof newest, 0));
  if (newest < 0) return comm_agree(comm, initialize(run));
  int status = resume(run, newest);
  /* A run that was killed between a checkpoint and its links left the old ones. */
  if (status == OK && comm->rank == 0) status = run_folder_link(&run->folder, &run->state);
  return comm_agree(comm, status);
}

/* ---- saving --------------------------------------------------------------------------------------------- */

int run_state_save(struct run_state *run, int64_t step) {
  const struct side *side = run->optimizer->side;
  size_t bytes = side->layout.size * sizeof(float);
  TRY(device_download(side->device, run->flat, side->master, bytes));
  TRY(device_download(side->device, run->m, run->optimizer->m, bytes));
  TRY(device_download(side->device, run->v, run->optimizer->v, bytes));
  run->state.step = step;
  return run_folder_save(&run->folder, &run->state, run->views, side->layout.count);
}
