/**
 * @file t22-embed.c
 * Rows of an embedding table, and with learned positions sums of two rows, to the last bit, for every instruction set and
 * activation type, in widths that are read in packs and one by one; indices beside a table are told from right ones.
 */
// RUN ranks=1
// RUN ranks=1 device=cuda
#include "kernels.h"

enum { ROWS = 19, VOCABULARY = 50, POSITIONS = 23 };

struct lookup {
  struct matrix table;
  double *values;  /**< [rows, cols] of the table */
  int32_t *chosen; /**< [ROWS] rows of it */
};

static struct lookup lookup_random(int rows, int cols) {
  struct operand x = operand_random((size_t)rows * (size_t)cols, DTYPE_BF16, 1);
  struct lookup lookup = {.table = {.format = WEIGHT_BF16, .rows = rows, .cols = cols, .codes = x.data},
                          .values = x.values,
                          .chosen = keep(ROWS, sizeof *lookup.chosen)};
  for (int t = 0; t < ROWS; t++) lookup.chosen[t] = random_between(0, rows - 1);
  return lookup;
}

/** One index of the last row is no row of its table, on either side. */
static void test_faults(struct crew *crew, struct embed_args args, const struct lookup *lookup, const char *what) {
  int32_t *last = &lookup->chosen[ROWS - 1], right = *last;
  *last = lookup->table.rows;
  CHECK_FAILS(ERR_INTERNAL, what, FAULT_OF(crew, embed, &args));
  *last = -1;
  CHECK_FAILS(ERR_INTERNAL, what, FAULT_OF(crew, embed, &args));
  *last = right;
  CHECK_OK(FAULT_OF(crew, embed, &args));
}

static void test_embed(struct crew *crew, int cols, bool with_positions) {
  struct lookup tokens = lookup_random(VOCABULARY, cols), positions = lookup_random(POSITIONS, cols);
  struct result y = result_of((size_t)(ROWS * cols), crew->act, NULL);
  struct embed_args args = {.y = y.data, .table = &tokens.table, .tokens = tokens.chosen, .rows = ROWS};
  if (with_positions) args.position_table = &positions.table, args.positions = positions.chosen;
  RUN(crew, embed, &args, &y);
  int wrong = 0;
  for (int i = 0; i < ROWS * cols; i++) {
    int t = i / cols, column = i % cols;
    float want = (float)tokens.values[tokens.chosen[t] * cols + column];
    if (with_positions) want += (float)positions.values[positions.chosen[t] * cols + column];
    if (crew->act == DTYPE_BF16) want = bf16_to_float(float_to_bf16(want));
    wrong += (float)result_value(&y, (size_t)i) != want;
  }
  CHECK(wrong == 0);
  test_faults(crew, args, &tokens, "vocabulary");
  if (with_positions) test_faults(crew, args, &positions, "position");
  forget_all();
}

static void test_crew(struct crew *crew) {
  for (int with_positions = 0; with_positions < 2; with_positions++) {
    test_embed(crew, 64, with_positions);
    test_embed(crew, 37, with_positions);
  }
}

int main(int count, char **words) {
  random_begin(count, words);
  for_each_crew((struct device_limits){.rows = ROWS, .hidden = 64, .vocabulary = VOCABULARY}, test_crew);
  return check_result();
}
