#include "io/normalizer.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "base/error.h"
#include "io/utf8.h"

struct character {
  int32_t code;
  int32_t order; /* canonical combining class */
};

/* Canonical ordering: each run of characters with a class is sorted by it, stably. Insertion for the runs of real text;
 * `spare` [count] serves a merge sort, so that a hostile run of a million marks takes no time either. */
static void sort_run(struct character *run, size_t count, struct character *spare) {
  if (count <= 16) {
    for (size_t i = 1; i < count; i++) {
      struct character moved = run[i];
      size_t at = i;
      for (; at > 0 && run[at - 1].order > moved.order; at--) run[at] = run[at - 1];
      run[at] = moved;
    }
    return;
  }
  size_t half = count / 2, a = 0, b = half;
  sort_run(run, half, spare);
  sort_run(run + half, count - half, spare);
  memcpy(spare, run, count * sizeof *run);
  for (size_t i = 0; i < count; i++) {
    bool left = a < half && (b == count || spare[a].order <= spare[b].order);
    run[i] = spare[left ? a++ : b++];
  }
}

static void sort_marks(struct character *text, size_t count, struct character *spare) {
  for (size_t start = 0; start < count;) {
    size_t end = start;
    while (end < count && text[end].order != 0) end++;
    sort_run(text + start, end - start, spare);
    start = end + 1;
  }
}

/* Characters that came with Unicode 10 or later and that newer tables decompose, compose or reorder. Hugging Face's
 * normalizer has the tables of Unicode 9 and passes them by, as it does with whole scripts of Unicode 16. (Unicode
 * Character Database, DerivedAge and UnicodeData; found by comparing all characters in four surroundings.) */
static const struct {
  int32_t first, last;
} unknown_characters[] = {
    {0x7FD, 0x7FD},     {0x897, 0x89F},     {0x8CA, 0x8D3},     {0x9FE, 0x9FE},     {0xC3C, 0xC3C},
    {0xD3B, 0xD3C},     {0xEBA, 0xEBA},     {0x1715, 0x1715},   {0x1ABF, 0x1AFF},   {0x1DF6, 0x1DFA},
    {0xA82C, 0xA82C},   {0x105C0, 0x105FF}, {0x10D24, 0x10D27}, {0x10D40, 0x10D8F}, {0x10EAB, 0x10EAC},
    {0x10EFA, 0x10EFF}, {0x10F46, 0x10F50}, {0x10F82, 0x10F85}, {0x11070, 0x11070}, {0x1133B, 0x1133B},
    {0x11380, 0x113FF}, {0x1145E, 0x1145E}, {0x11839, 0x1183A}, {0x11930, 0x11930}, {0x11938, 0x11938},
    {0x1193D, 0x1193E}, {0x11943, 0x11943}, {0x119E0, 0x119E0}, {0x11A34, 0x11A34}, {0x11A47, 0x11A47},
    {0x11A99, 0x11A99}, {0x11D42, 0x11D42}, {0x11D44, 0x11D45}, {0x11D97, 0x11D97}, {0x11F41, 0x11F42},
    {0x16100, 0x1613F}, {0x16D40, 0x16D7F}, {0x16FF0, 0x16FF1}, {0x1E08F, 0x1E08F}, {0x1E130, 0x1E136},
    {0x1E2AE, 0x1E2AE}, {0x1E2EC, 0x1E2EF}, {0x1E4EC, 0x1E4EF}, {0x1E5D0, 0x1E5FF}, {0x1E6E0, 0x1E6FF},
};

static bool is_unknown(int32_t code) {
  size_t low = 0, high = sizeof unknown_characters / sizeof *unknown_characters;
  while (low < high) {
    size_t middle = low + (high - low) / 2;
    if (unknown_characters[middle].last < code)
      low = middle + 1;
    else
      high = middle;
  }
  return low < sizeof unknown_characters / sizeof *unknown_characters && unknown_characters[low].first <= code;
}

static int decompose(int32_t code, struct buffer *out) {
  int32_t parts[32];
  int boundary = 0;
  utf8proc_ssize_t count = utf8proc_decompose_char(code, parts, 32, UTF8PROC_STABLE | UTF8PROC_DECOMPOSE, &boundary);
  if (count < 0 || count > 32) return fail(ERR_INTERNAL, "U+%04X could not be decomposed", (unsigned)code);
  for (utf8proc_ssize_t i = 0; i < count; i++) {
    struct character c = {parts[i], utf8proc_get_property(parts[i])->combining_class};
    TRY(buffer_append(out, &c, sizeof c));
  }
  return OK;
}

/* Characters that are gathered until one comes that is passed by, and memory to order and compose them. */
struct composer {
  struct buffer characters, spare, codes;
};

static int compose(struct composer *composer, struct buffer *out) {
  size_t count = composer->characters.size / sizeof(struct character);
  struct character *characters = (struct character *)(void *)composer->characters.data;
  if (count == 0) return OK;
  buffer_clear(&composer->spare);
  buffer_clear(&composer->codes);
  TRY(buffer_append(&composer->spare, characters, composer->characters.size));
  sort_marks(characters, count, (struct character *)(void *)composer->spare.data);
  for (size_t i = 0; i < count; i++) TRY(buffer_append(&composer->codes, &characters[i].code, sizeof(int32_t)));
  int32_t *codes = (int32_t *)(void *)composer->codes.data;
  utf8proc_ssize_t length =
      utf8proc_normalize_utf32(codes, (utf8proc_ssize_t)count, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
  if (length < 0) return fail(ERR_INTERNAL, "%s", utf8proc_errmsg(length));
  for (utf8proc_ssize_t i = 0; i < length; i++) TRY(utf8_append(out, codes[i]));
  buffer_clear(&composer->characters);
  return OK;
}

static int compose_text(struct composer *composer, const char *text, size_t size, struct buffer *out) {
  for (size_t at = 0, length; at < size; at += length) {
    int32_t code;
    length = utf8_next(text + at, size - at, &code);
    if (is_unknown(code)) {
      TRY(compose(composer, out));
      TRY(buffer_append(out, text + at, length));
    } else {
      TRY(decompose(code, &composer->characters));
    }
  }
  return compose(composer, out);
}

/* Below U+0300 all text is in normal form: no lead byte from 0xCC. */
static bool is_surely_normal(const char *text, size_t size) {
  for (size_t i = 0; i < size; i++)
    if ((unsigned char)text[i] >= 0xCC) return false;
  return true;
}

int normalize_nfc(const char *text, size_t size, struct buffer *out) {
  if (is_surely_normal(text, size)) return buffer_append(out, text, size);
  struct composer composer = {0};
  int status = compose_text(&composer, text, size, out);
  buffer_free(&composer.characters);
  buffer_free(&composer.spare);
  buffer_free(&composer.codes);
  return status;
}

int replace_text(const char *text, size_t size, const char *pattern, size_t pattern_size, const char *content,
                 size_t content_size, struct buffer *out) {
  while (size > 0) {
    const char *found = memmem(text, size, pattern, pattern_size);
    size_t kept = found ? (size_t)(found - text) : size;
    TRY(buffer_append(out, text, kept));
    if (!found) break;
    TRY(buffer_append(out, content, content_size));
    text += kept + pattern_size;
    size -= kept + pattern_size;
  }
  return OK;
}

static int run_step(const struct tokenizer_spec *spec, struct step step, const char *text, size_t size, bool continues,
                    struct buffer *out) {
  switch (step.kind) {
    case NORMALIZE_PREPEND:
      if (size > 0 && !continues) TRY(buffer_append(out, spec_text(spec, step.content), step.content.size));
      return buffer_append(out, text, size);
    case NORMALIZE_REPLACE:
      return replace_text(text, size, spec_text(spec, step.pattern), step.pattern.size, spec_text(spec, step.content),
                          step.content.size, out);
    default:
      return normalize_nfc(text, size, out);
  }
}

/* A tokenizer file may hold replacements that grow a text without end. */
enum { MAX_GROWTH = 64, MAX_GROWTH_BASE = 4096 };

int normalize(const struct tokenizer_spec *spec, const char *text, size_t size, bool continues, struct buffer *out) {
  struct buffer before = {0};
  size_t limit = size * MAX_GROWTH + MAX_GROWTH_BASE;
  buffer_clear(out);
  int status = buffer_append(out, text, size);
  for (size_t i = 0; status == OK && i < spec_step_count(spec, PIPELINE_NORMALIZE); i++) {
    struct buffer swapped = *out;
    *out = before;
    before = swapped;
    buffer_clear(out);
    status = run_step(spec, spec_steps(spec, PIPELINE_NORMALIZE)[i], before.data, before.size, continues, out);
    if (status == OK && out->size > limit)
      status = fail(ERR_INPUT, "the tokenizer's normalizers grow a text of %zu bytes to more than %zu", size, limit);
  }
  buffer_free(&before);
  return status;
}
