/**
 * @file timed.h
 * How long collectives and messages take, without sending any: the model that goes with the null device. Each operation is
 * steps of a latency and bytes over a bandwidth (Hockney 1994); of the known algorithms the fastest is taken, as libraries do.
 */
#ifndef QST_COMM_TIMED_H
#define QST_COMM_TIMED_H

#include "kernels/null/hardware.h"

/** Ranks that reduce together: `per_node` of them on each node, each with its own share of the node's network. */
struct timed_group {
  int ranks, per_node;
  struct wire node, network;
};

/** Sum on all ranks of `bytes` each has; the fastest of
 *    one ring:              2 (n − 1) (α + b / n β)
 *    rings of rings:        sums shared out in the node, then a ring across nodes of each share, then gathered in the node
 *    rings, trees between:  the same with 2 log2(nodes) steps across nodes, 2 b / β there (Sanders, Speck, Träff 2009)
 *  with β and α of the slowest link a ring passes. */
double timed_sum(const struct timed_group *group, double bytes);
/** From one rank to all, in pieces down a tree. */
double timed_broadcast(const struct timed_group *group, double bytes);
/** What a rank sends in a sum: 2 (n − 1) / n of the bytes. */
double timed_sum_wire(const struct timed_group *group, double bytes);
/** A message to a neighbour. */
double timed_message(const struct wire *wire, double bytes);

#endif
