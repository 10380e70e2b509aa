#include "io/chat_render.h"

#include <string.h>

#include "base/error.h"
#include "io/utf8.h"

void chat_layout_free(struct chat_layout *layout) {
  buffer_free(&layout->parts);
  buffer_free(&layout->answers);
}

/* ---- parts ---------------------------------------------------------------------------------------------------- */

struct renderer {
  const struct chat_style *style;
  struct chat_layout *out;
  bool in_answer;
};

/* Borders of answers are borders of tokens, so that a prompt alone has the tokens it has with its answer. */
static int add_part(struct renderer *r, struct text_part part) {
  size_t count = r->out->answers.size;
  bool before = count > 0 && r->out->answers.data[count - 1];
  char answer = r->in_answer;
  part.is_apart = r->in_answer != before;
  TRY(buffer_append(&r->out->parts, &part, sizeof part));
  return buffer_append(&r->out->answers, &answer, 1);
}

static int add_text(struct renderer *r, const char *text, size_t size) {
  return add_part(r, (struct text_part){.text = text, .size = size, .id = -1});
}

static int add_literal(struct renderer *r, const char *text) {
  return add_text(r, text, strlen(text));
}

static int add_token(struct renderer *r, int32_t id) {
  return id >= 0 ? add_part(r, (struct text_part){.id = id}) : OK;
}

/* A mark that is a token where the tokenizer has one, else text. */
static int add_mark(struct renderer *r, int32_t id, const char *text) {
  return id >= 0 ? add_token(r, id) : add_literal(r, text);
}

/* What Python's str.strip() takes away. */
static bool is_stripped(int32_t code) {
  return utf8_is_space(code) || (code >= 0x1C && code <= 0x1F);
}

static void strip_start(const char **text, size_t *size) {
  while (*size > 0) {
    int32_t code;
    size_t length = utf8_next(*text, *size, &code);
    if (!is_stripped(code)) return;
    *text += length;
    *size -= length;
  }
}

static void strip_end(const char *text, size_t *size) {
  while (*size > 0) {
    int32_t code;
    size_t last = utf8_last(text, *size);
    utf8_next(text + last, *size - last, &code);
    if (!is_stripped(code)) return;
    *size = last;
  }
}

static struct chat_message trimmed(const struct chat_style *style, struct chat_message message) {
  if (!style->trims) return message;
  strip_start(&message.text, &message.size);
  strip_end(message.text, &message.size);
  return message;
}

/* A question with Alpaca's input, where the format has no place of its own for it. */
static int add_content(struct renderer *r, const struct chat_message *message) {
  TRY(add_text(r, message->text, message->size));
  if (message->input_size == 0) return OK;
  TRY(add_literal(r, "\n\n"));
  return add_text(r, message->input, message->input_size);
}

static int add_answer(struct renderer *r, const char *open, const struct chat_message *message, const char *close) {
  r->in_answer = true;
  TRY(add_literal(r, open));
  TRY(add_content(r, message));
  TRY(add_literal(r, close));
  TRY(add_token(r, r->style->end));
  r->in_answer = false;
  return OK;
}

/* ---- formats -------------------------------------------------------------------------------------------------- */

/* A conversation that is laid out: `answer_follows`, for prompts: it is to end where an answer begins. */
struct conversation {
  const struct chat_message *messages;
  size_t count;
  bool answer_follows;
};

static const char *role_name(enum chat_role role) {
  return role == ROLE_SYSTEM ? "system" : role == ROLE_USER ? "user" : "assistant";
}

/* <|im_start|>ROLE\nCONTENT<|im_end|>\n */
static int chatml_open(struct renderer *r, enum chat_role role) {
  TRY(add_token(r, r->style->start));
  TRY(add_literal(r, role_name(role)));
  return add_literal(r, "\n");
}

static int chatml_message(struct renderer *r, const struct chat_message *message) {
  TRY(chatml_open(r, message->role));
  if (message->role == ROLE_ASSISTANT) {
    TRY(add_answer(r, "", message, ""));
  } else {
    TRY(add_content(r, message));
    TRY(add_token(r, r->style->end));
  }
  return add_literal(r, "\n");
}

static int render_chatml(struct renderer *r, struct conversation c) {
  TRY(add_token(r, r->style->bos));
  if (*r->style->system && c.count > 0 && c.messages[0].role != ROLE_SYSTEM) {
    struct chat_message system = {ROLE_SYSTEM, r->style->system, strlen(r->style->system), NULL, 0};
    TRY(chatml_message(r, &system));
  }
  for (size_t i = 0; i < c.count; i++) {
    struct chat_message message = trimmed(r->style, c.messages[i]);
    TRY(chatml_message(r, &message));
  }
  return c.answer_follows ? chatml_open(r, ROLE_ASSISTANT) : OK;
}

/* <|start_header_id|>ROLE<|end_header_id|>\n\nCONTENT<|eot_id|> */
static int llama3_open(struct renderer *r, enum chat_role role) {
  TRY(add_token(r, r->style->start));
  TRY(add_literal(r, role_name(role)));
  TRY(add_token(r, r->style->header_end));
  return add_literal(r, "\n\n");
}

static int llama3_message(struct renderer *r, struct chat_message message) {
  message = trimmed(r->style, message);
  TRY(llama3_open(r, message.role));
  if (message.role == ROLE_ASSISTANT) return add_answer(r, "", &message, "");
  if (message.role == ROLE_SYSTEM && r->style->states_dates)
    TRY(add_literal(r, "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"));
  TRY(add_content(r, &message));
  return add_token(r, r->style->end);
}

static int render_llama3(struct renderer *r, struct conversation c) {
  TRY(add_token(r, r->style->bos));
  if (r->style->states_dates && (c.count == 0 || c.messages[0].role != ROLE_SYSTEM))
    TRY(llama3_message(r, (struct chat_message){.role = ROLE_SYSTEM, .text = ""}));
  for (size_t i = 0; i < c.count; i++) TRY(llama3_message(r, c.messages[i]));
  return c.answer_follows ? llama3_open(r, ROLE_ASSISTANT) : OK;
}

/* Question, answer, question, … after at most one system message. */
static int check_turns(struct conversation c, const char *format) {
  size_t first = c.count > 0 && c.messages[0].role == ROLE_SYSTEM ? 1 : 0;
  for (size_t i = first; i < c.count; i++)
    if (c.messages[i].role != ((i - first) % 2 ? ROLE_ASSISTANT : ROLE_USER))
      return fail(ERR_INPUT, "message %zu is from \"%s\"; the template %s needs user and assistant in turn", i + 1,
                  role_name(c.messages[i].role), format);
  if (c.answer_follows && (c.count - first) % 2 == 0)
    return fail(ERR_INPUT, "the conversation does not end with a question");
  return OK;
}

/* The white space at the end of question and system message together is dropped, as the published template does. */
static int llama2_system(struct renderer *r, const struct chat_message *system, bool question_is_empty) {
  TRY(add_literal(r, "<<SYS>>\n"));
  TRY(add_text(r, system->text, system->size));
  return add_literal(r, question_is_empty ? "\n<</SYS>>" : "\n<</SYS>>\n\n");
}

static int llama2_question(struct renderer *r, const struct chat_message *system, struct chat_message question) {
  if (r->style->trims && question.input_size == 0) strip_end(question.text, &question.size);
  if (r->style->trims && !system) strip_start(&question.text, &question.size);
  TRY(add_token(r, r->style->bos));
  TRY(add_mark(r, r->style->inst, "[INST]"));
  TRY(add_literal(r, " "));
  if (system) TRY(llama2_system(r, system, question.size == 0));
  TRY(add_content(r, &question));
  TRY(add_literal(r, " "));
  return add_mark(r, r->style->inst_end, "[/INST]");
}

static int render_llama2(struct renderer *r, struct conversation c) {
  TRY(check_turns(c, "llama-2"));
  const struct chat_message *system = c.count > 0 && c.messages[0].role == ROLE_SYSTEM ? &c.messages[0] : NULL;
  for (size_t i = system ? 1 : 0; i < c.count; i++) {
    struct chat_message message = trimmed(r->style, c.messages[i]);
    if (message.role == ROLE_USER) {
      TRY(llama2_question(r, system, c.messages[i]));
      system = NULL;
    } else {
      TRY(add_answer(r, " ", &message, " "));
    }
  }
  return OK;
}

static int mistral_question(struct renderer *r, const struct chat_message *system, struct chat_message question) {
  TRY(add_literal(r, r->style->question_before));
  TRY(add_mark(r, r->style->inst, "[INST]"));
  TRY(add_literal(r, " "));
  if (system) {
    TRY(add_text(r, system->text, system->size));
    TRY(add_literal(r, "\n\n"));
  }
  TRY(add_content(r, &question));
  TRY(add_literal(r, r->style->question_after));
  return add_mark(r, r->style->inst_end, "[/INST]");
}

static int render_mistral(struct renderer *r, struct conversation c) {
  TRY(check_turns(c, "mistral"));
  const struct chat_message *system = c.count > 0 && c.messages[0].role == ROLE_SYSTEM ? &c.messages[0] : NULL;
  size_t first = system ? 1 : 0, with_system = first;
  if (r->style->system_is_last && (c.count - first) > 0) with_system = c.count - 1 - (c.count - first + 1) % 2;
  TRY(add_token(r, r->style->bos));
  for (size_t i = first; i < c.count; i++) {
    struct chat_message answer = trimmed(r->style, c.messages[i]);
    if (c.messages[i].role == ROLE_USER) {
      TRY(mistral_question(r, i == with_system ? system : NULL, c.messages[i]));
    } else {
      TRY(add_answer(r, r->style->answer_before, &answer, ""));
      TRY(add_literal(r, r->style->answer_after));
    }
  }
  return OK;
}

/* Stanford Alpaca, train.py, PROMPT_DICT; a system message takes the place of its first paragraph. */
static int alpaca_question(struct renderer *r, const struct chat_message *system, const struct chat_message *question,
                           bool is_first) {
  static const char with_input[] =
      "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
      "response that appropriately completes the request.";
  static const char without_input[] =
      "Below is an instruction that describes a task. Write a response that appropriately completes the request.";
  if (system)
    TRY(add_text(r, system->text, system->size));
  else if (is_first)
    TRY(add_literal(r, question->input_size > 0 ? with_input : without_input));
  TRY(add_literal(r, "\n\n### Instruction:\n"));
  TRY(add_text(r, question->text, question->size));
  if (question->input_size > 0) {
    TRY(add_literal(r, "\n\n### Input:\n"));
    TRY(add_text(r, question->input, question->input_size));
  }
  return add_literal(r, "\n\n### Response:");
}

static int render_alpaca(struct renderer *r, struct conversation c) {
  TRY(check_turns(c, "alpaca"));
  const struct chat_message *system = c.count > 0 && c.messages[0].role == ROLE_SYSTEM ? &c.messages[0] : NULL;
  size_t first = system ? 1 : 0;
  for (size_t i = first; i < c.count; i++)
    if (c.messages[i].role == ROLE_USER)
      TRY(alpaca_question(r, i == first ? system : NULL, &c.messages[i], i == first));
    else
      TRY(add_answer(r, "", &c.messages[i], ""));
  return OK;
}

static int render_plain(struct renderer *r, struct conversation c) {
  for (size_t i = 0; i < c.count; i++)
    if (c.messages[i].role == ROLE_ASSISTANT)
      TRY(add_answer(r, "", &c.messages[i], ""));
    else
      TRY(add_content(r, &c.messages[i]));
  return OK;
}

int chat_render(const struct chat_style *style, const struct chat_message *messages, size_t count, bool prompt_only,
                struct chat_layout *out) {
  struct renderer renderer = {style, out, false};
  if (prompt_only && count > 0 && messages[count - 1].role == ROLE_ASSISTANT) count--;
  struct conversation c = {messages, count, prompt_only};
  switch (style->format) {
    case CHAT_CHATML:
      return render_chatml(&renderer, c);
    case CHAT_LLAMA3:
      return render_llama3(&renderer, c);
    case CHAT_LLAMA2:
      return render_llama2(&renderer, c);
    case CHAT_MISTRAL:
      return render_mistral(&renderer, c);
    case CHAT_ALPACA:
      return render_alpaca(&renderer, c);
    default:
      return render_plain(&renderer, c);
  }
}
