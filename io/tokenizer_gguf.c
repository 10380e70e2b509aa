#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "io/pattern.h"
#include "io/tokenizer_spec.h"
#include "io/utf8.h"
#include "io/vocabulary.h"

/* Types of tokens (llama.cpp, llama.h, enum llama_token_type). */
enum token_type { TYPE_NORMAL = 1, TYPE_UNKNOWN = 2, TYPE_CONTROL = 3, TYPE_USER_DEFINED = 4, TYPE_BYTE = 6 };

static int type_of(const struct gguf_vocabulary *v, size_t id) {
  return v->types ? v->types[id] : TYPE_NORMAL;
}

static int read_tokens(const struct gguf_vocabulary *v, struct tokenizer_spec *spec) {
  for (size_t id = 0; id < v->token_count; id++) {
    int type = type_of(v, id);
    if (!utf8_valid(v->tokens[id], v->token_sizes[id])) return fail(ERR_INPUT, "token %zu is not UTF-8", id);
    TRY(spec_set_token(spec, (int64_t)id, v->tokens[id], v->token_sizes[id]));
    if ((type != TYPE_CONTROL && type != TYPE_USER_DEFINED && type != TYPE_UNKNOWN) || v->token_sizes[id] == 0)
      continue;
    struct added_token added = {(int32_t)id, type == TYPE_USER_DEFINED ? 0 : ADDED_SPECIAL};
    TRY(buffer_append(&spec->added, &added, sizeof added));
  }
  return OK;
}

static int index_tokens(const struct gguf_vocabulary *v, struct vocabulary *out) {
  TRY(vocabulary_start(out, v->token_count));
  for (size_t id = 0; id < v->token_count; id++) vocabulary_put(out, v->tokens[id], v->token_sizes[id], (int32_t)id);
  return OK;
}

/* ---- byte-level BPE ------------------------------------------------------------------------------------------- */

#define CONTRACTIONS     "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define WORDS_AND_SPACES "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

/* What the published tokenizer.json of each family has, by llama.cpp's name for it (llama-vocab.cpp). */
struct pre_tokenizer {
  const char *name;
  const char *pattern; /* NULL: GPT-2's own, in ByteLevel */
  bool nfc, digits, ignore_merges;
};

static const char pattern_llama3[] = CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}" WORDS_AND_SPACES;
static const char pattern_qwen2[] = CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}" WORDS_AND_SPACES;

static const struct pre_tokenizer pre_tokenizers[] = {
    {.name = "gpt-2"},
    {.name = "smollm", .digits = true},
    {.name = "starcoder", .digits = true},
    {.name = "llama-bpe", .pattern = pattern_llama3, .ignore_merges = true},
    {.name = "llama3", .pattern = pattern_llama3, .ignore_merges = true},
    {.name = "llama-v3", .pattern = pattern_llama3, .ignore_merges = true},
    {.name = "qwen2", .pattern = pattern_qwen2, .nfc = true},
    {.name = "deepseek-r1-qwen", .pattern = pattern_qwen2, .nfc = true},
};

static int find_pre_tokenizer(const char *name, const struct pre_tokenizer **out) {
  for (size_t i = 0; name && i < sizeof pre_tokenizers / sizeof *pre_tokenizers; i++) {
    *out = &pre_tokenizers[i];
    if (strcmp(name, pre_tokenizers[i].name) == 0) return OK;
  }
  return fail(ERR_INPUT,
              "tokenizer.ggml.pre \"%.40s\" is not supported; we know gpt-2, smollm, starcoder, llama-bpe, "
              "qwen2 and deepseek-r1-qwen. Use the model's Hugging Face folder instead",
              name ? name : "");
}

static int byte_level_steps(const struct pre_tokenizer *pre, struct tokenizer_spec *spec) {
  struct step split = {.kind = SPLIT_REGEX, .a = SPLIT_ISOLATED};
  struct step digits = {.kind = SPLIT_DIGITS, .a = SPLIT_ISOLATED};
  struct step bytes = {.kind = SPLIT_BYTE_LEVEL, .a = 0, .b = pre->pattern == NULL};
  if (pre->nfc) TRY(spec_add_step(spec, PIPELINE_NORMALIZE, (struct step){.kind = NORMALIZE_NFC}, NULL, NULL));
  if (pre->digits) TRY(spec_add_step(spec, PIPELINE_SPLIT, digits, NULL, NULL));
  if (pre->pattern) TRY(spec_add_step(spec, PIPELINE_SPLIT, split, pre->pattern, NULL));
  TRY(spec_add_step(spec, PIPELINE_SPLIT, bytes, NULL, NULL));
  if (pre->ignore_merges) spec->flags |= SPEC_IGNORE_MERGES;
  return spec_add_step(spec, PIPELINE_DECODE, (struct step){.kind = DECODE_BYTE_LEVEL}, NULL, NULL);
}

static int read_merge(const struct vocabulary *known, const char *text, size_t size, struct buffer *joined,
                      struct tokenizer_spec *spec) {
  const char *space = size > 1 ? memchr(text + 1, ' ', size - 1) : NULL; /* the first byte may be a space itself */
  if (!space) return fail(ERR_INPUT, "not two tokens");
  size_t left = (size_t)(space - text), right = size - left - 1;
  buffer_clear(joined);
  TRY(buffer_append(joined, text, left));
  TRY(buffer_append(joined, space + 1, right));
  struct merge merge = {vocabulary_get(known, text, left), vocabulary_get(known, space + 1, right),
                        vocabulary_get(known, joined->data, joined->size)};
  if (merge.left < 0 || merge.right < 0 || merge.result < 0)
    return fail(ERR_INPUT, "\"%.*s\" or its parts are not in the vocabulary", (int)(size < 60 ? size : 60), text);
  return buffer_append(&spec->merges, &merge, sizeof merge);
}

static int byte_level_merges(const struct gguf_vocabulary *v, const struct vocabulary *known,
                             struct tokenizer_spec *spec) {
  struct buffer joined = {0};
  int status = OK;
  for (size_t i = 0; status == OK && i < v->merge_count; i++)
    status =
        fail_at(read_merge(known, v->merges[i], v->merge_sizes[i], &joined, spec), "tokenizer.ggml.merges[%zu]", i);
  buffer_free(&joined);
  return status;
}

static int read_byte_level(const struct gguf_vocabulary *v, const struct vocabulary *known,
                           struct tokenizer_spec *spec) {
  const struct pre_tokenizer *pre;
  TRY(find_pre_tokenizer(v->pre, &pre));
  TRY(byte_level_steps(pre, spec));
  return byte_level_merges(v, known, spec);
}

/* ---- SentencePiece -------------------------------------------------------------------------------------------- */

static int sentence_steps(bool space_prefix, struct tokenizer_spec *spec) {
  static const char mark[] = "\xE2\x96\x81";
  struct step prepend = {.kind = NORMALIZE_PREPEND}, replace = {.kind = NORMALIZE_REPLACE};
  if (space_prefix) TRY(spec_add_step(spec, PIPELINE_NORMALIZE, prepend, NULL, mark));
  TRY(spec_add_step(spec, PIPELINE_NORMALIZE, replace, " ", mark));
  TRY(spec_add_step(spec, PIPELINE_DECODE, (struct step){.kind = DECODE_REPLACE}, mark, " "));
  TRY(spec_add_step(spec, PIPELINE_DECODE, (struct step){.kind = DECODE_BYTE_FALLBACK}, NULL, NULL));
  TRY(spec_add_step(spec, PIPELINE_DECODE, (struct step){.kind = DECODE_FUSE}, NULL, NULL));
  if (!space_prefix) return OK;
  return spec_add_step(spec, PIPELINE_DECODE, (struct step){.kind = DECODE_STRIP, .a = 1}, NULL, " ");
}

/* A way to put a token together from two, with what decides its rank. */
struct split {
  struct merge merge;
  float score;
  uint32_t left_length, right_length; /* characters */
};

/* SentencePiece merges the pair whose result scores highest. Among splits of equal score the order is that of Hugging
 * Face's conversion (transformers, convert_slow_tokenizer.py, `generate_merges`): longer left part, longer right part,
 * then the lower ids. */
static int compare_splits(const void *left, const void *right) {
  const struct split *a = left, *b = right;
  if (a->score != b->score) return a->score > b->score ? -1 : 1;
  if (a->left_length != b->left_length) return a->left_length > b->left_length ? -1 : 1;
  if (a->right_length != b->right_length) return a->right_length > b->right_length ? -1 : 1;
  if (a->merge.result != b->merge.result) return a->merge.result < b->merge.result ? -1 : 1;
  if (a->merge.left != b->merge.left) return a->merge.left < b->merge.left ? -1 : 1;
  return (a->merge.right > b->merge.right) - (a->merge.right < b->merge.right);
}

static uint32_t count_characters(const char *text, size_t size) {
  uint32_t count = 0;
  for (size_t i = 0; i < size; i++) count += ((unsigned char)text[i] & 0xC0) != 0x80;
  return count;
}

/* Control, unknown and byte tokens never come out of text. */
static bool is_made_of_text(const struct gguf_vocabulary *v, int32_t id) {
  int type = type_of(v, (size_t)id);
  return type != TYPE_CONTROL && type != TYPE_UNKNOWN && type != TYPE_BYTE;
}

/* A longer token than any real one would only cost time: splits grow with the square of the length. */
enum { MAX_MERGED_TOKEN = 1024 };

static int find_splits(const struct gguf_vocabulary *v, const struct vocabulary *known, int32_t id,
                       struct buffer *out) {
  const char *text = v->tokens[id];
  size_t size = v->token_sizes[id];
  if (!is_made_of_text(v, id) || size > MAX_MERGED_TOKEN || vocabulary_get(known, text, size) != id) return OK;
  uint32_t length = count_characters(text, size);
  for (size_t at = 1; at < size; at++) {
    if (((unsigned char)text[at] & 0xC0) == 0x80) continue;
    struct merge merge = {vocabulary_get(known, text, at), vocabulary_get(known, text + at, size - at), id};
    if (merge.left < 0 || merge.right < 0 || !is_made_of_text(v, merge.left) || !is_made_of_text(v, merge.right))
      continue;
    uint32_t left = count_characters(text, at);
    struct split split = {merge, v->scores[id], left, length - left};
    TRY(buffer_append(out, &split, sizeof split));
  }
  return OK;
}

static int sentence_merges(const struct gguf_vocabulary *v, const struct vocabulary *known,
                           struct tokenizer_spec *spec) {
  struct buffer splits = {0};
  int status = OK;
  for (size_t id = 0; status == OK && id < v->token_count; id++) {
    if (v->scores[id] != v->scores[id]) status = fail(ERR_INPUT, "the score of token %zu is not a number", id);
    if (status == OK) status = find_splits(v, known, (int32_t)id, &splits);
  }
  const struct split *all = (const struct split *)(const void *)splits.data;
  size_t count = splits.size / sizeof *all;
  if (count > 0) qsort(splits.data, count, sizeof *all, compare_splits);
  for (size_t i = 0; status == OK && i < count; i++)
    status = buffer_append(&spec->merges, &all[i].merge, sizeof all[i].merge);
  buffer_free(&splits);
  return status;
}

static int read_sentence(const struct gguf_vocabulary *v, const struct vocabulary *known, struct tokenizer_spec *spec) {
  if (!v->scores) return fail(ERR_INPUT, "tokenizer.ggml.scores is missing");
  spec->flags |= SPEC_BYTE_FALLBACK | SPEC_FUSE_UNKNOWN;
  spec->unknown = v->unknown;
  TRY(sentence_steps(v->add_space_prefix, spec));
  return sentence_merges(v, known, spec);
}

/* ---- all of it ------------------------------------------------------------------------------------------------ */

static int read_specials(const struct gguf_vocabulary *v, struct tokenizer_spec *spec) {
  spec->bos = v->bos;
  spec->eos = v->eos;
  if (v->add_bos && v->bos >= 0) TRY(buffer_append(&spec->before, &v->bos, sizeof v->bos));
  if (v->add_eos && v->eos >= 0) TRY(buffer_append(&spec->after, &v->eos, sizeof v->eos));
  if (!v->chat_template) return OK;
  return spec_add_text(spec, v->chat_template, strlen(v->chat_template), &spec->chat_template);
}

static int read_vocabulary(const struct gguf_vocabulary *v, const struct vocabulary *known,
                           struct tokenizer_spec *spec) {
  if (v->model && strcmp(v->model, "gpt2") == 0) return read_byte_level(v, known, spec);
  if (v->model && strcmp(v->model, "llama") == 0) return read_sentence(v, known, spec);
  return fail(ERR_INPUT, "tokenizer.ggml.model \"%.40s\" is not supported; we know \"gpt2\" and \"llama\"",
              v->model ? v->model : "");
}

int tokenizer_from_gguf(const struct gguf_vocabulary *v, struct tokenizer **out) {
  *out = NULL;
  struct tokenizer_spec spec = {.unknown = -1, .bos = -1, .eos = -1};
  struct vocabulary known = {0};
  int status;
  TRY_GOTO(status, cleanup, read_tokens(v, &spec));
  TRY_GOTO(status, cleanup, index_tokens(v, &known));
  TRY_GOTO(status, cleanup, read_vocabulary(v, &known, &spec));
  TRY_GOTO(status, cleanup, read_specials(v, &spec));
  status = tokenizer_build(&spec, out);
cleanup:
  vocabulary_free(&known);
  spec_free(&spec);
  return status;
}
