#include "io/bpe.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "io/byte_alphabet.h"
#include "io/utf8.h"

void bpe_scratch_free(struct bpe_scratch *scratch) {
  buffer_free(&scratch->symbols);
  buffer_free(&scratch->heap);
}

void bpe_free(struct bpe *bpe) {
  buffer_free(&bpe->text);
  vocabulary_free(&bpe->vocabulary);
  free(bpe->whole);
  free(bpe->pairs);
  *bpe = (struct bpe){0};
}

/* ---- encoding ------------------------------------------------------------------------------------------------- */

static const char space_mark[] = "\xE2\x96\x81"; /* U+2581 */

/* A character without a token: its bytes' tokens if all are there, else the unknown token. `*pending` is an unknown
 * token not yet written, which further ones may join. */
static int add_missing(const struct bpe *bpe, const char *text, size_t size, int32_t *pending, struct token_list *out) {
  bool all = bpe->flags & SPEC_BYTE_FALLBACK;
  for (size_t i = 0; i < size; i++) all = all && bpe->fallback_ids[(unsigned char)text[i]] >= 0;
  if (all) {
    for (size_t i = 0; i < size; i++) TRY(token_list_append(out, bpe->fallback_ids[(unsigned char)text[i]]));
    return OK;
  }
  if (*pending >= 0 && !(bpe->flags & SPEC_FUSE_UNKNOWN)) TRY(token_list_append(out, *pending));
  *pending = bpe->unknown;
  return OK;
}

static int32_t symbol_at(const struct bpe *bpe, const char *text, size_t size, size_t *length) {
  unsigned char byte = (unsigned char)text[0];
  int32_t code;
  *length = bpe->byte_level ? 1 : utf8_next(text, size, &code);
  return *length == 1 ? bpe->byte_ids[byte] : vocabulary_get(&bpe->vocabulary, text, *length);
}

static int add_symbols(const struct bpe *bpe, const char *text, size_t size, struct token_list *out) {
  int32_t pending = -1;
  for (size_t at = 0, length; at < size; at += length) {
    int32_t id = symbol_at(bpe, text + at, size - at, &length);
    if (id < 0) {
      TRY(add_missing(bpe, text + at, length, &pending, out));
      continue;
    }
    if (pending >= 0) TRY(token_list_append(out, pending));
    pending = -1;
    TRY(token_list_append(out, id));
  }
  return pending >= 0 ? token_list_append(out, pending) : OK;
}

static int merge_word(const struct bpe *bpe, struct bpe_scratch *scratch, const char *text, size_t size,
                      struct token_list *out) {
  size_t start = out->size;
  TRY(add_symbols(bpe, text, size, out));
  size_t count = out->size - start;
  if (count == 0) return OK; /* of unknown symbols alone; `ids` may be NULL */
  if (count <= BPE_SHORT)
    count = bpe_merge_short(bpe, out->ids + start, count);
  else
    TRY(bpe_merge_long(bpe, scratch, out->ids + start, &count));
  out->size = start + count;
  return OK;
}

static int encode_word(const struct bpe *bpe, struct bpe_scratch *scratch, const char *text, size_t size,
                       struct token_list *out) {
  int32_t id = vocabulary_get(&bpe->vocabulary, text, size);
  if (id >= 0 && (bpe->whole[id] || (bpe->flags & SPEC_IGNORE_MERGES))) return token_list_append(out, id);
  return merge_word(bpe, scratch, text, size, out);
}

/* Length of the word in front of the next mark that follows another character. */
static size_t word_length(const char *text, size_t size) {
  size_t at = 0;
  while (size - at >= 3 && memcmp(text + at, space_mark, 3) == 0) at += 3;
  while (at < size) {
    const char *found = memchr(text + at, space_mark[0], size - at);
    if (!found) return size;
    at = (size_t)(found - text);
    if (size - at >= 3 && memcmp(found, space_mark, 3) == 0) return at;
    at++;
  }
  return size;
}

int bpe_encode(const struct bpe *bpe, struct bpe_scratch *scratch, const char *text, size_t size,
               struct token_list *out) {
  if (!bpe->cuts_at_space) return size > 0 ? encode_word(bpe, scratch, text, size, out) : OK;
  for (size_t at = 0, length; at < size; at += length) {
    length = word_length(text + at, size - at);
    TRY(encode_word(bpe, scratch, text + at, length, out));
  }
  return OK;
}

/* ---- building ------------------------------------------------------------------------------------------------- */

/* Appends what the token stands for. Byte level: nothing when it has characters that are no bytes; text never gives
 * such a token. */
static int append_meaning(struct bpe *bpe, const struct tokenizer_spec *spec, struct span token) {
  int whole;
  if (bpe->byte_level) return byte_alphabet_decode(spec_text(spec, token), token.size, &bpe->text, &whole);
  return buffer_append(&bpe->text, spec_text(spec, token), token.size);
}

static int build_vocabulary(struct bpe *bpe, const struct tokenizer_spec *spec) {
  size_t count = spec_token_count(spec);
  struct span *meanings = NULL;
  TRY(memory_array(&meanings, count, sizeof *meanings));
  int status = vocabulary_start(&bpe->vocabulary, count);
  for (size_t id = 0; status == OK && id < count; id++) {
    size_t start = bpe->text.size;
    if (!spec->outside.data[id]) status = append_meaning(bpe, spec, spec_tokens(spec)[id]);
    meanings[id] = (struct span){(uint32_t)start, (uint32_t)(bpe->text.size - start)};
  }
  for (size_t id = 0; status == OK && id < count; id++)
    if (meanings[id].size > 0)
      vocabulary_put(&bpe->vocabulary, bpe->text.data + meanings[id].offset, meanings[id].size, (int32_t)id);
  free(meanings);
  return status;
}

static void build_byte_ids(struct bpe *bpe) {
  for (int byte = 0; byte < 256; byte++) {
    char text[8] = {(char)byte};
    bpe->byte_ids[byte] = bpe->byte_level || byte < 0x80 ? vocabulary_get(&bpe->vocabulary, text, 1) : -1;
    snprintf(text, sizeof text, "<0x%02X>", (unsigned)byte);
    bpe->fallback_ids[byte] = vocabulary_get(&bpe->vocabulary, text, 6);
  }
}

static bool starts_with_mark(const char *text, size_t size) {
  return size >= 3 && memcmp(text, space_mark, 3) == 0;
}

/* Text may be cut before a mark, which makes words short, if nothing can reach over the border: no merge does, and
 * unknown tokens, which may be fused, do not occur. */
static bool can_cut_at_space(const struct bpe *bpe, const struct tokenizer_spec *spec) {
  if (bpe->byte_level || (bpe->flags & SPEC_IGNORE_MERGES) || !(bpe->flags & SPEC_BYTE_FALLBACK)) return false;
  if (vocabulary_get(&bpe->vocabulary, space_mark, 3) < 0) return false;
  for (int byte = 0; byte < 256; byte++)
    if (bpe->fallback_ids[byte] < 0) return false;
  for (size_t i = 0; i < spec_merge_count(spec); i++) {
    struct span left = spec_tokens(spec)[spec_merges(spec)[i].left];
    struct span right = spec_tokens(spec)[spec_merges(spec)[i].right];
    bool mark = left.size >= 3 && starts_with_mark(spec_text(spec, left) + left.size - 3, 3);
    if (!mark && starts_with_mark(spec_text(spec, right), right.size)) return false;
  }
  return true;
}

/* Most words of a text are tokens; merging would find them again and again. */
static int build_whole(struct bpe *bpe, size_t count) {
  struct token_list ids = {0};
  struct bpe_scratch scratch = {0};
  int status = memory_array(&bpe->whole, count, 1);
  for (size_t slot = 0; status == OK && slot <= bpe->vocabulary.mask; slot++) {
    struct vocabulary_entry entry = bpe->vocabulary.entries[slot];
    if (!entry.text || entry.size > BPE_SHORT) continue;
    ids.size = 0;
    status = merge_word(bpe, &scratch, entry.text, entry.size, &ids);
    bpe->whole[entry.id] = ids.size == 1 && ids.ids[0] == entry.id;
  }
  token_list_free(&ids);
  bpe_scratch_free(&scratch);
  return status;
}

int bpe_build(struct bpe *bpe, const struct tokenizer_spec *spec, bool byte_level) {
  *bpe = (struct bpe){.byte_level = byte_level, .flags = spec->flags, .unknown = spec->unknown};
  TRY(build_vocabulary(bpe, spec));
  build_byte_ids(bpe);
  TRY(bpe_build_pairs(bpe, spec_merges(spec), spec_merge_count(spec)));
  bpe->cuts_at_space = can_cut_at_space(bpe, spec);
  return build_whole(bpe, spec_token_count(spec));
}
