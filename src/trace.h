/**
 * @file trace.h
 * A timeline of tasks: who did what when. Rank 0 writes one file for all ranks, in the trace event format that chrome://tracing
 * and ui.perfetto.dev read ("Trace Event Format", complete events): a process for each rank, a row for each lane.
 */
#ifndef QST_TRACE_H
#define QST_TRACE_H

#include "comm/comm.h"
#include "kernels/device.h"

struct trace_event {
  const char *name; /**< static text: "taps", "forward", … */
  enum lane lane;
  int64_t index;     /**< of the micro-batch or step */
  double begin, end; /**< seconds of clock_seconds() */
};

/** Events of this rank; the first `capacity` are kept. */
struct trace {
  struct trace_event *events;
  int64_t count, capacity;
  double start; /**< clock_seconds() when all ranks were together */
};

/** Collective: the ranks' clocks are lined up here. */
int trace_open(struct trace *trace, struct comm *comm, int64_t capacity);
void trace_close(struct trace *trace);

/** NULL-safe. A part that follows at once on one of the same name and index makes that longer. */
void trace_add(struct trace *trace, enum lane lane, const char *name, int64_t index, double begin, double end);

/** Writes all ranks' events to `path` from rank 0. Collective. */
int trace_write(const struct trace *trace, struct comm *comm, const char *path);

#endif
