/**
 * @file pattern.h
 * The regular expressions of tokenizer.json. Hugging Face runs them with Oniguruma, we with PCRE2; where the two mean
 * different characters by one escape, the pattern is rewritten, and what would not mean the same is refused.
 */
#ifndef QST_IO_PATTERN_H
#define QST_IO_PATTERN_H

#include <stddef.h>

struct pattern;
struct pattern_search; /**< what one thread needs to search */

/** What GPT-2 splits text with (encoder.py), and how individual numbers are found. */
extern const char pattern_gpt2[], pattern_numeric[];

/** ERR_INPUT when the pattern is wrong or uses what is not supported. */
int pattern_compile(struct pattern **out, const char *text, size_t size);
void pattern_destroy(struct pattern **pattern);

int pattern_search_create(struct pattern_search **out);
void pattern_search_destroy(struct pattern_search **search);

/** The first match at or after `from` that is not empty: *found = 0 or 1. The text is valid UTF-8. */
int pattern_find(const struct pattern *pattern, struct pattern_search *search, const char *text, size_t size,
                 size_t from, int *found, size_t *start, size_t *end);

#endif
