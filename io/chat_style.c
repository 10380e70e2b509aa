#include "io/chat_style.h"

#include <string.h>

#include "base/error.h"
#include "io/tokenizer_parts.h"

static const struct {
  const char *name;
  enum chat_template format;
} formats[] = {{"own", CHAT_OWN},         {"chatml", CHAT_CHATML}, {"llama-2", CHAT_LLAMA2}, {"llama-3", CHAT_LLAMA3},
               {"mistral", CHAT_MISTRAL}, {"alpaca", CHAT_ALPACA}, {"plain", CHAT_PLAIN}};

int chat_template_parse(const char *name, enum chat_template *out) {
  for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
    *out = formats[i].format;
    if (strcmp(name, formats[i].name) == 0) return OK;
  }
  return fail(ERR_USAGE, "the template \"%.40s\" is none of own, chatml, llama-2, llama-3, mistral, alpaca and plain",
              name);
}

/* ---- the tokenizer's own template ----------------------------------------------------------------------------- */

/* A Jinja template is recognised by the texts in it. What changes the result beyond the variants below is refused. */
static int recognise(const char *text, enum chat_template *out) {
  static const struct {
    const char *marker;
    enum chat_template format;
  } markers[] = {{"<|im_start|>", CHAT_CHATML},
                 {"<|start_header_id|>", CHAT_LLAMA3},
                 {"<<SYS>>", CHAT_LLAMA2},
                 {"[INST]", CHAT_MISTRAL}};
  static const char choices[] = "choose one with --template: chatml, llama-2, llama-3, mistral, alpaca or plain";
  if (!text) return fail(ERR_INPUT, "the tokenizer has no chat template of its own; %s", choices);
  bool reasons = strstr(text, "<think>") || strstr(text, "enable_thinking");
  for (size_t i = 0; !reasons && i < sizeof markers / sizeof *markers; i++) {
    *out = markers[i].format;
    if (strstr(text, markers[i].marker)) return OK;
  }
  return fail(ERR_INPUT, "the tokenizer's own chat template is not one we know; %s", choices);
}

/* One character of a Jinja string literal; returns its length in the source. */
static size_t literal_character(const char *text, char *out) {
  *out = text[0] == '\\' && text[1] == 'n' ? '\n' : text[0] == '\\' && text[1] ? text[1] : text[0];
  return text[0] == '\\' && text[1] ? 2 : 1;
}

/* Reads what follows "<|im_start|>system\n" up to "<|im_end|>" within one literal that `quote` ends. */
static bool read_system(const char *text, char quote, char *out, size_t room) {
  static const char end[] = "<|im_end|>";
  size_t used = 0;
  while (*text && *text != quote && used + 1 < room) {
    if (strncmp(text, end, strlen(end)) == 0) {
      out[used] = 0;
      return used > 0;
    }
    text += literal_character(text, &out[used++]);
  }
  *out = 0;
  return false;
}

/* The default system message is written out in the template, in one literal with its frame. */
static void find_system(const char *text, char *out, size_t room) {
  static const char start[] = "<|im_start|>system";
  *out = 0;
  for (const char *at = strstr(text, start); at; at = strstr(at + 1, start)) {
    const char *rest = at + strlen(start);
    bool newline = rest[0] == '\n' || (rest[0] == '\\' && rest[1] == 'n');
    if (at == text || !newline) continue;
    if (read_system(rest + (rest[0] == '\n' ? 1 : 2), at[-1], out, room)) return;
  }
}

/* Whether the template has this literal, in either kind of quotes. */
static bool has_literal(const char *text, const char *literal) {
  size_t size = strlen(literal);
  for (const char *at = strstr(text, literal); at; at = strstr(at + 1, literal))
    if (at > text && (at[-1] == '\'' || at[-1] == '"') && at[size] == at[-1]) return true;
  return false;
}

/* Whether the source holds "' ' + message" with any spacing and quotes: a space in front of answers. */
static bool puts_space_before(const char *text) {
  for (const char *at = text; (at = strstr(at, "message")) != NULL; at++) {
    const char *back = at;
    while (back > text && (back[-1] == ' ' || back[-1] == '(')) back--;
    if (back == text || back[-1] != '+') continue;
    back--;
    while (back > text && back[-1] == ' ') back--;
    if (back - text >= 3 && (back[-1] == '\'' || back[-1] == '"') && back[-2] == ' ' && back[-3] == back[-1])
      return true;
  }
  return false;
}

/* The versions of Mistral's template differ in spaces only. */
static void find_mistral(const char *text, struct chat_style *style) {
  style->question_before = has_literal(text, " [INST] ") ? " " : "";
  style->question_after = has_literal(text, "[/INST]") ? "" : " ";
  style->answer_before = puts_space_before(text) ? " " : "";
  style->answer_after = strstr(text, "eos_token + ' '") || strstr(text, "eos_token + \" \"") ? " " : "";
  style->system_is_last = strstr(text, "loop.last and system_message") || strstr(text, "loop.last and messages[0]");
}

static void read_own(const char *text, struct chat_style *style) {
  style->trims = strstr(text, "|trim") || strstr(text, "| trim") || strstr(text, ".strip()");
  style->states_dates = strstr(text, "Cutting Knowledge Date") != NULL;
  if (!strstr(text, "bos_token")) style->bos = -1;
  if (style->format == CHAT_CHATML) find_system(text, style->system, sizeof style->system);
  if (style->format == CHAT_MISTRAL) find_mistral(text, style);
}

/* ---- all of it ------------------------------------------------------------------------------------------------ */

static int find_token(const struct tokenizer *tokenizer, const char *text, const char *format, int32_t *out) {
  *out = tokenizer_id(tokenizer, text);
  if (*out >= 0) return OK;
  return fail(ERR_INPUT, "the template %s needs the token %s, which the tokenizer does not have", format, text);
}

static int find_tokens(const struct tokenizer *tokenizer, struct chat_style *style) {
  if (style->format == CHAT_CHATML) {
    TRY(find_token(tokenizer, "<|im_start|>", "chatml", &style->start));
    return find_token(tokenizer, "<|im_end|>", "chatml", &style->end);
  }
  if (style->format == CHAT_LLAMA3) {
    TRY(find_token(tokenizer, "<|start_header_id|>", "llama-3", &style->start));
    TRY(find_token(tokenizer, "<|end_header_id|>", "llama-3", &style->header_end));
    return find_token(tokenizer, "<|eot_id|>", "llama-3", &style->end);
  }
  style->end = tokenizer_eos(tokenizer);
  return style->end >= 0 ? OK : fail(ERR_INPUT, "the tokenizer has no end token (eos) to end an answer with");
}

int chat_style_find(const struct tokenizer *tokenizer, enum chat_template format, struct chat_style *out) {
  const char *own = tokenizer_chat_template(tokenizer);
  *out = (struct chat_style){.format = format,
                             .bos = tokenizer_bos(tokenizer),
                             .start = -1,
                             .header_end = -1,
                             .trims = format == CHAT_LLAMA2 || format == CHAT_LLAMA3,
                             .inst = tokenizer_added_id(tokenizer, "[INST]"),
                             .inst_end = tokenizer_added_id(tokenizer, "[/INST]"),
                             .question_before = "",
                             .question_after = " ",
                             .answer_before = " ",
                             .answer_after = ""};
  if (format == CHAT_CHATML || format == CHAT_ALPACA || format == CHAT_PLAIN) out->bos = -1;
  if (format == CHAT_OWN) {
    TRY(recognise(own, &out->format));
    read_own(own, out);
  }
  return find_tokens(tokenizer, out);
}
