/**
 * @file chat_render.h
 * Lays a conversation out as parts of text and tokens, with the answers marked.
 */
#ifndef QST_IO_CHAT_RENDER_H
#define QST_IO_CHAT_RENDER_H

#include "io/chat_style.h"
#include "io/tokenizer_parts.h"

enum chat_role { ROLE_SYSTEM, ROLE_USER, ROLE_ASSISTANT };

struct chat_message {
  enum chat_role role;
  const char *text; /**< borrowed, valid UTF-8 */
  size_t size;
  const char *input; /**< Alpaca's second field of a question; size 0: none */
  size_t input_size;
};

/** Parts borrow the messages' and the style's texts. Start from `{0}`. */
struct chat_layout {
  struct buffer parts;   /**< [struct text_part] */
  struct buffer answers; /**< [char] for each part: 1 = part of an answer */
};
void chat_layout_free(struct chat_layout *layout);

/** `prompt_only`: up to where the next answer begins (an answer at the end of the conversation is left out). ERR_INPUT
 *  when the format cannot hold this order of messages. */
int chat_render(const struct chat_style *style, const struct chat_message *messages, size_t count, bool prompt_only,
                struct chat_layout *out);

#endif
