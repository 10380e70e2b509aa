#include "io/tokenizer_json.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"

/* ---- model ---------------------------------------------------------------------------------------------------- */

static int read_vocabulary(json_t *vocabulary, struct tokenizer_spec *spec) {
  const char *text;
  json_t *id;
  if (!json_is_object(vocabulary)) return fail(ERR_INPUT, "model.vocab is not an object of tokens");
  json_object_foreach(vocabulary, text, id) {
    if (!json_is_integer(id)) return fail(ERR_INPUT, "model.vocab: the id of \"%.40s\" is not an integer", text);
    TRY(spec_set_token(spec, json_integer_value(id), text, strlen(text)));
  }
  return OK;
}

static int find_token(const json_t *vocabulary, const char *text, int32_t *id) {
  const json_t *value = json_object_get(vocabulary, text);
  if (!json_is_integer(value)) return fail(ERR_INPUT, "\"%.40s\" is not in the vocabulary", text);
  *id = (int32_t)json_integer_value(value);
  return OK;
}

static int add_merge(const json_t *vocabulary, const char *left, const char *right, struct buffer *joined,
                     struct tokenizer_spec *spec) {
  struct merge merge;
  buffer_clear(joined);
  TRY(buffer_print(joined, "%s%s", left, right));
  TRY(find_token(vocabulary, left, &merge.left));
  TRY(find_token(vocabulary, right, &merge.right));
  TRY(find_token(vocabulary, joined->data, &merge.result));
  return buffer_append(&spec->merges, &merge, sizeof merge);
}

/* Either ["left", "right"] or "left right". */
static int read_merge(const json_t *vocabulary, const json_t *merge, struct buffer *joined, struct buffer *copy,
                      struct tokenizer_spec *spec) {
  const char *left = json_string_value(json_array_get(merge, 0)), *right = json_string_value(json_array_get(merge, 1));
  if (json_array_size(merge) == 2 && left && right) return add_merge(vocabulary, left, right, joined, spec);
  const char *pair = json_string_value(merge), *space = pair ? strchr(pair, ' ') : NULL;
  if (!space || strchr(space + 1, ' ')) return fail(ERR_INPUT, "not a pair of tokens");
  buffer_clear(copy);
  TRY(buffer_append(copy, pair, (size_t)(space - pair)));
  return add_merge(vocabulary, copy->data, space + 1, joined, spec);
}

static int read_merges(const json_t *vocabulary, const json_t *merges, struct tokenizer_spec *spec) {
  struct buffer joined = {0}, copy = {0};
  size_t index;
  const json_t *merge;
  int status = json_is_array(merges) ? OK : fail(ERR_INPUT, "not a list");
  json_array_foreach(merges, index, merge) {
    const char *text = json_string_value(merge);
    if (status != OK || (text && strncmp(text, "#version", 8) == 0)) continue;
    status = fail_at(read_merge(vocabulary, merge, &joined, &copy, spec), "merge %zu", index);
  }
  buffer_free(&joined);
  buffer_free(&copy);
  return fail_at(status, "model.merges");
}

/* Settings of BPE that none of our model families has. */
static int refuse_settings(const json_t *model) {
  static const char *const names[] = {"continuing_subword_prefix", "end_of_word_suffix"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    const char *text = json_text(model, names[i]);
    if (text && *text) return fail(ERR_INPUT, "model.%s \"%.20s\" is not supported", names[i], text);
  }
  if (json_number_value(json_object_get(model, "dropout")) > 0)
    return fail(ERR_INPUT, "model.dropout is not 0; tokens drawn by chance are not supported");
  return OK;
}

static int read_model(const json_t *root, struct tokenizer_spec *spec) {
  const json_t *model = json_object_get(root, "model");
  const char *type = json_text(model, "type"), *unknown = json_text(model, "unk_token");
  json_t *vocabulary = json_object_get(model, "vocab");
  if (!model) return fail(ERR_INPUT, "it has no \"model\"");
  if (type && strcmp(type, "BPE") != 0)
    return fail(ERR_INPUT, "model.type \"%.40s\" is not supported; only \"BPE\" is", type);
  TRY(refuse_settings(model));
  TRY(read_vocabulary(vocabulary, spec));
  TRY(read_merges(vocabulary, json_object_get(model, "merges"), spec));
  if (unknown) TRY(fail_at(find_token(vocabulary, unknown, &spec->unknown), "model.unk_token"));
  if (json_flag(model, "byte_fallback", false)) spec->flags |= SPEC_BYTE_FALLBACK;
  if (json_flag(model, "fuse_unk", false)) spec->flags |= SPEC_FUSE_UNKNOWN;
  if (json_flag(model, "ignore_merges", false)) spec->flags |= SPEC_IGNORE_MERGES;
  return OK;
}

/* ---- added tokens --------------------------------------------------------------------------------------------- */

static uint32_t added_flags(const json_t *added) {
  static const struct {
    const char *name;
    uint32_t flag;
  } names[] = {{"special", ADDED_SPECIAL},
               {"lstrip", ADDED_LSTRIP},
               {"rstrip", ADDED_RSTRIP},
               {"single_word", ADDED_SINGLE_WORD},
               {"normalized", ADDED_NORMALIZED}};
  uint32_t flags = 0;
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    if (json_flag(added, names[i].name, false)) flags |= names[i].flag;
  return flags;
}

/* An added token that the model knows has the model's id; another one the next free id. Files agree with that, or
 * Hugging Face would read other ids than the file says. */
static int read_added(const json_t *vocabulary, const json_t *added, struct tokenizer_spec *spec, int64_t *next) {
  const char *content = json_text(added, "content");
  const json_t *id = json_object_get(added, "id"), *known = content ? json_object_get(vocabulary, content) : NULL;
  if (!content || !json_is_integer(id)) return fail(ERR_INPUT, "it has no \"content\" or no \"id\"");
  if (*content == 0) return OK;
  int64_t expected = known ? json_integer_value(known) : *next, found = json_integer_value(id);
  if (found != expected)
    return fail(ERR_INPUT, "\"%.40s\" has the id %lld, but %s %lld", content, (long long)found,
                known ? "the model's vocabulary says" : "the next free id is", (long long)expected);
  TRY(spec_set_token(spec, found, content, json_string_length(json_object_get(added, "content"))));
  if (!known) spec->outside.data[(*next)++] = 1;
  struct added_token token = {(int32_t)found, added_flags(added)};
  return buffer_append(&spec->added, &token, sizeof token);
}

static int read_all_added(const json_t *root, struct tokenizer_spec *spec) {
  const json_t *vocabulary = json_object_get(json_object_get(root, "model"), "vocab"), *added;
  int64_t next = (int64_t)json_object_size(vocabulary);
  size_t index;
  json_array_foreach(json_object_get(root, "added_tokens"), index, added)
      TRY(fail_at(read_added(vocabulary, added, spec, &next), "added_tokens[%zu]", index));
  return OK;
}

/* ---- all of it ------------------------------------------------------------------------------------------------ */

static int id_at(const struct buffer *ids) {
  return ids->size > 0 ? ((const int32_t *)(const void *)ids->data)[0] : -1;
}

static int read_tokenizer(const json_t *root, struct tokenizer_spec *spec) {
  if (!json_is_object(root)) return fail(ERR_INPUT, "it is not an object");
  TRY(read_model(root, spec));
  TRY(read_all_added(root, spec));
  TRY(json_pipelines(root, spec));
  TRY(json_post_processor(root, spec));
  spec->bos = id_at(&spec->before);
  spec->eos = id_at(&spec->after);
  return OK;
}

/* transformers writes 10^30 where a model sets no model_max_length. */
static int read_config(const char *text, size_t size, struct tokenizer_spec *spec) {
  json_t *config = NULL;
  TRY(json_read_reals(text, size, &config));
  int status = json_tokenizer_config(config, spec);
  json_decref(config);
  return status;
}

int tokenizer_parse(const char *tokenizer_json, size_t size, const char *config_json, size_t config_size,
                    struct tokenizer **out) {
  *out = NULL;
  struct tokenizer_spec spec = {.unknown = -1, .bos = -1, .eos = -1};
  json_t *root = NULL;
  int status;
  TRY_GOTO(status, cleanup, fail_at(json_read(tokenizer_json, size, &root), "tokenizer.json"));
  TRY_GOTO(status, cleanup, fail_at(read_tokenizer(root, &spec), "tokenizer.json"));
  if (config_json)
    TRY_GOTO(status, cleanup, fail_at(read_config(config_json, config_size, &spec), "tokenizer_config.json"));
  status = fail_at(tokenizer_build(&spec, out), "tokenizer.json");
cleanup:
  json_decref(root);
  spec_free(&spec);
  return status;
}
