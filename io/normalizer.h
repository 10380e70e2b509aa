/**
 * @file normalizer.h
 * The normalizers of tokenizer.json. NFC: UAX 15, with libutf8proc's tables.
 */
#ifndef QST_IO_NORMALIZER_H
#define QST_IO_NORMALIZER_H

#include "io/tokenizer_spec.h"

/** Appends the normalization form C of valid UTF-8, as Hugging Face's tokenizers have it. */
int normalize_nfc(const char *text, size_t size, struct buffer *out);

/** Appends `text` with every occurrence of `pattern` (not empty) replaced. */
int replace_text(const char *text, size_t size, const char *pattern, size_t pattern_size, const char *content,
                 size_t content_size, struct buffer *out);

/** Runs all normalizers over `text` (valid UTF-8); replaces the content of `out`. Text that goes on after other text
 *  (`continues`) is not prepended to. */
int normalize(const struct tokenizer_spec *spec, const char *text, size_t size, bool continues, struct buffer *out);

#endif
