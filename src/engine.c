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
#include "peak.h"
#include "same_command.h"
#include "side_source.h"

/* ---- opening -------------------------------------------------------------------------------------------- */

static int open_device(struct engine *engine, const struct options *options, const struct model_config *config,
                       const struct engine_plan *plan) {
  struct device_limits limits = backbone_limits(config, engine->capacity);
  limits.fp8 = strcmp(options->backbone_compute, "fp8") == 0;
  if (plan->use == ENGINE_TRAIN) limits.side_hidden = config->hidden / (int)options->reduction_factor;
  return device_open(&engine->device, &(struct device_options){.name = plan->hardware ? "null" : options->device,
                                                               .cpu_isa = options->cpu_isa,
                                                               .gpu_isa = options->gpu_isa,
                                                               .act = options->act,
                                                               .threads = engine->threads,
                                                               .local_rank = engine->grid->world->local_rank,
                                                               .hardware = plan->hardware,
                                                               .limits = limits});
}

static int load_side(struct engine *engine, struct checkpoint *source) {
  struct side *side = &engine->side;
  struct side_buffers buffers = {.frozen = side->frozen, .begin = side->begin, .size = side->size};
  TRY(memory_array(&buffers.flat, side->size, sizeof *buffers.flat));
  int status = side_source_read(source, &side->layout, &buffers);
  if (status == OK) status = side_upload(side, buffers.flat);
  free(buffers.flat);
  return status;
}

static int open_stored_side(struct engine *engine, const char *path, const struct side_use *use) {
  struct checkpoint *source;
  TRY(checkpoint_open(&source, path));
  const struct model_config *config = &engine->backbone.config;
  struct side_shape shape;
  int status;
  TRY_GOTO(status, cleanup, side_source_check_backbone(source, path, engine->digest));
  TRY_GOTO(status, cleanup, side_source_shape(source, path, config, &shape));
  TRY_GOTO(status, cleanup, side_open(&engine->side, engine->device, config, &shape, use));
  TRY_GOTO(status, cleanup, load_side(engine, source));
cleanup:
  checkpoint_close(&source);
  return status;
}

static int open_side(struct engine *engine, const struct options *options, const struct engine_plan *plan,
                     const struct pipeline *order) {
  engine->has_side = plan->use == ENGINE_TRAIN || options->side;
  if (!engine->has_side) return OK;
  struct side_use use = {.stage = engine->stage,
                         .capacity = engine->capacity,
                         .positions = plan->positions,
                         .frames = order->frames,
                         .training = plan->use == ENGINE_TRAIN,
                         .recompute = options->recompute};
  if (!use.training) return open_stored_side(engine, options->side, &use);
  struct side_shape shape;
  TRY(side_shape_make(&shape, &engine->backbone.config, options));
  return side_open(&engine->side, engine->device, &engine->backbone.config, &shape, &use);
}

static int open_source(struct engine *engine, const struct options *options, const struct engine_plan *plan,
                       int slots) {
  const struct model_config *config = &engine->backbone.config;
  const struct side_shape *shape = &engine->side.layout.shape;
  enum tap_kind kind = engine->has_side ? side_tap_kind(shape) : TAPS_HIDDEN;
  int cols = engine->has_side ? side_tap_cols(shape) : config->hidden;
  if (plan->use == ENGINE_TAPS) TRY(side_taps_choose(config, options, &kind, &cols));
  TRY(tap_source_open(&engine->source, &engine->backbone, kind, cols, slots));
  return engine->side.frozen ? tap_source_project(&engine->source, engine->side.frozen) : OK;
}

static size_t sums_bytes(const struct engine *engine) {
  return engine->sums.size * sizeof(int64_t);
}

static size_t totals_bytes(const struct engine *engine) {
  return engine->total_count * sizeof(int64_t);
}

static int open_sums(struct engine *engine, const struct engine_plan *plan) {
  bool training = plan->use == ENGINE_TRAIN;
  engine->sums.begin = engine->side.begin;
  engine->sums.size = training ? engine->side.size : 0;
  engine->total_count = TOTAL_SQUARES + (training ? (size_t)engine->side.layout.count : 0);
  TRY(device_allocate(engine->device, MEMORY_OPTIMIZER, &engine->sums.sums, sums_bytes(engine)));
  TRY(device_allocate(engine->device, MEMORY_COMMUNICATION, &engine->totals, totals_bytes(engine)));
  engine->sums.loss = engine->totals + TOTAL_LOSS;
  engine->sums.faults = engine->totals + TOTAL_FAULTS;
  return device_host_allocate(engine->device, &engine->host_totals, totals_bytes(engine));
}

static int open_buffers(struct engine *engine, const struct options *options, const struct engine_plan *plan,
                        const struct pipeline *order) {
  struct side *side = engine->has_side ? &engine->side : NULL;
  bool scores = stage_ends(&engine->stage) && plan->use != ENGINE_TAPS && plan->use != ENGINE_CALIBRATE;
  if (scores) TRY(head_open(&engine->head, &engine->backbone, side, engine->capacity));
  TRY(open_source(engine, options, plan, order->slots));
  TRY(open_sums(engine, plan));
  TRY(lanes_open(&engine->lanes, &(struct lanes_parts){.device = engine->device,
                                                       .source = &engine->source,
                                                       .side = side,
                                                       .head = scores ? &engine->head : NULL,
                                                       .sums = &engine->sums,
                                                       .order = *order,
                                                       .capacity = engine->capacity,
                                                       .samples = plan->samples}));
  engine->batch = &engine->lanes.slots[0].batch;
  return OK;
}

/* One sample, a label on each token; what the arrays hold does not matter. */
static void pretend(struct micro_batch *batch, int rows) {
  batch->rows = batch->label_count = rows;
  batch->segments = (struct segments){.count = 1,
                                      .q_start = batch->q_start,
                                      .k_start = batch->k_start,
                                      .k_length = batch->k_length,
                                      .max_queries = rows,
                                      .max_keys = rows};
}

/* The operations of a micro-batch of so many tokens. */
static int prepare_rows(void *context, int rows) {
  struct engine *engine = context;
  struct slot *slot = &engine->lanes.slots[0];
  struct side *side = engine->lanes.side;
  struct head *head = engine->lanes.head;
  struct side_frame *frame = side ? &side->frames[0] : NULL;
  pretend(&slot->batch, rows);
  TRY(tap_source_run(&engine->source, 0, &slot->batch, NULL, &slot->taps));
  if (side) TRY(side_forward(side, frame, &slot->batch, &slot->taps, NULL));
  if (head) TRY(head_forward(head, &slot->batch, &slot->taps, side ? frame->s_out : NULL));
  if (!side || !side->training) return head ? head_loss(head, &slot->batch, &engine->sums) : OK;
  if (head) TRY(head_backward(head, &slot->batch, &slot->taps, frame->ds, &engine->sums));
  return side_backward(side, frame, &slot->batch, &slot->taps, &engine->sums, NULL);
}

static int check_stages(const struct model_config *config, int stages) {
  if (stages <= config->layers) return OK;
  return fail(ERR_USAGE, "--pipeline-stages %d: the model has %d layers, and a stage needs one", stages,
              config->layers);
}

static int open_with_file(struct engine *engine, struct backbone_file *file, const struct options *options,
                          const struct engine_plan *plan) {
  const struct model_config *config = backbone_file_config(file);
  const struct grid *grid = engine->grid;
  memcpy(engine->digest, backbone_file_digest(file), sizeof engine->digest);
  TRY(backbone_file_tokenizer(file, &engine->tokenizer));
  TRY(check_stages(config, grid->stages));
  engine->stage = stage_share(config, plan->label_share, grid->stages, grid->stage);
  TRY(open_device(engine, options, config, plan));
  bool training = plan->use == ENGINE_TRAIN;
  bool ahead = training ? options->run_ahead : plan->use != ENGINE_GENERATE;
  struct pipeline order =
      plan->use == ENGINE_CALIBRATE
          ? pipeline_make(1, 0, false, false) /* a micro-batch at a time, past the lanes */
          : pipeline_make(grid->stages, grid->stage, training, engine->device->lanes_overlap && ahead);
  if (!plan->hardware && (training || plan->use == ENGINE_TAPS)) TRY(peak_measure(engine->device, &engine->peak));
  TRY(backbone_open(&engine->backbone, engine->device, file, &engine->stage, engine->capacity, plan->positions));
  TRY(open_side(engine, options, plan, &order));
  TRY(open_buffers(engine, options, plan, &order));
  return plan->use == ENGINE_GENERATE ? OK : device_prepare(engine->device, engine->capacity, prepare_rows, engine);
}

int engine_open(struct engine *engine, const struct options *options, const struct grid *grid,
                const struct engine_plan *plan) {
  *engine = (struct engine){.capacity = plan->capacity, .grid = grid};
  engine->threads = options->threads > 0 ? (int)options->threads : threads_of_rank(grid->world->local_size);
  struct backbone_file *file;
  TRY(options->backbone
          ? backbone_file_open(&file, options->backbone)
          : backbone_file_open_shape(&file, options->model_shape, options->format, options->double_quant));
  int status = open_with_file(engine, file, options, plan);
  backbone_file_close(&file);
  return status;
}

enum placement placement_of(const struct options *options) {
  return strcmp(options->placement, "replicas") == 0 ? PLACE_REPLICAS : PLACE_STAGES;
}

int engine_connect(struct engine *engine) {
  TRY(same_file(engine->grid->world, "--backbone", engine->digest));
  TRY(transport_open(&engine->world, engine->grid->world, engine->device));
  TRY(transport_open(&engine->replicas, engine->grid->stage_comm, engine->device));
  return lanes_connect(&engine->lanes, engine->grid->replica_comm);
}

void engine_close(struct engine *engine) {
  lanes_close(&engine->lanes);
  transport_close(&engine->replicas);
  transport_close(&engine->world);
  if (engine->device) {
    head_close(&engine->head);
    tap_source_close(&engine->source);
    device_host_release(engine->device, &engine->host_totals);
    device_release(engine->device, MEMORY_COMMUNICATION, &engine->totals, totals_bytes(engine));
    device_release(engine->device, MEMORY_OPTIMIZER, &engine->sums.sums, sums_bytes(engine));
    side_close(&engine->side);
    backbone_close(&engine->backbone);
  }
  tokenizer_destroy(&engine->tokenizer);
  device_close(&engine->device);
  *engine = (struct engine){0};
}

/* ---- use ------------------------------------------------------------------------------------------------ */

int engine_decode(struct engine *engine, struct kv_cache *backbone_cache, struct kv_cache *side_cache) {
  struct taps *taps = &engine->lanes.slots[0].taps;
  TRY(tap_source_run(&engine->source, 0, engine->batch, backbone_cache, taps));
  if (!engine->has_side) return head_forward(&engine->head, engine->batch, taps, NULL);
  struct side_frame *frame = &engine->side.frames[0];
  TRY(side_forward(&engine->side, frame, engine->batch, taps, side_cache));
  return head_forward(&engine->head, engine->batch, taps, frame->s_out);
}

int engine_zero(struct engine *engine) {
  TRY(device_zero(engine->device, engine->sums.sums, sums_bytes(engine)));
  return device_zero(engine->device, engine->totals, totals_bytes(engine));
}

int engine_share_totals(struct engine *engine) {
  TRY(transport_sum(engine->world, engine->totals, engine->total_count, ELEMENT_I64));
  TRY(lanes_wait(&engine->lanes, engine->world));
  TRY(device_download(engine->device, engine->host_totals, engine->totals, totals_bytes(engine)));
  int64_t faults = engine->host_totals[TOTAL_FAULTS];
  if (faults == 0 || engine->host_totals[TOTAL_UNREAD] > 0) return OK;
  return comm_agree(engine->grid->world,
                    fail(ERR_INPUT,
                         "%lld values of the loss and its gradients are not finite or too large: lower --lr, set "
                         "--clip, or look for damaged weights with inspect",
                         (long long)faults));
}

double engine_loss(const struct engine *engine) {
  return (double)engine->host_totals[TOTAL_LOSS] / (double)((int64_t)1 << FIXED_FRACTION_BITS);
}

double engine_flops(const struct engine *engine, int64_t tokens, int64_t labels, double squares) {
  const struct model_config *c = &engine->backbone.config;
  double layer = backbone_layer_weights(c);
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

static void print_ranks(const struct engine *engine) {
  const struct grid *grid = engine->grid;
  const struct comm *comm = grid->world;
  log_note("ranks      %d (%s), %d on this host (%s)", comm->size, comm->name, comm->local_size, comm->host);
  if (grid->stages > 1)
    log_note("grid       %d replicas of %d stages (%s); this rank: layers %d to %d of %d", grid->replicas, grid->stages,
             transport_name(engine->replicas), engine->stage.first + 1, engine->stage.end, engine->stage.layers);
}

void engine_banner(const struct engine *engine) {
  const struct model_config *c = &engine->backbone.config;
  const size_t *bytes = engine->device->allocated;
  print_ranks(engine);
  log_note("device     %s", engine->device->description);
  log_note("backbone   %s, %d layers of %d, %d heads (%d for keys), vocabulary %d", c->architecture, c->layers,
           c->hidden, c->heads, c->kv_heads, c->vocabulary);
  if (engine->has_side) {
    const struct side_shape *s = &engine->side.layout.shape;
    log_note("side       %d layers of %d, %d heads of %d, %zu parameters", s->layers, s->width, s->heads, s->head_dim,
             engine->side.layout.parameters);
  }
  double all = 0;
  for (int kind = 0; kind < MEMORY_KINDS; kind++) all += (double)bytes[kind];
  log_note(
      "memory     %.0f MB a rank in buffers: weights %.0f, taps %.0f, side network %.0f, optimizer %.0f, communication "
      "%.0f, workspace %.0f",
      all / 1e6, (double)bytes[MEMORY_WEIGHTS] / 1e6, (double)bytes[MEMORY_TAPS] / 1e6,
      (double)bytes[MEMORY_SIDE] / 1e6, (double)bytes[MEMORY_OPTIMIZER] / 1e6,
      (double)bytes[MEMORY_COMMUNICATION] / 1e6, (double)bytes[MEMORY_WORKSPACE] / 1e6);
}
