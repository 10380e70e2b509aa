#include "trainer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "base/memory.h"
#include "evaluate.h"
#include "optimizer.h"
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
  struct data_order order;
  struct step_plan plan, next; /**< of the step at hand and the one after it */
  int64_t planned;             /**< the step `plan` is of; 0: none yet */
  struct run_state run;
  struct run_log log;
  enum schedule schedule;
  int64_t places; /**< rows the run takes in all, epochs counted in */
  int64_t steps;  /**< steps of the run */
  void *ds;       /**< act [capacity, width] gradient of s_L */
  struct tap_store taps;
  bool has_taps;
};

/* ---- set-up --------------------------------------------------------------------------------------------- */

static size_t ds_bytes(const struct trainer *trainer) {
  const struct engine *engine = trainer->engine;
  return device_act_bytes(engine->device, (size_t)engine->capacity * (size_t)engine->side.layout.shape.width);
}

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

/* Ranks beyond the rows of a step could never have work; ranks beyond its micro-batches idle. */
static int check_ranks(struct trainer *trainer) {
  int ranks = trainer->comm->size;
  int64_t batch = trainer->options->global_batch;
  if (ranks > batch)
    return fail(ERR_USAGE,
                "%d ranks cannot share steps of %lld rows: raise --global-batch, or start at most %lld ranks", ranks,
                (long long)batch, (long long)batch);
  int count = (int)(trainer->places < batch ? trainer->places : batch);
  TRY(step_plan_make(&trainer->plan, &trainer->data->train, &trainer->order, 0, count, trainer->engine->capacity,
                     ranks));
  if (trainer->plan.micro_batches < ranks)
    log_warning("%d ranks, but a step is only %d micro-batches: raise --global-batch or lower --micro-batch-tokens",
                ranks, trainer->plan.micro_batches);
  return OK;
}

static int open_taps(struct trainer *trainer) {
  struct engine *engine = trainer->engine;
  const struct options *options = trainer->options;
  if (!options->taps) return OK;
  trainer->has_taps = true;
  return tap_store_open(&trainer->taps, options, &engine->source, engine->digest, &trainer->data->train, trainer->comm);
}

static int open_trainer(struct trainer *trainer) {
  struct engine *engine = trainer->engine;
  TRY(count_steps(trainer));
  TRY(schedule_parse(trainer->options->schedule, &trainer->schedule));
  TRY(optimizer_open(&trainer->optimizer, &engine->side, trainer->options));
  TRY(device_allocate(engine->device, MEMORY_SIDE, &trainer->ds, ds_bytes(trainer)));
  TRY(data_order_open(&trainer->order, trainer->data->train.rows, (uint64_t)trainer->options->seed, true));
  TRY(step_plan_open(&trainer->plan, (int)trainer->options->global_batch));
  TRY(step_plan_open(&trainer->next, (int)trainer->options->global_batch));
  TRY(check_ranks(trainer));
  TRY(open_taps(trainer));
  return run_state_open(&trainer->run, &trainer->optimizer, trainer->options, engine->digest,
                        trainer->data->train.digest);
}

static void close_trainer(struct trainer *trainer) {
  run_log_close(&trainer->log);
  run_state_close(&trainer->run);
  tap_store_close(&trainer->taps);
  step_plan_close(&trainer->plan);
  step_plan_close(&trainer->next);
  data_order_close(&trainer->order);
  if (trainer->ds) device_release(trainer->engine->device, MEMORY_SIDE, &trainer->ds, ds_bytes(trainer));
  optimizer_close(&trainer->optimizer);
}

/* ---- one step ------------------------------------------------------------------------------------------- */

/* This rank's first micro-batch from `i` on; micro_batches when it has none. */
static int own_micro_batch(const struct trainer *trainer, const struct step_plan *plan, int i) {
  while (i < plan->micro_batches && plan->owner[i] != trainer->comm->rank) i++;
  return i;
}

/* What this rank runs after micro-batch i of the step is read ahead. */
static void expect_next(struct trainer *trainer, int i) {
  const struct step_plan *plan = &trainer->plan;
  i = own_micro_batch(trainer, plan, i + 1);
  if (i == plan->micro_batches && trainer->planned < trainer->steps) {
    plan = &trainer->next;
    i = own_micro_batch(trainer, plan, 0);
  }
  if (i < plan->micro_batches)
    tap_store_expect(&trainer->taps, plan->rows + plan->start[i], plan->start[i + 1] - plan->start[i]);
}

static int make_taps(struct trainer *trainer, int i) {
  struct engine *engine = trainer->engine;
  const struct step_plan *plan = &trainer->plan;
  if (!trainer->has_taps) return tap_source_run(&engine->source, &engine->batch, NULL, &engine->taps);
  TRY(tap_store_run(&trainer->taps, &engine->batch, plan->rows + plan->start[i], plan->start[i + 1] - plan->start[i],
                    &engine->taps));
  expect_next(trainer, i);
  return OK;
}

static int run_micro_batch(struct trainer *trainer, int i) {
  struct engine *engine = trainer->engine;
  const struct step_plan *plan = &trainer->plan;
  int first = plan->start[i];
  TRY(micro_batch_load(&engine->batch, engine->device, &trainer->data->train, plan->rows + first,
                       plan->start[i + 1] - first));
  if (engine->batch.label_count == 0) return OK; /* no label, no gradient */
  void *s;
  TRY(make_taps(trainer, i));
  TRY(engine_follow(engine, NULL, &s));
  TRY(head_backward(&engine->head, &engine->batch, trainer->ds, &engine->sums));
  return side_backward(&engine->side, &engine->batch, &engine->taps, trainer->ds, &engine->sums);
}

static int run_micro_batches(struct trainer *trainer) {
  struct engine *engine = trainer->engine;
  TRY(device_zero(engine->device, engine->sums.sums, (engine->sums.size + 2) * sizeof(int64_t)));
  const struct step_plan *plan = &trainer->plan;
  for (int i = own_micro_batch(trainer, plan, 0); i < plan->micro_batches; i = own_micro_batch(trainer, plan, i + 1))
    TRY(run_micro_batch(trainer, i));
  return OK;
}

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

/* Rows the run has taken after this step. */
static int64_t places_after(const struct trainer *trainer, int64_t step) {
  int64_t places = step * trainer->options->global_batch;
  return places < trainer->places ? places : trainer->places;
}

static int plan_step(struct trainer *trainer, int64_t step, struct step_plan *plan) {
  int64_t first = places_after(trainer, step - 1);
  return step_plan_make(plan, &trainer->data->train, &trainer->order, first, (int)(places_after(trainer, step) - first),
                        trainer->engine->capacity, trainer->comm->size);
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

static int run_step(struct trainer *trainer, int64_t step, struct step_facts *facts) {
  struct engine *engine = trainer->engine;
  const struct options *options = trainer->options;
  double begin = clock_seconds();
  TRY(plan_ahead(trainer, step));
  int64_t rows = trainer->data->train.rows;
  if (trainer->has_taps)
    TRY(tap_store_enter(&trainer->taps, places_after(trainer, step - 1) / rows,
                        (places_after(trainer, step) - 1) / rows));
  TRY(run_micro_batches(trainer));
  TRY(fail_at(engine_reduce(engine, trainer->comm), "step %lld", (long long)step));
  int64_t labels = trainer->plan.label_tokens > 0 ? trainer->plan.label_tokens : 1;
  facts->lr = schedule_rate(trainer->schedule, options->lr, options->warmup_steps, trainer->steps, step);
  TRY(optimizer_step(&trainer->optimizer, &engine->sums, labels, facts->lr, step, &facts->grad_norm));
  facts->loss = engine_loss(engine) / (double)labels;
  facts->seconds = clock_seconds() - begin;
  facts->step = step;
  facts->epoch = (double)places_after(trainer, step) / (double)rows;
  describe_plan(trainer, facts);
  return OK;
}

/* ---- between steps -------------------------------------------------------------------------------------- */

static bool every(int64_t interval, int64_t step) {
  return interval > 0 && step % interval == 0;
}

/* Evaluates when it is time; true in *improved when no step was better before. */
static int evaluate_now(struct trainer *trainer, int64_t step, bool *improved) {
  *improved = false;
  const struct token_file *data = &trainer->data->eval;
  if (data->rows == 0 || (!every(trainer->options->eval_every, step) && step != trainer->steps)) return OK;
  struct evaluation evaluation;
  TRY(evaluate_loss(trainer->engine, trainer->comm, data, data->rows, &evaluation));
  *improved = evaluation.loss < trainer->run.state.best_loss;
  if (*improved) {
    trainer->run.state.best_loss = evaluation.loss;
    trainer->run.state.best_step = step;
  }
  return run_log_eval(&trainer->log, step, &evaluation, *improved);
}

static int save_now(struct trainer *trainer, int64_t step) {
  double begin = clock_seconds();
  int status = trainer->comm->rank == 0 ? run_state_save(&trainer->run, step) : OK;
  time_limit_saved(clock_seconds() - begin);
  return comm_agree(trainer->comm, status);
}

/* All ranks stop when one was asked to, or has no time left. */
static int shall_stop(struct trainer *trainer, enum stop_reason *stop) {
  int64_t reason = time_limit_near() ? STOP_TIME : STOP_NOT;
  if (signals_arrived()) reason = STOP_SIGNAL;
  TRY(comm_max_i64(trainer->comm, &reason, 1));
  *stop = (enum stop_reason)reason;
  return OK;
}

static int finish_step(struct trainer *trainer, int64_t step, enum stop_reason *stop) {
  bool improved;
  TRY(evaluate_now(trainer, step, &improved));
  TRY(shall_stop(trainer, stop));
  bool last = step == trainer->steps;
  if (!last && !*stop && !improved && !every(trainer->options->save_every, step)) return OK;
  TRY(save_now(trainer, step));
  if (!*stop || last) return OK;
  run_log_stopped(step, *stop);
  return STOPPED;
}

/* ---- the run -------------------------------------------------------------------------------------------- */

static int start(struct trainer *trainer) {
  struct engine *engine = trainer->engine;
  TRY(comm_agree(trainer->comm, open_trainer(trainer)));
  TRY(run_state_start(&trainer->run, trainer->comm));
  if (trainer->run.state.step > trainer->steps)
    return comm_agree(trainer->comm, fail(ERR_USAGE, "the run is at step %lld already, beyond the %lld asked for",
                                          (long long)trainer->run.state.step, (long long)trainer->steps));
  engine_banner(engine, trainer->comm);
  return run_log_open(&trainer->log, engine, trainer->options, trainer->comm, &trainer->data->train, trainer->steps,
                      trainer->run.state.step);
}

/* A signal that came while the model was loaded ends the run before its first step. */
static int stop_at_start(struct trainer *trainer) {
  int64_t step = trainer->run.state.step;
  enum stop_reason stop;
  TRY(shall_stop(trainer, &stop));
  if (!stop || step == trainer->steps) return OK;
  if (step == 0) TRY(save_now(trainer, step));
  run_log_stopped(step, stop);
  return STOPPED;
}

static int run_steps(struct trainer *trainer) {
  TRY(stop_at_start(trainer));
  enum stop_reason stop = STOP_NOT;
  for (int64_t step = trainer->run.state.step + 1; step <= trainer->steps; step++) {
    struct step_facts facts = {0};
    TRY(run_step(trainer, step, &facts));
    TRY(run_log_step(&trainer->log, &facts));
    TRY(finish_step(trainer, step, &stop));
  }
  return OK;
}

static int run_all(struct trainer *trainer) {
  TRY(start(trainer));
  int status = run_steps(trainer);
  if (trainer->has_taps && (status == OK || status == STOPPED)) TRY(tap_store_finish(&trainer->taps));
  TRY(status);
  return run_log_end(&trainer->log, trainer->run.state.best_step);
}

int trainer_run(struct engine *engine, const struct options *options, struct comm *comm,
                const struct training_data *data) {
  struct trainer trainer = {.engine = engine, .options = options, .comm = comm, .data = data};
  int status = run_all(&trainer);
  close_trainer(&trainer);
  return status;
}
