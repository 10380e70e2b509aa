/**
 * @file json_read.h
 * JSON of other people's files: parsed with one-line errors, read field by field.
 */
#ifndef QST_IO_JSON_READ_H
#define QST_IO_JSON_READ_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/memory.h"

/** Parses a whole text; bytes that are no UTF-8 are read as U+FFFD, a byte order mark in front is ignored (RFC 8259,
 *  8.1). ERR_INPUT says what is wrong and at which line and
 *  column. Caller: json_decref(*out). */
int json_read(const char *text, size_t size, json_t **out);

/** The same with all numbers as floating point, for files with whole numbers of any size. */
int json_read_reals(const char *text, size_t size, json_t **out);

/** A whole file of JSON of at most `limit` bytes. ERR_INPUT names the path, and why it cannot be read or what is wrong. */
int json_read_file(const char *path, uint64_t limit, json_t **out);

/** The text of a field; NULL when it is absent or no text. May hold 0 bytes: json_string_length(). */
const char *json_text(const json_t *object, const char *key);
bool json_flag(const json_t *object, const char *key, bool otherwise);

#endif
