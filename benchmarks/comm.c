/* bench-comm: how fast device buffers go from rank to rank (comm/transport.h), in the manner of NVIDIA's nccl-tests. Run it
 * under mpirun or srun. Every result is verified after its timing. See usage below.
 *
 * Bandwidths are those of nccl-tests' PERFORMANCE.md, for S bytes, n ranks and t seconds: algorithm S / t; bus, which can be
 * compared with what a link carries whatever n is, S / t · 2 (n − 1) / n for all-reduce, S / t · (n − 1) / n for
 * reduce-scatter and all-gather, S / t for send-receive. S is the whole array: n parts for the second two. */
#include <inttypes.h>
#include <jansson.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/types.h"
#include "comm/transport.h"

enum { MOST_RUNS = 1000 };

struct settings {
  const char *device, *search, *json;
  int64_t smallest, largest, factor, warm_up, runs;
};

struct bench {
  struct settings settings;
  struct comm *comm;
  struct device *device;
  struct transport *transport;
  struct channel *send, *receive; /**< to the next rank and from the one before; NULL with one rank */
  void *in, *out;                 /**< device [settings.largest] each */
  void *host;                     /**< [settings.largest] */
  json_t *rows;
  int64_t passed, failed;
};

/* ---- options -------------------------------------------------------------------------------------------- */

static const char usage[] =
    "bench-comm [--device cpu] [--smallest BYTES (8)] [--largest BYTES (16777216)] [--factor N (4)]\n"
    "           [--warm-up N (3)] [--runs N (20)] [--search OPERATION] [--json FILE]\n"
    "Ranks are what mpirun or srun starts. A JSON file that exists is not overwritten.\n";

static int read_number(int64_t *out, const char *name, const char *text) {
  char *end;
  long long value = strtoll(text, &end, 10);
  if (*end || value < 1 || value > (long long)1 << 34)
    return fail(ERR_USAGE, "%s %s: give a whole number from 1", name, text);
  *out = value;
  return OK;
}

static int read_option(struct settings *s, const char *name, const char *value) {
  const struct {
    const char *name;
    int64_t *number;
    const char **text;
  } options[] = {
      {"--device", NULL, &s->device},     {"--search", NULL, &s->search},   {"--json", NULL, &s->json},
      {"--smallest", &s->smallest, NULL}, {"--largest", &s->largest, NULL}, {"--factor", &s->factor, NULL},
      {"--warm-up", &s->warm_up, NULL},   {"--runs", &s->runs, NULL},
  };
  for (size_t i = 0; i < sizeof options / sizeof *options; i++) {
    if (strcmp(name, options[i].name) != 0) continue;
    if (options[i].number) return read_number(options[i].number, name, value);
    *options[i].text = value;
    return OK;
  }
  return fail(ERR_USAGE, "unknown option %s; see --help", name);
}

static int read_settings(struct settings *s, int count, char **words) {
  for (int i = 1; i < count; i += 2) {
    if (i + 1 == count) return fail(ERR_USAGE, "%s needs a value", words[i]);
    TRY(read_option(s, words[i], words[i + 1]));
  }
  if (s->factor < 2) return fail(ERR_USAGE, "--factor must be 2 or more");
  if (s->runs > MOST_RUNS) return fail(ERR_USAGE, "--runs must be %d or less", MOST_RUNS);
  if (s->smallest > s->largest) return fail(ERR_USAGE, "--smallest must not be above --largest");
  return OK;
}

/* ---- numbers -------------------------------------------------------------------------------------------- */

/* −1, 0 or 1 in turn over elements and ranks: whatever ranks are summed first, bf16 holds the sum exactly. */
static int value_of(int rank, size_t i) {
  return (int)((i + (size_t)rank) % 3) - 1;
}

static int sum_of(int ranks, size_t i) {
  int sum = 0;
  for (int rank = 0; rank < ranks % 3; rank++) sum += value_of(rank, i); /* three in a row are 0 together */
  return sum;
}

static void put(void *values, size_t i, enum element element, int value) {
  switch (element) {
    case ELEMENT_I64:
      ((int64_t *)values)[i] = value;
      break;
    case ELEMENT_F32:
      ((float *)values)[i] = (float)value;
      break;
    case ELEMENT_BF16:
      ((bf16 *)values)[i] = float_to_bf16((float)value);
      break;
    case ELEMENT_BYTE:
      ((int8_t *)values)[i] = (int8_t)value;
      break;
  }
}

static double get(const void *values, size_t i, enum element element) {
  switch (element) {
    case ELEMENT_I64:
      return (double)((const int64_t *)values)[i];
    case ELEMENT_F32:
      return (double)((const float *)values)[i];
    case ELEMENT_BF16:
      return (double)bf16_to_float(((const bf16 *)values)[i]);
    case ELEMENT_BYTE:
      break;
  }
  return ((const int8_t *)values)[i];
}

/* ---- operations ----------------------------------------------------------------------------------------- */

/** One row of the table: `count` elements in all, a whole number of parts. */
struct job {
  const struct operation *operation;
  enum element element;
  size_t count, part;
};

struct operation {
  const char *name;
  bool sums, splits;                              /**< over ranks; into a part a rank */
  int (*run)(struct bench *, const struct job *); /**< from bench->in to bench->out */
  int (*expected)(const struct bench *, const struct job *, size_t i);
  double (*bus)(double ranks); /**< bus bandwidth by algorithm bandwidth */
};

static int run_all_reduce(struct bench *bench, const struct job *job) {
  TRY(transport_sum(bench->transport, bench->out, job->count, job->element));
  return transport_wait(bench->transport);
}

static int run_reduce_scatter(struct bench *bench, const struct job *job) {
  TRY(transport_reduce_scatter(bench->transport, bench->out, bench->in, job->part, job->element));
  return transport_wait(bench->transport);
}

static int run_all_gather(struct bench *bench, const struct job *job) {
  TRY(transport_all_gather(bench->transport, bench->out, bench->in, job->part, job->element));
  return transport_wait(bench->transport);
}

static int run_send_receive(struct bench *bench, const struct job *job) {
  size_t bytes = job->count * element_size(job->element);
  TRY(channel_start(bench->receive, 0, bench->out, bytes));
  TRY(channel_start(bench->send, 0, bench->in, bytes));
  TRY(channel_wait(bench->receive, 0));
  return channel_wait(bench->send, 0);
}

static int expect_sum(const struct bench *bench, const struct job *job, size_t i) {
  size_t first = job->operation->splits ? (size_t)bench->comm->rank * job->part : 0;
  return sum_of(bench->comm->size, first + i);
}

static int expect_gathered(const struct bench *bench, const struct job *job, size_t i) {
  (void)bench;
  return value_of((int)(i / job->part), i % job->part);
}

static int expect_received(const struct bench *bench, const struct job *job, size_t i) {
  (void)job;
  return value_of((bench->comm->rank + bench->comm->size - 1) % bench->comm->size, i);
}

static double bus_all_reduce(double ranks) {
  return 2 * (ranks - 1) / ranks;
}

static double bus_part(double ranks) {
  return (ranks - 1) / ranks;
}

static double bus_whole(double ranks) {
  (void)ranks;
  return 1;
}

static const struct operation operations[] = {
    {"all-reduce", true, false, run_all_reduce, expect_sum, bus_all_reduce},
    {"reduce-scatter", true, true, run_reduce_scatter, expect_sum, bus_part},
    {"all-gather", false, true, run_all_gather, expect_gathered, bus_part},
    {"send-receive", false, false, run_send_receive, expect_received, bus_whole},
};

static const char *const element_names[] = {
    [ELEMENT_I64] = "i64", [ELEMENT_F32] = "f32", [ELEMENT_BF16] = "bf16", [ELEMENT_BYTE] = "byte"};

/* ---- measuring ------------------------------------------------------------------------------------------ */

static int by_size(const void *a, const void *b) {
  int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
  return (x > y) - (x < y);
}

struct timing {
  double p50, p95; /**< seconds of the slowest rank */
};

/* On zeros, which repeated sums leave as they are. */
static int measure(struct bench *bench, const struct job *job, struct timing *out) {
  int64_t nanoseconds[MOST_RUNS];
  size_t bytes = job->count * element_size(job->element);
  int runs = (int)bench->settings.runs;
  TRY(device_zero(bench->device, bench->in, bytes));
  TRY(device_zero(bench->device, bench->out, bytes));
  for (int i = -(int)bench->settings.warm_up; i < runs; i++) {
    TRY(comm_barrier(bench->comm));
    double begin = clock_seconds();
    TRY(job->operation->run(bench, job));
    TRY(device_synchronize(bench->device));
    if (i >= 0) nanoseconds[i] = (int64_t)(1e9 * (clock_seconds() - begin));
  }
  TRY(comm_max_i64(bench->comm, nanoseconds, (size_t)runs));
  qsort(nanoseconds, (size_t)runs, sizeof *nanoseconds, by_size);
  int middle = runs / 2, late = (int)(0.95 * runs);
  *out = (struct timing){1e-9 * (double)nanoseconds[middle], 1e-9 * (double)nanoseconds[late]};
  return OK;
}

/* What comes out is where `in` was copied to (all-reduce works in place), so both begin as this rank's values. */
static int verify(struct bench *bench, const struct job *job, int64_t *wrong) {
  size_t bytes = job->count * element_size(job->element);
  size_t results = job->operation->sums && job->operation->splits ? job->part : job->count;
  for (size_t i = 0; i < job->count; i++) put(bench->host, i, job->element, value_of(bench->comm->rank, i));
  TRY(device_upload(bench->device, bench->in, bench->host, bytes));
  TRY(device_upload(bench->device, bench->out, bench->host, bytes));
  TRY(job->operation->run(bench, job));
  TRY(device_download(bench->device, bench->host, bench->out, results * element_size(job->element)));
  *wrong = 0;
  for (size_t i = 0; i < results; i++)
    *wrong += get(bench->host, i, job->element) != (double)job->operation->expected(bench, job, i);
  return comm_sum_i64(bench->comm, wrong, 1);
}

static int run_job(struct bench *bench, const struct job *job) {
  struct timing t;
  int64_t wrong;
  TRY(measure(bench, job, &t));
  TRY(verify(bench, job, &wrong));
  *(wrong ? &bench->failed : &bench->passed) += 1;
  if (bench->comm->rank != 0) return OK;
  size_t bytes = job->count * element_size(job->element);
  double algorithm = (double)bytes / t.p50 / 1e9, bus = algorithm * job->operation->bus(bench->comm->size);
  printf("%-14s %-4s %12zu %12zu %11.2f %11.2f %9.3f %9.3f %6" PRId64 " %s\n", job->operation->name,
         element_names[job->element], bytes, job->count, 1e6 * t.p50, 1e6 * t.p95, algorithm, bus, wrong,
         wrong ? "FAIL" : "PASS");
  json_t *row = json_pack("{ss ss sI sI sf sf sf sf sI sb}", "operation", job->operation->name, "element",
                          element_names[job->element], "bytes", (json_int_t)bytes, "count", (json_int_t)job->count,
                          "p50_us", 1e6 * t.p50, "p95_us", 1e6 * t.p95, "algorithm_gbytes", algorithm, "bus_gbytes",
                          bus, "wrong", (json_int_t)wrong, "pass", wrong == 0);
  return json_array_append_new(bench->rows, row) == 0 ? OK : fail(ERR_MEMORY, "no memory for the results");
}

static int run_sizes(struct bench *bench, const struct operation *operation, enum element element) {
  const struct settings *s = &bench->settings;
  size_t ranks = (size_t)bench->comm->size, last = 0;
  for (int64_t bytes = s->smallest; bytes <= s->largest; bytes *= s->factor) {
    struct job job = {.operation = operation, .element = element, .count = (size_t)bytes / element_size(element)};
    job.part = operation->splits ? job.count / ranks : job.count;
    if (operation->splits) job.count = job.part * ranks;
    if (job.count > last) TRY(run_job(bench, &job));
    last = job.count;
  }
  return OK;
}

static int run_operation(struct bench *bench, const struct operation *operation) {
  static const enum element summed[] = {ELEMENT_I64, ELEMENT_F32, ELEMENT_BF16};
  if (!strstr(operation->name, bench->settings.search)) return OK;
  if (operation->run == run_send_receive && !bench->send) return OK;
  if (!operation->sums) return run_sizes(bench, operation, ELEMENT_BYTE);
  for (size_t i = 0; i < sizeof summed / sizeof *summed; i++) TRY(run_sizes(bench, operation, summed[i]));
  return OK;
}

/* ---- the whole run -------------------------------------------------------------------------------------- */

struct rank_line {
  char text[256];
};

/* One line a rank, printed by rank 0 in their order. */
static int say_ranks(struct bench *bench, json_t *ranks) {
  struct comm *comm = bench->comm;
  struct rank_line line = {{0}};
  snprintf(line.text, sizeof line.text, "rank %d, pid %ld on %s: %s", comm->rank, (long)getpid(), comm->host,
           bench->device->description);
  if (comm->rank > 0) return comm_send(comm, &line, sizeof line, 0);
  for (int rank = 0; rank < comm->size; rank++) {
    if (rank > 0) TRY(comm_receive(comm, &line, sizeof line, rank));
    printf("# %s\n", line.text);
    json_array_append_new(ranks, json_string(line.text));
  }
  return OK;
}

static int say_start(struct bench *bench, json_t **head) {
  char date[32], library[MPI_MAX_LIBRARY_VERSION_STRING] = "";
  int size;
  time_t now = time(NULL);
  strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%SZ", gmtime(&now));
  MPI_Get_library_version(library, &size);
  library[strcspn(library, ",\n")] = 0;
  const char *transport = transport_name(bench->transport), *version = transport_version(bench->transport);
  json_t *ranks = json_array();
  *head = json_pack("{ss ss ss ss sO}", "benchmark", "comm", "date", date, "transport", transport, "mpi", library,
                    "ranks", ranks);
  if (*version) json_object_set_new(*head, transport, json_string(version));
  if (bench->comm->rank == 0)
    printf("# bench-comm %s\n# transport %s%s%s; %s; compiler %s\n", date, transport, *version ? " " : "", version,
           library, __VERSION__);
  int status = say_ranks(bench, ranks);
  json_decref(ranks);
  return status;
}

static int open_bench(struct bench *bench) {
  struct comm *comm = bench->comm;
  const struct settings *s = &bench->settings;
  struct device_options options = {.name = s->device,
                                   .cpu_isa = "auto",
                                   .act = "auto",
                                   .threads = 1,
                                   .local_rank = comm->local_rank,
                                   .limits = {.rows = 1, .vocabulary = 1, .hidden = 1}};
  if (s->json && access(s->json, F_OK) == 0) return fail(ERR_USAGE, "%s exists; results are not overwritten", s->json);
  TRY(device_open(&bench->device, &options));
  TRY(device_allocate(bench->device, MEMORY_WORKSPACE, &bench->in, (size_t)s->largest));
  TRY(device_allocate(bench->device, MEMORY_WORKSPACE, &bench->out, (size_t)s->largest));
  bench->rows = json_array();
  return memory_array(&bench->host, (size_t)s->largest, 1);
}

static int connect(struct bench *bench) {
  struct comm *comm = bench->comm;
  TRY(transport_open(&bench->transport, comm, bench->device));
  if (comm->size == 1) return OK;
  int after = (comm->rank + 1) % comm->size, before = (comm->rank + comm->size - 1) % comm->size;
  if (comm->rank == 0) TRY(channel_open(&bench->send, comm, bench->device, after, CHANNEL_SENDS, 0, 1));
  TRY(channel_open(&bench->receive, comm, bench->device, before, CHANNEL_RECEIVES, 0, 1));
  if (comm->rank > 0) TRY(channel_open(&bench->send, comm, bench->device, after, CHANNEL_SENDS, 0, 1));
  return OK;
}

static void close_bench(struct bench *bench) {
  channel_close(&bench->send);
  channel_close(&bench->receive);
  transport_close(&bench->transport);
  if (bench->device) {
    device_release(bench->device, MEMORY_WORKSPACE, &bench->in, (size_t)bench->settings.largest);
    device_release(bench->device, MEMORY_WORKSPACE, &bench->out, (size_t)bench->settings.largest);
  }
  device_close(&bench->device);
  free(bench->host);
  json_decref(bench->rows);
}

static int save(const struct bench *bench, json_t *head) {
  const char *path = bench->settings.json;
  json_object_set(head, "results", bench->rows);
  if (!path || bench->comm->rank != 0) return OK;
  if (json_dump_file(head, path, JSON_INDENT(1) | JSON_REAL_PRECISION(6)) != 0)
    return fail(ERR_SYSTEM, "%s: cannot be written", path);
  return OK;
}

static int say_end(const struct bench *bench) {
  if (bench->passed + bench->failed == 0)
    return fail(ERR_USAGE, "--search %s: no operation has that in its name", bench->settings.search);
  if (bench->comm->rank == 0)
    printf("# %" PRId64 " passed, %" PRId64 " failed: %s\n", bench->passed, bench->failed,
           bench->failed ? "FAIL" : "PASS");
  return bench->failed ? fail(ERR_INTERNAL, "%" PRId64 " sizes failed", bench->failed) : OK;
}

static int run_all(struct bench *bench) {
  json_t *head = NULL;
  int status;
  TRY(comm_agree(bench->comm, open_bench(bench)));
  TRY(comm_agree(bench->comm, connect(bench)));
  TRY_GOTO(status, cleanup, say_start(bench, &head));
  if (bench->comm->rank == 0)
    printf("%-14s %-4s %12s %12s %11s %11s %9s %9s %6s\n", "# operation", "type", "bytes", "elements", "p50 us",
           "p95 us", "alg GB/s", "bus GB/s", "wrong");
  for (size_t i = 0; i < sizeof operations / sizeof *operations; i++)
    TRY_GOTO(status, cleanup, run_operation(bench, &operations[i]));
  TRY_GOTO(status, cleanup, comm_agree(bench->comm, save(bench, head)));
  status = comm_agree(bench->comm, say_end(bench));
cleanup:
  json_decref(head);
  return status;
}

int main(int count, char **words) {
  struct bench bench = {
      .settings = {
          .device = "cpu", .search = "", .smallest = 8, .largest = 16 << 20, .factor = 4, .warm_up = 3, .runs = 20}};
  if (count == 2 && strcmp(words[1], "--help") == 0) {
    fputs(usage, stdout);
    return OK;
  }
  int status = comm_open(&bench.comm);
  if (status == OK) {
    log_setup(bench.comm->rank, false);
    status = comm_agree(bench.comm, read_settings(&bench.settings, count, words));
    if (status == OK) status = run_all(&bench);
    close_bench(&bench);
    if (status != OK && !comm_agreed(bench.comm)) comm_abort(bench.comm, status);
  }
  if (status != OK && comm_launcher_rank() == 0) fprintf(stderr, "bench-comm: %s\n", fail_message());
  comm_close(&bench.comm);
  return status;
}
