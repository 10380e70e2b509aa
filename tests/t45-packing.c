/* A step's rows in micro-batches: each row once, none too full, the same for any number of ranks, fairly shared, and in
 * a moment however many rows a step has. */
// RUN timeout=20
#include <stdlib.h>

#include "base/memory.h"
#include "base/random.h"
#include "batch.h"
#include "check.h"
#include "io/chat.h"

/* Rows of `least` to `most` tokens, the first token of each without a label. */
static int make_data(struct token_file *data, int64_t rows, int least, int most) {
  struct random random = random_start(7, RANDOM_DATA_ORDER, (uint64_t)rows);
  *data = (struct token_file){.rows = rows};
  TRY(memory_array(&data->offsets, (size_t)rows + 1, sizeof *data->offsets));
  for (int64_t i = 0; i < rows; i++)
    data->offsets[i + 1] = data->offsets[i] + least + (int64_t)random_below(&random, (uint64_t)(most - least + 1));
  data->total = data->offsets[rows];
  TRY(memory_array(&data->tokens, (size_t)data->total, sizeof *data->tokens));
  return memory_array(&data->labels, (size_t)data->total, sizeof *data->labels);
}

static int tokens_of(const struct step_plan *plan, const struct token_file *data, int batch) {
  int64_t tokens = 0;
  for (int i = plan->start[batch]; i < plan->start[batch + 1]; i++)
    tokens += data->offsets[plan->rows[i] + 1] - data->offsets[plan->rows[i]];
  return (int)tokens;
}

static int check_rows(const struct step_plan *plan, const struct token_file *data, int count) {
  char *seen;
  TRY(memory_array(&seen, (size_t)data->rows, 1));
  CHECK(plan->row_count == count && plan->start[0] == 0 && plan->start[plan->micro_batches] == count);
  for (int i = 0; i < count; i++) {
    CHECK(!seen[plan->rows[i]]);
    seen[plan->rows[i]] = 1;
  }
  free(seen);
  return OK;
}

/* Loads of the ranks differ by no more than the largest micro-batch. */
static int check_shares(const struct step_plan *plan, int ranks) {
  int64_t *load, least = INT64_MAX, most = 0;
  int largest = 0;
  TRY(memory_array(&load, (size_t)ranks, sizeof *load));
  for (int i = 0; i < plan->micro_batches; i++) {
    CHECK(plan->owner[i] >= 0 && plan->owner[i] < ranks);
    load[plan->owner[i]] += plan->tokens[i];
    largest = plan->tokens[i] > largest ? plan->tokens[i] : largest;
  }
  for (int i = 0; i < ranks; i++) {
    least = load[i] < least ? load[i] : least;
    most = load[i] > most ? load[i] : most;
  }
  free(load);
  CHECK(most - least <= largest);
  return OK;
}

static int check_plan(const struct step_plan *plan, const struct token_file *data, int count, int capacity) {
  TRY(check_rows(plan, data, count));
  int64_t total = 0;
  for (int i = 0; i < plan->micro_batches; i++) {
    int tokens = tokens_of(plan, data, i);
    CHECK(tokens > 0 && tokens <= capacity && tokens == plan->tokens[i]);
    total += tokens;
  }
  /* Longest first into the emptiest: no more than twice the fewest, the extra one for an even number aside. */
  CHECK(plan->micro_batches <= 2 * (total / capacity + 1) + 1);
  CHECK(plan->label_tokens == total - count);
  return OK;
}

/* The rows by micro-batch are the same whoever runs them. */
static int check_steps(int64_t rows, int least, int most, int batch, int capacity) {
  struct token_file data;
  struct data_order order;
  struct step_plan alone, shared;
  TRY(make_data(&data, rows, least, most));
  TRY(data_order_open(&order, rows, 3, true));
  TRY(step_plan_open(&alone, batch));
  TRY(step_plan_open(&shared, batch));
  for (int64_t first = 0; first + batch <= rows; first += batch) {
    TRY(step_plan_make(&alone, &data, &order, first, batch, capacity, 1));
    TRY(check_plan(&alone, &data, batch, capacity));
    TRY(check_shares(&alone, 1));
    TRY(step_plan_make(&shared, &data, &order, first, batch, capacity, 3));
    TRY(check_shares(&shared, 3));
    CHECK(shared.micro_batches == alone.micro_batches);
    for (int i = 0; i < batch; i++) CHECK(shared.rows[i] == alone.rows[i] && shared.start[i] == alone.start[i]);
  }
  step_plan_close(&alone);
  step_plan_close(&shared);
  data_order_close(&order);
  token_file_free(&data);
  return OK;
}

int main(void) {
  CHECK_OK(check_steps(60, 6, 40, 12, 96));
  CHECK_OK(check_steps(64, 1, 1, 8, 16));
  CHECK_OK(check_steps(90, 30, 96, 30, 96));
  CHECK_OK(check_steps(500000, 6, 40, 250000, 96));
  CHECK_OK(check_steps(100000, 60, 96, 100000, 96));
  return check_result();
}
