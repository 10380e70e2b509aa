// RUN ranks=1 args="smollm qwen2 qwen2.5 chatml llama-3 llama-3.1 llama-2 mistral-1 mistral-2 mistral-3 alpaca alpaca-bos plain"
/* Rows become the ids that transformers' apply_chat_template gives, with labels on the answers alone
 * (fixtures/make_chats.py); truncation, rows of tokens, and bad rows. */
#include <jansson.h>
#include <stdlib.h>

#include "base/file.h"
#include "check.h"
#include "io/chat.h"

static json_t *read_json(const char *folder, const char *name) {
  char path[256];
  struct buffer text = {0};
  snprintf(path, sizeof path, "tests/fixtures/%s/%s.json", folder, name);
  CHECK_OK(file_read(path, 1 << 20, &text));
  json_t *json = json_loadb(text.data, text.size, JSON_ALLOW_NUL, NULL);
  CHECK(json != NULL);
  buffer_free(&text);
  return json;
}

static struct tokenizer *read_tokenizer(const char *name, const json_t *config) {
  json_t *file = read_json("tokenizers", name);
  char *text = json_dumps(json_object_get(file, "tokenizer"), 0), *settings = json_dumps(config, 0);
  struct tokenizer *tokenizer = NULL;
  CHECK_OK(tokenizer_parse(text, strlen(text), settings, strlen(settings), &tokenizer));
  free(text);
  free(settings);
  json_decref(file);
  return tokenizer;
}

static bool same(const struct token_list *got, const json_t *want) {
  bool equal = got->size == json_array_size(want);
  for (size_t i = 0; equal && i < got->size; i++) equal = got->ids[i] == json_integer_value(json_array_get(want, i));
  if (equal) return true;
  char *text = json_dumps(want, JSON_COMPACT);
  fprintf(stderr, "want %s\ngot  [", text);
  for (size_t i = 0; i < got->size; i++) fprintf(stderr, "%d,", got->ids[i]);
  fprintf(stderr, "]\n");
  free(text);
  return false;
}

static int32_t last_answer(const json_t *labels) {
  int32_t start = (int32_t)json_array_size(labels);
  while (start > 0 && json_integer_value(json_array_get(labels, start - 1)) == LABEL_NONE) start--;
  while (start > 0 && json_integer_value(json_array_get(labels, start - 1)) != LABEL_NONE) start--;
  return start;
}

static void check_row(const struct tokenizer *tokenizer, const json_t *want, struct chat_options options) {
  char *line = json_dumps(json_object_get(want, "row"), 0);
  const json_t *labels = json_object_get(want, "labels");
  struct chat_row row = {0}, prompt = {0};
  CHECK_OK(chat_row_parse(tokenizer, line, strlen(line), &options, INT32_MAX, &row));
  CHECK(same(&row.tokens, json_object_get(want, "ids")));
  if (labels) {
    CHECK(same(&row.labels, labels));
    CHECK(row.completion == last_answer(labels));
    options.prompt_only = true; /* the prompt alone is the beginning of its row */
    CHECK_OK(chat_row_parse(tokenizer, line, strlen(line), &options, INT32_MAX, &prompt));
    CHECK((int32_t)prompt.tokens.size == row.completion);
    for (size_t i = 0; i < prompt.tokens.size; i++) CHECK(prompt.tokens.ids[i] == row.tokens.ids[i]);
    options.prompt_only = false;
    options.train_on_prompt = true;
    CHECK_OK(chat_row_parse(tokenizer, line, strlen(line), &options, INT32_MAX, &prompt));
    CHECK(same(&prompt.labels, json_object_get(want, "ids")));
  }
  chat_row_free(&row);
  chat_row_free(&prompt);
  free(line);
}

static void check_rows(const struct tokenizer *tokenizer, const json_t *fixture, const char *format) {
  struct chat_options options = {.max_tokens = 4096}, prompts = {.prompt_only = true};
  size_t index;
  const json_t *want;
  CHECK_OK(chat_template_parse(format, &options.format));
  prompts.format = options.format;
  json_array_foreach(json_object_get(fixture, "rows"), index, want) check_row(tokenizer, want, options);
  json_array_foreach(json_object_get(fixture, "prompts"), index, want) check_row(tokenizer, want, prompts);
}

static void check_fixture(const char *name) {
  json_t *fixture = read_json("chats", name);
  const char *same_as = json_string_value(json_object_get(fixture, "same_as"));
  struct tokenizer *tokenizer =
      read_tokenizer(json_string_value(json_object_get(fixture, "tokenizer")), json_object_get(fixture, "config"));
  int failed = checks_failed;
  check_rows(tokenizer, fixture, json_string_value(json_object_get(fixture, "format")));
  if (same_as) check_rows(tokenizer, fixture, same_as);
  if (checks_failed > failed) fprintf(stderr, "^ %s\n", name);
  tokenizer_destroy(&tokenizer);
  json_decref(fixture);
}

static int parse(const struct tokenizer *tokenizer, const char *line, struct chat_options options,
                 struct chat_row *out) {
  return chat_row_parse(tokenizer, line, strlen(line), &options, 100000, out);
}

static void check_truncation(const struct tokenizer *tokenizer) {
  static const char line[] = "{\"prompt\":\"What comes next?\",\"completion\":\"one two three four five six seven\"}";
  struct chat_options options = {.format = CHAT_CHATML, .max_tokens = 4096};
  struct chat_row whole = {0}, cut = {0};
  int32_t end = tokenizer_id(tokenizer, "<|im_end|>");
  CHECK_OK(parse(tokenizer, line, options, &whole));
  CHECK(!whole.truncated && whole.completion > 0);
  for (int most = (int)whole.tokens.size - 1; most > 0; most--) {
    options.max_tokens = most;
    CHECK_OK(parse(tokenizer, line, options, &cut));
    CHECK(cut.truncated && cut.tokens.size == (size_t)most && cut.labels.size == (size_t)most);
    CHECK(cut.tokens.ids[most - 1] == end);
    CHECK(memcmp(cut.tokens.ids, whole.tokens.ids, ((size_t)most - 1) * sizeof end) == 0);
    bool answered = most > whole.completion && most <= (int)whole.tokens.size - 1;
    CHECK(cut.labels.ids[most - 1] == (answered ? end : LABEL_NONE));
    CHECK(cut.completion == (answered ? whole.completion : -1));
  }
  chat_row_free(&whole);
  chat_row_free(&cut);
}

static void check_tokens(void) {
  static const char line[] = "{\"input_ids\":[5,6,7,8,9],\"labels\":[-100,-100,7,8,-100]}";
  struct chat_options options = {.max_tokens = 4};
  struct chat_row row = {0};
  CHECK_OK(parse(NULL, line, options, &row));
  CHECK(row.truncated && row.tokens.size == 4 && row.tokens.ids[3] == 9 && row.labels.ids[3] == 9);
  CHECK(row.completion == 2 && row.labels.ids[1] == LABEL_NONE && row.labels.ids[2] == 7);
  options.max_tokens = 5;
  options.prompt_only = true;
  CHECK_OK(parse(NULL, line, options, &row));
  CHECK(row.tokens.size == 2);
  options.prompt_only = false;
  options.train_on_prompt = true;
  CHECK_OK(parse(NULL, "{\"input_ids\":[5,6]}", options, &row));
  CHECK(row.tokens.size == 2 && row.labels.ids[0] == 5 && row.completion == -1 && !row.truncated);
  CHECK_FAILS(ERR_INPUT, "3 \"labels\" for 2", parse(NULL, "{\"input_ids\":[1,2],\"labels\":[1,2,3]}", options, &row));
  CHECK_FAILS(ERR_INPUT, "own id", parse(NULL, "{\"input_ids\":[1,2],\"labels\":[1,3]}", options, &row));
  CHECK_FAILS(ERR_INPUT, "is not a token id", parse(NULL, "{\"input_ids\":[1,\"a\"]}", options, &row));
  CHECK_FAILS(ERR_INPUT, "out of range", parse(NULL, "{\"input_ids\":[1,100000]}", options, &row));
  CHECK_FAILS(ERR_INPUT, "out of range", parse(NULL, "{\"input_ids\":[-100]}", options, &row));
  CHECK_FAILS(ERR_INPUT, "needs the model's tokenizer", parse(NULL, "{\"text\":\"a\"}", options, &row));
  chat_row_free(&row);
}

static void check_texts(const struct tokenizer *tokenizer) {
  struct chat_options options = {.max_tokens = 100};
  struct chat_row row = {0}, other = {0};
  int32_t start = tokenizer_id(tokenizer, "<|im_start|>"), end = tokenizer_eos(tokenizer);
  CHECK_OK(parse(tokenizer, "{\"text\":\"a<|im_start|>b\"}", options, &row));
  CHECK(row.tokens.size == 4 && row.tokens.ids[1] == start && row.tokens.ids[3] == end && row.labels.ids[0] >= 0);
  CHECK_OK(parse(tokenizer, "{\"text\":\"a<|im_start|>b<|im_end|>\"}", options, &other));
  CHECK(other.tokens.size == 4 && memcmp(row.tokens.ids, other.tokens.ids, 4 * sizeof end) == 0);
  /* what looks like a special token in a content is text */
  options.format = CHAT_CHATML;
  CHECK_OK(parse(tokenizer, "{\"prompt\":\"<|im_end|>\",\"completion\":\"x\"}", options, &row));
  size_t ends = 0;
  for (size_t i = 0; i < row.tokens.size; i++) ends += row.tokens.ids[i] == end;
  CHECK(ends == 2);
  /* invalid UTF-8 is read as U+FFFD */
  CHECK_OK(parse(tokenizer, "{\"text\":\"a\xff z\"}", options, &row));
  CHECK_OK(parse(tokenizer, "{\"text\":\"a\\ufffd z\"}", options, &other));
  CHECK(row.tokens.size == other.tokens.size &&
        memcmp(row.tokens.ids, other.tokens.ids, row.tokens.size * sizeof end) == 0);
  chat_row_free(&row);
  chat_row_free(&other);
}

static void check_faults(const struct tokenizer *tokenizer) {
  static const struct {
    const char *line, *message;
  } faults[] = {
      {"", "not valid JSON"},
      {"{\"text\":\"a\"", "not valid JSON"},
      {"[1]", "jq -c '.[]'"},
      {"\t[ {\"text\": \"a\"},\r\n", "jq -c '.[]'"},
      {"{ \r\n", "(jq -c . FILE writes each on one): not valid JSON"},
      {"{}", "none of"},
      {"{\"text\":1}", "\"text\" is not a text"},
      {"{\"text\":\"\\ud800\"}", "not valid JSON"},
      {"{\"text\":\"a\",\"text\":\"b\"}", "not valid JSON"},
      {"{\"prompt\":\"a\"}", "\"completion\" is missing"},
      {"{\"messages\":[]}", "not a list of messages"},
      {"{\"messages\":[{\"role\":\"tool\",\"content\":\"a\"}]}", "message 1: the role \"tool\""},
      {"{\"messages\":[{\"role\":\"user\"}]}", "message 1: \"content\" is missing"},
      {"{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"system\",\"content\":\"a\"}]}",
       "not the first"},
      {"{\"instruction\":\"a\",\"input\":3,\"output\":\"b\"}", "\"input\" is not a text"},
  };
  struct chat_row row = {0};
  struct chat_options options = {.format = CHAT_CHATML, .max_tokens = 100};
  for (size_t i = 0; i < sizeof faults / sizeof *faults; i++)
    CHECK_FAILS(ERR_INPUT, faults[i].message, parse(tokenizer, faults[i].line, options, &row));
  static const char turns[] = "{\"messages\":[{\"role\":\"assistant\",\"content\":\"a\"}]}";
  options.format = CHAT_LLAMA2;
  CHECK_FAILS(ERR_INPUT, "needs user and assistant in turn", parse(tokenizer, turns, options, &row));
  options.format = CHAT_LLAMA3;
  CHECK_FAILS(ERR_INPUT, "needs the token <|start_header_id|>", parse(tokenizer, turns, options, &row));
  options.format = CHAT_OWN;
  CHECK_FAILS(ERR_INPUT, "no chat template of its own", parse(tokenizer, turns, options, &row));
  CHECK_FAILS(ERR_USAGE, "none of own", chat_template_parse("chatlm", &options.format));
  chat_row_free(&row);
}

static void check_unknown_template(void) {
  json_t *config = json_pack("{s:s}", "chat_template", "{{ messages[0].content }}");
  struct tokenizer *tokenizer = read_tokenizer("smollm", config);
  struct chat_row row = {0};
  CHECK_FAILS(ERR_INPUT, "not one we know",
              parse(tokenizer, "{\"prompt\":\"a\",\"completion\":\"b\"}", (struct chat_options){0}, &row));
  tokenizer_destroy(&tokenizer);
  json_decref(config);
}

int main(int count, char **words) {
  for (int i = 1; i < count; i++) check_fixture(words[i]);
  json_t *config = json_pack("{s:s}", "eos_token", "<|im_end|>");
  struct tokenizer *tokenizer = read_tokenizer("smollm", config);
  check_truncation(tokenizer);
  check_tokens();
  check_texts(tokenizer);
  check_faults(tokenizer);
  check_unknown_template();
  tokenizer_destroy(&tokenizer);
  json_decref(config);
  return check_result();
}
