#include "rope_table.h"

#include <math.h>
#include <stdlib.h>

#include "base/error.h"
#include "base/memory.h"

static const double two_pi = 6.283185307179586;

/* LLaMA 3.1: long wavelengths are slowed by the factor, short ones kept, those between interpolated. */
static double scale_llama3(const struct model_config *config, double frequency) {
  double wavelength = two_pi / frequency;
  double original = config->rope_original_positions;
  if (wavelength < original / config->rope_high_frequency) return frequency;
  if (wavelength > original / config->rope_low_frequency) return frequency / config->rope_factor;
  double smooth =
      (original / wavelength - config->rope_low_frequency) / (config->rope_high_frequency - config->rope_low_frequency);
  return (1 - smooth) * frequency / config->rope_factor + smooth * frequency;
}

static double frequency_of(const struct model_config *config, int head_dim, int pair) {
  double frequency = pow(config->rope_theta, -2.0 * pair / head_dim);
  switch (config->rope_scaling) {
    case ROPE_LINEAR:
      return frequency / config->rope_factor;
    case ROPE_LLAMA3:
      return scale_llama3(config, frequency);
    case ROPE_PLAIN:
      break;
  }
  return frequency;
}

static size_t table_size(const struct rope_table *table) {
  return (size_t)table->positions * (size_t)(table->head_dim / 2);
}

static void fill(const struct rope_table *table, const struct model_config *config, float *cosines, float *sines) {
  int pairs = table->head_dim / 2;
  for (int pair = 0; pair < pairs; pair++) {
    double frequency = frequency_of(config, table->head_dim, pair);
    for (int position = 0; position < table->positions; position++) {
      cosines[(size_t)position * (size_t)pairs + (size_t)pair] = (float)cos(position * frequency);
      sines[(size_t)position * (size_t)pairs + (size_t)pair] = (float)sin(position * frequency);
    }
  }
}

int rope_table_open(struct rope_table *table, struct device *device, const struct model_config *config, int head_dim,
                    int positions) {
  *table = (struct rope_table){.positions = positions, .head_dim = head_dim};
  size_t size = table_size(table), bytes = size * sizeof(float);
  float *host;
  TRY(memory_array(&host, 2 * size, sizeof *host));
  fill(table, config, host, host + size);
  int status;
  TRY_GOTO(status, cleanup, device_allocate(device, MEMORY_WORKSPACE, &table->cosines, bytes));
  TRY_GOTO(status, cleanup, device_allocate(device, MEMORY_WORKSPACE, &table->sines, bytes));
  TRY_GOTO(status, cleanup, device_upload(device, table->cosines, host, bytes));
  TRY_GOTO(status, cleanup, device_upload(device, table->sines, host + size, bytes));
cleanup:
  free(host);
  return status;
}

void rope_table_close(struct rope_table *table, struct device *device) {
  size_t bytes = table_size(table) * sizeof(float);
  device_release(device, MEMORY_WORKSPACE, &table->cosines, bytes);
  device_release(device, MEMORY_WORKSPACE, &table->sines, bytes);
}
