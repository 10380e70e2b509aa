/**
 * @file tokenizer_spec.h
 * What a tokenizer is made of, whatever file it came from: the readers (tokenizer_json.c, tokenizer_gguf.c,
 * tokenizer_image.c) fill this in, tokenizer_build() turns it into a tokenizer, the image is its serial form.
 */
#ifndef QST_IO_TOKENIZER_SPEC_H
#define QST_IO_TOKENIZER_SPEC_H

#include "io/tokenizer.h"

/** A string within tokenizer_spec.text. */
struct span {
  uint32_t offset, size;
};

struct merge {
  int32_t left, right, result;
};

enum added_flag {
  ADDED_SPECIAL = 1,     /**< left out when decoding; not matched without ENCODE_SPECIAL */
  ADDED_LSTRIP = 2,      /**< takes the white space before it */
  ADDED_RSTRIP = 4,      /**< takes the white space after it */
  ADDED_SINGLE_WORD = 8, /**< matches only between non-word characters */
  ADDED_NORMALIZED = 16  /**< its normalized form is looked for in the normalized text */
};

struct added_token {
  int32_t id;
  uint32_t flags;
};

/** Steps of the three pipelines. Names and meaning are those of tokenizer.json. */
enum step_kind {
  NORMALIZE_NFC,
  NORMALIZE_PREPEND, /**< content in front of a text that is not empty */
  NORMALIZE_REPLACE, /**< every `pattern` (a string) by `content` */
  SPLIT_REGEX,       /**< `pattern`; a: enum split_behavior; b: 1 = inverted */
  SPLIT_STRING,      /**< the same with a literal pattern */
  SPLIT_DIGITS,      /**< a: enum split_behavior */
  SPLIT_METASPACE,   /**< content: the replacement; a: enum prepend; b: 1 = split */
  SPLIT_BYTE_LEVEL,  /**< a: 1 = prefix space; b: 1 = the GPT-2 pattern */
  DECODE_REPLACE,    /**< as NORMALIZE_REPLACE, token by token */
  DECODE_BYTE_FALLBACK,
  DECODE_FUSE,
  DECODE_STRIP,     /**< content: one character, at most a times at the start and b times at the end of each part */
  DECODE_METASPACE, /**< content: the replacement; a: enum prepend */
  DECODE_BYTE_LEVEL,
  STEP_KINDS
};

enum split_behavior { SPLIT_ISOLATED, SPLIT_REMOVED, SPLIT_WITH_PREVIOUS, SPLIT_WITH_NEXT, SPLIT_CONTIGUOUS };
enum prepend { PREPEND_NEVER, PREPEND_FIRST, PREPEND_ALWAYS };

struct step {
  int32_t kind, a, b;
  struct span pattern, content;
};

enum pipeline { PIPELINE_NORMALIZE, PIPELINE_SPLIT, PIPELINE_DECODE, PIPELINE_COUNT };

enum spec_flag {
  SPEC_BYTE_FALLBACK = 1, /**< characters without a token become tokens <0xNN> */
  SPEC_FUSE_UNKNOWN = 2,
  SPEC_IGNORE_MERGES = 4 /**< a piece that is a token is that token */
};

/** Arrays are kept in buffers: N elements of the type in brackets. */
struct tokenizer_spec {
  struct buffer text;                  /**< all strings */
  struct buffer tokens;                /**< [struct span]: by id; size 0 where there is no such token */
  struct buffer outside;               /**< [uint8_t]: by id; 1 = an added token the model itself does not know */
  struct buffer merges;                /**< [struct merge]: by rank */
  struct buffer added;                 /**< [struct added_token] */
  struct buffer steps[PIPELINE_COUNT]; /**< [struct step] */
  struct buffer before, after;         /**< [int32_t]: what ENCODE_BOS_EOS adds */
  struct span chat_template;           /**< size 0: none */
  uint32_t flags;
  int32_t unknown, bos, eos; /**< -1: none */
};

enum {
  SPEC_MAX_TOKENS = 1 << 22,     /**< ids and tokens: far above any real vocabulary (about 260,000) */
  SPEC_MAX_TOKEN_SIZE = 1 << 14, /**< bytes */
  SPEC_MAX_STEPS = 64
};

void spec_free(struct tokenizer_spec *spec);

static inline struct span *spec_tokens(const struct tokenizer_spec *spec) {
  return (struct span *)(void *)spec->tokens.data;
}
static inline size_t spec_token_count(const struct tokenizer_spec *spec) {
  return spec->tokens.size / sizeof(struct span);
}
static inline struct merge *spec_merges(const struct tokenizer_spec *spec) {
  return (struct merge *)(void *)spec->merges.data;
}
static inline size_t spec_merge_count(const struct tokenizer_spec *spec) {
  return spec->merges.size / sizeof(struct merge);
}
static inline struct added_token *spec_added(const struct tokenizer_spec *spec) {
  return (struct added_token *)(void *)spec->added.data;
}
static inline size_t spec_added_count(const struct tokenizer_spec *spec) {
  return spec->added.size / sizeof(struct added_token);
}
static inline struct step *spec_steps(const struct tokenizer_spec *spec, enum pipeline which) {
  return (struct step *)(void *)spec->steps[which].data;
}
static inline size_t spec_step_count(const struct tokenizer_spec *spec, enum pipeline which) {
  return spec->steps[which].size / sizeof(struct step);
}
static inline const char *spec_text(const struct tokenizer_spec *spec, struct span span) {
  return spec->text.data ? spec->text.data + span.offset : ""; /* no text at all: every span is empty */
}

/** Keeps a copy of the string; a 0 byte follows it, so that it can be read as a C string. */
int spec_add_text(struct tokenizer_spec *spec, const char *text, size_t size, struct span *out);

/** Sets the token `id`, growing the table. ERR_INPUT when the id is out of range or taken by another text. */
int spec_set_token(struct tokenizer_spec *spec, int64_t id, const char *text, size_t size);

/** Adds a step; pattern and content may be NULL. */
int spec_add_step(struct tokenizer_spec *spec, enum pipeline which, struct step step, const char *pattern,
                  const char *content);

/** The whole specification holds together: ERR_INPUT says what does not. After this, every id, span and enumerator in
 *  it may be used without a check. */
int spec_check(const struct tokenizer_spec *spec);

/** Takes the content of `spec` (also on error). */
int tokenizer_build(struct tokenizer_spec *spec, struct tokenizer **out);

const struct tokenizer_spec *tokenizer_spec(const struct tokenizer *tokenizer);

#endif
