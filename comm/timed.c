#include "comm/timed.h"

#include <math.h>

static double smaller(double a, double b) {
  return a < b ? a : b;
}

static int nodes_of(const struct timed_group *group) {
  return (group->ranks + group->per_node - 1) / group->per_node;
}

/* Reduce-scatter around a ring: n − 1 steps of a share. */
static double half_ring(int ranks, const struct wire *wire, double bytes) {
  return ranks < 2 ? 0 : (ranks - 1) * (wire->latency + bytes / ranks / wire->bandwidth);
}

/* A ring through all ranks leaves each node once: its bytes share the network of all the node's ranks. */
static struct wire slowest(const struct timed_group *group) {
  if (nodes_of(group) < 2) return group->node;
  double network = group->network.bandwidth * group->per_node;
  bool by_node = group->per_node > 1 && group->node.bandwidth < network;
  return (struct wire){.bandwidth = by_node ? group->node.bandwidth : network,
                       .latency = fmax(group->per_node > 1 ? group->node.latency : 0, group->network.latency)};
}

/* Inside the node, then `across` of each rank's share, then inside the node again. */
static double two_levels(const struct timed_group *group, double bytes, double across) {
  return 2 * half_ring(group->per_node, &group->node, bytes) + across;
}

double timed_sum(const struct timed_group *group, double bytes) {
  if (group->ranks < 2 || bytes <= 0) return 0;
  struct wire link = slowest(group);
  int nodes = nodes_of(group);
  double best = 2 * half_ring(group->ranks, &link, bytes);
  if (nodes < 2) return best;
  double share = bytes / group->per_node;
  best = smaller(best, two_levels(group, bytes, 2 * half_ring(nodes, &group->network, share)));
  double tree = 2 * (ceil(log2(nodes)) * group->network.latency + share / group->network.bandwidth);
  return smaller(best, two_levels(group, bytes, tree));
}

double timed_broadcast(const struct timed_group *group, double bytes) {
  if (group->ranks < 2 || bytes <= 0) return 0;
  struct wire link = slowest(group);
  return ceil(log2(group->ranks)) * link.latency + bytes / link.bandwidth;
}

double timed_sum_wire(const struct timed_group *group, double bytes) {
  return group->ranks < 2 ? 0 : 2.0 * (group->ranks - 1) / group->ranks * bytes;
}

double timed_message(const struct wire *wire, double bytes) {
  return wire->latency + bytes / wire->bandwidth;
}
