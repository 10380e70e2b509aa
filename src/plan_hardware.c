#include "plan_hardware.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/host_memory.h"
#include "base/memory.h"
#include "base/threads.h"
#include "io/json_read.h"

enum { RESULTS_LIMIT = 64 << 20 };

/* Between ranks of one host messages are copies in its memory, and between hosts of cpus there is some Ethernet. */
static const struct wire SHARED_MEMORY = {.bandwidth = 4e9, .latency = 5e-6};
static const struct wire ETHERNET = {.bandwidth = 1.25e9, .latency = 30e-6};

/* One of a host's ranks' share of it. */
static struct wire ethernet_of(int per_node) {
  return (struct wire){.bandwidth = ETHERNET.bandwidth / per_node, .latency = ETHERNET.latency};
}

/* ---- calibration ---------------------------------------------------------------------------------------- */

static int read_number(const json_t *object, const char *key, const char *path, double *out) {
  const json_t *value = json_object_get(object, key);
  *out = json_number_value(value);
  if (json_is_number(value) && *out >= 0) return OK;
  return fail(ERR_INPUT, "%s: no number \"%s\": give a result of bench-kernels --json", path, key);
}

/* A row of bench-kernels: work and time of one operation. */
static int read_case(const json_t *row, const char *path, struct measured_cost *out) {
  const char *name = json_string_value(json_object_get(row, "operation"));
  double milliseconds, gigaflops, gigabytes;
  out->operation = name ? operation_find(name) : OPERATION_COUNT;
  if (out->operation == OPERATION_COUNT)
    return fail(ERR_INPUT, "%s: \"%s\" is no operation of this program", path, name ? name : "");
  TRY(read_number(row, "p50_ms", path, &milliseconds));
  TRY(read_number(row, "gflops", path, &gigaflops));
  TRY(read_number(row, "gbytes", path, &gigabytes));
  out->seconds = milliseconds / 1e3;
  out->cost.flops = gigaflops * 1e9 * out->seconds;
  out->cost.bytes = gigabytes * 1e9 * out->seconds;
  return OK;
}

static int read_cases(const json_t *root, const char *path, struct machine *out) {
  const json_t *rows = json_object_get(root, "results");
  size_t count = json_array_size(rows);
  if (count == 0) return fail(ERR_INPUT, "%s: no \"results\": give a result of bench-kernels --json", path);
  TRY(memory_array(&out->measured, count, sizeof *out->measured));
  for (size_t i = 0; i < count; i++) TRY(read_case(json_array_get(rows, i), path, &out->measured[i]));
  out->hardware.measured = out->measured;
  out->hardware.measured_count = (int)count;
  return OK;
}

static int read_calibration(const char *path, struct machine *out) {
  json_t *root;
  double product, copy;
  int status;
  TRY(json_read_file(path, RESULTS_LIMIT, &root));
  TRY_GOTO(status, cleanup, read_number(root, "product_gflops", path, &product));
  TRY_GOTO(status, cleanup, read_number(root, "copy_gbytes", path, &copy));
  out->hardware.matrix_bf16 = out->hardware.vector = product * 1e9;
  out->hardware.memory_bandwidth = copy * 1e9;
  out->hardware.achieved = true;
  if (product <= 0 || copy <= 0) status = fail(ERR_INPUT, "%s: its ceilings are not positive", path);
  if (status == OK) status = read_cases(root, path, out);
cleanup:
  json_decref(root);
  return status;
}

/* ---- machines ------------------------------------------------------------------------------------------- */

static int open_cpu(struct machine *out, const char *calibration) {
  if (!calibration)
    return fail(ERR_USAGE,
                "--gpu cpu needs --calibration FILE, written on that machine: make bench-kernels, then "
                "build/bench-kernels --json FILE");
  out->hardware = (struct hardware){.name = "cpu", .node = SHARED_MEMORY, .network = ethernet_of(out->per_node)};
  TRY(read_calibration(calibration, out));
  out->hardware.host = (struct wire){.bandwidth = out->hardware.memory_bandwidth / 2};
  return OK;
}

static void limit_memory(struct machine *out, const struct options *options) {
  double most = options->gpu_memory * 1e9;
  struct hardware *hardware = &out->hardware;
  if (hardware->is_gpu && most > 0 && (hardware->memory <= 0 || most < hardware->memory)) hardware->memory = most;
}

int machine_open(struct machine *out, const struct options *options) {
  *out = (struct machine){.nodes = (int)options->nodes, .per_node = (int)options->gpus_per_node};
  const struct hardware *gpu;
  if (strcmp(options->gpu, "cpu") == 0) {
    TRY(open_cpu(out, options->calibration));
  } else {
    TRY(hardware_find(options->gpu, &gpu));
    out->hardware = *gpu;
  }
  if (options->link > 0) out->hardware.network.bandwidth = options->link * 1e9 / 8 / out->per_node;
  limit_memory(out, options);
  return OK;
}

/* ---- here ----------------------------------------------------------------------------------------------- */

/* A core of an AMD EPYC with AVX-512 (benchmarks/results): one large bf16 product, memcpy. */
static const double CORE_PRODUCT = 4e11, CORE_COPY = 3.6e10;

static struct hardware this_cpu(int threads, int ranks) {
  return (struct hardware){.name = "cpu",
                           .achieved = true,
                           .matrix_bf16 = CORE_PRODUCT * threads,
                           .vector = CORE_PRODUCT * threads,
                           .memory_bandwidth = CORE_COPY * threads,
                           .memory = 0.9 * host_memory() / ranks,
                           .host = {.bandwidth = CORE_COPY * threads},
                           .node = SHARED_MEMORY,
                           .network = ethernet_of(ranks)};
}

int machine_here(struct machine *out, const struct options *options, const struct comm *comm) {
  struct device *device;
  int threads = options->threads > 0 ? (int)options->threads : threads_of_rank(comm->local_size);
  int per_node = comm->size % comm->local_size == 0 ? comm->local_size : 1; /* not as many on every node: as if alone */
  *out = (struct machine){.nodes = comm->size / per_node, .per_node = per_node};
  TRY(device_open(&device, &(struct device_options){.name = options->device,
                                                    .cpu_isa = options->cpu_isa,
                                                    .gpu_isa = options->gpu_isa,
                                                    .act = options->act,
                                                    .threads = threads,
                                                    .local_rank = comm->local_rank}));
  const struct hardware *gpu = hardware_recognize(device->description);
  bool is_cpu = strcmp(device->name, "cpu") == 0;
  int status = OK;
  if (is_cpu)
    out->hardware = this_cpu(threads, comm->local_size);
  else if (gpu)
    out->hardware = *gpu;
  else
    status =
        fail(ERR_USAGE, "no plan can be made for this GPU (%s): give numbers instead of auto", device->description);
  device_close(&device);
  limit_memory(out, options);
  return status;
}

void machine_close(struct machine *machine) {
  free(machine->measured);
  *machine = (struct machine){0};
}
