#include "commands/prompts.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "io/backbone_file.h"
#include "io/chat.h"
#include "io/utf8.h"

enum { ROWS_LIMIT = 1 << 30 };

struct reader {
  struct prompts *prompts;
  const struct tokenizer *tokenizer;
  struct chat_options chat;
  int32_t vocabulary;
};

static int grow(struct prompts *prompts) {
  size_t count = (size_t)prompts->count + 1;
  if ((count & (count - 1)) != 0) return OK; /* there is room up to the next power of two */
  void *tokens = realloc(prompts->tokens, 2 * count * sizeof *prompts->tokens);
  if (tokens) prompts->tokens = tokens;
  void *lines = realloc(prompts->lines, 2 * count * sizeof *prompts->lines);
  if (lines) prompts->lines = lines;
  void *rows = realloc(prompts->rows, 2 * count * sizeof *prompts->rows);
  if (rows) prompts->rows = rows;
  return tokens && lines && rows ? OK : fail(ERR_MEMORY, "not enough memory for %zu prompts", count);
}

/* What is not UTF-8 in a row was replaced before it was read, and so it is in the answer's row. */
static int keep_row(const char *row, size_t size, char **out) {
  struct buffer text = {0};
  int status = utf8_replace(row, size, &text);
  if (status != OK) buffer_free(&text);
  *out = text.data;
  return status;
}

/* Tokenizes one row and takes it in. `text` is kept for the answer's file, or NULL. */
static int add(struct reader *reader, const char *row, size_t size, int64_t line, bool keep_text) {
  struct prompts *prompts = reader->prompts;
  struct chat_row parsed = {0};
  int status = chat_row_parse(reader->tokenizer, row, size, &reader->chat, reader->vocabulary, &parsed);
  if (status == OK && parsed.tokens.size == 0) status = fail(ERR_INPUT, "the prompt is empty");
  if (status == OK) status = grow(prompts);
  if (status == OK) {
    int i = prompts->count++;
    prompts->tokens[i] = parsed.tokens;
    prompts->lines[i] = line;
    prompts->rows[i] = NULL;
    if (keep_text) status = keep_row(row, size, &prompts->rows[i]);
    if ((int)parsed.tokens.size > prompts->longest) prompts->longest = (int)parsed.tokens.size;
    parsed.tokens = (struct token_list){0};
  }
  chat_row_free(&parsed);
  return status;
}

static int add_prompt(struct reader *reader, const char *prompt) {
  json_t *row = json_pack("{s:s}", "prompt", prompt);
  if (!row) return fail(ERR_INPUT, "--prompt: is not valid UTF-8");
  char *text = json_dumps(row, JSON_COMPACT);
  json_decref(row);
  if (!text) return fail(ERR_MEMORY, "not enough memory for the prompt");
  int status = fail_at(add(reader, text, strlen(text), 0, false), "--prompt");
  free(text);
  return status;
}

static bool is_blank(const char *line, size_t size) {
  for (size_t i = 0; i < size; i++)
    if (!strchr(" \t\r", line[i])) return false;
  return true;
}

static int add_lines(struct reader *reader, const struct options *options, const struct comm *comm,
                     const struct buffer *text) {
  int64_t number = 0, *total = &reader->prompts->total;
  for (size_t at = 0; at < text->size; number++) {
    const char *line = text->data + at, *end = memchr(line, '\n', text->size - at);
    size_t size = end ? (size_t)(end - line) : text->size - at;
    at += size + 1;
    if (is_blank(line, size)) continue;
    if (options->limit > 0 && *total == options->limit) break;
    int64_t row = (*total)++;
    if (row % comm->size != comm->rank) continue;
    TRY(fail_at(add(reader, line, size, row, true), "%s, line %lld", options->in, (long long)number + 1));
  }
  return OK;
}

static int add_file(struct reader *reader, const struct options *options, const struct comm *comm) {
  struct buffer text = {0};
  int status = file_read(options->in, ROWS_LIMIT, &text);
  if (status == OK) status = add_lines(reader, options, comm, &text);
  buffer_free(&text);
  return status;
}

static int read_with(struct reader *reader, const struct options *options, const struct comm *comm) {
  if (!reader->tokenizer)
    return fail(ERR_INPUT, "%s: has no tokenizer, so it cannot read a prompt or write an answer", options->backbone);
  TRY(chat_template_parse(options->template_name, &reader->chat.format));
  if (options->in) return add_file(reader, options, comm);
  reader->prompts->total = 1;
  return comm->rank == 0 ? add_prompt(reader, options->prompt) : OK;
}

int prompts_open(struct prompts *prompts, const struct options *options, const struct comm *comm,
                 struct backbone_facts *facts) {
  *prompts = (struct prompts){.longest = 1};
  struct backbone_file *file;
  TRY(backbone_file_open(&file, options->backbone));
  const struct model_config *config = backbone_file_config(file);
  *facts = (struct backbone_facts){config->max_positions, config->vocabulary};
  struct tokenizer *tokenizer = NULL;
  int status = backbone_file_tokenizer(file, &tokenizer);
  struct reader reader = {.prompts = prompts,
                          .tokenizer = tokenizer,
                          .chat = {.max_tokens = config->max_positions, .prompt_only = true},
                          .vocabulary = config->vocabulary};
  if (status == OK) status = read_with(&reader, options, comm);
  tokenizer_destroy(&tokenizer);
  backbone_file_close(&file);
  return status;
}

void prompts_close(struct prompts *prompts) {
  for (int i = 0; i < prompts->count; i++) {
    token_list_free(&prompts->tokens[i]);
    free(prompts->rows[i]);
  }
  free(prompts->tokens);
  free(prompts->lines);
  free(prompts->rows);
  *prompts = (struct prompts){0};
}

int prompts_print_answer(const struct prompts *prompts, int i, const char *answer, size_t size, struct buffer *out) {
  json_t *row = json_loads(prompts->rows[i], JSON_ALLOW_NUL, NULL);
  json_t *text = json_stringn(answer, size);
  if (!row || !text || json_object_set_new(row, "answer", text) != 0) {
    json_decref(row);
    return fail(ERR_MEMORY, "not enough memory for an answer");
  }
  char *line = json_dumps(row, JSON_COMPACT);
  json_decref(row);
  if (!line) return fail(ERR_INTERNAL, "an answer could not be written as JSON");
  int status = buffer_append(out, line, strlen(line));
  if (status == OK) status = buffer_append(out, "\n", 1);
  free(line);
  return status;
}
