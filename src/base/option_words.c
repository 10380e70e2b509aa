/* Words: looking up names, the nearest name, and values quoted in a config file. */
#include "base/option_words.h"

#include <stdbool.h>
#include <string.h>

#include "base/error.h"
#include "base/option_table.h"

enum { LONGEST_WORD = 63 };

const struct option *option_find(const char *name, unsigned commands) {
  for (int i = 0; i < option_count; i++)
    if ((option_table[i].commands & commands) && strcmp(option_table[i].name, name) == 0) return &option_table[i];
  return NULL;
}

static int smaller(int a, int b) {
  return a < b ? a : b;
}

/* Optimal string alignment distance: insertions, deletions, substitutions and swaps of neighbours (Damerau 1964). */
static int distance(const char *a, const char *b) {
  int rows[3][LONGEST_WORD + 1];
  int a_size = (int)strlen(a), b_size = (int)strlen(b);
  for (int j = 0; j <= b_size; j++) rows[0][j] = j;
  for (int i = 1; i <= a_size; i++) {
    int *now = rows[i % 3];
    const int *last = rows[(i + 2) % 3], *before = rows[(i + 1) % 3];
    now[0] = i;
    for (int j = 1; j <= b_size; j++) {
      now[j] = smaller(last[j - 1] + (a[i - 1] != b[j - 1]), smaller(last[j], now[j - 1]) + 1);
      bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
      if (swapped) now[j] = smaller(now[j], before[j - 2] + 1);
    }
  }
  return rows[a_size % 3][b_size];
}

const char *nearest_name(const char *word, const char *const *names) {
  size_t size = strlen(word);
  if (size == 0 || size > LONGEST_WORD) return NULL;
  const char *best = NULL;
  int best_distance = 2 + (int)size / 4;
  for (; *names; names++) {
    if (strlen(*names) > LONGEST_WORD) continue;
    bool starts = size >= 3 && strncmp(*names, word, size) == 0;
    int found = starts ? 1 : distance(word, *names);
    if (found < best_distance) {
      best = *names;
      best_distance = found;
    }
  }
  return best;
}

static const char escaped[] = "\n\t\r\"\\", letters[] = "ntr\"\\";

static bool needs_quotes(const char *text) {
  size_t size = strlen(text);
  return size == 0 || strchr(" \t\"", text[0]) || strchr(" \t", text[size - 1]) || strpbrk(text, "\n\r");
}

int word_quote(const char *text, struct buffer *out) {
  if (!needs_quotes(text)) return buffer_append(out, text, strlen(text));
  TRY(buffer_append(out, "\"", 1));
  for (; *text; text++) {
    const char *found = strchr(escaped, *text);
    const char pair[2] = {'\\', found ? letters[found - escaped] : 0};
    TRY(found ? buffer_append(out, pair, 2) : buffer_append(out, text, 1));
  }
  return buffer_append(out, "\"", 1);
}

int word_unquote(char *text) {
  if (text[0] != '"') return OK;
  char *to = text, *from = text + 1;
  for (; *from && *from != '"'; from++) {
    if (*from == '\\') {
      const char *found = from[1] ? strchr(letters, from[1]) : NULL;
      if (!found) return fail(ERR_USAGE, "an unknown escape in quotes: \\n, \\t, \\r, \\\" and \\\\ are known");
      *to++ = escaped[found - letters];
      from++;
    } else {
      *to++ = *from;
    }
  }
  if (from[0] != '"' || from[1] != 0) return fail(ERR_USAGE, "the closing quote must be the end of the line");
  *to = 0;
  return OK;
}
