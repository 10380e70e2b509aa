#include "io/tokenizer_spec.h"

#include <string.h>

#include "base/error.h"
#include "io/utf8.h"

void spec_free(struct tokenizer_spec *spec) {
  buffer_free(&spec->text);
  buffer_free(&spec->tokens);
  buffer_free(&spec->outside);
  buffer_free(&spec->merges);
  buffer_free(&spec->added);
  for (int i = 0; i < PIPELINE_COUNT; i++) buffer_free(&spec->steps[i]);
  buffer_free(&spec->before);
  buffer_free(&spec->after);
}

int spec_add_text(struct tokenizer_spec *spec, const char *text, size_t size, struct span *out) {
  if (size > UINT32_MAX / 2 || spec->text.size > UINT32_MAX / 2 - size)
    return fail(ERR_INPUT, "the tokenizer's texts are larger than 2 GB together");
  *out = (struct span){(uint32_t)spec->text.size, (uint32_t)size};
  TRY(buffer_append(&spec->text, text, size));
  return buffer_append(&spec->text, "", 1);
}

static int grow_tokens(struct tokenizer_spec *spec, size_t count) {
  static const struct span none = {0, 0};
  while (spec_token_count(spec) < count) {
    TRY(buffer_append(&spec->tokens, &none, sizeof none));
    TRY(buffer_append(&spec->outside, "", 1));
  }
  return OK;
}

int spec_set_token(struct tokenizer_spec *spec, int64_t id, const char *text, size_t size) {
  if (id < 0 || id >= SPEC_MAX_TOKENS)
    return fail(ERR_INPUT, "the token \"%.40s\" has the id %lld; ids are from 0 to %d", text, (long long)id,
                SPEC_MAX_TOKENS - 1);
  TRY(grow_tokens(spec, (size_t)id + 1));
  struct span old = spec_tokens(spec)[id];
  if (old.size == size && memcmp(spec_text(spec, old), text, size) == 0) return OK;
  if (old.size > 0)
    return fail(ERR_INPUT, "the tokens \"%.40s\" and \"%.40s\" have the same id %lld", spec_text(spec, old), text,
                (long long)id);
  struct span span;
  TRY(spec_add_text(spec, text, size, &span));
  spec_tokens(spec)[id] = span;
  return OK;
}

int spec_add_step(struct tokenizer_spec *spec, enum pipeline which, struct step step, const char *pattern,
                  const char *content) {
  if (pattern) TRY(spec_add_text(spec, pattern, strlen(pattern), &step.pattern));
  if (content) TRY(spec_add_text(spec, content, strlen(content), &step.content));
  return buffer_append(&spec->steps[which], &step, sizeof step);
}

static bool is_span(const struct tokenizer_spec *spec, struct span span) {
  if (span.size >= spec->text.size || span.offset >= spec->text.size - span.size) return false;
  if (span.size == 0) return true;
  return spec->text.data[span.offset + span.size] == 0 && utf8_valid(spec_text(spec, span), span.size);
}

static bool is_token(const struct tokenizer_spec *spec, int32_t id) {
  return id >= 0 && (size_t)id < spec_token_count(spec) && spec_tokens(spec)[id].size > 0;
}

static int check_tokens(const struct tokenizer_spec *spec) {
  size_t count = spec_token_count(spec);
  if (count == 0) return fail(ERR_INPUT, "the tokenizer has no tokens");
  if (count > SPEC_MAX_TOKENS || spec->outside.size != count)
    return fail(ERR_INPUT, "the tokenizer's vocabulary is damaged: %zu tokens", count);
  for (size_t i = 0; i < count; i++) {
    struct span token = spec_tokens(spec)[i];
    if (token.size > SPEC_MAX_TOKEN_SIZE) return fail(ERR_INPUT, "token %zu is %u bytes long", i, token.size);
    if (token.size > 0 && !is_span(spec, token)) return fail(ERR_INPUT, "token %zu is damaged or not UTF-8", i);
  }
  return OK;
}

/* A merge that stands for another text than its two parts is damage, and would break the order of merging. */
static int check_merges(const struct tokenizer_spec *spec) {
  const struct merge *merges = spec_merges(spec);
  for (size_t i = 0; i < spec_merge_count(spec); i++) {
    struct merge m = merges[i];
    if (!is_token(spec, m.left) || !is_token(spec, m.right) || !is_token(spec, m.result))
      return fail(ERR_INPUT, "merge %zu names a token that is not in the vocabulary", i);
    struct span left = spec_tokens(spec)[m.left], right = spec_tokens(spec)[m.right];
    struct span result = spec_tokens(spec)[m.result];
    if (left.size + right.size != result.size ||
        memcmp(spec_text(spec, result), spec_text(spec, left), left.size) != 0 ||
        memcmp(spec_text(spec, result) + left.size, spec_text(spec, right), right.size) != 0)
      return fail(ERR_INPUT, "merge %zu does not give the token it names", i);
  }
  return OK;
}

static int check_added(const struct tokenizer_spec *spec) {
  for (size_t i = 0; i < spec_added_count(spec); i++)
    if (!is_token(spec, spec_added(spec)[i].id)) return fail(ERR_INPUT, "added token %zu has no text", i);
  return OK;
}

struct kinds {
  int first, last;
};

static int check_step(const struct tokenizer_spec *spec, struct step step, struct kinds kinds) {
  if (step.kind < kinds.first || step.kind > kinds.last) return fail(ERR_INPUT, "a step of kind %d", step.kind);
  if (!is_span(spec, step.pattern) || !is_span(spec, step.content))
    return fail(ERR_INPUT, "a step whose text is damaged");
  bool splits = step.kind == SPLIT_REGEX || step.kind == SPLIT_STRING || step.kind == SPLIT_DIGITS;
  bool replaces = step.kind == NORMALIZE_REPLACE || step.kind == DECODE_REPLACE || step.kind == SPLIT_STRING;
  bool metaspace = step.kind == SPLIT_METASPACE || step.kind == DECODE_METASPACE;
  if (splits && (step.a < SPLIT_ISOLATED || step.a > SPLIT_CONTIGUOUS))
    return fail(ERR_INPUT, "a split of unknown behavior %d", step.a);
  if (replaces && step.pattern.size == 0) return fail(ERR_INPUT, "a replacement or split of nothing");
  if (metaspace && (step.a < PREPEND_NEVER || step.a > PREPEND_ALWAYS))
    return fail(ERR_INPUT, "a Metaspace of unknown prepend scheme %d", step.a);
  if (metaspace || step.kind == DECODE_STRIP) {
    int32_t code;
    if (step.content.size == 0 ||
        utf8_next(spec_text(spec, step.content), step.content.size, &code) != step.content.size)
      return fail(ERR_INPUT, "a Metaspace or Strip whose content is not one character");
  }
  if (step.kind == DECODE_STRIP && (step.a < 0 || step.b < 0)) return fail(ERR_INPUT, "a Strip of a negative count");
  return OK;
}

static int check_steps(const struct tokenizer_spec *spec) {
  static const struct kinds kinds[PIPELINE_COUNT] = {
      [PIPELINE_NORMALIZE] = {NORMALIZE_NFC, NORMALIZE_REPLACE},
      [PIPELINE_SPLIT] = {SPLIT_REGEX, SPLIT_BYTE_LEVEL},
      [PIPELINE_DECODE] = {DECODE_REPLACE, DECODE_BYTE_LEVEL},
  };
  for (int p = 0; p < PIPELINE_COUNT; p++) {
    size_t count = spec_step_count(spec, (enum pipeline)p);
    if (count > SPEC_MAX_STEPS) return fail(ERR_INPUT, "the tokenizer has %zu steps in a row", count);
    for (size_t i = 0; i < count; i++) {
      struct step step = spec_steps(spec, (enum pipeline)p)[i];
      TRY(check_step(spec, step, kinds[p]));
      if (step.kind == SPLIT_BYTE_LEVEL && i + 1 < count)
        return fail(ERR_INPUT, "the pre-tokenizer ByteLevel is not the last of its sequence; that is not supported");
    }
  }
  return OK;
}

static int check_ids(const struct tokenizer_spec *spec) {
  if (spec->unknown != -1 && !is_token(spec, spec->unknown))
    return fail(ERR_INPUT, "the unknown token %d is not in the vocabulary", spec->unknown);
  const struct buffer *lists[] = {&spec->before, &spec->after};
  for (int l = 0; l < 2; l++)
    for (size_t i = 0; i < lists[l]->size / sizeof(int32_t); i++) {
      int32_t id = ((const int32_t *)(const void *)lists[l]->data)[i];
      if (!is_token(spec, id)) return fail(ERR_INPUT, "the post-processor adds token %d, which does not exist", id);
    }
  if ((spec->bos != -1 && !is_token(spec, spec->bos)) || (spec->eos != -1 && !is_token(spec, spec->eos)))
    return fail(ERR_INPUT, "the tokenizer's bos or eos token (%d, %d) is not in the vocabulary", spec->bos, spec->eos);
  return OK;
}

int spec_check(const struct tokenizer_spec *spec) {
  TRY(check_tokens(spec));
  TRY(check_merges(spec));
  TRY(check_added(spec));
  TRY(check_steps(spec));
  TRY(check_ids(spec));
  if (!is_span(spec, spec->chat_template)) return fail(ERR_INPUT, "the chat template is damaged or not UTF-8");
  size_t steps = spec_step_count(spec, PIPELINE_SPLIT);
  bool byte_level = steps > 0 && spec_steps(spec, PIPELINE_SPLIT)[steps - 1].kind == SPLIT_BYTE_LEVEL;
  if (byte_level && (spec->flags & SPEC_BYTE_FALLBACK))
    return fail(ERR_INPUT, "byte_fallback together with a ByteLevel pre-tokenizer is not supported");
  return OK;
}
