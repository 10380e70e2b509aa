/**
 * @file prompts.h
 * The prompts of `generate` as tokens: one from the command line, or this rank's share of a JSONL file.
 */
#ifndef QST_COMMANDS_PROMPTS_H
#define QST_COMMANDS_PROMPTS_H

#include "base/options.h"
#include "comm/comm.h"
#include "io/tokenizer.h"

struct prompts {
  struct token_list *tokens; /**< [count] */
  int64_t *lines;            /**< [count] row number in the file, from 0 */
  char **rows;               /**< [count] the row's text; NULL for --prompt */
  int count, longest;
  int64_t total; /**< rows of all ranks */
};

struct backbone_facts {
  int32_t max_positions, vocabulary;
};

/** Reads the backbone's tokenizer and tokenizes; row n of a file is for rank n mod size, a single prompt for rank 0. */
int prompts_open(struct prompts *prompts, const struct options *options, const struct comm *comm,
                 struct backbone_facts *facts);
void prompts_close(struct prompts *prompts);

/** Appends row i of the file with the member "answer" added, as one line. */
int prompts_print_answer(const struct prompts *prompts, int i, const char *answer, size_t size, struct buffer *out);

#endif
