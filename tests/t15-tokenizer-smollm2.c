/* The real tokenizer of SmolLM2-135M-Instruct, read from its GGUF file ($QST_SMOLLM2 or build/models): ids equal those of
 * Hugging Face's tokenizers with the same vocabulary (fixtures/make_smollm2_tokens.py). Skipped where there is no file. */
#include <jansson.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/file.h"
#include "check.h"
#include "io/chat.h"
#include "io/model_source.h"

enum { SKIPPED = 77 };

static json_t *read_json(const char *path) {
  struct buffer text = {0};
  CHECK_OK(file_read(path, 1 << 20, &text));
  json_t *json = json_loadb(text.data, text.size, 0, NULL);
  CHECK(json != NULL);
  buffer_free(&text);
  return json;
}

static size_t from_hex(const char *hex, char *out, size_t room) {
  size_t size = 0;
  for (; hex[0] && hex[1] && size < room; hex += 2) {
    char digits[3] = {hex[0], hex[1], 0};
    out[size++] = (char)strtol(digits, NULL, 16);
  }
  return size;
}

static void check_texts(const struct tokenizer *tokenizer) {
  json_t *texts = read_json("tests/fixtures/tokenizers/texts.json");
  json_t *wanted = read_json("tests/fixtures/tokenizers/smollm2-ids.json");
  char text[4096];
  size_t index;
  const json_t *want;
  json_array_foreach(wanted, index, want) {
    struct token_list got = {0};
    size_t size = from_hex(json_string_value(json_array_get(texts, index)), text, sizeof text);
    CHECK_OK(tokenizer_encode(tokenizer, text, size, ENCODE_SPECIAL | ENCODE_BOS_EOS, &got));
    bool same = got.size == json_array_size(want);
    for (size_t i = 0; same && i < got.size; i++) same = got.ids[i] == json_integer_value(json_array_get(want, i));
    CHECK(same);
    if (!same) fprintf(stderr, "text %zu\n", index);
    token_list_free(&got);
  }
  CHECK(json_array_size(wanted) == json_array_size(texts) && json_array_size(wanted) > 150);
  json_decref(texts);
  json_decref(wanted);
}

/* The model's own template and default system message. */
static void check_chat(const struct tokenizer *tokenizer) {
  static const char row[] = "{\"prompt\":\"Hello\",\"completion\":\"Hi!\"}";
  static const char want[] =
      "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
      "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\nHi!<|im_end|>\n";
  struct chat_options options = {.max_tokens = 100};
  struct chat_row parsed = {0};
  struct buffer text = {0};
  CHECK_OK(chat_row_parse(tokenizer, row, strlen(row), &options, 49152, &parsed));
  CHECK_OK(tokenizer_decode(tokenizer, parsed.tokens.ids, parsed.tokens.size, true, &text));
  CHECK(strcmp(text.data, want) == 0);
  CHECK(parsed.labels.size == parsed.tokens.size && parsed.labels.ids[parsed.completion] != LABEL_NONE);
  chat_row_free(&parsed);
  buffer_free(&text);
}

int main(void) {
  const char *path = getenv("QST_SMOLLM2");
  if (!path) path = "build/models/SmolLM2-135M-Instruct.Q4_1.gguf";
  if (access(path, R_OK) != 0) {
    printf("skipped: %s is not there\n", path);
    return SKIPPED;
  }
  struct model_source *source = NULL;
  struct tokenizer *tokenizer = NULL;
  CHECK_OK(model_source_open(&source, path));
  CHECK_OK(model_source_tokenizer(source, &tokenizer));
  CHECK(tokenizer && tokenizer_size(tokenizer) == 49152 && tokenizer_eos(tokenizer) == 2);
  if (tokenizer) {
    check_texts(tokenizer);
    check_chat(tokenizer);
  }
  tokenizer_destroy(&tokenizer);
  model_source_close(&source);
  return check_result();
}
