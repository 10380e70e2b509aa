#include "kernels/null/hardware.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/options.h"

/* Rates are dense (without structured sparsity), links one way.
 *
 * NVIDIA's data sheets and architecture papers: "NVIDIA A100 Tensor Core GPU" (2021), "NVIDIA H100 Tensor Core GPU" (2023), "NVIDIA
 * H200 Tensor Core GPU" (2024), "NVIDIA DGX B200" (2024: eight GPUs), "NVIDIA L40S" (2023), "NVIDIA L4" (2023), "NVIDIA RTX
 * A6000" (2021), "NVIDIA Ada GPU Architecture" (2022; GeForce: half rate with fp32 sums), "NVIDIA Ampere GA102 GPU
 * Architecture" (2021).
 * Networks: what the usual server has for each GPU: DGX A100 200 Gbit/s, DGX H100 and B200 400 Gbit/s; 25 Gbit/s assumed where
 * there is no usual one.
 * Latencies and the least time of an operation are assumptions: 3 us a launch, 4 us a step over NVLink, 6 us over PCIe, 8 us
 * between nodes. */
#define GBIT (1e9 / 8)
#define NVLINK(rate) \
  { (rate), 4e-6 }
#define PCIE(rate) \
  { (rate), 6e-6 }
#define NETWORK(bits) \
  { (bits) * GBIT, 8e-6 }

static const struct hardware table[] = {
    {.name = "a100-40",
     .board = "A100-SXM4-40GB",
     .is_gpu = true,
     .matrix_bf16 = 312e12,
     .vector = 19.5e12,
     .memory_bandwidth = 1.555e12,
     .memory = 40e9,
     .launch = 3e-6,
     .host = PCIE(32e9),
     .node = NVLINK(300e9),
     .network = NETWORK(200)},
    {.name = "a100-80",
     .board = "A100-SXM4-80GB",
     .is_gpu = true,
     .matrix_bf16 = 312e12,
     .vector = 19.5e12,
     .memory_bandwidth = 2.039e12,
     .memory = 80e9,
     .launch = 3e-6,
     .host = PCIE(32e9),
     .node = NVLINK(300e9),
     .network = NETWORK(200)},
    {.name = "h100-80",
     .board = "H100 80GB",
     .is_gpu = true,
     .matrix_bf16 = 989.4e12,
     .matrix_fp8 = 1978.9e12,
     .vector = 66.9e12,
     .memory_bandwidth = 3.35e12,
     .memory = 80e9,
     .launch = 3e-6,
     .host = PCIE(64e9),
     .node = NVLINK(450e9),
     .network = NETWORK(400)},
    {.name = "h100-pcie",
     .board = "H100 PCIe",
     .is_gpu = true,
     .matrix_bf16 = 756e12,
     .matrix_fp8 = 1513e12,
     .vector = 51e12,
     .memory_bandwidth = 2.0e12,
     .memory = 80e9,
     .launch = 3e-6,
     .host = PCIE(64e9),
     .node = PCIE(64e9),
     .network = NETWORK(25)},
    {.name = "h200",
     .board = "H200",
     .is_gpu = true,
     .matrix_bf16 = 989.4e12,
     .matrix_fp8 = 1978.9e12,
     .vector = 66.9e12,
     .memory_bandwidth = 4.8e12,
     .memory = 141e9,
     .launch = 3e-6,
     .host = PCIE(64e9),
     .node = NVLINK(450e9),
     .network = NETWORK(400)},
    {.name = "b200",
     .board = "B200",
     .is_gpu = true,
     .matrix_bf16 = 2250e12,
     .matrix_fp8 = 4500e12,
     .vector = 75e12,
     .memory_bandwidth = 8e12,
     .memory = 180e9,
     .launch = 3e-6,
     .host = PCIE(64e9),
     .node = NVLINK(900e9),
     .network = NETWORK(400)},
    {.name = "l40s",
     .board = "L40S",
     .is_gpu = true,
     .matrix_bf16 = 362.05e12,
     .matrix_fp8 = 733e12,
     .vector = 91.6e12,
     .memory_bandwidth = 864e9,
     .memory = 48e9,
     .launch = 3e-6,
     .host = PCIE(32e9),
     .node = PCIE(32e9),
     .network = NETWORK(25)},
    {.name = "l4",
     .board = "NVIDIA L4",
     .is_gpu = true,
     .matrix_bf16 = 121e12,
     .matrix_fp8 = 242.5e12,
     .vector = 30.3e12,
     .memory_bandwidth = 300e9,
     .memory = 24e9,
     .launch = 3e-6,
     .host = PCIE(32e9),
     .node = PCIE(32e9),
     .network = NETWORK(25)},
    {.name = "a6000",
     .board = "RTX A6000",
     .is_gpu = true,
     .matrix_bf16 = 154.8e12,
     .vector = 38.7e12,
     .memory_bandwidth = 768e9,
     .memory = 48e9,
     .launch = 3e-6,
     .host = PCIE(32e9),
     .node = PCIE(32e9),
     .network = NETWORK(25)},
    {.name = "rtx3090",
     .board = "RTX 3090",
     .is_gpu = true,
     .matrix_bf16 = 71.2e12,
     .vector = 35.6e12,
     .memory_bandwidth = 936e9,
     .memory = 24e9,
     .launch = 3e-6,
     .host = PCIE(32e9),
     .node = PCIE(32e9),
     .network = NETWORK(25)},
    {.name = "rtx4090",
     .board = "RTX 4090",
     .is_gpu = true,
     .matrix_bf16 = 165.2e12,
     .matrix_fp8 = 330.3e12,
     .vector = 82.6e12,
     .memory_bandwidth = 1.008e12,
     .memory = 24e9,
     .launch = 3e-6,
     .host = PCIE(32e9),
     .node = PCIE(32e9),
     .network = NETWORK(25)},
};
enum { TABLE_SIZE = sizeof table / sizeof *table };

int hardware_find(const char *name, const struct hardware **out) {
  const char *names[TABLE_SIZE + 1] = {0};
  char list[256] = "";
  for (int i = 0; i < TABLE_SIZE; i++) {
    *out = &table[i];
    if (strcmp(table[i].name, name) == 0) return OK;
    names[i] = table[i].name;
    snprintf(list + strlen(list), sizeof list - strlen(list), "%s%s", i ? ", " : "", table[i].name);
  }
  const char *nearest = nearest_name(name, names);
  if (nearest) return fail(ERR_USAGE, "unknown GPU \"%s\": did you mean %s?", name, nearest);
  return fail(ERR_USAGE, "unknown GPU \"%s\"; there are: cpu, %s", name, list);
}

/* The longest name that fits: "NVIDIA L4" is in "NVIDIA L40S", too. */
const struct hardware *hardware_recognize(const char *text) {
  const struct hardware *best = NULL;
  for (int i = 0; i < TABLE_SIZE; i++) {
    const char *at = strstr(text, table[i].board);
    bool whole = at && !isalnum((unsigned char)at[strlen(table[i].board)]);
    if (whole && (!best || strlen(table[i].board) > strlen(best->board))) best = &table[i];
  }
  return best;
}

/* ---- time ----------------------------------------------------------------------------------------------- */

static double larger(double a, double b) {
  return a > b ? a : b;
}

static double roofline(const struct hardware *h, const struct cost *cost) {
  double matrix = cost->fp8 && h->matrix_fp8 > 0 ? h->matrix_fp8 : h->matrix_bf16;
  double arithmetic =
      cost->narrow ? h->vector * (h->achieved ? 1 : ACHIEVED_VECTOR) : matrix * (h->achieved ? 1 : ACHIEVED_MATRIX);
  double bandwidth = h->memory_bandwidth * (h->achieved ? 1 : ACHIEVED_MEMORY);
  double unpacked = h->is_gpu ? 2 * cost->unpacked / bandwidth : 0; /* written, then read by the product */
  return larger(cost->flops / arithmetic, cost->bytes / bandwidth) + unpacked;
}

/* By the ratios of both, whichever way. */
static double distance(const struct cost *a, const struct cost *b) {
  return fabs(log((a->flops + 1) / (b->flops + 1))) + fabs(log((a->bytes + 1) / (b->bytes + 1)));
}

static const struct measured_cost *closest(const struct hardware *h, enum operation operation,
                                           const struct cost *cost) {
  const struct measured_cost *best = NULL;
  for (int i = 0; i < h->measured_count; i++) {
    const struct measured_cost *one = &h->measured[i];
    if (one->operation == operation && (!best || distance(&one->cost, cost) < distance(&best->cost, cost))) best = one;
  }
  return best;
}

double hardware_seconds(const struct hardware *hardware, enum operation operation, const struct cost *cost) {
  double seconds = roofline(hardware, cost);
  const struct measured_cost *one = closest(hardware, operation, cost);
  if (one) seconds *= one->seconds / roofline(hardware, &one->cost);
  return larger(seconds, hardware->launch);
}

double hardware_transfer_seconds(const struct hardware *hardware, double bytes) {
  return bytes / hardware->host.bandwidth + hardware->host.latency;
}
