#include <string.h>

#include "base/error.h"
#include "io/tokenizer_json.h"

/* A step of tokenizer.json, or a "Sequence" of them, becomes steps of a pipeline. */
typedef int read_step(const json_t *json, const char *type, struct tokenizer_spec *spec);

enum { MAX_DEPTH = 8 };

/* `members` is the name of a Sequence's list. */
static int read_steps(const json_t *json, const char *members, read_step *read, struct tokenizer_spec *spec,
                      int depth) {
  if (!json || json_is_null(json)) return OK;
  const char *type = json_text(json, "type");
  if (!type) return fail(ERR_INPUT, "a step without a \"type\"");
  if (strcmp(type, "Sequence") != 0) return read(json, type, spec);
  if (depth == MAX_DEPTH) return fail(ERR_INPUT, "sequences in sequences, more than %d deep", MAX_DEPTH);
  size_t index;
  const json_t *member;
  json_array_foreach(json_object_get(json, members), index, member)
      TRY(read_steps(member, members, read, spec, depth + 1));
  return OK;
}

static int unknown_type(const char *type, const char *known) {
  return fail(ERR_INPUT, "the type \"%.40s\" is not supported; we know %s", type, known);
}

static int read_replace(const json_t *json, enum pipeline pipeline, int kind, struct tokenizer_spec *spec) {
  const char *pattern = json_text(json_object_get(json, "pattern"), "String"), *content = json_text(json, "content");
  if (!pattern || !content) return fail(ERR_INPUT, "Replace is supported with a pattern of type \"String\" only");
  return spec_add_step(spec, pipeline, (struct step){.kind = kind}, pattern, content);
}

static int read_normalizer(const json_t *json, const char *type, struct tokenizer_spec *spec) {
  if (strcmp(type, "NFC") == 0)
    return spec_add_step(spec, PIPELINE_NORMALIZE, (struct step){.kind = NORMALIZE_NFC}, NULL, NULL);
  if (strcmp(type, "Replace") == 0) return read_replace(json, PIPELINE_NORMALIZE, NORMALIZE_REPLACE, spec);
  if (strcmp(type, "Prepend") != 0) return unknown_type(type, "NFC, Prepend, Replace and Sequence");
  const char *content = json_text(json, "prepend");
  if (!content) return fail(ERR_INPUT, "Prepend without a text");
  return spec_add_step(spec, PIPELINE_NORMALIZE, (struct step){.kind = NORMALIZE_PREPEND}, NULL, content);
}

static int read_behavior(const json_t *json, int32_t *out) {
  static const char *const names[] = {
      [SPLIT_ISOLATED] = "Isolated",
      [SPLIT_REMOVED] = "Removed",
      [SPLIT_WITH_PREVIOUS] = "MergedWithPrevious",
      [SPLIT_WITH_NEXT] = "MergedWithNext",
      [SPLIT_CONTIGUOUS] = "Contiguous",
  };
  const char *name = json_text(json, "behavior");
  for (int i = 0; name && i < (int)(sizeof names / sizeof *names); i++) {
    *out = i;
    if (strcmp(name, names[i]) == 0) return OK;
  }
  return fail(ERR_INPUT, "Split with the behavior \"%.40s\"", name ? name : "");
}

static int read_split(const json_t *json, struct tokenizer_spec *spec) {
  const json_t *pattern = json_object_get(json, "pattern");
  const char *regex = json_text(pattern, "Regex"), *string = json_text(pattern, "String");
  struct step step = {.kind = regex ? SPLIT_REGEX : SPLIT_STRING, .b = json_flag(json, "invert", false)};
  if (!regex && !string) return fail(ERR_INPUT, "Split without a pattern");
  TRY(read_behavior(json, &step.a));
  return spec_add_step(spec, PIPELINE_SPLIT, step, regex ? regex : string, NULL);
}

static int read_prepend(const json_t *json, int32_t *out) {
  const char *scheme = json_text(json, "prepend_scheme");
  bool prefix = json_flag(json, "add_prefix_space", true);
  if (!scheme) scheme = prefix ? "always" : "never";
  if (!prefix && strcmp(scheme, "never") != 0)
    return fail(ERR_INPUT, "Metaspace whose add_prefix_space contradicts its prepend_scheme");
  *out = strcmp(scheme, "first") == 0 ? PREPEND_FIRST : strcmp(scheme, "never") == 0 ? PREPEND_NEVER : PREPEND_ALWAYS;
  if (*out == PREPEND_ALWAYS && strcmp(scheme, "always") != 0)
    return fail(ERR_INPUT, "Metaspace with the prepend_scheme \"%.40s\"", scheme);
  return OK;
}

static int read_metaspace(const json_t *json, enum pipeline pipeline, int kind, struct tokenizer_spec *spec) {
  struct step step = {.kind = kind, .b = json_flag(json, "split", true)};
  const char *mark = json_text(json, "replacement");
  if (!mark) return fail(ERR_INPUT, "Metaspace without a replacement");
  TRY(read_prepend(json, &step.a));
  return spec_add_step(spec, pipeline, step, NULL, mark);
}

static int read_pretokenizer(const json_t *json, const char *type, struct tokenizer_spec *spec) {
  if (strcmp(type, "Split") == 0) return read_split(json, spec);
  if (strcmp(type, "Metaspace") == 0) return read_metaspace(json, PIPELINE_SPLIT, SPLIT_METASPACE, spec);
  if (strcmp(type, "Digits") == 0) {
    int behavior = json_flag(json, "individual_digits", false) ? SPLIT_ISOLATED : SPLIT_CONTIGUOUS;
    return spec_add_step(spec, PIPELINE_SPLIT, (struct step){.kind = SPLIT_DIGITS, .a = behavior}, NULL, NULL);
  }
  if (strcmp(type, "ByteLevel") != 0) return unknown_type(type, "ByteLevel, Digits, Metaspace, Split and Sequence");
  struct step step = {.kind = SPLIT_BYTE_LEVEL,
                      .a = json_flag(json, "add_prefix_space", true),
                      .b = json_flag(json, "use_regex", true)};
  return spec_add_step(spec, PIPELINE_SPLIT, step, NULL, NULL);
}

static int read_strip(const json_t *json, struct tokenizer_spec *spec) {
  const json_t *start = json_object_get(json, "start"), *stop = json_object_get(json, "stop");
  const char *content = json_text(json, "content");
  if (!content || !json_is_integer(start) || !json_is_integer(stop) || json_integer_value(start) < 0 ||
      json_integer_value(start) > INT32_MAX || json_integer_value(stop) < 0 || json_integer_value(stop) > INT32_MAX)
    return fail(ERR_INPUT, "Strip without content, start and stop");
  struct step step = {
      .kind = DECODE_STRIP, .a = (int32_t)json_integer_value(start), .b = (int32_t)json_integer_value(stop)};
  return spec_add_step(spec, PIPELINE_DECODE, step, NULL, content);
}

static int read_decoder(const json_t *json, const char *type, struct tokenizer_spec *spec) {
  static const struct {
    const char *name;
    enum step_kind kind;
  } plain[] = {{"ByteLevel", DECODE_BYTE_LEVEL}, {"ByteFallback", DECODE_BYTE_FALLBACK}, {"Fuse", DECODE_FUSE}};
  for (size_t i = 0; i < sizeof plain / sizeof *plain; i++)
    if (strcmp(type, plain[i].name) == 0)
      return spec_add_step(spec, PIPELINE_DECODE, (struct step){.kind = plain[i].kind}, NULL, NULL);
  if (strcmp(type, "Replace") == 0) return read_replace(json, PIPELINE_DECODE, DECODE_REPLACE, spec);
  if (strcmp(type, "Strip") == 0) return read_strip(json, spec);
  if (strcmp(type, "Metaspace") == 0) return read_metaspace(json, PIPELINE_DECODE, DECODE_METASPACE, spec);
  return unknown_type(type, "ByteFallback, ByteLevel, Fuse, Metaspace, Replace, Strip and Sequence");
}

int json_pipelines(const json_t *root, struct tokenizer_spec *spec) {
  TRY(fail_at(read_steps(json_object_get(root, "normalizer"), "normalizers", read_normalizer, spec, 0), "normalizer"));
  TRY(fail_at(read_steps(json_object_get(root, "pre_tokenizer"), "pretokenizers", read_pretokenizer, spec, 0),
              "pre_tokenizer"));
  return fail_at(read_steps(json_object_get(root, "decoder"), "decoders", read_decoder, spec, 0), "decoder");
}

/* ---- post-processor ------------------------------------------------------------------------------------------- */

static int add_special(const json_t *specials, const char *name, struct buffer *out) {
  const json_t *ids = json_object_get(json_object_get(specials, name), "ids"), *id;
  size_t index;
  if (!json_is_array(ids)) return fail(ERR_INPUT, "the special token \"%.40s\" has no ids", name);
  json_array_foreach(ids, index, id) {
    int32_t value = (int32_t)json_integer_value(id);
    if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) >= SPEC_MAX_TOKENS)
      return fail(ERR_INPUT, "the special token \"%.40s\" has an id that is none", name);
    TRY(buffer_append(out, &value, sizeof value));
  }
  return OK;
}

static int read_template(const json_t *json, struct tokenizer_spec *spec) {
  const json_t *specials = json_object_get(json, "special_tokens"), *piece;
  int texts = 0;
  size_t index;
  json_array_foreach(json_object_get(json, "single"), index, piece) {
    const char *name = json_text(json_object_get(piece, "SpecialToken"), "id");
    if (json_object_get(piece, "Sequence"))
      texts++;
    else if (name)
      TRY(add_special(specials, name, texts ? &spec->after : &spec->before));
    else
      return fail(ERR_INPUT, "TemplateProcessing with a piece that is neither a SpecialToken nor a Sequence");
  }
  return texts == 1 ? OK : fail(ERR_INPUT, "TemplateProcessing with %d texts in \"single\"", texts);
}

static int read_processor(const json_t *json, const char *type, struct tokenizer_spec *spec) {
  if (strcmp(type, "ByteLevel") == 0) return OK; /* changes offsets, not ids */
  if (strcmp(type, "TemplateProcessing") != 0) return unknown_type(type, "ByteLevel, TemplateProcessing and Sequence");
  if (spec->before.size || spec->after.size) return fail(ERR_INPUT, "more than one TemplateProcessing");
  return read_template(json, spec);
}

int json_post_processor(const json_t *root, struct tokenizer_spec *spec) {
  return fail_at(read_steps(json_object_get(root, "post_processor"), "processors", read_processor, spec, 0),
                 "post_processor");
}

/* ---- tokenizer_config.json ------------------------------------------------------------------------------------ */

/* A token is written as its text or as an object with "content". */
static int32_t config_token(const json_t *config, const char *key, const struct tokenizer_spec *spec,
                            int32_t otherwise) {
  const json_t *value = json_object_get(config, key);
  const char *text = json_is_object(value) ? json_text(value, "content") : json_string_value(value);
  size_t size = text ? strlen(text) : 0;
  for (size_t id = 0; size > 0 && id < spec_token_count(spec); id++) {
    struct span token = spec_tokens(spec)[id];
    if (token.size == size && memcmp(spec_text(spec, token), text, size) == 0) return (int32_t)id;
  }
  return otherwise;
}

/* One text, or a list of named ones, of which "default" is for chat. */
static const json_t *config_template(const json_t *config) {
  const json_t *value = json_object_get(config, "chat_template"), *named;
  size_t index;
  json_array_foreach(value, index, named) {
    const char *name = json_text(named, "name");
    if (name && strcmp(name, "default") == 0) return json_object_get(named, "template");
  }
  return value;
}

int json_tokenizer_config(const json_t *config, struct tokenizer_spec *spec) {
  if (!json_is_object(config)) return fail(ERR_INPUT, "it is not an object");
  spec->bos = config_token(config, "bos_token", spec, spec->bos);
  spec->eos = config_token(config, "eos_token", spec, spec->eos);
  const json_t *text = config_template(config);
  if (!json_is_string(text)) return OK;
  return spec_add_text(spec, json_string_value(text), json_string_length(text), &spec->chat_template);
}
