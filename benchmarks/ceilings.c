#include "benchmarks/ceilings.h"

#include <dnnl.h>
#include <omp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"

enum { M = 2048, N = 4096, K = 4096, RUNS = 10, COPY_BYTES = 64 << 20 };

const char *const bench_device = "cpu";

#define DNNL(call)                                                                                        \
  do {                                                                                                    \
    dnnl_status_t dnnl_status_ = (call);                                                                  \
    if (dnnl_status_ != dnnl_success) return fail(ERR_SYSTEM, "oneDNN: %s gave %d", #call, dnnl_status_); \
  } while (0)

/** The library's objects for one product; they live until the program ends. */
struct product {
  dnnl_stream_t stream;
  dnnl_primitive_t primitive;
  dnnl_exec_arg_t arguments[3];
};

static int describe(dnnl_memory_desc_t *out, dnnl_dim_t rows, dnnl_dim_t cols, dnnl_format_tag_t layout) {
  DNNL(dnnl_memory_desc_init_by_tag(out, 2, (dnnl_dims_t){rows, cols}, dnnl_bf16, layout));
  return OK;
}

/** Small numbers everywhere: zeros, denormals and NaN might run at another speed. */
static int operand(dnnl_memory_t *out, dnnl_engine_t engine, const dnnl_memory_desc_t *description) {
  size_t bytes = dnnl_memory_desc_get_size(description);
  uint16_t *data;
  TRY(memory_array(&data, bytes / 2 + 1, 2));
  for (size_t i = 0; i < bytes / 2; i++) data[i] = (uint16_t)(0x3c00 + i * 2654435761u % 0x200);
  DNNL(dnnl_memory_create(out, description, engine, data));
  return OK;
}

/** B in the layout the library likes best. */
static int product_make(struct product *out) {
  dnnl_engine_t engine;
  dnnl_memory_desc_t a, b, c;
  dnnl_matmul_desc_t matmul;
  dnnl_primitive_desc_t primitive;
  dnnl_memory_t memory[3];
  DNNL(dnnl_engine_create(&engine, dnnl_cpu, 0));
  DNNL(dnnl_stream_create(&out->stream, engine, dnnl_stream_default_flags));
  TRY(describe(&a, M, K, dnnl_ab));
  TRY(describe(&b, K, N, dnnl_format_tag_any));
  TRY(describe(&c, M, N, dnnl_ab));
  DNNL(dnnl_matmul_desc_init(&matmul, &a, &b, NULL, &c));
  DNNL(dnnl_primitive_desc_create(&primitive, &matmul, NULL, engine, NULL));
  DNNL(dnnl_primitive_create(&out->primitive, primitive));
  TRY(operand(&memory[0], engine, &a));
  TRY(operand(&memory[1], engine, dnnl_primitive_desc_query_md(primitive, dnnl_query_weights_md, 0)));
  TRY(operand(&memory[2], engine, &c));
  static const int places[3] = {DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST};
  for (int i = 0; i < 3; i++) out->arguments[i] = (dnnl_exec_arg_t){places[i], memory[i]};
  return OK;
}

static int measure_product(double *out) {
  struct product product;
  TRY(product_make(&product));
  double best = 1e9;
  for (int run = 0; run < RUNS; run++) {
    double start = clock_seconds();
    DNNL(dnnl_primitive_execute(product.primitive, product.stream, 3, product.arguments));
    DNNL(dnnl_stream_wait(product.stream));
    double seconds = clock_seconds() - start;
    best = seconds < best ? seconds : best;
  }
  *out = 2.0 * M * N * K / best;
  return OK;
}

static int measure_copy(double *out, int threads) {
  char *from = NULL, *to = NULL;
  size_t bytes = (size_t)threads * COPY_BYTES;
  int status;
  double best = 1e9;
  TRY_GOTO(status, cleanup, memory_array(&from, bytes, 1));
  TRY_GOTO(status, cleanup, memory_array(&to, bytes, 1));
  memset(from, 1, bytes);
  for (int run = 0; run < RUNS; run++) {
    double start = clock_seconds();
#pragma omp parallel num_threads(threads)
    {
      size_t mine = (size_t)omp_get_thread_num() * COPY_BYTES;
      memcpy(to + mine, from + mine, COPY_BYTES);
    }
    double seconds = clock_seconds() - start;
    best = seconds < best ? seconds : best;
  }
  *out = 2 * (double)bytes / best;
cleanup:
  free(from);
  free(to);
  return status;
}

int ceilings_measure(struct ceilings *out, int threads) {
  const dnnl_version_t *version = dnnl_version();
  snprintf(out->library, sizeof out->library, "oneDNN %d.%d.%d", version->major, version->minor, version->patch);
  omp_set_num_threads(threads);
  TRY(measure_product(&out->product));
  return measure_copy(&out->copy, threads);
}
