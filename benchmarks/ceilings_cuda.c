/* What a GPU reaches: one large product through the cuda device, on random numbers (zeros would run faster), and one large
 * copy by the CUDA runtime. */
#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/error.h"
#include "base/memory.h"
#include "benchmarks/ceilings.h"
#include "kernels/cuda/cuda.h"

const char *const bench_device = "cuda";

enum { RUNS = 10, TOGETHER = 5, LAST_TOGETHER = 50, SHORT_TOGETHER = 100 };
static const double WARM_SECONDS = 1;

/** QST_BENCH_SIDE: another size, for rehearsals where there is no GPU. */
static int side_of_product(void) {
  const char *side = getenv("QST_BENCH_SIDE");
  return side ? atoi(side) : 8192;
}

static int upload_random(struct device *device, void *to, size_t count) {
  bf16 *host;
  uint64_t random = 1;
  TRY(memory_array(&host, count, sizeof *host));
  for (size_t i = 0; i < count; i++) {
    random = random * 6364136223846793005u + 1442695040888963407u;
    host[i] = float_to_bf16((float)(int32_t)(random >> 32) * 0x1p-31f);
  }
  int status = device_upload(device, to, host, count * sizeof *host);
  free(host);
  return status;
}

/** FLOP/s of `count` products one after the other. */
static int product_rate(struct device *device, const struct linear_args *product, int count, double *rate) {
  double start = clock_seconds();
  for (int i = 0; i < count; i++) TRY(device_linear(device, product));
  TRY(device_synchronize(device));
  *rate = 2.0 * product->rows * product->n * product->k * count / (clock_seconds() - start);
  return OK;
}

/** The best of short runs, and what is left of it after a second of them. */
static int product_rates(struct device *device, const struct linear_args *product, struct ceilings *out) {
  double start = clock_seconds(), rate;
  TRY(product_rate(device, product, TOGETHER, &rate));
  for (int run = 1; run < RUNS || clock_seconds() - start < WARM_SECONDS; run++) {
    TRY(product_rate(device, product, TOGETHER, &rate));
    if (run < RUNS && rate > out->product) out->product = rate;
  }
  return product_rate(device, product, LAST_TOGETHER, &out->sustained);
}

static int measure_product(struct device *device, int side, struct ceilings *out) {
  size_t count = (size_t)side * (size_t)side, bytes = count * sizeof(bf16);
  void *x = NULL, *w = NULL, *y = NULL;
  int status;
  TRY_GOTO(status, cleanup, device_allocate(device, MEMORY_WORKSPACE, &x, bytes));
  TRY_GOTO(status, cleanup, device_allocate(device, MEMORY_WORKSPACE, &w, bytes));
  TRY_GOTO(status, cleanup, device_allocate(device, MEMORY_WORKSPACE, &y, bytes));
  TRY_GOTO(status, cleanup, upload_random(device, x, count));
  TRY_GOTO(status, cleanup, upload_random(device, w, count));
  struct linear_args product = {.y = y, .x = x, .w = w, .rows = side, .n = side, .k = side};
  status = product_rates(device, &product, out);
cleanup:
  device_release(device, MEMORY_WORKSPACE, &x, bytes);
  device_release(device, MEMORY_WORKSPACE, &w, bytes);
  device_release(device, MEMORY_WORKSPACE, &y, bytes);
  return status;
}

static bool copy_rate(void *to, const void *from, size_t bytes, cudaStream_t stream, double *best) {
  for (int run = 0; run < RUNS; run++) {
    double start = clock_seconds();
    for (int i = 0; i < TOGETHER; i++)
      if (cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream) != cudaSuccess) return false;
    if (cudaStreamSynchronize(stream) != cudaSuccess) return false;
    double rate = 2.0 * (double)bytes * TOGETHER / (clock_seconds() - start);
    if (run > 0 && rate > *best) *best = rate;
  }
  return true;
}

static int measure_copy(size_t bytes, double *best) {
  void *from = NULL, *to = NULL;
  cudaStream_t stream = NULL;
  bool good = cudaMalloc(&from, bytes) == cudaSuccess && cudaMalloc(&to, bytes) == cudaSuccess &&
              cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess &&
              copy_rate(to, from, bytes, stream, best);
  if (stream) cudaStreamDestroy(stream);
  cudaFree(from);
  cudaFree(to);
  return good ? OK : fail(ERR_SYSTEM, "cuda: a copy of %zu MB failed", bytes >> 20);
}

/** Zeros are as good as any codes. */
static int open_matrix(struct device *device, struct matrix *m) {
  TRY(device_allocate(device, MEMORY_WEIGHTS, &m->codes, matrix_code_bytes(m)));
  TRY(device_allocate(device, MEMORY_WEIGHTS, &m->scale_codes, matrix_blocks(m)));
  return device_allocate(device, MEMORY_WEIGHTS, &m->scale_scales, matrix_scale_blocks(m) * sizeof(float));
}

static void close_matrix(struct device *device, struct matrix *m) {
  device_release(device, MEMORY_WEIGHTS, &m->codes, matrix_code_bytes(m));
  device_release(device, MEMORY_WEIGHTS, &m->scale_codes, matrix_blocks(m));
  device_release(device, MEMORY_WEIGHTS, &m->scale_scales, matrix_scale_blocks(m) * sizeof(float));
}

static int measure_dequantization(struct device *device, int side, double *best) {
  struct matrix m = {.format = WEIGHT_NF4, .double_quantized = true, .rows = side, .cols = side};
  size_t count = matrix_elements(&m), bytes = count * sizeof(bf16);
  double moved = (double)(matrix_code_bytes(&m) + matrix_blocks(&m) + matrix_scale_blocks(&m) * sizeof(float) + bytes);
  void *out = NULL;
  int status;
  TRY_GOTO(status, cleanup, open_matrix(device, &m));
  TRY_GOTO(status, cleanup, device_allocate(device, MEMORY_WORKSPACE, &out, bytes));
  for (int run = 0; run < RUNS; run++) {
    double start = clock_seconds();
    for (int i = 0; i < SHORT_TOGETHER; i++) /* waiting for one takes as long as doing it */
      TRY_GOTO(status, cleanup,
               cuda_check(cuda_launch_dequantize(cuda_context(device), out, &m, 0, count), "dequantization"));
    TRY_GOTO(status, cleanup, device_synchronize(device));
    double rate = moved * SHORT_TOGETHER / (clock_seconds() - start);
    if (run > 0 && rate > *best) *best = rate;
  }
cleanup:
  close_matrix(device, &m);
  device_release(device, MEMORY_WORKSPACE, &out, bytes);
  return status;
}

int ceilings_measure(struct ceilings *out, int threads) {
  struct device *device;
  struct device_options options = {.name = bench_device, .act = "bf16", .threads = threads};
  int side = side_of_product();
  *out = (struct ceilings){0};
  snprintf(out->library, sizeof out->library, "cuBLASLt");
  TRY(device_open(&device, &options));
  int status = measure_product(device, side, out);
  if (status == OK) status = measure_dequantization(device, side, &out->dequantize);
  if (status == OK) status = measure_copy((size_t)side * (size_t)side * 16, &out->copy);
  device_close(&device);
  return status;
}
