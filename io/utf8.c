#include "io/utf8.h"

#include <string.h>
#include <utf8proc.h>

#include "base/error.h"

struct lead {
  int length;
  unsigned char low, high; /* what the second byte may be */
};

/* The Unicode Standard, table 3-7. */
static struct lead lead_of(unsigned char byte) {
  if (byte < 0x80) return (struct lead){1, 0, 0};
  if (byte < 0xC2) return (struct lead){0, 0, 0};
  if (byte < 0xE0) return (struct lead){2, 0x80, 0xBF};
  if (byte == 0xE0) return (struct lead){3, 0xA0, 0xBF};
  if (byte == 0xED) return (struct lead){3, 0x80, 0x9F};
  if (byte < 0xF0) return (struct lead){3, 0x80, 0xBF};
  if (byte == 0xF0) return (struct lead){4, 0x90, 0xBF};
  if (byte < 0xF4) return (struct lead){4, 0x80, 0xBF};
  if (byte == 0xF4) return (struct lead){4, 0x80, 0x8F};
  return (struct lead){0, 0, 0};
}

size_t utf8_next(const char *text, size_t size, int32_t *code) {
  const unsigned char *bytes = (const unsigned char *)text;
  struct lead lead = lead_of(bytes[0]);
  *code = -1;
  if (lead.length == 1) *code = bytes[0];
  if (lead.length <= 1) return 1;
  int32_t value = bytes[0] & (0x7F >> lead.length);
  for (int i = 1; i < lead.length; i++) {
    unsigned char low = i == 1 ? lead.low : 0x80, high = i == 1 ? lead.high : 0xBF;
    if ((size_t)i >= size || bytes[i] < low || bytes[i] > high) return (size_t)i;
    value = value << 6 | (bytes[i] & 0x3F);
  }
  *code = value;
  return (size_t)lead.length;
}

size_t utf8_last(const char *text, size_t size) {
  size_t at = size - 1;
  while (at > 0 && ((unsigned char)text[at] & 0xC0) == 0x80) at--;
  return at;
}

/* Length of the ASCII text in front, eight bytes at a time. */
static size_t ascii_prefix(const char *text, size_t size) {
  size_t at = 0;
  for (uint64_t word; at + sizeof word <= size; at += sizeof word) {
    memcpy(&word, text + at, sizeof word);
    if (word & 0x8080808080808080u) break;
  }
  while (at < size && (unsigned char)text[at] < 0x80) at++;
  return at;
}

static size_t valid_prefix(const char *text, size_t size) {
  size_t at = 0;
  while (at < size) {
    at += ascii_prefix(text + at, size - at);
    if (at == size) break;
    int32_t code;
    size_t length = utf8_next(text + at, size - at, &code);
    if (code < 0) break;
    at += length;
  }
  return at;
}

bool utf8_valid(const char *text, size_t size) {
  return valid_prefix(text, size) == size;
}

int utf8_replace(const char *text, size_t size, struct buffer *out) {
  size_t at = 0;
  for (;;) {
    size_t good = valid_prefix(text + at, size - at);
    TRY(buffer_append(out, text + at, good));
    at += good;
    if (at == size) return OK;
    int32_t code;
    at += utf8_next(text + at, size - at, &code);
    TRY(buffer_append(out, "\xEF\xBF\xBD", 3));
  }
}

int utf8_append(struct buffer *out, int32_t code) {
  utf8proc_uint8_t bytes[4];
  utf8proc_ssize_t length = utf8proc_encode_char(code, bytes);
  return buffer_append(out, bytes, (size_t)length);
}

bool utf8_is_space(int32_t code) {
  return (code >= 0x09 && code <= 0x0D) || code == 0x20 || code == 0x85 || code == 0xA0 || code == 0x1680 ||
         (code >= 0x2000 && code <= 0x200A) || code == 0x2028 || code == 0x2029 || code == 0x202F || code == 0x205F ||
         code == 0x3000;
}

bool utf8_is_word(int32_t code) {
  if (code == 0x200C || code == 0x200D) return true;
  /* circled and squared letters: symbols with the property Other_Alphabetic */
  if ((code >= 0x24B6 && code <= 0x24E9) || (code >= 0x1F130 && code <= 0x1F149) ||
      (code >= 0x1F150 && code <= 0x1F169) || (code >= 0x1F170 && code <= 0x1F189))
    return true;
  switch (utf8proc_category(code)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:
      return false;
  }
}
