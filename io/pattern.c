#include "io/pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"

const char pattern_gpt2[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/* PCRE2 10.42 knows Unicode 14; Oniguruma, in tokenizers 0.23, Unicode 16. These are the letters and numbers that came
 * between. A newer PCRE2 knows them too; naming them twice does no harm. (Unicode Character Database,
 * DerivedGeneralCategory.) */
#define NEW_LETTERS                                                                                          \
  "\\x{1C89}-\\x{1C8A}\\x{A7CB}-\\x{A7CD}\\x{A7DA}-\\x{A7DC}\\x{105C0}-\\x{105F3}\\x{10D4A}-\\x{10D65}"      \
  "\\x{10D6F}-\\x{10D85}\\x{10EC2}-\\x{10EC4}\\x{1123F}-\\x{11240}\\x{11380}-\\x{11389}\\x{1138B}\\x{1138E}" \
  "\\x{11390}-\\x{113B5}\\x{113B7}\\x{113D1}\\x{113D3}\\x{11BC0}-\\x{11BE0}\\x{11F02}\\x{11F04}-\\x{11F10}"  \
  "\\x{11F12}-\\x{11F33}\\x{1342F}\\x{13441}-\\x{13446}\\x{13460}-\\x{143FA}\\x{16100}-\\x{1611D}"           \
  "\\x{16D40}-\\x{16D6C}\\x{18CFF}\\x{1B132}\\x{1B155}\\x{1DF25}-\\x{1DF2A}\\x{1E030}-\\x{1E06D}"            \
  "\\x{1E4D0}-\\x{1E4EB}\\x{1E5D0}-\\x{1E5ED}\\x{1E5F0}\\x{2B739}\\x{2EBF0}-\\x{2EE5D}\\x{31350}-\\x{323AF}"
#define NEW_NUMBERS                                                                                           \
  "\\x{10D40}-\\x{10D49}\\x{116D0}-\\x{116E3}\\x{11BF0}-\\x{11BF9}\\x{11F50}-\\x{11F59}\\x{16130}-\\x{16139}" \
  "\\x{16D70}-\\x{16D79}\\x{1CCF0}-\\x{1CCF9}\\x{1D2C0}-\\x{1D2D3}\\x{1E4F0}-\\x{1E4F9}\\x{1E5F1}-\\x{1E5FA}"

/* Digits are found by Rust's char::is_numeric, which knows Unicode 17. */
const char pattern_numeric[] = "[\\p{N}\\x{11DE0}-\\x{11DE9}\\x{16FF4}-\\x{16FF6}]";

/* The White_Space property. PCRE2's own \s has U+180E as well, which is none since Unicode 6.3. */
#define SPACES \
  "\\x{9}-\\x{D}\\x{20}\\x{85}\\x{A0}\\x{1680}\\x{2000}-\\x{200A}\\x{2028}\\x{2029}\\x{202F}\\x{205F}\\x{3000}"
#define NOT_SPACES                                                                                  \
  "\\x{0}-\\x{8}\\x{E}-\\x{1F}\\x{21}-\\x{84}\\x{86}-\\x{9F}\\x{A1}-\\x{167F}\\x{1681}-\\x{1FFF}"   \
  "\\x{200B}-\\x{2027}\\x{202A}-\\x{202E}\\x{2030}-\\x{205E}\\x{2060}-\\x{2FFF}\\x{3001}-\\x{D7FF}" \
  "\\x{E000}-\\x{10FFFF}"

struct escape {
  const char *name;    /* as written after the backslash */
  const char *members; /* of a character class */
};

static const struct escape escapes[] = {
    {"s", SPACES},
    {"S", NOT_SPACES},
    {"p{L}", "\\p{L}" NEW_LETTERS},
    {"p{N}", "\\p{N}" NEW_NUMBERS},
};

struct pattern {
  pcre2_code *code;
};

/* Both engines agree on these: control characters, \x{...} and escaped punctuation. */
static bool is_common_escape(unsigned char byte) {
  return strchr("rntx", byte) || (byte < 0x80 && strchr("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~ ", byte));
}

static int rewrite_escape(const char *text, size_t size, bool in_class, struct buffer *out, size_t *used) {
  for (size_t i = 0; i < sizeof escapes / sizeof *escapes; i++) {
    size_t length = strlen(escapes[i].name);
    if (size <= length || memcmp(text + 1, escapes[i].name, length) != 0) continue;
    *used = length + 1;
    return buffer_print(out, in_class ? "%s" : "[%s]", escapes[i].members);
  }
  if (size < 2 || text[1] == 0 || !is_common_escape((unsigned char)text[1]))
    return fail(ERR_INPUT, "the escape \"%.*s\" is not supported", (int)(size < 8 ? size : 8), text);
  *used = 2;
  return buffer_append(out, text, 2);
}

/* Inside a class Oniguruma has nested classes and intersections; PCRE2 has not. */
static bool is_foreign_in_class(const char *text, size_t size) {
  return text[0] == '[' || (size > 1 && text[0] == '&' && text[1] == '&');
}

/* Constructs outside a class that the two engines read differently. */
static bool is_foreign(const char *text, size_t size) {
  static const char *const pairs[] = {"(*", "}+"};
  for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
    if (size > 1 && memcmp(text, pairs[i], 2) == 0) return true;
  return text[0] == '^' || text[0] == '$';
}

static int rewrite(const char *text, size_t size, struct buffer *out) {
  bool in_class = false;
  for (size_t at = 0, used; at < size; at += used) {
    used = 1;
    if (text[at] == '\\') {
      TRY(rewrite_escape(text + at, size - at, in_class, out, &used));
      continue;
    }
    if (in_class ? is_foreign_in_class(text + at, size - at) : is_foreign(text + at, size - at))
      return fail(ERR_INPUT, "\"%.*s\" is not supported there", size - at > 1 ? 2 : 1, text + at);
    if (in_class && text[at] == ']')
      in_class = false;
    else if (text[at] == '[') {
      in_class = true;
      used = size - at > 1 && text[at + 1] == '^' ? 2 : 1;
    }
    TRY(buffer_append(out, text + at, used));
  }
  return OK;
}

static int compile(struct pattern *pattern, const struct buffer *text) {
  int code;
  PCRE2_SIZE offset;
  pattern->code = pcre2_compile((PCRE2_SPTR)text->data, text->size, PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C,
                                &code, &offset, NULL);
  if (!pattern->code) {
    char message[128] = "";
    pcre2_get_error_message(code, (PCRE2_UCHAR *)message, sizeof message);
    return fail(ERR_INPUT, "%s", message);
  }
  pcre2_jit_compile(pattern->code, PCRE2_JIT_COMPLETE); /* without JIT it works, only slower */
  return OK;
}

int pattern_compile(struct pattern **out, const char *text, size_t size) {
  struct buffer rewritten = {0};
  struct pattern *pattern = NULL;
  int status;
  TRY_GOTO(status, cleanup, memory_array(&pattern, 1, sizeof *pattern));
  TRY_GOTO(status, cleanup, buffer_append(&rewritten, "", 0));
  TRY_GOTO(status, cleanup, rewrite(text, size, &rewritten));
  TRY_GOTO(status, cleanup, compile(pattern, &rewritten));
cleanup:
  buffer_free(&rewritten);
  if (status != OK) pattern_destroy(&pattern);
  *out = pattern;
  return fail_at(status, "the pattern \"%.*s\"", (int)(size < 100 ? size : 100), text);
}

void pattern_destroy(struct pattern **pattern) {
  if (*pattern) pcre2_code_free((*pattern)->code);
  free(*pattern);
  *pattern = NULL;
}

struct pattern_search {
  pcre2_match_data *data;
  pcre2_match_context *context;
};

/* Far more than the patterns of real tokenizers need, and little enough that a bad one ends soon. */
enum { MATCH_LIMIT = 20 * 1000 * 1000 };

int pattern_search_create(struct pattern_search **out) {
  TRY(memory_array(out, 1, sizeof **out));
  (*out)->data = pcre2_match_data_create(1, NULL);
  (*out)->context = pcre2_match_context_create(NULL);
  if ((*out)->data && (*out)->context) {
    pcre2_set_match_limit((*out)->context, MATCH_LIMIT);
    return OK;
  }
  pattern_search_destroy(out);
  return fail(ERR_MEMORY, "not enough memory to search a text");
}

void pattern_search_destroy(struct pattern_search **search) {
  if (*search) {
    pcre2_match_data_free((*search)->data);
    pcre2_match_context_free((*search)->context);
  }
  free(*search);
  *search = NULL;
}

int pattern_find(const struct pattern *pattern, struct pattern_search *search, const char *text, size_t size,
                 size_t from, int *found, size_t *start, size_t *end) {
  uint32_t options = PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY;
  int count = pcre2_match(pattern->code, (PCRE2_SPTR)text, size, from, options, search->data, search->context);
  *found = 0;
  if (count == PCRE2_ERROR_NOMATCH) return OK;
  if (count < 0) {
    char message[128] = "";
    pcre2_get_error_message(count, (PCRE2_UCHAR *)message, sizeof message);
    return fail(ERR_INPUT, "the tokenizer's pattern cannot be applied to this text: %s", message);
  }
  const PCRE2_SIZE *bounds = pcre2_get_ovector_pointer(search->data);
  *found = 1;
  *start = bounds[0];
  *end = bounds[1];
  return OK;
}
