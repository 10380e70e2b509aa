#include "trace.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/memory.h"

static const double at_once = 1e-4; /* seconds */

int trace_open(struct trace *trace, struct comm *comm, int64_t capacity) {
  *trace = (struct trace){.capacity = capacity};
  TRY(comm_agree(comm, memory_array(&trace->events, (size_t)capacity, sizeof *trace->events)));
  TRY(comm_barrier(comm));
  trace->start = clock_seconds();
  return OK;
}

void trace_close(struct trace *trace) {
  free(trace->events);
  *trace = (struct trace){0};
}

void trace_add(struct trace *trace, enum lane lane, const char *name, int64_t index, double begin, double end) {
  if (!trace) return;
  for (int64_t i = trace->count - 1; i >= 0 && i >= trace->count - 2; i--) {
    struct trace_event *last = &trace->events[i];
    if (last->lane == lane && last->name == name && last->index == index && begin - last->end < at_once) {
      last->end = end;
      return;
    }
  }
  if (trace->count == trace->capacity) return;
  trace->events[trace->count++] =
      (struct trace_event){.name = name, .lane = lane, .index = index, .begin = begin, .end = end};
}

/* ---- the file ------------------------------------------------------------------------------------------- */

static int print_row(struct buffer *text, int rank, enum lane lane, const char *name) {
  return buffer_print(text,
                      "{\"ph\":\"M\",\"name\":\"thread_name\",\"pid\":%d,\"tid\":%d,\"args\":{\"name\":\"%s\"}},\n",
                      rank, (int)lane, name);
}

static int print_rank(const struct trace *trace, const struct comm *comm, struct buffer *text) {
  TRY(buffer_print(text, "{\"ph\":\"M\",\"name\":\"process_name\",\"pid\":%d,\"args\":{\"name\":\"rank %d on %s\"}},\n",
                   comm->rank, comm->rank, comm->host));
  TRY(print_row(text, comm->rank, LANE_BACKBONE, "backbone lane"));
  TRY(print_row(text, comm->rank, LANE_SIDE, "side lane"));
  for (int64_t i = 0; i < trace->count; i++) {
    const struct trace_event *event = &trace->events[i];
    TRY(buffer_print(
        text,
        "{\"ph\":\"X\",\"name\":\"%s\",\"pid\":%d,\"tid\":%d,\"ts\":%.3f,\"dur\":%.3f,\"args\":{\"index\":%lld}},\n",
        event->name, comm->rank, (int)event->lane, 1e6 * (event->begin - trace->start),
        1e6 * (event->end - event->begin), (long long)event->index));
  }
  return OK;
}

static int receive_text(struct comm *comm, int from, struct buffer *text) {
  int64_t size;
  char *part;
  TRY(comm_receive(comm, &size, sizeof size, from));
  TRY(memory_array(&part, (size_t)size + 1, 1));
  int status = comm_receive(comm, part, (size_t)size, from);
  if (status == OK) status = buffer_append(text, part, (size_t)size);
  free(part);
  return status;
}

static int send_text(struct comm *comm, const struct buffer *text) {
  int64_t size = (int64_t)text->size;
  TRY(comm_send(comm, &size, sizeof size, 0));
  return comm_send(comm, text->data, text->size, 0);
}

static int gather(struct comm *comm, struct buffer *text) {
  if (comm->rank > 0) return send_text(comm, text);
  for (int rank = 1; rank < comm->size; rank++) TRY(receive_text(comm, rank, text));
  return OK;
}

/* The array ends with an event of no duration, which needs no comma. */
static int write_text(struct buffer *text, const char *path) {
  static const char end[] = "{\"ph\":\"i\",\"name\":\"end\",\"pid\":0,\"tid\":0,\"ts\":0,\"s\":\"g\"}\n]\n";
  TRY(buffer_append(text, end, sizeof end - 1));
  return file_write(path, text->data, text->size);
}

int trace_write(const struct trace *trace, struct comm *comm, const char *path) {
  struct buffer text = {0};
  int status = comm->rank == 0 ? buffer_append(&text, "[\n", 2) : OK;
  if (status == OK) status = print_rank(trace, comm, &text);
  status = comm_agree(comm, status);
  if (status == OK) status = gather(comm, &text);
  status = comm_agree(comm, status == OK && comm->rank == 0 ? write_text(&text, path) : status);
  buffer_free(&text);
  return status;
}
