/**
 * @file chat_style.h
 * How a conversation becomes a text: which of the formats we know, and in which of its variants.
 */
#ifndef QST_IO_CHAT_STYLE_H
#define QST_IO_CHAT_STYLE_H

#include "io/chat.h"

struct chat_style {
  enum chat_template format; /**< never CHAT_OWN */
  int32_t bos;               /**< in front of the text (llama-2: of every question); -1: nothing */
  int32_t end;               /**< what ends an answer */
  int32_t start;             /**< chatml: <|im_start|>; llama-3: <|start_header_id|> */
  int32_t header_end;        /**< llama-3: <|end_header_id|> */
  bool trims;                /**< white space around contents is dropped */
  bool states_dates;         /**< llama-3: the system message begins with two lines of dates (Llama 3.1 and later) */
  char system[512];          /**< chatml: the system message where a conversation has none; "": none */
  int32_t inst, inst_end;    /**< llama-2, mistral: [INST] and [/INST]; -1: they are text */
  /* mistral: white space before [INST] and [/INST], before and after answers */
  const char *question_before, *question_after, *answer_before, *answer_after;
  bool system_is_last; /**< mistral: the system message stands in the last question, else in the first. The template
                              of v0.3 does so in prompts, and forgets it where an answer follows; we keep it. */
};

/** Resolves CHAT_OWN by the tokenizer's template and finds the tokens. ERR_INPUT when the template is not one we know,
 *  or the tokenizer lacks a token of the format. */
int chat_style_find(const struct tokenizer *tokenizer, enum chat_template format, struct chat_style *out);

#endif
