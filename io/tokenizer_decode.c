#include <string.h>

#include "base/error.h"
#include "io/byte_alphabet.h"
#include "io/normalizer.h"
#include "io/tokenizer_parts.h"
#include "io/utf8.h"

/* The decoders work on a list of strings, at first one a token; `ends` holds where each ends in `text`. */
struct strings {
  struct buffer text, ends; /* ends: [size_t] */
};

static size_t string_count(const struct strings *strings) {
  return strings->ends.size / sizeof(size_t);
}

static const char *string_at(const struct strings *strings, size_t index, size_t *size) {
  const size_t *ends = (const size_t *)(const void *)strings->ends.data;
  size_t start = index == 0 ? 0 : ends[index - 1];
  *size = ends[index] - start;
  return strings->text.data + start;
}

/* What was appended to `text` since the last string is a string. */
static int end_string(struct strings *strings) {
  return buffer_append(&strings->ends, &strings->text.size, sizeof(size_t));
}

static void strings_free(struct strings *strings) {
  buffer_free(&strings->text);
  buffer_free(&strings->ends);
}

static int byte_level(const struct strings *in, struct strings *out) {
  struct buffer bytes = {0};
  int status = buffer_append(&bytes, "", 0);
  for (size_t i = 0; status == OK && i < string_count(in); i++) {
    size_t size;
    int whole;
    const char *text = string_at(in, i, &size);
    status = byte_alphabet_decode(text, size, &bytes, &whole);
    if (status == OK && !whole) status = buffer_append(&bytes, text, size);
  }
  if (status == OK) status = utf8_replace(bytes.data, bytes.size, &out->text);
  buffer_free(&bytes);
  return status == OK ? end_string(out) : status;
}

static int hex_digit(char digit) {
  const char *digits = "0123456789abcdefABCDEF", *at = digit ? strchr(digits, digit) : NULL;
  if (!at) return -1;
  int value = (int)(at - digits);
  return value < 16 ? value : value - 6;
}

/* The byte of "<0xNN>", or -1. */
static int byte_token(const char *text, size_t size) {
  if (size != 6 || memcmp(text, "<0x", 3) != 0 || text[5] != '>') return -1;
  int high = text[3] == '+' ? 0 : hex_digit(text[3]), low = hex_digit(text[4]);
  return high < 0 || low < 0 ? -1 : high * 16 + low;
}

/* Bytes in a row that are no UTF-8 become one U+FFFD each. */
static int flush_bytes(struct buffer *bytes, struct strings *out) {
  if (bytes->size == 0) return OK;
  if (utf8_valid(bytes->data, bytes->size)) {
    TRY(buffer_append(&out->text, bytes->data, bytes->size));
    TRY(end_string(out));
  } else {
    for (size_t i = 0; i < bytes->size; i++) {
      TRY(buffer_append(&out->text, "\xEF\xBF\xBD", 3));
      TRY(end_string(out));
    }
  }
  buffer_clear(bytes);
  return OK;
}

static int byte_fallback(const struct strings *in, struct strings *out) {
  struct buffer bytes = {0};
  int status = OK;
  for (size_t i = 0; status == OK && i < string_count(in); i++) {
    size_t size;
    const char *text = string_at(in, i, &size);
    int byte = byte_token(text, size);
    char value = (char)byte;
    if (byte >= 0) {
      status = buffer_append(&bytes, &value, 1);
      continue;
    }
    status = flush_bytes(&bytes, out);
    if (status == OK) status = buffer_append(&out->text, text, size);
    if (status == OK) status = end_string(out);
  }
  if (status == OK) status = flush_bytes(&bytes, out);
  buffer_free(&bytes);
  return status;
}

static int strip(const char *content, size_t content_size, struct step step, const char *text, size_t size,
                 struct buffer *out) {
  for (int32_t i = 0; i < step.a && size >= content_size && memcmp(text, content, content_size) == 0; i++) {
    text += content_size;
    size -= content_size;
  }
  for (int32_t i = 0; i < step.b && size >= content_size; i++) {
    if (memcmp(text + size - content_size, content, content_size) != 0) break;
    size -= content_size;
  }
  return buffer_append(out, text, size);
}

static int decode_one(const struct tokenizer_spec *spec, struct step step, size_t index, const char *text, size_t size,
                      struct buffer *out) {
  const char *content = spec_text(spec, step.content);
  size_t content_size = step.content.size;
  switch (step.kind) {
    case DECODE_REPLACE:
      return replace_text(text, size, spec_text(spec, step.pattern), step.pattern.size, content, content_size, out);
    case DECODE_METASPACE: {
      bool dropped = index == 0 && step.a != PREPEND_NEVER;
      return replace_text(text, size, content, content_size, dropped ? "" : " ", dropped ? 0 : 1, out);
    }
    case DECODE_STRIP:
      return strip(content, content_size, step, text, size, out);
    default:
      return buffer_append(out, text, size);
  }
}

static int decode_step(const struct tokenizer_spec *spec, struct step step, const struct strings *in,
                       struct strings *out) {
  if (step.kind == DECODE_BYTE_LEVEL) return byte_level(in, out);
  if (step.kind == DECODE_BYTE_FALLBACK) return byte_fallback(in, out);
  for (size_t i = 0; i < string_count(in); i++) {
    size_t size;
    const char *text = string_at(in, i, &size);
    TRY(decode_one(spec, step, i, text, size, &out->text));
    if (step.kind != DECODE_FUSE || i + 1 == string_count(in)) TRY(end_string(out));
  }
  return OK;
}

/* An added token is decoded to the form by which it is found in text; it is special only if that is its own text. */
static struct span token_text(const struct tokenizer *tokenizer, int32_t id, bool *special, const char **text) {
  const struct tokenizer_spec *spec = &tokenizer->spec;
  struct span token = spec_tokens(spec)[id];
  uint32_t added = tokenizer->added_form[id];
  *text = spec_text(spec, token);
  *special = false;
  if (added == 0) return token;
  struct span form = tokenizer->forms[added - 1];
  const char *form_text = tokenizer->form_text.data + form.offset;
  *special = (spec_added(spec)[added - 1].flags & ADDED_SPECIAL) && form.size == token.size &&
             memcmp(form_text, *text, form.size) == 0;
  *text = form_text;
  return form;
}

static int gather(const struct tokenizer *tokenizer, const int32_t *ids, size_t count, bool keep_special,
                  struct strings *out) {
  size_t known = spec_token_count(&tokenizer->spec);
  bool joined_by_space = spec_step_count(&tokenizer->spec, PIPELINE_DECODE) == 0;
  for (size_t i = 0; i < count; i++) {
    if (ids[i] < 0 || (size_t)ids[i] >= known) continue;
    bool special;
    const char *text;
    struct span span = token_text(tokenizer, ids[i], &special, &text);
    if (span.size == 0 || (special && !keep_special)) continue;
    if (joined_by_space && out->ends.size > 0) TRY(buffer_append(&out->text, " ", 1));
    TRY(buffer_append(&out->text, text, span.size));
    TRY(end_string(out));
  }
  return OK;
}

int tokenizer_decode(const struct tokenizer *tokenizer, const int32_t *ids, size_t count, bool keep_special,
                     struct buffer *out) {
  const struct tokenizer_spec *spec = &tokenizer->spec;
  struct strings strings = {0}, next = {0};
  int status = gather(tokenizer, ids, count, keep_special, &strings);
  for (size_t i = 0; status == OK && i < spec_step_count(spec, PIPELINE_DECODE); i++) {
    status = decode_step(spec, spec_steps(spec, PIPELINE_DECODE)[i], &strings, &next);
    struct strings swapped = strings;
    strings = next;
    next = swapped;
    buffer_clear(&next.text);
    buffer_clear(&next.ends);
  }
  if (status == OK) status = buffer_append(out, strings.text.data, strings.text.size);
  strings_free(&strings);
  strings_free(&next);
  return status;
}

/* ---- streaming ------------------------------------------------------------------------------------------------ */

static const char unfinished[] = "\xEF\xBF\xBD";

int token_stream_add(struct token_stream *stream, const struct tokenizer *tokenizer, int32_t id, struct buffer *out) {
  TRY(token_list_append(&stream->ids, id));
  return token_stream_flush(stream, tokenizer, false, out);
}

int token_stream_flush(struct token_stream *stream, const struct tokenizer *tokenizer, bool at_end,
                       struct buffer *out) {
  struct buffer text = {0};
  int status = tokenizer_decode(tokenizer, stream->ids.ids, stream->ids.size, false, &text);
  bool waits = !at_end && text.size >= 3 && memcmp(text.data + text.size - 3, unfinished, 3) == 0;
  if (status == OK && !waits && text.size > stream->shown) {
    status = buffer_append(out, text.data + stream->shown, text.size - stream->shown);
    stream->shown = text.size;
  }
  buffer_free(&text);
  return status;
}

void token_stream_free(struct token_stream *stream) {
  token_list_free(&stream->ids);
  *stream = (struct token_stream){0};
}
