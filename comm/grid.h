/**
 * @file grid.h
 * The ranks as a grid of data parallel × pipeline parallel: every replica is a pipeline of `stages` ranks, and the ranks of
 * one stage hold the same layers.
 */
#ifndef QST_COMM_GRID_H
#define QST_COMM_GRID_H

#include "comm/comm.h"

/** Which ranks are neighbours, and so likely share a node. */
enum placement {
  PLACE_STAGES,  /**< the stages of a replica: rank = replica · stages + stage */
  PLACE_REPLICAS /**< the replicas of a stage: rank = stage · replicas + replica */
};

struct grid {
  int stages, replicas;
  int stage, replica;        /**< this rank's place */
  struct comm *world;        /**< borrowed */
  struct comm *stage_comm;   /**< the ranks of this stage, by replica: data parallel */
  struct comm *replica_comm; /**< the ranks of this replica, by stage: the pipeline */
};

/** ERR_USAGE when the ranks do not divide into the stages, naming numbers that do. Collective. */
int grid_open(struct grid *grid, struct comm *world, int stages, enum placement placement);
void grid_close(struct grid *grid);

/** World rank of a place. */
int grid_rank(const struct grid *grid, enum placement placement, int stage, int replica);

#endif
