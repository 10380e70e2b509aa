/* Damaged, hostile and unsupported tokenizers end in one clear line; hostile texts end soon. */
#include <jansson.h>
#include <stdlib.h>
#include <time.h>

#include "base/file.h"
#include "check.h"
#include "io/tokenizer.h"

static const char base[] =
    "{'model':{'type':'BPE','vocab':{'a':0,'b':1,'ab':2,'<unk>':3},'merges':[['a','b']]},"
    "'added_tokens':[{'id':3,'content':'<unk>','special':true}]}";

/* A JSON text written with ' for " and with `old` replaced. */
static char *variant(const char *old, const char *new) {
  const char *at = strstr(base, old);
  char *text = malloc(sizeof base + strlen(new) + 1);
  if (!text || !at) return text;
  snprintf(text, sizeof base + strlen(new) + 1, "%.*s%s%s", (int)(at - base), base, new, at + strlen(old));
  for (char *c = text; *c; c++)
    if (*c == '\'') *c = '"';
  return text;
}

static int parse(const char *old, const char *new) {
  char *text = variant(old, new);
  struct tokenizer *tokenizer = NULL;
  int status = tokenizer_parse(text, strlen(text), NULL, 0, &tokenizer);
  CHECK((tokenizer != NULL) == (status == OK));
  tokenizer_destroy(&tokenizer);
  free(text);
  return status;
}

#define STEP(name, text) "'added_tokens':[],'" name "':" text ",'ignored':["
#define OLD              "'added_tokens':["

static void check_unsupported(void) {
  static const struct {
    const char *old, *new, *message;
  } faults[] = {
      {"'BPE'", "'Unigram'", "model.type \"Unigram\""},
      {"'vocab'", "'vocabulary'", "model.vocab"},
      {"'a':0", "'a':-1", "ids are from 0"},
      {"'a':0", "'a':99999999", "ids are from 0"},
      {"'a':0", "'a':1", "the same id 1"},
      {"'a':0", "'a':'x'", "not an integer"},
      {"'merges':[", "'merges':[['a','c'],", "merge 0: \"c\" is not in the vocabulary"},
      {"'merges':[", "'merges':['a',", "merge 0: not a pair"},
      {"'merges':[", "'merges':[['b','a'],", "\"ba\" is not in the vocabulary"},
      {"'merges'", "'dropout':0.1,'merges'", "model.dropout"},
      {"'merges'", "'end_of_word_suffix':'</w>','merges'", "end_of_word_suffix"},
      {"'id':3", "'id':7", "the model's vocabulary says 3"},
      {"'<unk>','special'", "'<new>','special'", "the next free id is 4"},
      {OLD, STEP("normalizer", "{'type':'Lowercase'}"), "normalizer: the type \"Lowercase\" is not supported"},
      {OLD, STEP("normalizer", "{'type':'Replace','pattern':{'Regex':'a'},'content':''}"), "\"String\" only"},
      {OLD, STEP("normalizer", "{'type':'Replace','pattern':{'String':''},'content':''}"), "nothing"},
      {OLD, STEP("pre_tokenizer", "{'type':'Whitespace'}"), "pre_tokenizer: the type \"Whitespace\" is not supported"},
      {OLD, STEP("pre_tokenizer", "{'type':'Split','pattern':{'Regex':'\\\\w'},'behavior':'Isolated'}"),
       "\"\\w\" is not"},
      {OLD, STEP("pre_tokenizer", "{'type':'Split','pattern':{'Regex':'(a'},'behavior':'Isolated'}"), "pattern \"(a\""},
      {OLD, STEP("pre_tokenizer", "{'type':'Split','pattern':{'Regex':'[a[b]]'},'behavior':'Isolated'}"),
       "\"[b\" is not"},
      {OLD, STEP("pre_tokenizer", "{'type':'Split','pattern':{'Regex':'^a'},'behavior':'Isolated'}"), "\"^a\" is not"},
      {OLD, STEP("pre_tokenizer", "{'type':'Split','pattern':{'String':'a'},'behavior':'Gone'}"), "behavior \"Gone\""},
      {OLD, STEP("pre_tokenizer", "{'type':'Metaspace','replacement':'__'}"), "not one character"},
      {OLD, STEP("pre_tokenizer", "{'type':'Sequence','pretokenizers':[{'type':'ByteLevel'},{'type':'Digits'}]}"),
       "not the last"},
      {OLD, STEP("decoder", "{'type':'WordPiece'}"), "decoder: the type \"WordPiece\" is not supported"},
      {OLD, STEP("post_processor", "{'type':'BertProcessing'}"), "post_processor: the type \"BertProcessing\""},
      {OLD, STEP("post_processor", "{'type':'TemplateProcessing','single':[]}"), "0 texts"},
      {OLD,
       STEP("post_processor",
            "{'type':'TemplateProcessing','single':[{'SpecialToken':{'id':'x'}},{'Sequence':{'id':'A'}}],"
            "'special_tokens':{'x':{'ids':[4]}}}"),
       "adds token 4, which does not exist"},
  };
  CHECK_OK(parse("'", "'"));
  for (size_t i = 0; i < sizeof faults / sizeof *faults; i++)
    CHECK_FAILS(ERR_INPUT, faults[i].message, parse(faults[i].old, faults[i].new));
}

static void check_cuts(void) {
  char *text = variant("'", "'");
  struct tokenizer *tokenizer = NULL;
  for (size_t size = 0; size < strlen(text); size++)
    CHECK_FAILS(ERR_INPUT, "tokenizer.json: not valid JSON", tokenizer_parse(text, size, NULL, 0, &tokenizer));
  CHECK_FAILS(ERR_INPUT, "tokenizer_config.json", tokenizer_parse(text, strlen(text), "[", 1, &tokenizer));
  free(text);
}

static struct tokenizer *read_family(const char *name) {
  char path[256];
  struct buffer text = {0};
  struct tokenizer *tokenizer = NULL;
  snprintf(path, sizeof path, "tests/fixtures/tokenizers/%s.json", name);
  CHECK_OK(file_read(path, 1 << 20, &text));
  json_t *json = json_loadb(text.data, text.size, JSON_ALLOW_NUL, NULL);
  char *inner = json_dumps(json_object_get(json, "tokenizer"), 0);
  CHECK_OK(tokenizer_parse(inner, strlen(inner), NULL, 0, &tokenizer));
  free(inner);
  json_decref(json);
  buffer_free(&text);
  return tokenizer;
}

/* Every cut of an image is noticed; a flipped bit is noticed or gives a tokenizer that works. */
static void check_image(const char *name) {
  struct tokenizer *tokenizer = read_family(name), *loaded = NULL;
  struct buffer image = {0};
  CHECK_OK(tokenizer_save(tokenizer, &image));
  for (size_t size = 0; size < image.size; size += 1 + size / 16)
    CHECK_FAILS(ERR_INPUT, "stored tokenizer", tokenizer_load(image.data, size, &loaded));
  for (size_t at = 0; at < image.size; at += 1 + at / 64) {
    struct token_list ids = {0};
    image.data[at] = (char)(image.data[at] ^ (1 << at % 8));
    int status = tokenizer_load(image.data, image.size, &loaded);
    CHECK(status == ERR_INPUT || status == OK);
    CHECK(at >= 12 || status == ERR_INPUT);
    if (status == OK) CHECK_OK(tokenizer_encode(loaded, "Hello, 12 worlds", 16, ENCODE_BOS_EOS, &ids));
    image.data[at] = (char)(image.data[at] ^ (1 << at % 8));
    tokenizer_destroy(&loaded);
    token_list_free(&ids);
  }
  CHECK_OK(buffer_append(&image, "", 1));
  CHECK_FAILS(ERR_INPUT, "1 bytes too many", tokenizer_load(image.data, image.size, &loaded));
  tokenizer_destroy(&tokenizer);
  buffer_free(&image);
}

static void check_decode_range(void) {
  struct tokenizer *tokenizer = read_family("gpt2");
  struct buffer text = {0};
  int32_t ids[] = {(int32_t)tokenizer_size(tokenizer), -1};
  CHECK_OK(tokenizer_decode(tokenizer, ids, 2, true, &text));
  CHECK(text.size == 0);
  CHECK(tokenizer_id(tokenizer, "no such token") == -1 && tokenizer_id(tokenizer, "") == -1);
  tokenizer_destroy(&tokenizer);
  buffer_free(&text);
}

/* A word of a million letters, a million spaces, marks to reorder, beginnings of special tokens. Quadratic time would
 * take minutes to hours. */
static void check_long_texts(const char *name) {
  static const char *const units[] = {"a", "xyzzy", " ", "\n ", "e\xCC\x81\xCC\xA3", "\xCC\x81\xCC\xA3", "<|", "7"};
  struct tokenizer *tokenizer = read_family(name);
  for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
    struct buffer text = {0};
    struct token_list ids = {0};
    while (text.size < 1000000) CHECK_OK(buffer_append(&text, units[i], strlen(units[i])));
    clock_t start = clock();
    CHECK_OK(tokenizer_encode(tokenizer, text.data, text.size, ENCODE_SPECIAL, &ids));
    CHECK((double)(clock() - start) / CLOCKS_PER_SEC < 60);
    CHECK(ids.size > 0);
    token_list_free(&ids);
    buffer_free(&text);
  }
  tokenizer_destroy(&tokenizer);
}

int main(void) {
  static const char *const families[] = {"gpt2", "qwen2", "llama2", "llama2-crossing"};
  check_unsupported();
  check_cuts();
  check_decode_range();
  check_image("llama3");
  check_image("llama2");
  for (size_t i = 0; i < sizeof families / sizeof *families; i++) check_long_texts(families[i]);
  return check_result();
}
