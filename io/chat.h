/**
 * @file chat.h
 * From a row of JSON to tokens and labels: row formats, chat templates, the label mask, truncation.
 *
 * Row formats (one JSON object a line): {"messages":[{"role","content"},…]}, {"prompt","completion"},
 * {"instruction","input","output"} (Alpaca), {"text"}, {"input_ids","labels"} (labels -100 = no loss; needs no
 * tokenizer; labels absent = every token).
 *
 * A prompt is the user's message, a completion or output the assistant's; Alpaca's input stands in its own paragraph. A
 * "text" is taken as it is, special tokens in it included, and ended with eos; there every token has a label. Elsewhere
 * special tokens are only what the template puts there: "<|im_end|>" within a content is plain text. Answers, with their
 * end token, have labels. No token reaches over the border between a prompt and its answer, so that a prompt alone has
 * the tokens it has in its row; otherwise ids equal those of transformers' apply_chat_template.
 *
 * Templates: chatml (OpenAI; SmolLM2, Qwen2), llama-2 ([INST], <<SYS>>), llama-3 (also 3.1 with its dates), mistral,
 * alpaca (Stanford Alpaca, train.py; answers end with eos), plain (contents one after another; answers end with eos).
 */
#ifndef QST_IO_CHAT_H
#define QST_IO_CHAT_H

#include "io/tokenizer.h"

enum { LABEL_NONE = -100 };

enum chat_template { CHAT_OWN, CHAT_CHATML, CHAT_LLAMA2, CHAT_LLAMA3, CHAT_MISTRAL, CHAT_ALPACA, CHAT_PLAIN };

struct chat_options {
  enum chat_template format; /**< CHAT_OWN: recognised from the tokenizer's own template (its default system prompt
                                  included); ERR_INPUT with the choices when it is not one we know */
  int max_tokens;            /**< longest row; longer ones are truncated at the end, the end token kept */
  bool train_on_prompt;      /**< labels on the prompt tokens as well */
  bool prompt_only;          /**< for generation: stop where the assistant's answer begins; never truncated */
};

/** Tokens of one row. labels[i] is the label *of* token i (loss is taken on predicting it), or LABEL_NONE. */
struct chat_row {
  struct token_list tokens, labels;
  int32_t completion; /**< index of the first token of the last answer; -1 when the row has none */
  bool truncated;     /**< the end token at the cut has a label if the token in its place had one */
};
void chat_row_clear(struct chat_row *row);
void chat_row_free(struct chat_row *row);

/** `tokenizer` may be NULL for rows that are already tokenized. ERR_INPUT describes the fault without the line
 *  number, which the caller knows. `vocabulary`: ids must be below it. */
int chat_row_parse(const struct tokenizer *tokenizer, const char *line, size_t size, const struct chat_options *options,
                   int32_t vocabulary, struct chat_row *out);

/** "chatml", … → the enumerator; ERR_USAGE names the choices. "own" is the default. */
int chat_template_parse(const char *name, enum chat_template *out);

#endif
