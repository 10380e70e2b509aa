/**
 * @file pretokenizer.h
 * The pre-tokenizers of tokenizer.json: they cut a text into the pieces that BPE works on.
 */
#ifndef QST_IO_PRETOKENIZER_H
#define QST_IO_PRETOKENIZER_H

#include "io/bpe.h"
#include "io/pattern.h"

struct pretokenizer {
  const struct tokenizer_spec *spec;
  struct pattern *patterns[SPEC_MAX_STEPS]; /**< of the steps that search by one; NULL for the others */
};

int pretokenizer_build(struct pretokenizer *pretokenizer, const struct tokenizer_spec *spec);
void pretokenizer_free(struct pretokenizer *pretokenizer);

/** Where a text stands. */
enum text_place {
  PLACE_FIRST = 1,    /**< at the very beginning */
  PLACE_CONTINUES = 2 /**< it goes on after other text: no space is put in front */
};

/** One thread's way from text to ids. */
struct encoder {
  const struct pretokenizer *pretokenizer;
  const struct bpe *bpe;
  struct bpe_scratch scratch;
  struct pattern_search *search;
  struct token_list *out;
};

/** Cuts `text` (normalized, valid UTF-8) into pieces and appends their ids. */
int pretokenize(struct encoder *encoder, const char *text, size_t size, unsigned place);

#endif
