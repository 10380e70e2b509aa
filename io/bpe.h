/**
 * @file bpe.h
 * Byte-pair encoding of one piece of text: the symbols of its characters (or bytes), merged pair by pair, always the
 * pair that was learned first, the leftmost of equals (Sennrich et al., 2016; order and fallbacks as the model "BPE" of
 * Hugging Face tokenizers).
 */
#ifndef QST_IO_BPE_H
#define QST_IO_BPE_H

#include <stdbool.h>

#include "io/tokenizer_spec.h"
#include "io/vocabulary.h"

struct pair_entry {
  uint64_t pair; /**< left << 32 | right; all ones: free */
  uint32_t rank;
  int32_t result;
};

struct bpe {
  bool byte_level;              /**< symbols are bytes, not characters */
  uint32_t flags;               /**< enum spec_flag */
  int32_t unknown;              /**< -1: what has no token is left out */
  int32_t byte_ids[256];        /**< byte level: the byte's token; else the token of this ASCII character; -1: none */
  int32_t fallback_ids[256];    /**< the token "<0xNN>"; -1: none */
  bool cuts_at_space;           /**< no merge reaches over a border between a character and U+2581 after it */
  struct buffer text;           /**< what `vocabulary` points into */
  struct vocabulary vocabulary; /**< the model's tokens by the text (byte level: the bytes) they stand for */
  uint8_t *whole;               /**< [ids]: 1 = the token's own text is encoded as this one token */
  struct pair_entry *pairs;
  size_t pair_mask;
};

/** Memory that one thread uses for encoding, kept from piece to piece. */
struct bpe_scratch {
  struct buffer symbols, heap;
};
void bpe_scratch_free(struct bpe_scratch *scratch);

int bpe_build(struct bpe *bpe, const struct tokenizer_spec *spec, bool byte_level);
void bpe_free(struct bpe *bpe);

/** Appends the ids of one piece (valid UTF-8). */
int bpe_encode(const struct bpe *bpe, struct bpe_scratch *scratch, const char *text, size_t size,
               struct token_list *out);

/** Fills the table of pairs; of a pair that comes twice the last counts. */
int bpe_build_pairs(struct bpe *bpe, const struct merge *merges, size_t count);
/** What merging two symbols gives, or NULL. */
const struct pair_entry *bpe_pair(const struct bpe *bpe, int32_t left, int32_t right);

/** Merges `ids` in place and returns how many are left. For short words: time grows with the square of `count`. */
size_t bpe_merge_short(const struct bpe *bpe, int32_t *ids, size_t count);
/** The same for any length, with a heap: count · log(count). */
int bpe_merge_long(const struct bpe *bpe, struct bpe_scratch *scratch, int32_t *ids, size_t *count);

enum { BPE_SHORT = 32 /**< longest word for bpe_merge_short() */ };

#endif
