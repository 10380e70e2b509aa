#include "exact_match.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/log.h"
#include "base/memory.h"

/* The rows of one rank, and what was generated for them. */
struct answers {
  struct generation_request *requests;
  int64_t *rows;              /* of the token file */
  struct token_list *answers; /* so far */
  int count, finished;
  const struct generator *generator;
};

/* The wanted answer: up to its end token where it has one; what a template puts behind that is not the answer's. */
static const int32_t *completion_of(const struct generator *generator, const struct token_file *data, int64_t row,
                                    int *length) {
  int64_t first = data->offsets[row] + data->completions[row];
  int most = (int)(data->offsets[row + 1] - first);
  *length = 0;
  while (*length < most && !generator_is_stop(generator, data->tokens[first + *length])) ++*length;
  *length += *length < most;
  return data->tokens + first;
}

static int open_answers(struct answers *answers, const struct generator *generator, const struct comm *comm,
                        const struct token_file *data, int64_t rows) {
  *answers = (struct answers){.generator = generator};
  TRY(memory_array(&answers->requests, (size_t)rows, sizeof *answers->requests));
  TRY(memory_array(&answers->rows, (size_t)rows, sizeof *answers->rows));
  TRY(memory_array(&answers->answers, (size_t)rows, sizeof *answers->answers));
  for (int64_t row = comm->rank; row < rows; row += comm->size) {
    if (data->completions[row] < 1) continue;
    int length;
    completion_of(generator, data, row, &length);
    answers->rows[answers->count] = row;
    answers->requests[answers->count++] = (struct generation_request){.prompt = data->tokens + data->offsets[row],
                                                                      .prompt_count = data->completions[row],
                                                                      .max_new = length,
                                                                      .index = (uint64_t)row};
  }
  return OK;
}

static void close_answers(struct answers *answers) {
  for (int i = 0; answers->answers && i < answers->count; i++) token_list_free(&answers->answers[i]);
  free(answers->requests);
  free(answers->rows);
  free(answers->answers);
}

static int keep_token(void *context, int request, int32_t token) {
  struct answers *answers = context;
  struct token_list *answer = &answers->answers[request];
  TRY(token_list_append(answer, token));
  bool ended =
      generator_is_stop(answers->generator, token) || answer->size == (size_t)answers->requests[request].max_new;
  answers->finished += ended;
  if (ended && answers->finished % 32 == 0) log_progress("answered %d of %d rows", answers->finished, answers->count);
  return OK;
}

static int same_text(const struct tokenizer *tokenizer, const int32_t *a, size_t a_count, const int32_t *b,
                     size_t b_count, bool *same) {
  struct buffer left = {0}, right = {0};
  int status = tokenizer_decode(tokenizer, a, a_count, true, &left);
  if (status == OK) status = tokenizer_decode(tokenizer, b, b_count, true, &right);
  *same = status == OK && left.size == right.size && memcmp(left.data, right.data, left.size) == 0;
  buffer_free(&left);
  buffer_free(&right);
  return status;
}

static int is_right(const struct answers *answers, int i, const struct token_file *data, bool *right) {
  const struct token_list *answer = &answers->answers[i];
  const struct tokenizer *tokenizer = answers->generator->engine->tokenizer;
  int length;
  const int32_t *wanted = completion_of(answers->generator, data, answers->rows[i], &length);
  *right = answer->size == (size_t)length && memcmp(answer->ids, wanted, answer->size * sizeof *wanted) == 0;
  if (*right || !tokenizer) return OK;
  return same_text(tokenizer, answer->ids, answer->size, wanted, (size_t)length, right);
}

static int count_right(const struct answers *answers, const struct token_file *data, int64_t *right) {
  for (int i = 0; i < answers->count; i++) {
    bool one;
    TRY(is_right(answers, i, data, &one));
    *right += one;
  }
  return OK;
}

int exact_match_count(struct generator *generator, struct comm *comm, const struct token_file *data, int64_t rows,
                      struct exact_match *out) {
  struct answers answers;
  int64_t counts[2] = {0};
  int status = open_answers(&answers, generator, comm, data, rows);
  if (status == OK) status = generator_run(generator, answers.requests, answers.count, keep_token, &answers);
  if (status == OK) status = count_right(&answers, data, &counts[1]);
  counts[0] = answers.count;
  close_answers(&answers);
  TRY(comm_agree(comm, status));
  TRY(comm_sum_i64(comm, counts, 2));
  *out = (struct exact_match){.rows = counts[0], .right = counts[1]};
  return OK;
}
