/**
 * @file t17-token-file.c
 * Token files: round trip, what a reader refuses although every checksum holds, damage.
 */
// RUN ranks=1 args=""
#include "damage.h"
#include "io/chat.h"
#include "io/h5.h"
#include "io/token_file.h"

enum { ROWS = 3, TOTAL = 7 };

/* Arrays that a case may change before it writes them. */
struct sample {
  int32_t tokens[TOTAL], labels[TOTAL], completions[ROWS];
  int64_t offsets[ROWS + 1];
  struct token_file file;
};

static void start_sample(struct sample *s) {
  *s = (struct sample){.tokens = {5, 6, 7, 8, 9, 1, 2},
                       .labels = {5, LABEL_NONE, 7, LABEL_NONE, LABEL_NONE, LABEL_NONE, 2},
                       .completions = {2, -1, 1},
                       .offsets = {0, 4, 5, 7}};
  s->file = (struct token_file){.rows = ROWS,
                                .total = TOTAL,
                                .truncated = 1,
                                .vocabulary = 10,
                                .tokens = s->tokens,
                                .labels = s->labels,
                                .offsets = s->offsets,
                                .completions = s->completions,
                                .template_name = "chatml",
                                .source = "rows.jsonl 0123",
                                .tokenizer = "00112233445566778899aabbccddeeff"};
}

static int read_sample(const char *path) {
  struct token_file got;
  struct sample want;
  start_sample(&want);
  TRY(token_file_read(path, &got));
  CHECK(got.rows == ROWS && got.total == TOTAL && got.truncated == 1 && got.vocabulary == 10);
  CHECK(got.label_tokens == 2); /* the first token of a row has no predecessor */
  CHECK(memcmp(got.tokens, want.tokens, sizeof want.tokens) == 0);
  CHECK(memcmp(got.labels, want.labels, sizeof want.labels) == 0);
  CHECK(memcmp(got.offsets, want.offsets, sizeof want.offsets) == 0);
  CHECK(memcmp(got.completions, want.completions, sizeof want.completions) == 0);
  CHECK(strcmp(got.template_name, "chatml") == 0 && strcmp(got.source, "rows.jsonl 0123") == 0);
  CHECK(strcmp(got.tokenizer, want.file.tokenizer) == 0 && strlen(got.digest) == 32);
  token_file_free(&got);
  CHECK(got.tokens == NULL);
  return OK;
}

static void test_round_trip(void) {
  char *path = scratch_path("tokens.h5"), *again = scratch_path("again.h5");
  struct sample s;
  start_sample(&s);
  CHECK_OK(token_file_write(path, &s.file));
  CHECK_OK(read_sample(path));
  CHECK_OK(token_file_write(again, &s.file));
  CHECK(same_bytes(path, again));
  struct token_file first, other;
  s.tokens[1] = 3;
  CHECK_OK(token_file_write(again, &s.file));
  CHECK_OK(token_file_read(path, &first));
  CHECK_OK(token_file_read(again, &other));
  CHECK(strcmp(first.digest, other.digest) != 0);
  token_file_free(&first);
  token_file_free(&other);
  free(path);
  free(again);
}

/* Another program's file: tests/fixtures/make_stores.py wrote it with h5py. */
static void test_foreign_writer(void) {
  struct token_file got;
  struct sample want;
  start_sample(&want);
  CHECK_OK(token_file_read("tests/fuzz/corpus/fuzz_h5/tokens.h5", &got));
  CHECK(got.rows == ROWS && got.label_tokens == 2 && memcmp(got.labels, want.labels, sizeof want.labels) == 0);
  token_file_free(&got);
}

static void expect(const char *text, struct sample *s) {
  char *path = scratch_path("wrong.h5");
  struct token_file got;
  CHECK_OK(token_file_write(path, &s->file));
  CHECK_FAILS(ERR_INPUT, text, token_file_read(path, &got));
  CHECK(got.tokens == NULL && got.offsets == NULL);
  start_sample(s);
  free(path);
}

static void test_wrong_contents(void) {
  struct sample s;
  start_sample(&s);
  s.tokens[6] = s.labels[6] = 10;
  expect("row 3 has the token 10", &s);
  s.tokens[0] = -1;
  expect("row 1 has the token -1", &s);
  s.labels[4] = 3;
  expect("row 2 has a label", &s);
  s.offsets[1] = 5;
  expect("row 2 is empty", &s);
  s.offsets[1] = 8;
  expect("row 1 is empty or lies outside", &s);
  s.offsets[3] = 6;
  expect("do not cover", &s);
  s.completions[2] = 2;
  expect("completion of row 3", &s);
  s.file.truncated = 4;
  expect("counts in its header", &s);
  s.file.rows = s.file.total = 0;
  expect("0 rows", &s);
}

/* A file that says more than its datasets hold. */
static void test_header(void) {
  char *path = scratch_path("header.h5");
  struct h5_file *file;
  struct token_file got;
  CHECK_OK(h5_create(&file, path, "qst-tokens", 1));
  CHECK_OK(h5_publish(&file));
  CHECK_FAILS(ERR_INPUT, "no attribute \"rows\"", token_file_read(path, &got));
  CHECK_OK(h5_create(&file, path, "qst-tokens", 2));
  CHECK_OK(h5_publish(&file));
  CHECK_FAILS(ERR_INPUT, "version 2", token_file_read(path, &got));
  CHECK_OK(h5_create(&file, path, "qst-checkpoint", 1));
  CHECK_OK(h5_publish(&file));
  CHECK_FAILS(ERR_INPUT, "is a qst-checkpoint file", token_file_read(path, &got));
  free(path);
}

static void test_damage(void) {
  char *path = scratch_path("tokens.h5");
  damage_bits(path, 31, read_sample);
  damage_length(path, read_sample);
  free(path);
}

int main(void) {
  scratch_make();
  test_round_trip();
  test_foreign_writer();
  test_wrong_contents();
  test_header();
  test_damage();
  scratch_remove();
  return check_result();
}
