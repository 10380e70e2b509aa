#include "trainer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "directions.h"
#include "evaluate.h"
#include "optimizer.h"
#include "reduction.h"
#include "run_log.h"
#include "run_state.h"
#include "signals.h"
#include "tap_store.h"
#include "time_limit.h"

struct trainer {
  struct engine *engine;
  const struct options *options;
  struct comm *comm;
  const struct training_data *data;
  struct optimizer optimizer;
  struct reduction reduction;
  struct data_order order;
  struct step_plan plan, next; /**< of the step at hand and the one after it */
  int64_t planned;             /**< the step `plan` is of; 0: none yet */
  int64_t queued;              /**< the last step whose micro-batches the lanes have */
  struct run_state run;
  struct run_log log;
  enum schedule schedule;
  int64_t places; /**< rows the run takes in all, epochs counted in */
  int64_t steps;  /**< steps of the run */
  struct tap_store taps;
  bool has_taps;
  struct trace trace;
};

/* ---- set-up --------------------------------------------------------------------------------------------- */

static int count_steps(struct trainer *trainer) {
  const struct options *options = trainer->options;
  int64_t rows = trainer->data->train.rows, batch = options->global_batch;
  trainer->places = options->steps > 0 ? options->steps * batch : llround(options->epochs * (double)rows);
  if (trainer->places < 1) trainer->places = 1;
  trainer->steps = (trainer->places + batch - 1) / batch;
  if (trainer->data->train.label_tokens > 0) return OK;
  return fail(ERR_INPUT, "%s: no token has a label, so there is nothing to learn: its rows need a completion",
              options->data);
}

/* Replicas beyond the rows of a step could never have work; replicas beyond its micro-batches idle. */
static int check_ranks(struct trainer *trainer) {
  const struct grid *grid = trainer->engine->grid;
  int replicas = grid->replicas;
  int64_t batch = trainer->options->global_batch;
  if (replicas > batch)
    return fail(ERR_USAGE,
                "%d ranks cannot share steps of %lld rows: raise --global-batch, or start at most %lld ranks",
                replicas * grid->stages, (long long)batch, (long long)batch * grid->stages);
  int count = (int)(trainer->places < batch ? trainer->places : batch);
  TRY(step_plan_make(&trainer->plan, &trainer->data->train, &trainer->order, 0, count, trainer->engine->capacity,
                     replicas));
  if (trainer->plan.micro_batches < replicas)
    log_warning("%d replicas, but a step is only %d micro-batches: raise --global-batch or lower --micro-batch-tokens",
                replicas, trainer->plan.micro_batches);
  return OK;
}

static int open_taps(struct trainer *trainer) {
  struct engine *engine = trainer->engine;
  const struct options *options = trainer->options;
  if (!options->taps) return OK;
  trainer->has_taps = true;
  engine->lanes.store = &trainer->taps;
  struct tap_identity of = {.backbone = engine->digest,
                            .directions = directions_digest(engine, options->rank, engine->side.frozen)};
  return tap_store_open(&trainer->taps, options, &engine->source, &of, &trainer->data->train, trainer->comm);
}

/* A run that goes on has its directions from the checkpoint. */
static int open_directions(struct trainer *trainer) {
  struct engine *engine = trainer->engine;
  float *frozen = engine->side.frozen;
  if (!frozen) return OK;
  if (trainer->run.fresh) TRY(directions_get(engine, trainer->options, &trainer->data->train, frozen));
  return comm_agree(trainer->comm, tap_source_project(&engine->source, frozen));
}

static int open_trainer(struct trainer *trainer) {
  struct engine *engine = trainer->engine;
  TRY(count_steps(trainer));
  TRY(schedule_parse(trainer->options->schedule, &trainer->schedule));
  const struct grid *grid = engine->grid;
  bool sharded = trainer->options->shard_optimizer;
  TRY(optimizer_open(&trainer->optimizer, &engine->side, trainer->options, sharded ? grid->replica : 0,
                     sharded ? grid->replicas : 1));
  TRY(reduction_open(&trainer->reduction, &engine->side, &engine->sums, engine->replicas, trainer->options->reduction));
  TRY(data_order_open(&trainer->order, trainer->data->train.rows, (uint64_t)trainer->options->seed, true));
  TRY(step_plan_open(&trainer->plan, (int)trainer->options->global_batch));
  TRY(step_plan_open(&trainer->next, (int)trainer->options->global_batch));
  TRY(check_ranks(trainer));
  return run_state_open(&trainer->run, &trainer->optimizer, trainer->options, engine->grid, engine->digest,
                        trainer->data->train.digest);
}

static void close_trainer(struct trainer *trainer) {
  trainer->engine->lanes.trace = NULL;
  trace_close(&trainer->trace);
  run_log_close(&trainer->log);
  run_state_close(&trainer->run);
  tap_store_close(&trainer->taps);
  step_plan_close(&trainer->plan);
  step_plan_close(&trainer->next);
  data_order_close(&trainer->order);
  reduction_close(&trainer->reduction);
  optimizer_close(&trainer->optimizer);
}

/* ---- planning ------------------------------------------------------------------------------------------- */

/* Rows the run has taken after this step. */
static int64_t places_after(const struct trainer *trainer, int64_t step) {
  int64_t places = step * trainer->options->global_batch;
  return places < trainer->places ? places : trainer->places;
}

static int plan_step(struct trainer *trainer, int64_t step, struct step_plan *plan) {
  int64_t first = places_after(trainer, step - 1);
  return step_plan_make(plan, &trainer->data->train, &trainer->order, first, (int)(places_after(trainer, step) - first),
                        trainer->engine->capacity, trainer->engine->grid->replicas);
}

/* `plan` is the step's, `next` the one's after it. */
static int plan_ahead(struct trainer *trainer, int64_t step) {
  if (trainer->planned == step - 1 && trainer->planned > 0) {
    struct step_plan done = trainer->plan;
    trainer->plan = trainer->next;
    trainer->next = done;
  } else {
    TRY(plan_step(trainer, step, &trainer->plan));
  }
  trainer->planned = step;
  return step < trainer->steps ? plan_step(trainer, step + 1, &trainer->next) : OK;
}

static bool is_own(const struct trainer *trainer, const struct step_plan *plan, int i) {
  return plan->owner[i] == trainer->engine->grid->replica && plan->labels[i] > 0; /* no label, no gradient */
}

static int64_t count_own(const struct trainer *trainer) {
  int64_t count = 0;
  for (int i = 0; i < trainer->plan.micro_batches; i++) count += is_own(trainer, &trainer->plan, i);
  return count;
}

static int queue_plan(struct trainer *trainer, const struct step_plan *plan) {
  for (int i = 0; i < plan->micro_batches; i++)
    if (is_own(trainer, plan, i))
      TRY(lanes_add(&trainer->engine->lanes, &(struct work){.data = &trainer->data->train,
                                                            .rows = plan->rows + plan->start[i],
                                                            .count = plan->start[i + 1] - plan->start[i],
                                                            .tokens = plan->tokens[i],
                                                            .stored = trainer->has_taps}));
  trainer->queued++;
  return OK;
}

static bool every(int64_t interval, int64_t step) {
  return interval > 0 && step % interval == 0;
}

static bool evaluates_after(const struct trainer *trainer, int64_t step) {
  return trainer->data->eval.rows > 0 && (every(trainer->options->eval_every, step) || step == trainer->steps);
}

/* Epochs of the step's first and last row, added: grows where an epoch begins or ends. */
static int64_t phase_of(const struct trainer *trainer, int64_t step) {
  int64_t rows = trainer->data->train.rows;
  return places_after(trainer, step - 1) / rows + (places_after(trainer, step) - 1) / rows;
}

/* The backbone may run ahead into the next step unless something else comes first: an evaluation needs the lanes, and a
 * new epoch may find more in the tap store. */
static bool runs_on_after(const struct trainer *trainer, int64_t step) {
  if (step == trainer->steps || evaluates_after(trainer, step)) return false;
  return !trainer->has_taps || phase_of(trainer, step) == phase_of(trainer, step + 1);
}

static int queue_ahead(struct trainer *trainer, int64_t step) {
  TRY(plan_ahead(trainer, step));
  if (trainer->queued < step) {
    trainer->queued = step - 1;
    if (trainer->has_taps) TRY(tap_store_enter(&trainer->taps, phase_of(trainer, step)));
    TRY(queue_plan(trainer, &trainer->plan));
  }
  return runs_on_after(trainer, step) ? queue_plan(trainer, &trainer->next) : OK;
}

/* ---- one step ------------------------------------------------------------------------------------------- */

static void describe_plan(struct trainer *trainer, struct step_facts *facts) {
  const struct step_plan *plan = &trainer->plan;
  const struct token_file *data = &trainer->data->train;
  double squares = 0;
  for (int i = 0; i < plan->row_count; i++) {
    int64_t length = data->offsets[plan->rows[i] + 1] - data->offsets[plan->rows[i]];
    facts->tokens += length;
    squares += (double)length * (double)length;
  }
  facts->label_tokens = plan->label_tokens;
  facts->flops = engine_flops(trainer->engine, facts->tokens, facts->label_tokens, squares);
}

/* Gradients of all micro-batches of the step, summed over the replicas. */
static int sum_gradients(struct trainer *trainer, int64_t labels) {
  struct engine *engine = trainer->engine;
  struct reduction *reduction = &trainer->reduction;
  struct lanes_pass pass = {.count = count_own(trainer), .backward = true, .listener = &reduction->listener};
  reduction->scale = 1.0 / (double)labels;
  TRY(engine_zero(engine));
  TRY(lanes_run(&engine->lanes, &pass));
  if (pass.count == 0) TRY(reduction_of_nothing(reduction));
  TRY(lanes_wait(&engine->lanes, engine->replicas));
  return reduction_gradient(reduction);
}

/* All ranks stop when one was asked to, or has no time left: votes are added up, or the largest is taken. */
static const int64_t signal_vote = (int64_t)1 << 32;

static int64_t stop_votes(void) {
  return time_limit_near() + (signals_arrived() ? signal_vote : 0);
}

static enum stop_reason stop_reason(int64_t votes) {
  return votes >= signal_vote ? STOP_SIGNAL : votes > 0 ? STOP_TIME : STOP_NOT;
}

/* What must be known of all ranks before the update: the gradient's norm, the loss, whether to stop, whether all taps were
 * there, and whether a rank warned of something. */
static int share_totals(struct trainer *trainer) {
  struct engine *engine = trainer->engine;
  const int64_t votes[] = {stop_votes(), trainer->taps.unread, log_unshared() != NULL}; /* from TOTAL_STOP on */
  if (trainer->optimizer.replicas > 1 || engine->grid->replica == 0)
    TRY(optimizer_squares(&trainer->optimizer, (double *)(engine->totals + TOTAL_SQUARES)));
  TRY(device_upload(engine->device, engine->totals + TOTAL_STOP, votes, sizeof votes));
  TRY(engine_share_totals(engine));
  return engine->host_totals[TOTAL_WARNINGS] > 0 ? comm_share_warnings(trainer->comm) : OK;
}

static int64_t labels_of_step(const struct trainer *trainer) {
  return trainer->plan.label_tokens > 0 ? trainer->plan.label_tokens : 1;
}

/* All of a step but its update. Where a stage could not read taps, what came of them does not count: once more, live. */
static int compute_step(struct trainer *trainer, int64_t step) {
  struct engine *engine = trainer->engine;
  for (;;) {
    TRY(queue_ahead(trainer, step));
    TRY(sum_gradients(trainer, labels_of_step(trainer)));
    TRY(fail_at(share_totals(trainer), "step %lld", (long long)step));
    if (engine->host_totals[TOTAL_UNREAD] == 0) return OK;
    TRY(lanes_discard(&engine->lanes));
    TRY(tap_store_mend(&trainer->taps));
    trainer->queued = step - 1;
  }
}

static int run_step(struct trainer *trainer, int64_t step, struct step_facts *facts) {
  struct engine *engine = trainer->engine;
  const struct options *options = trainer->options;
  double begin = clock_seconds(), idle = engine->lanes.idle;
  TRY(compute_step(trainer, step));
  facts->lr = schedule_rate(trainer->schedule, options->lr, options->warmup_steps, trainer->steps, step);
  facts->grad_norm = optimizer_norm(&engine->side.layout, (const double *)(engine->host_totals + TOTAL_SQUARES));
  double update = clock_seconds();
  TRY(optimizer_update(&trainer->optimizer, facts->grad_norm, facts->lr, step));
  TRY(optimizer_share(&trainer->optimizer, engine->replicas));
  trace_add(engine->lanes.trace, LANE_SIDE, "update", step, update, clock_seconds());
  facts->loss = engine_loss(engine) / (double)labels_of_step(trainer);
  facts->seconds = clock_seconds() - begin;
  facts->idle = engine->device->lanes_overlap ? (double)NAN : engine->lanes.idle - idle;
  facts->step = step;
  facts->epoch = (double)places_after(trainer, step) / (double)trainer->data->train.rows;
  facts->stop = stop_reason(engine->host_totals[TOTAL_STOP]);
  describe_plan(trainer, facts);
  return OK;
}

/* ---- between steps -------------------------------------------------------------------------------------- */

/* Evaluates when it is time; true in *improved when no step was better before. */
static int evaluate_now(struct trainer *trainer, int64_t step, bool *improved) {
  *improved = false;
  const struct token_file *data = &trainer->data->eval;
  if (!evaluates_after(trainer, step)) return OK;
  struct evaluation evaluation;
  TRY(evaluate_loss(trainer->engine, data, data->rows, &evaluation));
  *improved = evaluation.loss < trainer->run.state.best_loss;
  if (*improved) {
    trainer->run.state.best_loss = evaluation.loss;
    trainer->run.state.best_step = step;
  }
  return run_log_eval(&trainer->log, step, &evaluation, *improved);
}

static int save_now(struct trainer *trainer, int64_t step) {
  double begin = clock_seconds();
  TRY(run_state_save(&trainer->run, step));
  time_limit_saved(clock_seconds() - begin);
  return OK;
}

static int finish_step(struct trainer *trainer, const struct step_facts *facts) {
  bool improved;
  int64_t step = facts->step;
  TRY(evaluate_now(trainer, step, &improved));
  bool last = step == trainer->steps;
  if (!last && !facts->stop && !improved && !every(trainer->options->save_every, step)) return OK;
  TRY(save_now(trainer, step));
  if (!facts->stop || last) return OK;
  TRY(lanes_discard(&trainer->engine->lanes));
  run_log_stopped(step, facts->stop);
  return STOPPED;
}

/* ---- the run -------------------------------------------------------------------------------------------- */

enum { TRACE_EVENTS = 1 << 16 };

static int open_trace(struct trainer *trainer) {
  if (!trainer->options->trace) return OK;
  TRY(comm_agree(trainer->comm, trainer->comm->rank == 0 ? file_try(trainer->options->trace) : OK));
  TRY(trace_open(&trainer->trace, trainer->comm, TRACE_EVENTS));
  trainer->engine->lanes.trace = &trainer->trace;
  return OK;
}

static int start(struct trainer *trainer) {
  struct engine *engine = trainer->engine;
  TRY(comm_agree(trainer->comm, open_trainer(trainer)));
  TRY(run_state_start(&trainer->run));
  TRY(open_directions(trainer));
  TRY(comm_agree(trainer->comm, open_taps(trainer)));
  if (trainer->run.state.step > trainer->steps)
    return comm_agree(trainer->comm, fail(ERR_USAGE, "the run is at step %lld already, beyond the %lld asked for",
                                          (long long)trainer->run.state.step, (long long)trainer->steps));
  engine_banner(engine);
  TRY(open_trace(trainer));
  return run_log_open(&trainer->log, engine, trainer->options, trainer->comm, &trainer->data->train, trainer->steps,
                      trainer->run.state.step);
}

/* A signal that came while the model was loaded ends the run before its first step. */
static int stop_at_start(struct trainer *trainer) {
  int64_t step = trainer->run.state.step;
  int64_t votes = stop_votes();
  TRY(comm_max_i64(trainer->comm, &votes, 1));
  if (votes == 0 || step == trainer->steps) return OK;
  if (step == 0) TRY(save_now(trainer, step));
  run_log_stopped(step, stop_reason(votes));
  return STOPPED;
}

static int run_steps(struct trainer *trainer) {
  TRY(stop_at_start(trainer));
  for (int64_t step = trainer->run.state.step + 1; step <= trainer->steps; step++) {
    struct step_facts facts = {0};
    TRY(run_step(trainer, step, &facts));
    TRY(run_log_step(&trainer->log, &facts));
    TRY(finish_step(trainer, &facts));
  }
  return OK;
}

static int run_all(struct trainer *trainer) {
  TRY(start(trainer));
  int status = run_steps(trainer);
  if (trainer->has_taps && (status == OK || status == STOPPED)) TRY(tap_store_finish(&trainer->taps));
  if (trainer->options->trace && (status == OK || status == STOPPED))
    TRY(trace_write(&trainer->trace, trainer->comm, trainer->options->trace));
  TRY(status);
  return run_log_end(&trainer->log, trainer->run.state.best_step);
}

int trainer_run(struct engine *engine, const struct options *options, const struct training_data *data) {
  struct trainer trainer = {.engine = engine, .options = options, .comm = engine->grid->world, .data = data};
  int status = run_all(&trainer);
  comm_conclude(trainer.comm, status);
  /* A failure that all ranks know of: the messages of what was queued ahead must not arrive in memory that is gone. */
  if (status != OK && comm_agreed(trainer.comm)) (void)lanes_discard(&engine->lanes);
  engine->lanes.store = NULL;
  close_trainer(&trainer);
  return status;
}
