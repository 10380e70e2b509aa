#include "io/pretokenizer.h"

#include <string.h>

#include "base/error.h"

/* ---- building ------------------------------------------------------------------------------------------------- */

static int compile_step(struct pattern **out, const struct tokenizer_spec *spec, struct step step) {
  if (step.kind == SPLIT_REGEX) return pattern_compile(out, spec_text(spec, step.pattern), step.pattern.size);
  if (step.kind == SPLIT_DIGITS) return pattern_compile(out, pattern_numeric, strlen(pattern_numeric));
  if (step.kind == SPLIT_BYTE_LEVEL && step.b) return pattern_compile(out, pattern_gpt2, strlen(pattern_gpt2));
  *out = NULL;
  return OK;
}

int pretokenizer_build(struct pretokenizer *pretokenizer, const struct tokenizer_spec *spec) {
  *pretokenizer = (struct pretokenizer){.spec = spec};
  for (size_t i = 0; i < spec_step_count(spec, PIPELINE_SPLIT); i++)
    TRY(compile_step(&pretokenizer->patterns[i], spec, spec_steps(spec, PIPELINE_SPLIT)[i]));
  return OK;
}

void pretokenizer_free(struct pretokenizer *pretokenizer) {
  for (size_t i = 0; i < SPEC_MAX_STEPS; i++) pattern_destroy(&pretokenizer->patterns[i]);
}

/* ---- cutting -------------------------------------------------------------------------------------------------- */

/* Pieces go depth first: each piece a step cuts off passes through the later steps at once. */
static int run_step(struct encoder *encoder, size_t index, const char *text, size_t size, unsigned place);

/* A run of a text, and whether the pattern matched it. */
struct part {
  size_t start, end;
  bool matched;
};

/* Cuts a text into parts, and joins parts into pieces as the split's behavior says. */
struct cutter {
  struct encoder *encoder;
  size_t index; /* of the step */
  const char *text;
  size_t size;
  unsigned place;
  enum split_behavior behavior;
  bool inverted;
  struct part held; /* a piece that the next part may still join; empty: none */
};

static int pass_on(struct cutter *cutter, size_t start, size_t end) {
  if (start == end) return OK;
  return run_step(cutter->encoder, cutter->index + 1, cutter->text + start, end - start,
                  start == 0 ? cutter->place : 0);
}

static bool joins(enum split_behavior behavior, struct part held, struct part next) {
  if (held.start == held.end) return false;
  if (behavior == SPLIT_CONTIGUOUS) return held.matched == next.matched;
  if (behavior == SPLIT_WITH_PREVIOUS) return next.matched && !held.matched;
  if (behavior == SPLIT_WITH_NEXT) return held.matched && !next.matched;
  return false;
}

static int add_part(struct cutter *cutter, size_t start, size_t end, bool matched) {
  struct part part = {start, end, matched != cutter->inverted};
  if (start == end) return OK;
  if (cutter->behavior == SPLIT_REMOVED && part.matched) return OK;
  if (cutter->behavior == SPLIT_REMOVED || cutter->behavior == SPLIT_ISOLATED) return pass_on(cutter, start, end);
  if (joins(cutter->behavior, cutter->held, part)) {
    cutter->held.end = end;
    cutter->held.matched = part.matched;
    return OK;
  }
  TRY(pass_on(cutter, cutter->held.start, cutter->held.end));
  cutter->held = part;
  return OK;
}

static int find_literal(const char *pattern, size_t pattern_size, const struct cutter *cutter, size_t from, int *found,
                        size_t *start, size_t *end) {
  const char *at = memmem(cutter->text + from, cutter->size - from, pattern, pattern_size);
  *found = at != NULL;
  *start = at ? (size_t)(at - cutter->text) : cutter->size;
  *end = *start + pattern_size;
  return OK;
}

static int find_next(const struct cutter *cutter, struct step step, size_t from, int *found, size_t *start,
                     size_t *end) {
  const struct pretokenizer *pretokenizer = cutter->encoder->pretokenizer;
  if (step.kind == SPLIT_REGEX || step.kind == SPLIT_DIGITS || step.kind == SPLIT_BYTE_LEVEL)
    return pattern_find(pretokenizer->patterns[cutter->index], cutter->encoder->search, cutter->text, cutter->size,
                        from, found, start, end);
  struct span literal = step.kind == SPLIT_METASPACE ? step.content : step.pattern;
  return find_literal(spec_text(pretokenizer->spec, literal), literal.size, cutter, from, found, start, end);
}

static int cut(struct cutter *cutter, struct step step) {
  size_t done = 0;
  while (done < cutter->size) {
    size_t start, end;
    int found;
    TRY(find_next(cutter, step, done, &found, &start, &end));
    if (!found) break;
    TRY(add_part(cutter, done, start, false));
    TRY(add_part(cutter, start, end, true));
    done = end;
  }
  TRY(add_part(cutter, done, cutter->size, false));
  return pass_on(cutter, cutter->held.start, cutter->held.end);
}

static int run_metaspace(struct cutter *cutter, struct step step) {
  const struct tokenizer_spec *spec = cutter->encoder->pretokenizer->spec;
  const char *mark = spec_text(spec, step.content);
  size_t mark_size = step.content.size;
  bool marked = cutter->size >= mark_size && memcmp(cutter->text, mark, mark_size) == 0;
  bool prepends = (step.a == PREPEND_ALWAYS && !(cutter->place & PLACE_CONTINUES)) ||
                  (step.a == PREPEND_FIRST && (cutter->place & PLACE_FIRST));
  struct buffer text = {0};
  int status;
  if (prepends && !marked && cutter->text[0] != ' ') TRY_GOTO(status, cleanup, buffer_append(&text, mark, mark_size));
  for (size_t at = 0; at < cutter->size;) {
    const char *space = memchr(cutter->text + at, ' ', cutter->size - at);
    size_t end = space ? (size_t)(space - cutter->text) : cutter->size;
    TRY_GOTO(status, cleanup, buffer_append(&text, cutter->text + at, end - at));
    if (space) TRY_GOTO(status, cleanup, buffer_append(&text, mark, mark_size));
    at = end + 1;
  }
  cutter->text = text.data;
  cutter->size = text.size;
  status = step.b ? cut(cutter, step) : pass_on(cutter, 0, cutter->size);
cleanup:
  buffer_free(&text);
  return status;
}

static int run_byte_level(struct cutter *cutter, struct step step) {
  bool prepends = step.a && cutter->text[0] != ' ' && !(cutter->place & PLACE_CONTINUES);
  if (!prepends) return step.b ? cut(cutter, step) : pass_on(cutter, 0, cutter->size);
  struct buffer text = {0};
  int status;
  TRY_GOTO(status, cleanup, buffer_append(&text, " ", 1));
  TRY_GOTO(status, cleanup, buffer_append(&text, cutter->text, cutter->size));
  cutter->text = text.data;
  cutter->size = text.size;
  status = step.b ? cut(cutter, step) : pass_on(cutter, 0, cutter->size);
cleanup:
  buffer_free(&text);
  return status;
}

static int run_step(struct encoder *encoder, size_t index, const char *text, size_t size, unsigned place) {
  const struct tokenizer_spec *spec = encoder->pretokenizer->spec;
  if (index == spec_step_count(spec, PIPELINE_SPLIT))
    return bpe_encode(encoder->bpe, &encoder->scratch, text, size, encoder->out);
  struct step step = spec_steps(spec, PIPELINE_SPLIT)[index];
  struct cutter cutter = {encoder, index, text, size, place, SPLIT_ISOLATED, false, {0, 0, false}};
  switch (step.kind) {
    case SPLIT_METASPACE:
      cutter.behavior = SPLIT_WITH_NEXT;
      return run_metaspace(&cutter, step);
    case SPLIT_BYTE_LEVEL:
      return run_byte_level(&cutter, step);
    default:
      cutter.behavior = (enum split_behavior)step.a;
      cutter.inverted = step.kind != SPLIT_DIGITS && step.b;
      return cut(&cutter, step);
  }
}

int pretokenize(struct encoder *encoder, const char *text, size_t size, unsigned place) {
  return size > 0 ? run_step(encoder, 0, text, size, place) : OK;
}
