/**
 * @file option_words.h
 * Values as a config file writes them: bare, or in double quotes where a bare one would not come back the same.
 */
#ifndef QST_BASE_OPTION_WORDS_H
#define QST_BASE_OPTION_WORDS_H

#include "base/memory.h"

/** Appends the text, quoted if it must be. */
int word_quote(const char *text, struct buffer *out);
/** Takes quotes and escapes out, in place. ERR_USAGE for an unknown escape or text after the closing quote. */
int word_unquote(char *text);

#endif
