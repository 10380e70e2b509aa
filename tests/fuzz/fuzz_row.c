/* A row of a JSONL file in every format, by a small byte-level tokenizer that knows all their tokens. */
// SEEDS tests/fuzz/corpus/fuzz_row/*
#include <stdio.h>

#include "io/chat.h"

int LLVMFuzzerTestOneInput(const unsigned char *bytes, size_t size);

/* One token for each byte; the alphabet of byte-level BPE is the byte itself or U+0100 and the following. */
static int vocabulary(struct buffer *out) {
  int next = 0x100, status = buffer_print(out, "{\"model\":{\"type\":\"BPE\",\"merges\":[],\"vocab\":{");
  for (int byte = 0; byte < 256; byte++) {
    int printed = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xFF && byte != 0xAD);
    status |= buffer_print(out, "%s\"\\u%04x\":%d", byte ? "," : "", (unsigned)(printed ? byte : next++), byte);
  }
  return status | buffer_print(out,
                               "}},\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false},"
                               "\"decoder\":{\"type\":\"ByteLevel\"},\"added_tokens\":[");
}

static struct tokenizer *build(void) {
  static const char *const specials[] = {
      "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"};
  static const char config[] = "{\"bos_token\":\"<s>\",\"eos_token\":\"</s>\"}";
  struct buffer json = {0};
  struct tokenizer *tokenizer = NULL;
  int status = vocabulary(&json), count = sizeof specials / sizeof *specials;
  for (int i = 0; i < count; i++)
    status |=
        buffer_print(&json, "%s{\"id\":%d,\"content\":\"%s\",\"special\":true}", i ? "," : "", 256 + i, specials[i]);
  status |= buffer_print(&json, "]}");
  if (status || tokenizer_parse(json.data, json.size, config, sizeof config - 1, &tokenizer) != 0) __builtin_trap();
  buffer_free(&json);
  return tokenizer;
}

static void check(const struct chat_row *row, const struct chat_options *options) {
  if (row->tokens.size != row->labels.size && !options->prompt_only) __builtin_trap();
  if (!options->prompt_only && row->tokens.size > (size_t)options->max_tokens) __builtin_trap();
  if (row->completion >= (int32_t)row->tokens.size && row->completion > 0 && !options->prompt_only) __builtin_trap();
  for (size_t i = 0; i < row->labels.size; i++)
    if (row->labels.ids[i] != LABEL_NONE && row->labels.ids[i] != row->tokens.ids[i]) __builtin_trap();
}

int LLVMFuzzerTestOneInput(const unsigned char *bytes, size_t size) {
  static struct tokenizer *tokenizer;
  if (!tokenizer) tokenizer = build();
  if (size == 0) return 0;
  struct chat_row row = {0};
  struct chat_options options = {.format = (enum chat_template)(1 + bytes[0] % CHAT_PLAIN),
                                 .max_tokens = 1 + bytes[0] / 4,
                                 .prompt_only = bytes[0] & 1,
                                 .train_on_prompt = bytes[0] & 2};
  if (chat_row_parse(tokenizer, (const char *)bytes + 1, size - 1, &options, 300, &row) == 0) check(&row, &options);
  chat_row_free(&row);
  return 0;
}
