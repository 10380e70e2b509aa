#include "io/chat.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "io/chat_render.h"
#include "io/json_read.h"

void chat_row_clear(struct chat_row *row) {
  row->tokens.size = 0;
  row->labels.size = 0;
  row->completion = -1;
  row->truncated = false;
}

void chat_row_free(struct chat_row *row) {
  token_list_free(&row->tokens);
  token_list_free(&row->labels);
  chat_row_clear(row);
}

/* ---- rows of tokens ------------------------------------------------------------------------------------------- */

static int read_ids(const json_t *list, const char *name, struct token_list *out) {
  size_t index;
  const json_t *id;
  if (!json_is_array(list)) return fail(ERR_INPUT, "\"%s\" is not a list of token ids", name);
  json_array_foreach(list, index, id) {
    json_int_t value = json_integer_value(id);
    if (!json_is_integer(id) || value < LABEL_NONE || value > INT32_MAX)
      return fail(ERR_INPUT, "\"%s\"[%zu] is not a token id", name, index);
    TRY(token_list_append(out, (int32_t)value));
  }
  return OK;
}

static int check_labels(const struct chat_row *row) {
  if (row->labels.size != row->tokens.size)
    return fail(ERR_INPUT, "%zu \"labels\" for %zu \"input_ids\"", row->labels.size, row->tokens.size);
  for (size_t i = 0; i < row->labels.size; i++)
    if (row->labels.ids[i] != LABEL_NONE && row->labels.ids[i] != row->tokens.ids[i])
      return fail(ERR_INPUT, "\"labels\"[%zu] is %d; it must be %d or the token's own id %d", i, row->labels.ids[i],
                  LABEL_NONE, row->tokens.ids[i]);
  return OK;
}

/* The last stretch of labels that follows tokens without one is the last answer. */
static int32_t last_answer(const struct token_list *labels) {
  size_t start = labels->size;
  while (start > 0 && labels->ids[start - 1] == LABEL_NONE) start--;
  if (start == 0) return -1;
  while (start > 0 && labels->ids[start - 1] != LABEL_NONE) start--;
  return start > 0 ? (int32_t)start : -1;
}

static int read_token_row(const json_t *object, const struct chat_options *options, struct chat_row *out) {
  const json_t *labels = json_object_get(object, "labels");
  TRY(read_ids(json_object_get(object, "input_ids"), "input_ids", &out->tokens));
  if (labels) TRY(read_ids(labels, "labels", &out->labels));
  for (size_t i = 0; !labels && i < out->tokens.size; i++) TRY(token_list_append(&out->labels, out->tokens.ids[i]));
  TRY(check_labels(out));
  out->completion = last_answer(&out->labels);
  for (size_t i = 0; options->train_on_prompt && i < out->tokens.size; i++) out->labels.ids[i] = out->tokens.ids[i];
  if (options->prompt_only && out->completion >= 0) out->tokens.size = out->labels.size = (size_t)out->completion;
  return OK;
}

/* ---- rows of text --------------------------------------------------------------------------------------------- */

static int append_before(const struct tokenizer *tokenizer, struct token_list *out) {
  const struct buffer *before = &tokenizer->spec.before;
  for (size_t i = 0; i < before->size / sizeof(int32_t); i++)
    TRY(token_list_append(out, ((const int32_t *)(const void *)before->data)[i]));
  return OK;
}

/* Text that was laid out by others may begin with bos and end with eos: they are not doubled. */
static int add_ends(const struct tokenizer *tokenizer, const struct token_list *text, bool prompt_only,
                    struct token_list *out) {
  int32_t bos = tokenizer_bos(tokenizer), eos = tokenizer_eos(tokenizer);
  bool begun = text->size > 0 && text->ids[0] == bos, ended = text->size > 0 && text->ids[text->size - 1] == eos;
  if (!begun) TRY(append_before(tokenizer, out));
  for (size_t i = 0; i < text->size; i++) TRY(token_list_append(out, text->ids[i]));
  return prompt_only || ended || eos < 0 ? OK : token_list_append(out, eos);
}

static int read_text_row(const struct tokenizer *tokenizer, const json_t *object, const struct chat_options *options,
                         struct chat_row *out) {
  const json_t *text = json_object_get(object, "text");
  struct token_list ids = {0};
  int status;
  if (!json_is_string(text)) return fail(ERR_INPUT, "\"text\" is not a text");
  TRY_GOTO(status, cleanup,
           tokenizer_encode(tokenizer, json_string_value(text), json_string_length(text), ENCODE_SPECIAL, &ids));
  TRY_GOTO(status, cleanup, add_ends(tokenizer, &ids, options->prompt_only, &out->tokens));
  for (size_t i = 0; i < out->tokens.size; i++)
    TRY_GOTO(status, cleanup, token_list_append(&out->labels, out->tokens.ids[i]));
cleanup:
  token_list_free(&ids);
  return status;
}

/* ---- conversations -------------------------------------------------------------------------------------------- */

static int get_text(const json_t *object, const char *key, const char **text, size_t *size) {
  const json_t *value = json_object_get(object, key);
  if (!json_is_string(value)) return fail(ERR_INPUT, "\"%s\" is %s", key, value ? "not a text" : "missing");
  *text = json_string_value(value);
  *size = json_string_length(value);
  return OK;
}

static int add_message(struct buffer *messages, enum chat_role role, const json_t *object, const char *key) {
  struct chat_message message = {.role = role};
  TRY(get_text(object, key, &message.text, &message.size));
  return buffer_append(messages, &message, sizeof message);
}

static int read_role(const json_t *object, enum chat_role *out) {
  static const struct {
    const char *name;
    enum chat_role role;
  } roles[] = {{"system", ROLE_SYSTEM}, {"user", ROLE_USER}, {"assistant", ROLE_ASSISTANT}};
  const char *name;
  size_t size;
  TRY(get_text(object, "role", &name, &size));
  for (size_t i = 0; i < sizeof roles / sizeof *roles; i++) {
    *out = roles[i].role;
    if (strcmp(name, roles[i].name) == 0) return OK;
  }
  return fail(ERR_INPUT, "the role \"%.40s\" is none of system, user and assistant", name);
}

static int read_message(const json_t *object, size_t index, struct buffer *messages) {
  enum chat_role role;
  TRY(read_role(object, &role));
  if (role == ROLE_SYSTEM && index > 0) return fail(ERR_INPUT, "a system message that is not the first");
  return add_message(messages, role, object, "content");
}

static int read_messages(const json_t *list, struct buffer *messages) {
  size_t index;
  const json_t *object;
  if (json_array_size(list) == 0) return fail(ERR_INPUT, "\"messages\" is not a list of messages");
  json_array_foreach(list, index, object) TRY(fail_at(read_message(object, index, messages), "message %zu", index + 1));
  return OK;
}

static int read_alpaca(const json_t *object, bool prompt_only, struct buffer *messages) {
  struct chat_message question = {.role = ROLE_USER};
  TRY(get_text(object, "instruction", &question.text, &question.size));
  if (json_object_get(object, "input")) TRY(get_text(object, "input", &question.input, &question.input_size));
  TRY(buffer_append(messages, &question, sizeof question));
  if (prompt_only && !json_object_get(object, "output")) return OK;
  return add_message(messages, ROLE_ASSISTANT, object, "output");
}

static int read_conversation(const json_t *object, bool prompt_only, struct buffer *messages) {
  if (json_object_get(object, "messages")) return read_messages(json_object_get(object, "messages"), messages);
  if (json_object_get(object, "instruction")) return read_alpaca(object, prompt_only, messages);
  if (!json_object_get(object, "prompt"))
    return fail(ERR_INPUT, "the row has none of \"messages\", \"prompt\", \"instruction\", \"text\" and \"input_ids\"");
  TRY(add_message(messages, ROLE_USER, object, "prompt"));
  if (prompt_only && !json_object_get(object, "completion")) return OK;
  return add_message(messages, ROLE_ASSISTANT, object, "completion");
}

/* Labels of the tokens that part i and those up to the next border gave, which begin at `start`. */
static int label_parts(const struct chat_layout *layout, const size_t *starts, const struct chat_options *options,
                       struct chat_row *out) {
  const struct text_part *parts = (const struct text_part *)(const void *)layout->parts.data;
  bool in_answer = false;
  for (size_t i = 0; i <= layout->answers.size; i++) {
    bool at_end = i == layout->answers.size;
    if (!at_end && !parts[i].is_apart) continue;
    size_t end = at_end ? out->tokens.size : starts[i];
    for (size_t t = out->labels.size; t < end; t++)
      TRY(token_list_append(&out->labels, in_answer || options->train_on_prompt ? out->tokens.ids[t] : LABEL_NONE));
    if (at_end) break;
    in_answer = layout->answers.data[i];
    if (in_answer) out->completion = (int32_t)end;
  }
  return OK;
}

static int encode_layout(const struct tokenizer *tokenizer, const struct chat_layout *layout,
                         const struct chat_options *options, struct chat_row *out) {
  size_t count = layout->answers.size, *starts = NULL;
  TRY(memory_array(&starts, count, sizeof *starts));
  int status = tokenizer_encode_parts(tokenizer, (const struct text_part *)(const void *)layout->parts.data, count,
                                      &out->tokens, starts);
  if (status == OK) status = label_parts(layout, starts, options, out);
  free(starts);
  return status;
}

static int read_chat_row(const struct tokenizer *tokenizer, const json_t *object, const struct chat_options *options,
                         struct chat_row *out, int32_t *end) {
  struct buffer messages = {0};
  struct chat_layout layout = {0};
  struct chat_style style;
  int status;
  TRY_GOTO(status, cleanup, read_conversation(object, options->prompt_only, &messages));
  TRY_GOTO(status, cleanup, chat_style_find(tokenizer, options->format, &style));
  if (style.format == CHAT_ALPACA || style.format == CHAT_PLAIN) /* they write no bos themselves */
    TRY_GOTO(status, cleanup, append_before(tokenizer, &out->tokens));
  TRY_GOTO(status, cleanup,
           chat_render(&style, (const struct chat_message *)(const void *)messages.data,
                       messages.size / sizeof(struct chat_message), options->prompt_only, &layout));
  TRY_GOTO(status, cleanup, encode_layout(tokenizer, &layout, options, out));
  *end = style.end;
cleanup:
  chat_layout_free(&layout);
  buffer_free(&messages);
  return status;
}

/* ---- all of it ------------------------------------------------------------------------------------------------ */

static void truncate_row(struct chat_row *row, int max_tokens, int32_t end) {
  if (max_tokens <= 0 || row->tokens.size <= (size_t)max_tokens) return;
  size_t last = (size_t)max_tokens - 1;
  row->tokens.ids[last] = end;
  if (row->labels.ids[last] != LABEL_NONE) row->labels.ids[last] = end;
  row->tokens.size = row->labels.size = (size_t)max_tokens;
  row->truncated = true;
  if (row->completion > (int32_t)last) row->completion = -1;
}

static int check_ids(const struct chat_row *row, int32_t vocabulary) {
  for (size_t i = 0; i < row->tokens.size; i++)
    if (row->tokens.ids[i] < 0 || row->tokens.ids[i] >= vocabulary)
      return fail(ERR_INPUT, "token id %d is out of range: the model has %d tokens", row->tokens.ids[i], vocabulary);
  return OK;
}

static bool is_space(char c) {
  return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* What to do about the files of other programs: one array of rows, or rows over many lines. Otherwise `status` stays. */
static int explain_layout(const char *line, size_t size, int status) {
  while (size > 0 && is_space(*line)) line++, size--;
  while (size > 0 && is_space(line[size - 1])) size--;
  if (size > 0 && line[0] == '[')
    return fail(ERR_INPUT,
                "an array begins here, but a row is one JSON object on one line: jq -c '.[]' FILE writes the "
                "rows of an array so");
  if (size > 0 && line[0] == '{' && line[size - 1] != '}')
    return fail_at(status, "the row does not end on its line (jq -c . FILE writes each on one)");
  return status;
}

static int read_row(const struct tokenizer *tokenizer, const json_t *object, const struct chat_options *options,
                    struct chat_row *out) {
  int32_t end = -1;
  if (!json_is_object(object)) return fail(ERR_INPUT, "the row is not a JSON object");
  if (json_object_get(object, "input_ids"))
    TRY(read_token_row(object, options, out));
  else if (!tokenizer)
    return fail(ERR_INPUT, "a row of text needs the model's tokenizer, and there is none (--model or --backbone)");
  else if (json_object_get(object, "text"))
    TRY(read_text_row(tokenizer, object, options, out));
  else
    TRY(read_chat_row(tokenizer, object, options, out, &end));
  if (options->prompt_only) return OK;
  if (end < 0 && out->tokens.size > 0) end = out->tokens.ids[out->tokens.size - 1];
  truncate_row(out, options->max_tokens, end);
  return OK;
}

int chat_row_parse(const struct tokenizer *tokenizer, const char *line, size_t size, const struct chat_options *options,
                   int32_t vocabulary, struct chat_row *out) {
  json_t *object = NULL;
  chat_row_clear(out);
  int status = json_read(line, size, &object);
  if (!json_is_object(object)) status = explain_layout(line, size, status);
  if (status == OK) status = read_row(tokenizer, object, options, out);
  if (status == OK) status = check_ids(out, vocabulary);
  json_decref(object);
  return status;
}
