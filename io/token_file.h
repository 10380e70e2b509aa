/**
 * @file token_file.h
 * Tokenized rows, format "qst-tokens" version 1 (HDF5):
 *   / attributes: format, version, rows, tokens, label_tokens, truncated, vocabulary, template, source, tokenizer
 *     (hash of its image, "" for rows that came tokenized)
 *   /tokens i32 [tokens]   /labels i32 [tokens] (LABEL_NONE or the token's own id)
 *   /offsets i64 [rows + 1]   /completions i32 [rows] (index within the row of the last answer's first token; -1)
 */
#ifndef QST_IO_TOKEN_FILE_H
#define QST_IO_TOKEN_FILE_H

#include <stdint.h>

struct token_file {
  int64_t rows, total;  /**< rows; tokens of all rows */
  int64_t label_tokens; /**< labels on tokens with a predecessor in their row: what a loss can be taken on */
  int64_t truncated;
  int32_t vocabulary;
  int32_t *tokens, *labels; /**< [total] */
  int64_t *offsets;         /**< [rows + 1] */
  int32_t *completions;     /**< [rows] */
  char template_name[32];
  char source[64]; /**< name and hash of the JSONL */
  char tokenizer[33];
  char digest[33]; /**< hash of the datasets' checksums; set by reading */
};

/** Reads all of it into memory and checks it (ids below the vocabulary, offsets ascending, no empty rows). */
int token_file_read(const char *path, struct token_file *out);
int token_file_write(const char *path, const struct token_file *data);
/** Frees the arrays. */
void token_file_free(struct token_file *data);

#endif
