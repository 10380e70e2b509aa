#include "io/added_tokens.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "io/utf8.h"

static int compare_patterns(const void *left, const void *right) {
  const struct added_pattern *a = left, *b = right;
  size_t common = a->size < b->size ? a->size : b->size;
  int order = memcmp(a->text, b->text, common);
  if (order != 0) return order;
  if (a->size != b->size) return a->size < b->size ? -1 : 1;
  return a->id < b->id ? -1 : a->id > b->id;
}

int added_matcher_build(struct added_matcher *matcher, const struct added_pattern *patterns, size_t count) {
  *matcher = (struct added_matcher){0};
  TRY(memory_array(&matcher->patterns, count, sizeof *patterns));
  for (size_t i = 0; i < count; i++)
    if (patterns[i].size > 0) matcher->patterns[matcher->count++] = patterns[i];
  qsort(matcher->patterns, matcher->count, sizeof *patterns, compare_patterns);
  for (size_t i = 0; i < matcher->count; i++) matcher->first[(unsigned char)matcher->patterns[i].text[0] + 1]++;
  for (int byte = 0; byte < 256; byte++) matcher->first[byte + 1] += matcher->first[byte];
  return OK;
}

void added_matcher_free(struct added_matcher *matcher) {
  free(matcher->patterns);
  *matcher = (struct added_matcher){0};
}

struct range {
  size_t low, high;
};

/* Of the patterns in `range`, which agree in their first `depth` bytes and are longer, those whose next is `byte`. */
static struct range narrow(const struct added_matcher *matcher, struct range range, size_t depth, unsigned char byte) {
  size_t ends[2];
  for (int side = 0; side < 2; side++) {
    size_t low = range.low, high = range.high;
    while (low < high) {
      size_t middle = low + (high - low) / 2;
      if ((unsigned char)matcher->patterns[middle].text[depth] < (int)byte + side)
        low = middle + 1;
      else
        high = middle;
    }
    ends[side] = low;
  }
  return (struct range){ends[0], ends[1]};
}

/* The longest pattern at the start of the text, or NULL. */
static const struct added_pattern *longest(const struct added_matcher *matcher, const char *text, size_t size) {
  unsigned char byte = (unsigned char)text[0];
  struct range range = {matcher->first[byte], matcher->first[byte + 1]};
  const struct added_pattern *found = NULL;
  for (size_t depth = 1; range.low < range.high; depth++) {
    while (range.low < range.high && matcher->patterns[range.low].size == depth)
      found = &matcher->patterns[range.low++]; /* the shortest come first */
    if (depth == size || range.low == range.high) break;
    range = narrow(matcher, range, depth, (unsigned char)text[depth]);
  }
  return found;
}

static bool is_word_at(const char *text, size_t size) {
  int32_t code;
  if (size == 0) return false;
  utf8_next(text, size, &code);
  return utf8_is_word(code);
}

static bool stands_alone(const char *text, size_t size, size_t start, size_t end) {
  size_t before = start > 0 ? utf8_last(text, start) : 0;
  return !is_word_at(text + before, start - before) && !is_word_at(text + end, size - end);
}

static size_t spaces_before(const char *text, size_t start, size_t least) {
  while (start > least) {
    size_t before = utf8_last(text, start);
    int32_t code;
    utf8_next(text + before, start - before, &code);
    if (!utf8_is_space(code)) break;
    start = before;
  }
  return start > least ? start : least;
}

static size_t spaces_after(const char *text, size_t size, size_t end) {
  while (end < size) {
    int32_t code;
    size_t length = utf8_next(text + end, size - end, &code);
    if (!utf8_is_space(code)) break;
    end += length;
  }
  return end;
}

bool added_matcher_next(const struct added_matcher *matcher, struct added_search *search, struct added_match *out) {
  while (search->at < search->size) {
    const struct added_pattern *found = longest(matcher, search->text + search->at, search->size - search->at);
    size_t start = search->at;
    search->at += found ? found->size : 1;
    if (!found || ((found->flags & ADDED_SPECIAL) && !search->specials)) continue;
    size_t end = search->at;
    if ((found->flags & ADDED_SINGLE_WORD) && !stands_alone(search->text, search->size, start, end)) continue;
    if (found->flags & ADDED_LSTRIP) start = spaces_before(search->text, start, search->taken);
    if (found->flags & ADDED_RSTRIP) end = spaces_after(search->text, search->size, end);
    search->taken = end;
    *out = (struct added_match){start, end, found->id};
    return true;
  }
  return false;
}
