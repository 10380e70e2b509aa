/**
 * @file tokenizer_parts.h
 * A tokenizer's inside, and encoding of text that is put together from parts.
 */
#ifndef QST_IO_TOKENIZER_PARTS_H
#define QST_IO_TOKENIZER_PARTS_H

#include "io/added_tokens.h"
#include "io/bpe.h"
#include "io/pretokenizer.h"
#include "io/tokenizer_spec.h"

struct tokenizer {
  struct tokenizer_spec spec;
  struct pretokenizer pretokenizer;
  struct bpe bpe;
  struct added_matcher raw_matcher, normalized_matcher; /**< for text before and after the normalizers */
  struct buffer form_text;                              /**< what `forms` points into */
  struct span *forms;   /**< [added]: the text an added token is found by, and decoded to */
  uint32_t *added_form; /**< [ids]: 1 + index of the added token, 0 = it is none */
};

/** The id of an added token by its text, or -1. */
int32_t tokenizer_added_id(const struct tokenizer *tokenizer, const char *token);

/** Text, in which no special token is looked for, or one token by its id. */
struct text_part {
  const char *text; /**< valid UTF-8; not used when id >= 0 */
  size_t size;
  int32_t id;    /**< -1: text */
  bool is_apart; /**< no token reaches over the border in front of this part */
};

/** Appends the ids of the parts as if their texts stood in one string. starts[i] = index in `out` of the first token of
 *  part i, set for parts that are apart. */
int tokenizer_encode_parts(const struct tokenizer *tokenizer, const struct text_part *parts, size_t count,
                           struct token_list *out, size_t *starts);

#endif
