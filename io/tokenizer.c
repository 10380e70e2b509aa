#include "io/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "io/normalizer.h"
#include "io/tokenizer_parts.h"

int token_list_append(struct token_list *list, int32_t id) {
  if (list->size == list->capacity) {
    size_t capacity = list->capacity ? 2 * list->capacity : 64;
    int32_t *ids = capacity < SIZE_MAX / sizeof *ids ? realloc(list->ids, capacity * sizeof *ids) : NULL;
    if (!ids) return fail(ERR_MEMORY, "not enough memory for %zu tokens", capacity);
    list->ids = ids;
    list->capacity = capacity;
  }
  list->ids[list->size++] = id;
  return OK;
}

void token_list_free(struct token_list *list) {
  free(list->ids);
  *list = (struct token_list){0};
}

/* ---- building ------------------------------------------------------------------------------------------------- */

static bool is_byte_level(const struct tokenizer_spec *spec) {
  size_t count = spec_step_count(spec, PIPELINE_SPLIT);
  return count > 0 && spec_steps(spec, PIPELINE_SPLIT)[count - 1].kind == SPLIT_BYTE_LEVEL;
}

/* The forms in which added tokens with the flag are looked for in normalized text; the others stand for themselves. */
static int normalize_added(struct tokenizer *tokenizer) {
  const struct tokenizer_spec *spec = &tokenizer->spec;
  size_t count = spec_added_count(spec);
  TRY(memory_array(&tokenizer->forms, count, sizeof *tokenizer->forms));
  struct buffer form = {0};
  int status = OK;
  for (size_t i = 0; status == OK && i < count; i++) {
    struct added_token added = spec_added(spec)[i];
    struct span token = spec_tokens(spec)[added.id];
    buffer_clear(&form);
    if (added.flags & ADDED_NORMALIZED)
      status = normalize(spec, spec_text(spec, token), token.size, false, &form);
    else
      status = buffer_append(&form, spec_text(spec, token), token.size);
    tokenizer->forms[i] = (struct span){(uint32_t)tokenizer->form_text.size, (uint32_t)form.size};
    if (status == OK) status = buffer_append(&tokenizer->form_text, form.data, form.size);
  }
  buffer_free(&form);
  return status;
}

static int build_matcher(const struct tokenizer *tokenizer, bool normalized, struct added_matcher *out) {
  const struct tokenizer_spec *spec = &tokenizer->spec;
  struct added_pattern *patterns = NULL;
  size_t used = 0;
  TRY(memory_array(&patterns, spec_added_count(spec), sizeof *patterns));
  for (size_t i = 0; i < spec_added_count(spec); i++) {
    struct added_token added = spec_added(spec)[i];
    struct span form = tokenizer->forms[i];
    if (((added.flags & ADDED_NORMALIZED) != 0) != normalized) continue;
    patterns[used++] =
        (struct added_pattern){tokenizer->form_text.data + form.offset, form.size, added.id, added.flags};
  }
  int status = added_matcher_build(out, patterns, used);
  free(patterns);
  return status;
}

static int index_added(struct tokenizer *tokenizer) {
  const struct tokenizer_spec *spec = &tokenizer->spec;
  TRY(memory_array(&tokenizer->added_form, spec_token_count(spec), sizeof *tokenizer->added_form));
  for (size_t i = 0; i < spec_added_count(spec); i++) tokenizer->added_form[spec_added(spec)[i].id] = (uint32_t)i + 1;
  return OK;
}

static int build_parts(struct tokenizer *tokenizer) {
  const struct tokenizer_spec *spec = &tokenizer->spec;
  TRY(spec_check(spec));
  TRY(pretokenizer_build(&tokenizer->pretokenizer, spec));
  TRY(normalize_added(tokenizer));
  TRY(build_matcher(tokenizer, false, &tokenizer->raw_matcher));
  TRY(build_matcher(tokenizer, true, &tokenizer->normalized_matcher));
  TRY(index_added(tokenizer));
  return bpe_build(&tokenizer->bpe, spec, is_byte_level(spec));
}

int tokenizer_build(struct tokenizer_spec *spec, struct tokenizer **out) {
  *out = NULL;
  struct tokenizer *tokenizer;
  int status = memory_array(&tokenizer, 1, sizeof *tokenizer);
  if (status != OK) {
    spec_free(spec);
    return status;
  }
  tokenizer->spec = *spec;
  *spec = (struct tokenizer_spec){0};
  status = build_parts(tokenizer);
  if (status != OK) tokenizer_destroy(&tokenizer);
  *out = tokenizer;
  return status;
}

void tokenizer_destroy(struct tokenizer **tokenizer) {
  struct tokenizer *t = *tokenizer;
  if (!t) return;
  pretokenizer_free(&t->pretokenizer);
  bpe_free(&t->bpe);
  added_matcher_free(&t->raw_matcher);
  added_matcher_free(&t->normalized_matcher);
  free(t->forms);
  free(t->added_form);
  buffer_free(&t->form_text);
  spec_free(&t->spec);
  free(t);
  *tokenizer = NULL;
}

/* ---- questions ------------------------------------------------------------------------------------------------ */

static bool is_text_of(const struct tokenizer_spec *spec, int32_t id, const char *text, size_t size) {
  struct span span = spec_tokens(spec)[id];
  return span.size == size && memcmp(spec_text(spec, span), text, size) == 0;
}

int32_t tokenizer_added_id(const struct tokenizer *tokenizer, const char *token) {
  const struct tokenizer_spec *spec = &tokenizer->spec;
  for (size_t i = 0; i < spec_added_count(spec); i++)
    if (is_text_of(spec, spec_added(spec)[i].id, token, strlen(token))) return spec_added(spec)[i].id;
  return -1;
}

int32_t tokenizer_id(const struct tokenizer *tokenizer, const char *token) {
  int32_t added = tokenizer_added_id(tokenizer, token);
  size_t size = strlen(token);
  if (added >= 0 || size == 0) return added;
  for (size_t id = 0; id < spec_token_count(&tokenizer->spec); id++)
    if (is_text_of(&tokenizer->spec, (int32_t)id, token, size)) return (int32_t)id;
  return -1;
}

int32_t tokenizer_bos(const struct tokenizer *tokenizer) {
  return tokenizer->spec.bos;
}

int32_t tokenizer_eos(const struct tokenizer *tokenizer) {
  return tokenizer->spec.eos;
}

size_t tokenizer_size(const struct tokenizer *tokenizer) {
  return spec_token_count(&tokenizer->spec);
}

const char *tokenizer_chat_template(const struct tokenizer *tokenizer) {
  struct span text = tokenizer->spec.chat_template;
  return text.size > 0 ? spec_text(&tokenizer->spec, text) : NULL;
}
