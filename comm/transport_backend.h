/**
 * @file transport_backend.h
 * What a transport is made of. transport.c checks the arguments and dispatches; every slot is required.
 */
#ifndef QST_COMM_TRANSPORT_BACKEND_H
#define QST_COMM_TRANSPORT_BACKEND_H

#include "comm/transport.h"

struct transport_operations {
  const char *name;
  const char *(*version)(void);    /**< of a library of its own; "": there is none */
  int (*open)(struct transport *); /**< fills in `state` */
  void (*close)(struct transport *);
  int (*sum)(struct transport *, void *values, size_t count, enum element);
  int (*reduce_scatter)(struct transport *, void *part, const void *values, size_t part_count, enum element);
  int (*all_gather)(struct transport *, void *all, const void *part, size_t part_count, enum element);
  int (*broadcast)(struct transport *, void *values, size_t count, enum element, int root);
  int (*ready)(struct transport *, bool *ready);
  int (*wait)(struct transport *);
  int (*channel_open)(struct channel *); /**< fills in `state` */
  void (*channel_close)(struct channel *);
  int (*channel_start)(struct channel *, int slot, void *buffer, size_t bytes);
  int (*channel_ready)(struct channel *, int slot, bool *ready); /**< of a slot that was started */
  int (*channel_wait)(struct channel *, int slot);               /**< likewise */
};

struct transport {
  const struct transport_operations *operations;
  struct comm *comm;
  struct device *device;
  void *state; /**< the backend's own */
};

struct channel {
  const struct transport_operations *operations;
  struct comm *comm;
  struct device *device;
  enum channel_end end;
  int peer, tag;
  int slots, next; /**< next: the slot whose turn it is */
  bool *started;   /**< [slots] */
  void *state;     /**< the backend's own */
};

extern const struct transport_operations transport_mpi, transport_nccl;

#endif
