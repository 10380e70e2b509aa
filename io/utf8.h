/**
 * @file utf8.h
 * UTF-8 as the Unicode standard defines it (no surrogates, no overlong forms, at most U+10FFFF).
 */
#ifndef QST_IO_UTF8_H
#define QST_IO_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/memory.h"

/** Decodes the character at `text` (size > 0) and returns its length, 1 to 4; or, when none is well-formed there, sets
 *  *code = -1 and returns the length of the longest part that could begin one (at least 1): what is replaced by one
 *  U+FFFD (The Unicode Standard, section 3.9, "substitution of maximal subparts"; Python and Rust do the same). */
size_t utf8_next(const char *text, size_t size, int32_t *code);

/** Where the character that ends at text[size - 1] begins. The text is valid, size > 0. */
size_t utf8_last(const char *text, size_t size);

bool utf8_valid(const char *text, size_t size);

/** Appends `text` with every ill-formed part replaced by U+FFFD. */
int utf8_replace(const char *text, size_t size, struct buffer *out);

/** Appends one character. */
int utf8_append(struct buffer *out, int32_t code);

/** The White_Space property, which is also `\s` of the tokenizers' regular expressions. */
bool utf8_is_space(int32_t code);

/** `\w` of Unicode regular expressions (UTS 18, annex C): letters, marks, decimal digits, connectors, joiners. */
bool utf8_is_word(int32_t code);

#endif
