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

/* Where a stage's numbers lie in the buffers of all of them. */
static struct side_buffers part_of(const struct side_buffers *all, size_t begin, size_t size) {
  size_t at = begin - all->begin;
  return (struct side_buffers){
      .flat = all->flat + at, .m = all->m + at, .v = all->v + at, .begin = begin, .size = size};
}

static int open_staging(struct run_state *run) {
  const struct side *side = run->optimizer->side;
  bool whole = run->grid->world->rank == 0;
  run->all.begin = whole ? 0 : side->begin;
  run->all.size = whole ? side->layout.size : side->size;
  TRY(memory_array(&run->all.flat, 3 * run->all.size, sizeof *run->all.flat));
  run->all.m = run->all.flat + run->all.size;
  run->all.v = run->all.m + run->all.size;
  run->own = part_of(&run->all, side->begin, side->size);
  run->all.frozen = run->own.frozen = side->frozen;
  TRY(memory_array(&run->views, (size_t)side_tensor_count(&side->layout), sizeof *run->views));
  side_layout_views(&side->layout, &run->all, run->views);
  return OK;
}

int run_state_open(struct run_state *run, struct optimizer *optimizer, const struct options *options,
                   const struct grid *grid, const char *backbone_digest, const char *data_digest) {
  *run = (struct run_state){.state = {.best_loss = INFINITY, .best_step = -1},
                            .folder = {.path = options->out, .keep = options->keep, .lock = -1},
                            .optimizer = optimizer,
                            .options = options,
                            .grid = grid};
  copy_digest(run->state.backbone, backbone_digest);
  copy_digest(run->state.data, data_digest);
  TRY(options_print(options, true, &run->state.settings));
  return open_staging(run);
}

void run_state_close(struct run_state *run) {
  buffer_free(&run->state.settings);
  free(run->all.flat);
  free(run->views);
  if (run->options) run_folder_unlock(&run->folder);
  *run = (struct run_state){0};
}

/* ---- starting ------------------------------------------------------------------------------------------- */

/* From the staging to the device. */
static int upload(struct run_state *run) {
  TRY(side_upload(run->optimizer->side, run->own.flat));
  return optimizer_upload(run->optimizer, run->own.m, run->own.v);
}

/* "key = value" lines of these sizes: the same, or the same number written otherwise. */
static bool same_line(const char *ours, size_t a, const char *theirs, size_t b) {
  if (a == b && memcmp(ours, theirs, a) == 0) return true;
  const char *value = memchr(ours, '=', a);
  size_t key = value ? (size_t)(value + 1 - ours) : a;
  char *end, *their_end;
  if (!value || b <= key || memcmp(ours, theirs, key) != 0) return false;
  return strtod(ours + key, &end) == strtod(theirs + key, &their_end) && end == ours + a && their_end == theirs + b;
}

/* The first line of `ours` that is not in `theirs`, into `line`; false when there is none. */
static bool differing_line(const char *ours, const char *theirs, char *line, size_t size) {
  while (*ours && *theirs) {
    size_t a = strcspn(ours, "\n"), b = strcspn(theirs, "\n");
    if (!same_line(ours, a, theirs, b)) break;
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
  TRY_GOTO(status, cleanup, side_source_read(source, &run->optimizer->side->layout, &run->own));
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
  run->fresh = !from;
  if (!from) {
    side_layout_initialize(layout, (uint64_t)run->options->seed, &run->own);
    return upload(run);
  }
  struct checkpoint *source;
  TRY(checkpoint_open(&source, from));
  int status = side_source_check_backbone(source, from, run->state.backbone);
  struct side_buffers parameters = {
      .flat = run->own.flat, .frozen = run->own.frozen, .begin = run->own.begin, .size = run->own.size};
  if (status == OK) status = fail_at(side_source_read(source, layout, &parameters), "--init");
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
  return OK;
}

/* Those that the run goes on with; ones that it refuses leave no trace. */
static int write_options(const struct run_state *run) {
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

int run_state_start(struct run_state *run) {
  struct comm *comm = run->grid->world;
  int64_t newest = -1;
  TRY(comm_agree(comm, comm->rank == 0 ? prepare_folder(run, &newest) : OK));
  TRY(comm_broadcast(comm, &newest, sizeof newest, 0));
  int status = newest < 0 ? initialize(run) : resume(run, newest);
  if (status == OK && comm->rank == 0) status = write_options(run);
  /* A run that was killed between a checkpoint and its links left the old ones. */
  if (status == OK && comm->rank == 0 && newest >= 0) status = run_folder_link(&run->folder, &run->state);
  return comm_agree(comm, status);
}

/* ---- saving --------------------------------------------------------------------------------------------- */

static int download(struct run_state *run) {
  const struct side *side = run->optimizer->side;
  TRY(device_download(side->device, run->own.flat, side->master, side->size * sizeof(float)));
  return optimizer_download(run->optimizer, run->own.m, run->own.v);
}

/* The moments of a sharded optimizer come to the stage's first replica. */
static int gather_moments(struct run_state *run) {
  const struct optimizer *optimizer = run->optimizer;
  struct comm *stage = run->grid->stage_comm;
  for (int part = 0; part < side_parts(optimizer->side); part++) {
    int64_t begin, end;
    int owner = optimizer_owner(optimizer, part);
    side_part(optimizer->side, part, &begin, &end);
    struct side_buffers at = part_of(&run->own, (size_t)begin, (size_t)(end - begin));
    size_t bytes = at.size * sizeof(float);
    if (owner == 0) continue;
    if (stage->rank == owner) {
      TRY(comm_send(stage, at.m, bytes, 0));
      TRY(comm_send(stage, at.v, bytes, 0));
    } else if (stage->rank == 0) {
      TRY(comm_receive(stage, at.m, bytes, owner));
      TRY(comm_receive(stage, at.v, bytes, owner));
    }
  }
  return OK;
}

static int send_part(struct comm *replica, const struct side_buffers *own) {
  uint64_t place[2] = {own->begin, own->size};
  size_t bytes = own->size * sizeof(float);
  TRY(comm_send(replica, place, sizeof place, 0));
  TRY(comm_send(replica, own->flat, bytes, 0));
  TRY(comm_send(replica, own->m, bytes, 0));
  return comm_send(replica, own->v, bytes, 0);
}

static int receive_part(struct comm *replica, int stage, const struct side_buffers *all) {
  uint64_t place[2];
  TRY(comm_receive(replica, place, sizeof place, stage));
  struct side_buffers part = part_of(all, (size_t)place[0], (size_t)place[1]);
  size_t bytes = part.size * sizeof(float);
  TRY(comm_receive(replica, part.flat, bytes, stage));
  TRY(comm_receive(replica, part.m, bytes, stage));
  return comm_receive(replica, part.v, bytes, stage);
}

/* Of the first replica, whose first stage is rank 0. */
static int gather(struct run_state *run) {
  struct comm *replica = run->grid->replica_comm;
  if (run->grid->replica > 0) return OK;
  if (run->grid->stage > 0) return send_part(replica, &run->own);
  for (int stage = 1; stage < run->grid->stages; stage++) TRY(receive_part(replica, stage, &run->all));
  return OK;
}

int run_state_save(struct run_state *run, int64_t step) {
  struct comm *comm = run->grid->world;
  TRY(comm_agree(comm, download(run)));
  TRY(gather_moments(run));
  TRY(gather(run));
  run->state.step = step;
  return comm_agree(comm, comm->rank > 0 ? OK
                                         : run_folder_save(&run->folder, &run->state, run->views,
                                                           side_tensor_count(&run->optimizer->side->layout)));
}
