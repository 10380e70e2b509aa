#include <stdlib.h>

#include "base/error.h"
#include "io/normalizer.h"
#include "io/tokenizer_parts.h"
#include "io/utf8.h"

static int encode_normalized(const struct tokenizer *tokenizer, struct encoder *encoder, const struct buffer *text,
                             bool specials, unsigned place) {
  struct added_search search = {text->data, text->size, specials, 0, 0};
  struct added_match match;
  size_t done = 0;
  while (added_matcher_next(&tokenizer->normalized_matcher, &search, &match)) {
    if (done < match.start) TRY(pretokenize(encoder, text->data + done, match.start - done, done == 0 ? place : 0));
    TRY(token_list_append(encoder->out, match.id));
    done = match.end;
  }
  if (done == text->size) return OK;
  return pretokenize(encoder, text->data + done, text->size - done, done == 0 ? place : 0);
}

/* Text in which no added token matches as it is. */
static int encode_plain(const struct tokenizer *tokenizer, struct encoder *encoder, const char *text, size_t size,
                        bool specials, unsigned place) {
  struct buffer normalized = {0};
  int status = normalize(&tokenizer->spec, text, size, place & PLACE_CONTINUES, &normalized);
  if (status == OK) status = encode_normalized(tokenizer, encoder, &normalized, specials, place);
  buffer_free(&normalized);
  return status;
}

static int encode_text(const struct tokenizer *tokenizer, struct encoder *encoder, const char *text, size_t size,
                       bool specials, unsigned place) {
  struct added_search search = {text, size, specials, 0, 0};
  struct added_match match;
  size_t done = 0;
  while (added_matcher_next(&tokenizer->raw_matcher, &search, &match)) {
    if (done < match.start)
      TRY(encode_plain(tokenizer, encoder, text + done, match.start - done, specials, done == 0 ? place : 0));
    TRY(token_list_append(encoder->out, match.id));
    done = match.end;
  }
  if (done == size) return OK;
  return encode_plain(tokenizer, encoder, text + done, size - done, specials, done == 0 ? place : 0);
}

static int start_encoder(const struct tokenizer *tokenizer, struct token_list *out, struct encoder *encoder) {
  *encoder = (struct encoder){.pretokenizer = &tokenizer->pretokenizer, .bpe = &tokenizer->bpe, .out = out};
  return pattern_search_create(&encoder->search);
}

static void end_encoder(struct encoder *encoder) {
  bpe_scratch_free(&encoder->scratch);
  pattern_search_destroy(&encoder->search);
}

static int append_ids(const struct buffer *ids, struct token_list *out) {
  for (size_t i = 0; i < ids->size / sizeof(int32_t); i++)
    TRY(token_list_append(out, ((const int32_t *)(const void *)ids->data)[i]));
  return OK;
}

int tokenizer_encode(const struct tokenizer *tokenizer, const char *text, size_t size, unsigned flags,
                     struct token_list *out) {
  struct encoder encoder;
  struct buffer repaired = {0};
  int status;
  TRY_GOTO(status, cleanup, start_encoder(tokenizer, out, &encoder));
  if (!utf8_valid(text, size)) {
    TRY_GOTO(status, cleanup, utf8_replace(text, size, &repaired));
    text = repaired.data;
    size = repaired.size;
  }
  if (flags & ENCODE_BOS_EOS) TRY_GOTO(status, cleanup, append_ids(&tokenizer->spec.before, out));
  TRY_GOTO(status, cleanup, encode_text(tokenizer, &encoder, text, size, flags & ENCODE_SPECIAL, PLACE_FIRST));
  if (flags & ENCODE_BOS_EOS) TRY_GOTO(status, cleanup, append_ids(&tokenizer->spec.after, out));
cleanup:
  buffer_free(&repaired);
  end_encoder(&encoder);
  return status;
}

/* Where text stands that follows what was encoded so far. */
static unsigned next_place(unsigned place, size_t size) {
  return size > 0 ? PLACE_CONTINUES : place;
}

int tokenizer_encode_parts(const struct tokenizer *tokenizer, const struct text_part *parts, size_t count,
                           struct token_list *out, size_t *starts) {
  struct encoder encoder;
  struct buffer text = {0};
  unsigned place = PLACE_FIRST;
  int status;
  TRY_GOTO(status, cleanup, start_encoder(tokenizer, out, &encoder));
  for (size_t i = 0; i < count; i++) {
    if (parts[i].is_apart) starts[i] = out->size;
    if (parts[i].id >= 0) {
      TRY_GOTO(status, cleanup, token_list_append(out, parts[i].id));
      place = 0;
      continue;
    }
    TRY_GOTO(status, cleanup, buffer_append(&text, parts[i].text, parts[i].size));
    if (i + 1 < count && parts[i + 1].id < 0 && !parts[i + 1].is_apart) continue;
    TRY_GOTO(status, cleanup, encode_text(tokenizer, &encoder, text.data, text.size, false, place));
    place = next_place(place, text.size);
    buffer_clear(&text);
  }
cleanup:
  buffer_free(&text);
  end_encoder(&encoder);
  return status;
}
