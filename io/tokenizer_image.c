#include <string.h>

#include "base/error.h"
#include "io/tokenizer_parts.h"

/* The image: "QSTTOKEN", the version, then the fields of struct tokenizer_spec in order, integers as 32 bits little
 * endian, texts and lists after their count. */
static const char magic[8] = {'Q', 'S', 'T', 'T', 'O', 'K', 'E', 'N'};
enum { VERSION = 1, NO_TOKEN = 0, MODEL_TOKEN = 1, OUTSIDE_TOKEN = 2 };

/* ---- writing -------------------------------------------------------------------------------------------------- */

static int put_number(struct buffer *image, uint32_t value) {
  unsigned char bytes[4] = {(unsigned char)value, (unsigned char)(value >> 8), (unsigned char)(value >> 16),
                            (unsigned char)(value >> 24)};
  return buffer_append(image, bytes, sizeof bytes);
}

static int put_text(struct buffer *image, const struct tokenizer_spec *spec, struct span span) {
  TRY(put_number(image, span.size));
  return buffer_append(image, spec_text(spec, span), span.size);
}

static int put_numbers(struct buffer *image, const struct buffer *list) {
  size_t count = list->size / sizeof(int32_t);
  TRY(put_number(image, (uint32_t)count));
  for (size_t i = 0; i < count; i++) TRY(put_number(image, ((const uint32_t *)(const void *)list->data)[i]));
  return OK;
}

static int put_tokens(struct buffer *image, const struct tokenizer_spec *spec) {
  size_t count = spec_token_count(spec);
  TRY(put_number(image, (uint32_t)count));
  for (size_t i = 0; i < count; i++) {
    struct span token = spec_tokens(spec)[i];
    char kind = token.size == 0 ? NO_TOKEN : spec->outside.data[i] ? OUTSIDE_TOKEN : MODEL_TOKEN;
    TRY(buffer_append(image, &kind, 1));
    if (kind != NO_TOKEN) TRY(put_text(image, spec, token));
  }
  return OK;
}

static int put_steps(struct buffer *image, const struct tokenizer_spec *spec, enum pipeline which) {
  TRY(put_number(image, (uint32_t)spec_step_count(spec, which)));
  for (size_t i = 0; i < spec_step_count(spec, which); i++) {
    struct step step = spec_steps(spec, which)[i];
    TRY(put_number(image, (uint32_t)step.kind));
    TRY(put_number(image, (uint32_t)step.a));
    TRY(put_number(image, (uint32_t)step.b));
    TRY(put_text(image, spec, step.pattern));
    TRY(put_text(image, spec, step.content));
  }
  return OK;
}

int tokenizer_save(const struct tokenizer *tokenizer, struct buffer *image) {
  const struct tokenizer_spec *spec = &tokenizer->spec;
  TRY(buffer_append(image, magic, sizeof magic));
  TRY(put_number(image, VERSION));
  TRY(put_tokens(image, spec));
  TRY(put_numbers(image, &spec->merges));
  TRY(put_numbers(image, &spec->added));
  for (int p = 0; p < PIPELINE_COUNT; p++) TRY(put_steps(image, spec, (enum pipeline)p));
  TRY(put_numbers(image, &spec->before));
  TRY(put_numbers(image, &spec->after));
  TRY(put_text(image, spec, spec->chat_template));
  TRY(put_number(image, spec->flags));
  TRY(put_number(image, (uint32_t)spec->unknown));
  TRY(put_number(image, (uint32_t)spec->bos));
  return put_number(image, (uint32_t)spec->eos);
}

/* ---- reading -------------------------------------------------------------------------------------------------- */

struct reader {
  const unsigned char *at;
  size_t left;
};

static int damaged(void) {
  return fail(ERR_INPUT, "the stored tokenizer is damaged: it ends too early");
}

static int get_number(struct reader *reader, uint32_t *out) {
  if (reader->left < 4) return damaged();
  const unsigned char *b = reader->at;
  *out = (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
  reader->at += 4;
  reader->left -= 4;
  return OK;
}

static int get_signed(struct reader *reader, int32_t *out) {
  uint32_t value;
  TRY(get_number(reader, &value));
  *out = (int32_t)value;
  return OK;
}

/* A count of things of at least `least` bytes each, which must be there. */
static int get_count(struct reader *reader, size_t least, uint32_t *out) {
  TRY(get_number(reader, out));
  return *out > reader->left / least ? damaged() : OK;
}

static int get_text(struct reader *reader, const char **text, uint32_t *size) {
  TRY(get_count(reader, 1, size));
  *text = (const char *)reader->at;
  reader->at += *size;
  reader->left -= *size;
  return OK;
}

static int get_span(struct reader *reader, struct tokenizer_spec *spec, struct span *out) {
  const char *text;
  uint32_t size;
  TRY(get_text(reader, &text, &size));
  return size > 0 ? spec_add_text(spec, text, size, out) : OK;
}

/* A list of records of `width` numbers. */
static int get_numbers(struct reader *reader, uint32_t width, struct buffer *out) {
  uint32_t count, value;
  TRY(get_count(reader, 4, &count));
  if (count % width != 0) return fail(ERR_INPUT, "the stored tokenizer is damaged: a list of %u numbers", count);
  for (uint32_t i = 0; i < count; i++) {
    TRY(get_number(reader, &value));
    TRY(buffer_append(out, &value, sizeof value));
  }
  return OK;
}

static int get_token(struct reader *reader, struct tokenizer_spec *spec) {
  if (reader->left == 0) return damaged();
  unsigned char kind = *reader->at++;
  reader->left--;
  struct span span = {0, 0};
  char outside = kind == OUTSIDE_TOKEN;
  if (kind > OUTSIDE_TOKEN) return fail(ERR_INPUT, "the stored tokenizer is damaged: a token of kind %d", kind);
  if (kind != NO_TOKEN) TRY(get_span(reader, spec, &span));
  TRY(buffer_append(&spec->tokens, &span, sizeof span));
  return buffer_append(&spec->outside, &outside, 1);
}

static int get_steps(struct reader *reader, struct tokenizer_spec *spec, enum pipeline which) {
  uint32_t count;
  TRY(get_count(reader, 20, &count));
  for (uint32_t i = 0; i < count; i++) {
    struct step step = {0};
    TRY(get_signed(reader, &step.kind));
    TRY(get_signed(reader, &step.a));
    TRY(get_signed(reader, &step.b));
    TRY(get_span(reader, spec, &step.pattern));
    TRY(get_span(reader, spec, &step.content));
    TRY(buffer_append(&spec->steps[which], &step, sizeof step));
  }
  return OK;
}

static int get_header(struct reader *reader) {
  uint32_t version;
  if (reader->left < sizeof magic || memcmp(reader->at, magic, sizeof magic) != 0)
    return fail(ERR_INPUT, "this is not a stored tokenizer");
  reader->at += sizeof magic;
  reader->left -= sizeof magic;
  TRY(get_number(reader, &version));
  if (version == VERSION) return OK;
  return fail(ERR_INPUT, "the stored tokenizer has version %u; this program reads version %d", version, VERSION);
}

static int get_spec(struct reader *reader, struct tokenizer_spec *spec) {
  uint32_t count;
  TRY(get_header(reader));
  TRY(get_count(reader, 1, &count));
  for (uint32_t i = 0; i < count; i++) TRY(get_token(reader, spec));
  TRY(get_numbers(reader, sizeof(struct merge) / 4, &spec->merges));
  TRY(get_numbers(reader, sizeof(struct added_token) / 4, &spec->added));
  for (int p = 0; p < PIPELINE_COUNT; p++) TRY(get_steps(reader, spec, (enum pipeline)p));
  TRY(get_numbers(reader, 1, &spec->before));
  TRY(get_numbers(reader, 1, &spec->after));
  TRY(get_span(reader, spec, &spec->chat_template));
  TRY(get_number(reader, &spec->flags));
  TRY(get_signed(reader, &spec->unknown));
  TRY(get_signed(reader, &spec->bos));
  TRY(get_signed(reader, &spec->eos));
  return reader->left == 0 ? OK : fail(ERR_INPUT, "the stored tokenizer has %zu bytes too many", reader->left);
}

int tokenizer_load(const void *image, size_t size, struct tokenizer **out) {
  *out = NULL;
  struct tokenizer_spec spec = {0};
  struct reader reader = {image, size};
  int status = get_spec(&reader, &spec);
  if (status == OK) status = tokenizer_build(&spec, out);
  spec_free(&spec);
  return status;
}
