/**
 * @file data.h
 * Token files against the model they are used with.
 */
#ifndef QST_COMMANDS_DATA_H
#define QST_COMMANDS_DATA_H

#include "engine.h"
#include "io/token_file.h"

/** Tokens of the longest of the first `rows` rows. */
int data_longest_row(const struct token_file *data, int64_t rows);

/** ERR_INPUT when the ids cannot be this model's: a larger vocabulary, another tokenizer. */
int data_check(const struct engine *engine, const struct token_file *data, const char *path);

#endif
