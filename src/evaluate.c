#include "evaluate.h"

#include <math.h>

#include "base/error.h"

/* Rows are planned in groups of a fixed number, so that memory does not grow with the data. */
enum { ROWS_PER_PLAN = 512 };

/* This replica's micro-batches of the plan that have a label. */
static int run_group(struct engine *engine, const struct token_file *data, const struct step_plan *plan) {
  struct lanes_pass pass = {0};
  for (int i = 0; i < plan->micro_batches; i++) {
    if (plan->owner[i] != engine->grid->replica || plan->labels[i] == 0) continue;
    TRY(lanes_add(&engine->lanes, &(struct work){.data = data,
                                                 .rows = plan->rows + plan->start[i],
                                                 .count = plan->start[i + 1] - plan->start[i],
                                                 .tokens = plan->tokens[i]}));
    pass.count++;
  }
  return lanes_run(&engine->lanes, &pass);
}

static int run_all(struct engine *engine, const struct token_file *data, int64_t rows, struct evaluation *out) {
  struct step_plan plan;
  struct data_order order;
  TRY(data_order_open(&order, data->rows, 0, false));
  int status = step_plan_open(&plan, ROWS_PER_PLAN);
  for (int64_t first = 0; status == OK && first < rows; first += ROWS_PER_PLAN) {
    int count = (int)(rows - first < ROWS_PER_PLAN ? rows - first : ROWS_PER_PLAN);
    status = step_plan_make(&plan, data, &order, first, count, engine->capacity, engine->grid->replicas);
    if (status == OK) status = run_group(engine, data, &plan);
    out->label_tokens += plan.label_tokens;
  }
  step_plan_close(&plan);
  data_order_close(&order);
  return status;
}

int evaluate_loss(struct engine *engine, const struct token_file *data, int64_t rows, struct evaluation *out) {
  *out = (struct evaluation){0};
  TRY(engine_zero(engine));
  TRY(run_all(engine, data, rows, out));
  TRY(engine_share_totals(engine));
  if (out->label_tokens == 0)
    return comm_agree(engine->grid->world, fail(ERR_INPUT, "the rows to evaluate on have no label tokens"));
  out->loss = engine_loss(engine) / (double)out->label_tokens;
  out->perplexity = exp(out->loss);
  return OK;
}
