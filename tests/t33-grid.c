/* Ranks in parts: every part has its own collectives and messages; the grid of stages and replicas in both placements. */
#include "check.h"
#include "comm/grid.h"

// RUN ranks=1,2,3,4

static int64_t sum_of_ranks(struct comm *comm, int64_t mine) {
  CHECK_OK(comm_sum_i64(comm, &mine, 1));
  return mine;
}

/* Even and odd ranks, in reverse order: the sums of both are under way at the same time. */
static void test_split(struct comm *world) {
  struct comm *part;
  CHECK_OK(comm_split(world, world->rank % 2, -world->rank, &part));
  if (!part) return;
  int64_t want = 0;
  for (int rank = world->rank % 2; rank < world->size; rank += 2) want += 1 << rank;
  CHECK(sum_of_ranks(part, 1 << world->rank) == want);
  CHECK(part->size == (world->size + (world->rank % 2 ? 0 : 1)) / 2);
  CHECK(part->rank == (world->size - 1 - world->rank) / 2);
  CHECK(part->timeout == world->timeout && part->local_size == part->size && part->local_rank == part->rank);
  CHECK(part->world_rank == world->rank);
  CHECK(strcmp(part->host, world->host) == 0);
  int64_t first = world->rank;
  CHECK_OK(comm_broadcast(part, &first, sizeof first, 0));
  CHECK(first == world->rank + 2 * part->rank);
  CHECK_OK(comm_barrier(part));
  comm_close(&part);
  CHECK(!part);
}

static void test_refusals(struct comm *world) {
  struct comm *part;
  struct grid grid;
  CHECK_FAILS(ERR_INTERNAL, "color", comm_split(world, -1, 0, &part));
  CHECK(!part);
  CHECK_FAILS(ERR_INTERNAL, "0 stages", grid_open(&grid, world, 0, PLACE_STAGES));
  CHECK_FAILS(ERR_USAGE,
              world->size == 1   ? "1 rank does not divide into so many stages: take 1, or other ranks"
              : world->size == 4 ? "take 1, 2 or 4, or other ranks"
                                 : "take 1 or ",
              grid_open(&grid, world, world->size + 1, PLACE_STAGES));
  grid_close(&grid);
}

static void test_grid(struct comm *world, int stages, enum placement placement) {
  struct grid grid;
  CHECK_OK(grid_open(&grid, world, stages, placement));
  CHECK(grid.stages == stages && grid.replicas == world->size / stages && grid.world == world);
  CHECK(grid_rank(&grid, placement, grid.stage, grid.replica) == world->rank);
  CHECK(grid.stage_comm->size == grid.replicas && grid.stage_comm->rank == grid.replica);
  CHECK(grid.replica_comm->size == grid.stages && grid.replica_comm->rank == grid.stage);
  CHECK(sum_of_ranks(grid.replica_comm, grid.stage) == stages * (stages - 1) / 2);
  CHECK(sum_of_ranks(grid.replica_comm, grid.replica) == (int64_t)grid.replica * stages);
  CHECK(sum_of_ranks(grid.stage_comm, grid.stage) == (int64_t)grid.stage * grid.replicas);
  int neighbour = grid_rank(&grid, placement, grid.stage, (grid.replica + 1) % grid.replicas);
  if (placement == PLACE_REPLICAS && grid.replica + 1 < grid.replicas) CHECK(neighbour == world->rank + 1);
  neighbour = grid_rank(&grid, placement, (grid.stage + 1) % stages, grid.replica);
  if (placement == PLACE_STAGES && grid.stage + 1 < stages) CHECK(neighbour == world->rank + 1);
  grid_close(&grid);
  CHECK(!grid.stage_comm && !grid.replica_comm);
}

int main(void) {
  struct comm *world;
  CHECK_OK(comm_open(&world));
  if (!world) return 1;
  world->timeout = 30;
  test_split(world);
  test_refusals(world);
  for (int stages = 1; stages <= world->size; stages++)
    for (int placement = PLACE_STAGES; placement <= PLACE_REPLICAS; placement++)
      if (world->size % stages == 0) test_grid(world, stages, (enum placement)placement);
  comm_close(&world);
  return check_result();
}
