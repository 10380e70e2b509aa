/**
 * @file added_tokens.h
 * Finds added tokens in text as Hugging Face's AddedVocabulary does: leftmost, longest, without overlaps; a token that
 * is not wanted at a place hides what is inside it.
 */
#ifndef QST_IO_ADDED_TOKENS_H
#define QST_IO_ADDED_TOKENS_H

#include "io/tokenizer_spec.h"

struct added_pattern {
  const char *text; /**< borrowed */
  size_t size;
  int32_t id;
  uint32_t flags; /**< enum added_flag */
};

struct added_matcher {
  struct added_pattern *patterns; /**< [count], in byte order */
  size_t count;
  uint32_t first[257]; /**< first[b] … first[b + 1]: the patterns that begin with byte b */
};

/** Takes a copy of the patterns; empty ones are left out. */
int added_matcher_build(struct added_matcher *matcher, const struct added_pattern *patterns, size_t count);
void added_matcher_free(struct added_matcher *matcher);

/** A search through one text. */
struct added_search {
  const char *text;
  size_t size;
  bool specials; /**< whether special tokens are wanted */
  size_t at;     /**< where the search goes on */
  size_t taken;  /**< the end of the last match with the white space it took */
};

struct added_match {
  size_t start, end;
  int32_t id;
};

/** False when there is no further match. A match may begin before the previous one's end (both take the same white
 *  space). */
bool added_matcher_next(const struct added_matcher *matcher, struct added_search *search, struct added_match *out);

#endif
