#include "engine.h"

#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/threads.h"
#include "side_source.h"

/* ---- opening -------------------------------------------------------------------------------------------- */

static int open_device(struct engine *engine, const struct options *options, const struct model_config *config,
                       const struct comm *comm, enum engine_use use) {
  struct device_limits limits = backbone_limits(config, engine->capacity);
  if (use == ENGINE_TRAIN) limits.side_hidden = config->hidden / (int)options->reduction_factor;
  return device_open(&engine->device, &(struct device_options){.name = options->device,
                                                               .cpu_isa = options->cpu_isa,
                                                               .act = options->act,
                                                               .threads = engine->threads,
                                                               .local_rank = comm->local_rank,
                                                               .limits = limits});
}

/* The best of a few products of 1024 x 2048 x 2048: small enough to leave no mark on the peak of memory. */
static int measure_peak(struct engine *engine) {
  enum { ROWS = 1024, WIDTH = 2048, RUNS = 4 };
  const double LONG = 0.5; /* seconds: a device as slow as that is not worth more of them */
  struct device *device = engine->device;
  size_t thin = device_act_bytes(device, (size_t)ROWS * WIDTH),
         square = device_act_bytes(device, (size_t)WIDTH * WIDTH);
  void *x = NULL, *y = NULL, *w = NULL;
  int status;
  TRY_GOTO(status, cleanup, device_allocate(device, MEMORY_WORKSPACE, &x, thin));
  TRY_GOTO(status, cleanup, device_allocate(device, MEMORY_WORKSPACE, &y, thin));
  TRY_GOTO(status, cleanup, device_allocate(device, MEMORY_WORKSPACE, &w, square));
  double start = clock_seconds();
  for (int run = 0; run < RUNS && clock_seconds() - start < LONG; run++) {
    double begin = clock_seconds();
    TRY_GOTO(
        status, cleanup,
        device_linear(device, &(struct linear_args){.y = y, .x = x, .w = w, .rows = ROWS, .n = WIDTH, .k = WIDTH}));
    TRY_GOTO(status, cleanup, device_synchronize(device));
    double rate = 2.0 * ROWS * WIDTH * WIDTH / (clock_seconds() - begin);
    if (rate > engine->peak) engine->peak = rate;
  }
cleanup:
  device_release(device, MEMORY_WORKSPACE, &x, thin);
  device_release(device, MEMORY_WORKSPACE, &y, thin);
  device_release(device, MEMORY_WORKSPACE, &w, square);
  return status;
}

static int load_side(struct engine *engine, struct checkpoint *source) {
  float *flat;
  TRY(memory_array(&flat, engine->side.layout.size, sizeof *flat));
  int status = side_source_read(source, &engine->side.layout, flat, NULL, NULL);
  if (status == OK) status = side_upload(&engine->side, flat);
  free(flat);
  return status;
}

static int open_stored_side(struct engine *engine, const char *path, int positions) {
  struct checkpoint *source;
  TRY(checkpoint_open(&source, path));
  const struct model_config *config = &engine->backbone.config;
  struct side_shape shape;
  int status;
  TRY_GOTO(status, cleanup, side_source_check_backbone(source, path, engine->digest));
  TRY_GOTO(status, cleanup, side_source_shape(source, path, config, &shape));
  TRY_GOTO(status, cleanup,
           side_open(&engine->side, engine->device, config, &shape, engine->capacity, positions, false));
  TRY_GOTO(status, cleanup, load_side(engine, source));
cleanup:
  checkpoint_close(&source);
  return status;
}

static int open_side(struct engine *engine, const struct options *options, const struct engine_plan *plan) {
  engine->has_side = plan->use == ENGINE_TRAIN || options->side;
  if (!engine->has_side) return OK;
  if (plan->use != ENGINE_TRAIN) return open_stored_side(engine, options->side, plan->positions);
  struct side_shape shape;
  TRY(side_shape_make(&shape, &engine->backbone.config, options));
  return side_open(&engine->side, engine->device, &engine->backbone.config, &shape, engine->capacity, plan->positions,
                   true);
}

static size_t sums_bytes(const struct engine *engine) {
  return (engine->sums.size + 2) * sizeof(int64_t);
}

static int open_source(struct engine *engine, const struct options *options, const struct engine_plan *plan) {
  const struct model_config *config = &engine->backbone.config;
  const struct side_shape *shape = &engine->side.layout.shape;
  enum tap_kind kind = engine->has_side ? side_tap_kind(shape) : TAPS_HIDDEN;
  int cols = engine->has_side ? side_tap_cols(shape) : config->hidden;
  if (plan->use == ENGINE_TAPS) TRY(side_taps_choose(config, options, &kind, &cols));
  return tap_source_open(&engine->source, &engine->backbone, kind, cols);
}

static int open_buffers(struct engine *engine, const struct options *options, const struct engine_plan *plan) {
  TRY(head_open(&engine->head, &engine->backbone, engine->has_side ? &engine->side : NULL, engine->capacity));
  TRY(micro_batch_open(&engine->batch, engine->device, engine->capacity, plan->samples));
  TRY(open_source(engine, options, plan));
  engine->sums.size = plan->use == ENGINE_TRAIN ? engine->side.layout.size : 0;
  TRY(device_allocate(engine->device, MEMORY_OPTIMIZER, &engine->sums.sums, sums_bytes(engine)));
  engine->sums.faults = engine->sums.sums + engine->sums.size + 1;
  return device_host_allocate(engine->device, &engine->host_sums, sums_bytes(engine));
}

static int open_with_file(struct engine *engine, struct backbone_file *file, const struct options *options,
                          const struct comm *comm, const struct engine_plan *plan) {
  memcpy(engine->digest, backbone_file_digest(file), sizeof engine->digest);
  TRY(backbone_file_tokenizer(file, &engine->tokenizer));
  TRY(open_device(engine, options, backbone_file_config(file), comm, plan->use));
  if (plan->use == ENGINE_TRAIN || plan->use == ENGINE_TAPS) TRY(measure_peak(engine));
  TRY(backbone_open(&engine->backbone, engine->device, file, engine->capacity, plan->positions));
  TRY(open_side(engine, options, plan));
  return open_buffers(engine, options, plan);
}

int engine_open(struct engine *engine, const struct options *options, const struct comm *comm,
                const struct engine_plan *plan) {
  *engine = (struct engine){.capacity = plan->capacity};
  engine->threads = options->threads > 0 ? (int)options->threads : threads_of_rank(comm->local_size);
  struct backbone_file *file;
  TRY(backbone_file_open(&file, options->backbone));
  int status = open_with_file(engine, file, options, comm, plan);
  backbone_file_close(&file);
  return status;
}

void engine_close(struct engine *engine) {
  if (engine->device) {
    head_close(&engine->head);
    micro_batch_close(&engine->batch, engine->device);
    tap_source_close(&engine->source);
    device_host_release(engine->device, &engine->host_sums);
    device_release(engine->device, MEMORY_OPTIMIZER, &engine->sums.sums, sums_bytes(engine));
    side_close(&engine->side);
    backbone_close(&engine->backbone);
  }
  tokenizer_destroy(&engine->tokenizer);
  device_close(&engine->device);
  *engine = (struct engine){0};
}

/* ---- use ------------------------------------------------------------------------------------------------ */

int engine_follow(struct engine *engine, struct kv_cache *side_cache, void **s) {
  *s = NULL;
  if (engine->has_side) TRY(side_forward(&engine->side, &engine->batch, &engine->taps, side_cache, s));
  return head_forward(&engine->head, &engine->batch, &engine->taps, *s);
}

int engine_forward(struct engine *engine, struct kv_cache *backbone_cache, struct kv_cache *side_cache, void **s) {
  TRY(tap_source_run(&engine->source, &engine->batch, backbone_cache, &engine->taps));
  return engine_follow(engine, side_cache, s);
}

int engine_reduce(struct engine *engine, struct comm *comm) {
  size_t bytes = sums_bytes(engine);
  TRY(device_download(engine->device, engine->host_sums, engine->sums.sums, bytes));
  TRY(comm_sum_i64(comm, engine->host_sums, engine->sums.size + 2));
  TRY(device_upload(engine->device, engine->sums.sums, engine->host_sums, bytes));
  int64_t faults = engine->host_sums[engine->sums.size + 1];
  if (faults == 0) return OK;
  return comm_agree(comm, fail(ERR_INPUT,
                               "%lld values of the loss and its gradients are not finite or too large: lower --lr, set "
                               "--clip, or look for damaged weights with inspect",
                               (long long)faults));
}

double engine_loss(const struct engine *engine) {
  return (double)engine->host_sums[engine->sums.size] / (double)((int64_t)1 << FIXED_FRACTION_BITS);
}

double engine_flops(const struct engine *engine, int64_t tokens, int64_t labels, double squares) {
  const struct model_config *c = &engine->backbone.config;
  double layer = (double)backbone_qkv(c) * c->hidden + (double)c->heads * c->head_dim * c->hidden +
                 3.0 * c->feed_forward * c->hidden;
  double head = (double)c->vocabulary * c->hidden;
  double attention = 2.0 * c->layers * c->heads * c->head_dim * squares; /* 4 · Σ n²/2 */
  bool training = engine->has_side && engine->side.training;
  double flops = 2.0 * c->layers * layer * (double)tokens + (training ? 4.0 : 2.0) * head * (double)labels + attention;
  if (!engine->has_side) return flops;
  const struct side_shape *s = &engine->side.layout.shape;
  double side_attention = 2.0 * s->layers * s->heads * s->head_dim * squares;
  double side = 2.0 * (double)engine->side.layout.parameters * (double)tokens + side_attention;
  return flops + (training ? 3.0 : 1.0) * side;
}

int64_t resident_peak(void) {
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return (int64_t)usage.ru_maxrss * 1024;
}

void engine_banner(const struct engine *engine, const struct comm *comm) {
  const struct model_config *c = &engine->backbone.config;
  const size_t *bytes = engine->device->allocated;
  log_note("ranks      %d (%s), %d on this host (%s)", comm->size, comm->name, comm->local_size, comm->host);
  log_note("device     %s", engine->device->description);
  log_note("backbone   %s, %d layers of %d, %d heads (%d for keys), vocabulary %d", c->architecture, c->layers,
           c->hidden, c->heads, c->kv_heads, c->vocabulary);
  if (engine->has_side) {
    const struct side_shape *s = &engine->side.layout.shape;
    log_note("side       %d layers of %d, %d heads of %d, %zu parameters", s->layers, s->width, s->heads, s->head_dim,
             engine->side.layout.parameters);
  }
  log_note(
      "memory     %.0f MB a rank in buffers: weights %.0f, taps %.0f, side network %.0f, optimizer %.0f, workspace "
      "%.0f",
      (double)(bytes[0] + bytes[1] + bytes[2] + bytes[3] + bytes[4]) / 1e6, (double)bytes[MEMORY_WEIGHTS] / 1e6,
      (double)bytes[MEMORY_TAPS] / 1e6, (double)bytes[MEMORY_SIDE] / 1e6, (double)bytes[MEMORY_OPTIMIZER] / 1e6,
      (double)bytes[MEMORY_WORKSPACE] / 1e6);
}
