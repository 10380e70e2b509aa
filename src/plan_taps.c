#include "plan_taps.h"

#include <libgen.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "base/memory.h"
#include "io/disk_probe.h"
#include "io/model_shapes.h"
#include "io/tap_file.h"

static int read_config(const struct options *options, struct model_config *config) {
  struct backbone_file *file;
  if (options->model_shape) return model_shape_find(options->model_shape, config);
  TRY(backbone_file_open(&file, options->backbone));
  *config = *backbone_file_config(file);
  backbone_file_close(&file);
  return OK;
}

static int describe(const struct options *options, struct tap_format *format) {
  struct model_config config;
  enum tap_kind kind;
  int cols;
  TRY(read_config(options, &config));
  TRY(side_taps_choose(&config, options, &kind, &cols));
  *format = (struct tap_format){.layers = config.layers,
                                .hidden = config.hidden,
                                .cols = cols,
                                .taps = config.layers + 1,
                                .act = strcmp(options->act, "fp32") == 0 ? DTYPE_F32 : DTYPE_BF16,
                                .int8 = strcmp(options->tap_format, "int8") == 0};
  return OK;
}

static double measure_disk(const char *folder) {
  enum { PROBE = 64 << 20 };
  struct disk_speed speed = {0};
  char *copy = strdup(folder), *there = copy;
  while (there && access(there, F_OK) != 0) there = dirname(there);
  if (there && disk_probe(there, PROBE, &speed) != OK) log_warning("%s; the disk was not measured", fail_message());
  free(copy);
  return speed.read;
}

/* Seconds that the busiest stage's backbone takes for a step. */
static double slowest_backbone(const struct plan *plan) {
  double slowest = 0;
  for (int p = 0; p < plan->stages; p++)
    if (plan->stage[p].backbone > slowest) slowest = plan->stage[p].backbone;
  return slowest;
}

int plan_taps_make(const struct plan_request *request, const struct plan *plan, struct plan_taps *out) {
  struct tap_format format;
  const struct token_file *data = request->data;
  TRY(describe(request->options, &format));
  double total = (double)tap_bytes(&format, data->total, data->label_tokens);
  double backbone = slowest_backbone(plan);
  *out = (struct plan_taps){.token_bytes = total / (double)data->total,
                            .store_bytes = total / (double)data->rows * (double)request->rows,
                            .disk = measure_disk(request->options->taps)};
  out->replayed = out->disk / out->token_bytes;
  out->live = backbone > 0 ? (double)plan->step_tokens / backbone : 0;
  return OK;
}

int plan_taps_print(const struct plan_taps *taps, struct buffer *out) {
  TRY(buffer_print(out, "tap store  %.0f bytes a token, %.1f GB for all rows\n", taps->token_bytes,
                   taps->store_bytes / 1e9));
  if (taps->disk <= 0) return OK;
  return buffer_print(
      out, "disk       reads %.0f MB/s here: %.0f tokens/s replayed, %.0f live: the %s is the faster source\n",
      taps->disk / 1e6, taps->replayed, taps->live, taps->replayed > taps->live ? "disk" : "backbone");
}

json_t *plan_taps_json(const struct plan_taps *taps) {
  return json_pack("{s:f, s:f, s:f, s:f, s:f}", "token_bytes", taps->token_bytes, "store_bytes", taps->store_bytes,
                   "disk_bytes_per_second", taps->disk, "replayed_tokens_per_second", taps->replayed,
                   "live_tokens_per_second", taps->live);
}
