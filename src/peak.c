#include "peak.h"

#include <stdlib.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/memory.h"
#include "base/random.h"

/* C[rows, width] = A[rows, width] · B[width, width]: the second leaves no mark on the peak of a CPU's memory, the third fills
 * a GPU. */
static const struct size { int rows, width; } sizes[] = {{256, 512}, {1024, 2048}, {8192, 8192}};

enum { SIZES = sizeof sizes / sizeof *sizes, RUNS = 4, NOISE = 1 << 20 };
static const double MOMENT = 0.25; /* seconds */

static double flops(const struct size *size) {
  return 2.0 * size->rows * size->width * size->width;
}

/* ---- operands ------------------------------------------------------------------------------------------- */

static int upload_noise(struct device *device, float *noise) {
  float *host;
  TRY(memory_array(&host, NOISE, sizeof *host));
  struct random random = random_start(0, RANDOM_SIDE_INIT, 0);
  for (int i = 0; i < NOISE; i++) host[i] = (float)random_unit(&random) - 0.5f;
  int status = device_upload(device, noise, host, NOISE * sizeof *host);
  free(host);
  return status;
}

/* Zeros are multiplied faster than any weights. */
static int fill(struct device *device, void *block, size_t count, const float *noise) {
  for (size_t at = 0; at < count; at += NOISE)
    TRY(device_to_act(device, &(struct to_act_args){.y = device_act_at(device, block, at),
                                                    .x = noise,
                                                    .count = count - at < NOISE ? count - at : NOISE}));
  return OK;
}

/* ---- products ------------------------------------------------------------------------------------------- */

/* The best of a few, after one that is not counted: with a device's first product its library is loaded, which takes longer
 * than all of these, and would say that larger ones are out of reach. */
static int time_products(struct device *device, const struct linear_args *product, double work, double *best) {
  *best = 0;
  TRY(device_linear(device, product));
  TRY(device_synchronize(device));
  double start = clock_seconds();
  for (int run = 0; run < RUNS && clock_seconds() - start < 2 * MOMENT; run++) {
    double begin = clock_seconds();
    TRY(device_linear(device, product));
    TRY(device_synchronize(device));
    double rate = work / (clock_seconds() - begin);
    if (rate > *best) *best = rate;
  }
  return OK;
}

static int measure(struct device *device, const struct size *size, const float *noise, double *best) {
  size_t count = (size_t)size->rows * (size_t)size->width, square = (size_t)size->width * (size_t)size->width;
  struct linear_args product = {.rows = size->rows, .n = size->width, .k = size->width};
  void *x = NULL, *y = NULL, *w = NULL;
  int status;
  TRY_GOTO(status, cleanup, device_allocate(device, MEMORY_WORKSPACE, &x, device_act_bytes(device, count)));
  TRY_GOTO(status, cleanup, device_allocate(device, MEMORY_WORKSPACE, &y, device_act_bytes(device, count)));
  TRY_GOTO(status, cleanup, device_allocate(device, MEMORY_WORKSPACE, &w, device_act_bytes(device, square)));
  TRY_GOTO(status, cleanup, fill(device, x, count, noise));
  TRY_GOTO(status, cleanup, fill(device, w, square, noise));
  product.x = x, product.y = y, product.w = w;
  status = time_products(device, &product, flops(size), best);
cleanup:
  device_release(device, MEMORY_WORKSPACE, &x, device_act_bytes(device, count));
  device_release(device, MEMORY_WORKSPACE, &y, device_act_bytes(device, count));
  device_release(device, MEMORY_WORKSPACE, &w, device_act_bytes(device, square));
  return status;
}

int peak_measure(struct device *device, double *out) {
  float *noise = NULL;
  int status;
  TRY_GOTO(status, cleanup, device_allocate(device, MEMORY_WORKSPACE, &noise, NOISE * sizeof *noise));
  TRY_GOTO(status, cleanup, upload_noise(device, noise));
  for (int i = 0; i < SIZES && (i == 0 || flops(&sizes[i]) < MOMENT * *out); i++)
    TRY_GOTO(status, cleanup, measure(device, &sizes[i], noise, out));
cleanup:
  device_release(device, MEMORY_WORKSPACE, &noise, NOISE * sizeof *noise);
  return status;
}
