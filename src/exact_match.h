/**
 * @file exact_match.h
 * How many held-out rows the model answers as written: greedy decoding from the prompt, compared with the row's
 * completion as text (as ids where there is no tokenizer), the end token included.
 */
#ifndef QST_EXACT_MATCH_H
#define QST_EXACT_MATCH_H

#include "generator.h"
#include "io/token_file.h"

struct exact_match {
  int64_t rows, right; /**< rows with a completion, and those answered exactly */
};

/** The first `rows` rows of `data`, shared by all ranks; the counts are those of all. Collective. */
int exact_match_count(struct generator *generator, struct comm *comm, const struct token_file *data, int64_t rows,
                      struct exact_match *out);

#endif
