/* bench-kernels: how fast every operation of kernels/device.h is at a model's shapes, beside what one large product and
 * one large copy reach on the same cores, or the same GPU, in the same run. Each result is verified after its timing against
 * the cpu device's plain instruction set; on a GPU large ones are not (the tests verify them at other shapes). See usage below. */
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "base/memory.h"
#include "benchmarks/ceilings.h"
#include "benchmarks/kernels_cases.h"

enum { WARM_UP = 3, FEWEST_RUNS = 5, MOST_RUNS = 200, MOST_TOGETHER = 1000 };
static const double CASE_SECONDS = 0.3;
static const double TOGETHER_SECONDS =
    1e-2;                                /**< on a GPU: so much work at a time that waiting for it is small beside it */
static const double MOST_VERIFIED = 2e9; /**< FLOP of a case that is verified beside a GPU */

static const char *const environment[] = {"OMP_NUM_THREADS", "OMP_PROC_BIND", "OMP_PLACES", "OMP_WAIT_POLICY"};

struct settings {
  struct model_shape shape; /**< SmolLM2-135M unless told */
  int threads;
  const char *isa, *gpu_isa, *act, *json, *search, *clock, *ceilings;
};

struct run {
  struct ceilings ceilings;
  const char *path; /**< of the JSON file; NULL: none */
  json_t *head, *rows;
  int failed, passed;
};

/* ---- options -------------------------------------------------------------------------------------------- */

static const char usage[] =
    "bench-kernels [--rows 2048] [--sample 512] [--hidden 576] [--ff 1536] [--vocabulary 49152] [--heads 9]\n"
    "              [--kv-heads 3] [--reduction-factor 16] [--rank 16] [--logit-rows N]\n"
    "              [--parameters 700000] [--threads N]\n"
    "              [--cpu-isa auto|avx512-bf16|avx2|plain] [--gpu-isa auto|sm_90a|sm_80] [--act auto|bf16|fp32]\n"
    "              [--search OPERATION] [--json FILE]\n"
    "              [--ceilings on: measure those alone, print them as JSON]\n"
    "              [--clock wall|own: the running time of one thread, for a machine that others use too]\n"
    "Defaults are SmolLM2-135M's shapes, and the device's rows of logits. A JSON file that exists is not "
    "overwritten.\n";

static int read_number(int *out, const char *name, const char *text) {
  char *end;
  long value = strtol(text, &end, 10);
  if (*end || value < 1 || value > 1 << 28) return fail(ERR_USAGE, "%s %s: give a whole number from 1", name, text);
  *out = (int)value;
  return OK;
}

static int read_option(struct settings *s, const char *name, const char *value) {
  struct model_shape *m = &s->shape;
  const struct {
    const char *name;
    int *number;
    const char **text;
  } options[] = {
      {"--rows", &m->rows, NULL},
      {"--sample", &m->sample, NULL},
      {"--hidden", &m->hidden, NULL},
      {"--ff", &m->ff, NULL},
      {"--heads", &m->heads, NULL},
      {"--vocabulary", &m->vocabulary, NULL},
      {"--rank", &m->rank, NULL},
      {"--reduction-factor", &m->reduction, NULL},
      {"--threads", &s->threads, NULL},
      {"--kv-heads", &m->kv_heads, NULL},
      {"--cpu-isa", NULL, &s->isa},
      {"--gpu-isa", NULL, &s->gpu_isa},
      {"--logit-rows", &m->logit_rows, NULL},
      {"--act", NULL, &s->act},
      {"--search", NULL, &s->search},
      {"--json", NULL, &s->json},
      {"--clock", NULL, &s->clock},
      {"--ceilings", NULL, &s->ceilings},
      {"--parameters", &m->parameters, NULL},
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
  bool own = strcmp(s->clock, "own") == 0;
  if (!own && strcmp(s->clock, "wall") != 0) return fail(ERR_USAGE, "--clock %s: there are wall and own", s->clock);
  if (own && s->threads != 1) return fail(ERR_USAGE, "--clock own counts one thread: give --threads 1");
  const struct model_shape *m = &s->shape;
  if (m->hidden % m->heads || m->heads % m->kv_heads || m->hidden / m->reduction % m->heads)
    return fail(ERR_USAGE, "heads must divide the hidden size and the side network's, and kv-heads the heads");
  if (m->rows < m->sample) return fail(ERR_USAGE, "--sample must not be above --rows");
  if (s->json && access(s->json, F_OK) == 0) return fail(ERR_USAGE, "%s exists; results are not overwritten", s->json);
  return OK;
}

/* ---- verification --------------------------------------------------------------------------------------- */

static double number_at(const struct bench *bench, const void *x, enum number type, size_t i) {
  switch (type) {
    case NUMBER_ACT:
      return bench->device->act == DTYPE_BF16 ? (double)bf16_to_float(((const bf16 *)x)[i])
                                              : (double)((const float *)x)[i];
    case NUMBER_F32:
      return (double)((const float *)x)[i];
    case NUMBER_F64:
      return ((const double *)x)[i];
    case NUMBER_I32:
      return ((const int32_t *)x)[i];
    default:
      return (double)((const int64_t *)x)[i];
  }
}

/** ‖data − after‖ / ‖after‖. */
static double result_error(const struct bench *bench, const struct result *r) {
  double difference = 0, size = 0;
  for (size_t i = 0; i < r->count; i++) {
    double want = number_at(bench, r->after, r->type, i), delta = number_at(bench, r->data, r->type, i) - want;
    difference += delta * delta;
    size += want * want;
  }
  return size > 0 ? sqrt(difference / size) : sqrt(difference);
}

static void results_copy(const struct bench *bench, bool restore) {
  for (int i = 0; i < bench->result_count; i++) {
    const struct result *r = &bench->results[i];
    size_t bytes = r->count * bench_number_size(bench, r->type);
    if (restore)
      memcpy(r->data, r->before, bytes);
    else
      memcpy(r->after, r->data, bytes);
  }
}

/** Largest error of a result against the plain instruction set; NaN stays NaN. */
static int verify(struct bench *bench, double *error, int (*run)(struct device *, const void *),
                  const void *arguments) {
  results_copy(bench, true);
  TRY(run(bench->plain, arguments));
  results_copy(bench, false);
  results_copy(bench, true);
  TRY(run(bench->device, arguments));
  TRY(device_synchronize(bench->device));
  *error = 0;
  for (int i = 0; i < bench->result_count; i++) {
    double e = result_error(bench, &bench->results[i]);
    if (!(e <= *error)) *error = e;
  }
  return OK;
}

/* ---- measuring ------------------------------------------------------------------------------------------ */

static int by_size(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

struct timing {
  double p50, p95;
  int runs;
};

/** Seconds of one of `count` runs, waited for together. */
static int time_runs(double *seconds, int count, struct device *device, int (*run)(struct device *, const void *),
                     const void *arguments) {
  double start = clock_seconds();
  for (int i = 0; i < count; i++) TRY(run(device, arguments));
  TRY(device_synchronize(device));
  *seconds = (clock_seconds() - start) / count;
  return OK;
}

static bool on_gpu(void) {
  return strcmp(bench_device, "cuda") == 0;
}

static int measure(struct timing *out, struct device *device, int (*run)(struct device *, const void *),
                   const void *arguments) {
  double seconds[MOST_RUNS], total = 0;
  int runs = 0, together = 1;
  TRY(time_runs(seconds, WARM_UP, device, run, arguments));
  if (on_gpu()) {
    TRY(time_runs(seconds, WARM_UP, device, run, arguments));
    double wanted = TOGETHER_SECONDS / seconds[0];
    together = wanted < 1 ? 1 : wanted > MOST_TOGETHER ? MOST_TOGETHER : (int)wanted;
  }
  while (runs < FEWEST_RUNS || (runs < MOST_RUNS && total < CASE_SECONDS)) {
    TRY(time_runs(&seconds[runs], together, device, run, arguments));
    total += seconds[runs++] * together;
  }
  qsort(seconds, (size_t)runs, sizeof *seconds, by_size);
  *out = (struct timing){seconds[runs / 2], seconds[(int)(0.95 * runs)], runs};
  return OK;
}

/** After every case: a run that is cut off leaves what it has. */
static int save(const struct run *run) {
  if (!run->path) return OK;
  json_object_set(run->head, "results", run->rows);
  if (json_dump_file(run->head, run->path, JSON_INDENT(1) | JSON_REAL_PRECISION(6)) != 0)
    return fail(ERR_SYSTEM, "%s: cannot be written", run->path);
  return OK;
}

static int report(struct bench *bench, enum operation operation, const char *what,
                  int (*run)(struct device *, const void *), const void *arguments) {
  struct run *all = bench->owner;
  const char *name = operation_name(operation);
  struct cost cost = operation_cost(operation, arguments, bench->device->act);
  struct timing t;
  double error = 0;
  bool verified = bench_is_shared(bench) && (!on_gpu() || cost.flops <= MOST_VERIFIED);
  TRY(measure(&t, bench->device, run, arguments));
  if (verified) TRY(verify(bench, &error, run, arguments));
  bool good = error <= (bench->device->act == DTYPE_BF16 ? 2e-2 : 1e-4);
  *(good ? &all->passed : &all->failed) += 1;
  double flops = cost.flops / t.p50, bytes = cost.bytes / t.p50;
  double product = flops / all->ceilings.product, copy = bytes / all->ceilings.copy;
  printf("%-19s %-30s %9.4f %9.4f %8.1f %7.2f %8.1f %7.1f %9.1e %s\n", name, what, t.p50 * 1e3, t.p95 * 1e3,
         flops / 1e9, bytes / 1e9, 100 * product, 100 * copy, error,
         !verified ? "not verified"
         : good    ? "PASS"
                   : "FAIL");
  fflush(stdout);
  json_t *row =
      json_pack("{ss ss si sf sf sf sf sf sf sf sb sb}", "operation", name, "case", what, "runs", t.runs, "p50_ms",
                t.p50 * 1e3, "p95_ms", t.p95 * 1e3, "gflops", flops / 1e9, "gbytes", bytes / 1e9, "of_product", product,
                "of_copy", copy, "error", isfinite(error) ? error : -1, "verified", verified, "pass", good);
  if (!row || json_array_append_new(all->rows, row) != 0) return fail(ERR_MEMORY, "no memory for the results");
  return save(all);
}

/* ---- the whole run -------------------------------------------------------------------------------------- */

static void processor(char *out, size_t size) {
  snprintf(out, size, "unknown");
  FILE *file = fopen("/proc/cpuinfo", "r");
  char line[256];
  while (file && fgets(line, sizeof line, file)) {
    char *name = strncmp(line, "model name", 10) == 0 ? strchr(line, ':') : NULL;
    if (!name) continue;
    name[strcspn(name, "\n")] = 0;
    snprintf(out, size, "%s", name + 2);
    break;
  }
  if (file) fclose(file);
}

static json_t *provenance(const struct bench *bench, const struct run *run, const char *clock) {
  char name[128], date[32];
  double load = 0;
  time_t now = time(NULL);
  processor(name, sizeof name);
  strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%SZ", gmtime(&now));
  if (getloadavg(&load, 1) != 1) load = -1;
  json_t *seen = json_object();
  for (size_t i = 0; i < sizeof environment / sizeof *environment; i++)
    if (getenv(environment[i])) json_object_set_new(seen, environment[i], json_string(getenv(environment[i])));
  const struct model_shape *m = &bench->shape;
  json_t *shape =
      json_pack("{si si si si si si si si si si si}", "rows", m->rows, "sample", m->sample, "hidden", m->hidden, "ff",
                m->ff, "vocabulary", m->vocabulary, "heads", m->heads, "kv_heads", m->kv_heads, "reduction_factor",
                m->reduction, "rank", m->rank, "logit_rows", m->logit_rows, "parameters", m->parameters);
  printf("# bench-kernels %s\n# %s; %s\n# %s, compiler %s\n", date, name, bench->device->description,
         run->ceilings.library, __VERSION__);
  printf("# ceilings: product %.1f GFLOP/s, copy %.1f GB/s; load average at the start %.1f; %s clock\n",
         run->ceilings.product / 1e9, run->ceilings.copy / 1e9, load, clock);
  return json_pack("{ss ss ss ss ss ss sf sf sf so so}", "date", date, "clock", clock, "processor", name, "device",
                   bench->device->description, "library", run->ceilings.library, "compiler", __VERSION__, "load", load,
                   "product_gflops", run->ceilings.product / 1e9, "copy_gbytes", run->ceilings.copy / 1e9,
                   "environment", seen, "shape", shape);
}

static int open_devices(struct bench *bench, const struct settings *s) {
  const struct model_shape *m = &s->shape;
  struct device_options options = {
      .name = bench_device, .cpu_isa = s->isa, .gpu_isa = s->gpu_isa, .act = s->act, .threads = s->threads};
  options.limits = (struct device_limits){.rows = m->rows,
                                          .widest_product = (int64_t)2 * m->ff * m->hidden,
                                          .vocabulary = m->vocabulary,
                                          .hidden = m->hidden,
                                          .side_hidden = m->hidden / m->reduction};
  TRY(device_open(&bench->device, &options));
  if (!m->logit_rows) bench->shape.logit_rows = bench->device->logit_rows;
  options.name = "cpu";
  options.cpu_isa = "plain";
  options.act = bench->device->act == DTYPE_BF16 ? "bf16" : "fp32";
  return device_open(&bench->plain, &options);
}

static int print_ceilings(int threads) {
  struct ceilings ceilings;
  TRY(ceilings_measure(&ceilings, threads));
  printf(
      "{\"threads\": %d, \"product_gflops\": %.1f, \"sustained_gflops\": %.1f, \"copy_gbytes\": %.2f, "
      "\"dequantize_gbytes\": %.2f, \"library\": \"%s\"}\n",
      threads, ceilings.product / 1e9, ceilings.sustained / 1e9, ceilings.copy / 1e9, ceilings.dequantize / 1e9,
      ceilings.library);
  return OK;
}

static int run_all(const struct settings *s) {
  struct run run = {.path = s->json, .rows = json_array()};
  struct bench bench = {
      .shape = s->shape, .random = (uint64_t)time(NULL), .search = s->search, .report = report, .owner = &run};
  int status;
  TRY_GOTO(status, cleanup, ceilings_measure(&run.ceilings, s->threads));
  TRY_GOTO(status, cleanup, open_devices(&bench, s));
  run.head = provenance(&bench, &run, s->clock);
  printf("%-19s %-30s %9s %9s %8s %7s %8s %7s %9s\n", "# operation", "case", "p50 ms", "p95 ms", "GFLOP/s", "GB/s",
         "% prod.", "% copy", "error");
  TRY_GOTO(status, cleanup, bench_cases(&bench));
  printf("# %d passed, %d failed: %s\n", run.passed, run.failed, run.failed || !run.passed ? "FAIL" : "PASS");
  if (run.failed || !run.passed) status = fail(ERR_INTERNAL, "%d cases failed, %d passed", run.failed, run.passed);
cleanup:
  bench_clear(&bench);
  device_close(&bench.device);
  device_close(&bench.plain);
  json_decref(run.head);
  json_decref(run.rows);
  return status;
}

int main(int count, char **words) {
  struct settings settings = {.shape = {.rows = 2048,
                                        .sample = 512,
                                        .hidden = 576,
                                        .ff = 1536,
                                        .vocabulary = 49152,
                                        .heads = 9,
                                        .kv_heads = 3,
                                        .reduction = 16,
                                        .rank = 16,
                                        .parameters = 700000},
                              .threads = (int)sysconf(_SC_NPROCESSORS_ONLN),
                              .isa = "auto",
                              .act = "auto",
                              .search = "",
                              .clock = "wall",
                              .ceilings = "off"};
  if (count == 2 && strcmp(words[1], "--help") == 0) {
    fputs(usage, stdout);
    return OK;
  }
  setenv("DEVICE", bench_device, 1); /* the memory of the cases: tests/device_memory.h */
  int status = read_settings(&settings, count, words);
  if (strcmp(settings.clock, "own") == 0) clock_count_own();
  if (status == OK)
    status = strcmp(settings.ceilings, "on") == 0 ? print_ceilings(settings.threads) : run_all(&settings);
  if (status != OK) fprintf(stderr, "bench-kernels: %s\n", fail_message());
  return status;
}
