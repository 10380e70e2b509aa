#include "evaluate.h"

#include <math.h>

#include "base/error.h"

/* Rows are planned in groups of a fixed number, so that memory does not grow with the data. */
enum { ROWS_PER_PLAN = 512 };

static int add_micro_batch(struct engine *engine, const struct token_file *data, const struct step_plan *plan, int i) {
  int first = plan->start[i];
  TRY(micro_batch_load(&engine->batch, engine->device, data, plan->rows + first, plan->start[i + 1] - first));
  if (engine->batch.label_count == 0) return OK;
  void *s;
  TRY(engine_forward(engine, NULL, NULL, &s));
  return head_loss(&engine->head, &engine->batch, &engine->sums);
}

static int add_group(struct engine *engine, struct comm *comm, const struct token_file *data, struct step_plan *plan,
                     struct data_order *order, int64_t first, int count) {
  TRY(step_plan_make(plan, data, order, first, count, engine->capacity, comm->size));
  for (int i = 0; i < plan->micro_batches; i++)
    if (plan->owner[i] == comm->rank) TRY(add_micro_batch(engine, data, plan, i));
  return OK;
}

static int add_all(struct engine *engine, struct comm *comm, const struct token_file *data, int64_t rows,
                   struct evaluation *out) {
  struct step_plan plan;
  struct data_order order;
  TRY(data_order_open(&order, data->rows, 0, false));
  int status = step_plan_open(&plan, ROWS_PER_PLAN);
  for (int64_t first = 0; status == OK && first < rows; first += ROWS_PER_PLAN) {
    int count = (int)(rows - first < ROWS_PER_PLAN ? rows - first : ROWS_PER_PLAN);
    status = add_group(engine, comm, data, &plan, &order, first, count);
    out->label_tokens += plan.label_tokens;
  }
  step_plan_close(&plan);
  data_order_close(&order);
  return status;
}

int evaluate_loss(struct engine *engine, struct comm *comm, const struct token_file *data, int64_t rows,
                  struct evaluation *out) {
  *out = (struct evaluation){0};
  TRY(device_zero(engine->device, engine->sums.sums, (engine->sums.size + 2) * sizeof(int64_t)));
  TRY(add_all(engine, comm, data, rows, out));
  TRY(engine_reduce(engine, comm));
  if (out->label_tokens == 0) return comm_agree(comm, fail(ERR_INPUT, "the rows to evaluate on have no label tokens"));
  out->loss = engine_loss(engine) / (double)out->label_tokens;
  out->perplexity = exp(out->loss);
  return OK;
}
