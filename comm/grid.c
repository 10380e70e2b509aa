#include "comm/grid.h"

#include "base/error.h"
#include "base/memory.h"

static int count_replicas(const struct comm *world, int stages, int *replicas) {
  if (stages < 1) return fail(ERR_INTERNAL, "a grid of %d stages", stages);
  *replicas = world->size / stages;
  if (*replicas * stages == world->size) return OK;
  struct buffer fitting = {0};
  int status = OK;
  for (int n = 1; n <= world->size && status == OK; n++)
    if (world->size % n == 0)
      status = buffer_print(&fitting, "%s%d", n == 1 ? "" : n == world->size ? " or " : ", ", n);
  if (status == OK)
    status = fail(ERR_USAGE, "--pipeline-stages %d: %d rank%s not divide into so many stages: take %s, or other ranks",
                  stages, world->size, world->size == 1 ? " does" : "s do", fitting.data);
  buffer_free(&fitting);
  return status;
}

int grid_rank(const struct grid *grid, enum placement placement, int stage, int replica) {
  return placement == PLACE_STAGES ? replica * grid->stages + stage : stage * grid->replicas + replica;
}

int grid_open(struct grid *grid, struct comm *world, int stages, enum placement placement) {
  *grid = (struct grid){.world = world, .stages = stages};
  TRY(count_replicas(world, stages, &grid->replicas));
  bool together = placement == PLACE_STAGES;
  grid->stage = together ? world->rank % stages : world->rank / grid->replicas;
  grid->replica = together ? world->rank / stages : world->rank % grid->replicas;
  int status = comm_split(world, grid->stage, grid->replica, &grid->stage_comm);
  if (status == OK) status = comm_split(world, grid->replica, grid->stage, &grid->replica_comm);
  if (status != OK) grid_close(grid);
  return status;
}

void grid_close(struct grid *grid) {
  comm_close(&grid->stage_comm);
  comm_close(&grid->replica_comm);
  *grid = (struct grid){0};
}
