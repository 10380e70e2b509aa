// RUN ranks=1 args="gpt2 gpt2-prefix smollm llama3 qwen2 opt llama2 llama2-crossing mistral metaspace-always metaspace-never metaspace-pieces"
// RUN ranks=1 args="added added-prepend split-removed split-removed-inverted split-previous split-next split-contiguous llama-scored"
/* Ids and texts equal those of Hugging Face's tokenizers, for small tokenizers of each family read from
 * tokenizer.json, from GGUF metadata and from the image (fixtures/make_tokenizers.py). */
#include <jansson.h>
#include <stdlib.h>

#include "base/file.h"
#include "check.h"
#include "io/tokenizer.h"

static json_t *read_fixture(const char *name) {
  char path[256];
  struct buffer text = {0};
  snprintf(path, sizeof path, "tests/fixtures/tokenizers/%s.json", name);
  CHECK_OK(file_read(path, 1 << 20, &text));
  json_t *json = json_loadb(text.data, text.size, JSON_ALLOW_NUL, NULL);
  CHECK(json != NULL);
  buffer_free(&text);
  return json;
}

static void from_hex(const char *hex, struct buffer *out) {
  buffer_clear(out);
  CHECK_OK(buffer_append(out, "", 0));
  for (; hex[0] && hex[1]; hex += 2) {
    char digits[3] = {hex[0], hex[1], 0}, byte = (char)strtol(digits, NULL, 16);
    CHECK_OK(buffer_append(out, &byte, 1));
  }
}

static bool same_ids(const struct token_list *got, const json_t *want) {
  if (got->size != json_array_size(want)) return false;
  for (size_t i = 0; i < got->size; i++)
    if (got->ids[i] != json_integer_value(json_array_get(want, i))) return false;
  return true;
}

static void complain(const char *what, size_t index, const struct token_list *got, const json_t *want) {
  char *text = json_dumps(want, JSON_COMPACT);
  fprintf(stderr, "%s, text %zu: want %s, got [", what, index, text);
  for (size_t i = 0; i < got->size; i++) fprintf(stderr, "%d,", got->ids[i]);
  fprintf(stderr, "]\n");
  free(text);
}

static void check_encode(const struct tokenizer *tokenizer, const struct buffer *text, unsigned flags, size_t index,
                         const json_t *want) {
  struct token_list got = {0};
  CHECK_OK(tokenizer_encode(tokenizer, text->data, text->size, flags, &got));
  bool same = same_ids(&got, want);
  CHECK(same);
  if (!same) complain(flags ? "with specials" : "plain", index, &got, want);
  token_list_free(&got);
}

static void list_of(const json_t *ids, struct token_list *out) {
  size_t index;
  json_t *id;
  out->size = 0;
  json_array_foreach(ids, index, id) CHECK_OK(token_list_append(out, (int32_t)json_integer_value(id)));
}

static void check_decode(const struct tokenizer *tokenizer, const json_t *ids, bool keep_special, const json_t *want) {
  struct token_list list = {0};
  struct buffer text = {0};
  list_of(ids, &list);
  CHECK_OK(buffer_append(&text, "", 0));
  CHECK_OK(tokenizer_decode(tokenizer, list.ids, list.size, keep_special, &text));
  bool same = text.size == json_string_length(want) && memcmp(text.data, json_string_value(want), text.size) == 0;
  CHECK(same);
  if (!same) fprintf(stderr, "want \"%s\", got \"%s\"\n", json_string_value(want), text.data);
  buffer_free(&text);
  token_list_free(&list);
}

/* What a stream gives piece by piece is the whole text in the end. */
static void check_stream(const struct tokenizer *tokenizer, const json_t *ids, const json_t *want) {
  struct token_list list = {0};
  struct token_stream stream = {0};
  struct buffer text = {0};
  list_of(ids, &list);
  CHECK_OK(buffer_append(&text, "", 0));
  for (size_t i = 0; i < list.size; i++) CHECK_OK(token_stream_add(&stream, tokenizer, list.ids[i], &text));
  CHECK_OK(token_stream_flush(&stream, tokenizer, true, &text));
  CHECK(text.size == json_string_length(want) && memcmp(text.data, json_string_value(want), text.size) == 0);
  token_stream_free(&stream);
  buffer_free(&text);
  token_list_free(&list);
}

/* A row: ids with special tokens, ids without, text of the former with and without special tokens. */
static void check_rows(const struct tokenizer *tokenizer, const json_t *fixture, const json_t *texts) {
  struct buffer text = {0};
  const json_t *row;
  size_t index;
  json_array_foreach(json_object_get(fixture, "texts"), index, row) {
    from_hex(json_string_value(json_array_get(texts, index)), &text);
    check_encode(tokenizer, &text, ENCODE_SPECIAL | ENCODE_BOS_EOS, index, json_array_get(row, 0));
    check_encode(tokenizer, &text, 0, index, json_array_get(row, 1));
    check_decode(tokenizer, json_array_get(row, 0), true, json_array_get(row, 2));
    check_decode(tokenizer, json_array_get(row, 0), false, json_array_get(row, 3));
    check_stream(tokenizer, json_array_get(row, 0), json_array_get(row, 3));
  }
  json_array_foreach(json_object_get(fixture, "decodes"), index, row)
      check_decode(tokenizer, json_array_get(row, 0), true, json_array_get(row, 1));
  buffer_free(&text);
}

static void check_image(const struct tokenizer *tokenizer, const json_t *fixture, const json_t *texts) {
  struct buffer image = {0}, again = {0};
  struct tokenizer *loaded = NULL;
  CHECK_OK(tokenizer_save(tokenizer, &image));
  CHECK_OK(tokenizer_load(image.data, image.size, &loaded));
  if (loaded) {
    CHECK_OK(tokenizer_save(loaded, &again));
    CHECK(image.size == again.size && memcmp(image.data, again.data, image.size) == 0);
    CHECK(tokenizer_bos(loaded) == tokenizer_bos(tokenizer) && tokenizer_size(loaded) == tokenizer_size(tokenizer));
    check_rows(loaded, fixture, texts);
  }
  tokenizer_destroy(&loaded);
  buffer_free(&image);
  buffer_free(&again);
}

/* The texts of a JSON list and their sizes. */
static void texts_of(const json_t *list, const char ***texts, size_t **sizes) {
  size_t count = json_array_size(list);
  CHECK_OK(memory_array(texts, count, sizeof **texts));
  CHECK_OK(memory_array(sizes, count, sizeof **sizes));
  for (size_t i = 0; i < count; i++) {
    (*texts)[i] = json_string_value(json_array_get(list, i));
    (*sizes)[i] = json_string_length(json_array_get(list, i));
  }
}

static void check_gguf(const json_t *gguf, const json_t *fixture, const json_t *texts) {
  struct gguf_vocabulary v = {.model = json_string_value(json_object_get(gguf, "model")),
                              .pre = json_string_value(json_object_get(gguf, "pre")),
                              .token_count = json_array_size(json_object_get(gguf, "tokens")),
                              .merge_count = json_array_size(json_object_get(gguf, "merges")),
                              .bos = (int32_t)json_integer_value(json_object_get(gguf, "bos")),
                              .eos = -1,
                              .unknown = strcmp(json_string_value(json_object_get(gguf, "model")), "llama") ? -1 : 0,
                              .pad = -1,
                              .add_bos = json_is_true(json_object_get(gguf, "add_bos")),
                              .add_space_prefix = true};
  const char **tokens, **merges;
  size_t *token_sizes, *merge_sizes;
  float *scores;
  int32_t *types;
  texts_of(json_object_get(gguf, "tokens"), &tokens, &token_sizes);
  texts_of(json_object_get(gguf, "merges"), &merges, &merge_sizes);
  CHECK_OK(memory_array(&scores, v.token_count, sizeof *scores));
  CHECK_OK(memory_array(&types, v.token_count, sizeof *types));
  for (size_t i = 0; i < v.token_count; i++) {
    scores[i] = (float)json_number_value(json_array_get(json_object_get(gguf, "scores"), i));
    types[i] = (int32_t)json_integer_value(json_array_get(json_object_get(gguf, "types"), i));
  }
  v.tokens = tokens;
  v.token_sizes = token_sizes;
  v.merges = merges;
  v.merge_sizes = merge_sizes;
  v.types = types;
  v.scores = json_is_array(json_object_get(gguf, "scores")) ? scores : NULL;
  struct tokenizer *tokenizer = NULL;
  CHECK_OK(tokenizer_from_gguf(&v, &tokenizer));
  if (tokenizer) check_rows(tokenizer, fixture, texts);
  tokenizer_destroy(&tokenizer);
  free(tokens);
  free(token_sizes);
  free(merges);
  free(merge_sizes);
  free(scores);
  free(types);
}

static void check_family(const char *name, const json_t *texts) {
  json_t *fixture = read_fixture(name);
  if (!fixture) return;
  const json_t *gguf = json_object_get(fixture, "gguf");
  char *text = json_dumps(json_object_get(fixture, "tokenizer"), JSON_COMPACT);
  struct tokenizer *tokenizer = NULL;
  int failed = checks_failed;
  CHECK_OK(tokenizer_parse(text, strlen(text), NULL, 0, &tokenizer));
  if (tokenizer) {
    check_rows(tokenizer, fixture, texts);
    check_image(tokenizer, fixture, texts);
  }
  if (json_is_object(gguf)) check_gguf(gguf, fixture, texts);
  if (checks_failed > failed) fprintf(stderr, "^ %s\n", name);
  tokenizer_destroy(&tokenizer);
  free(text);
  json_decref(fixture);
}

int main(int count, char **words) {
  json_t *texts = read_fixture("texts");
  for (int i = 1; i < count; i++) check_family(words[i], texts);
  json_decref(texts);
  return check_result();
}
