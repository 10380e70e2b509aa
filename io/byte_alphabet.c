#include "io/byte_alphabet.h"

#include "base/error.h"
#include "io/utf8.h"

static int is_itself(int32_t code) {
  return (code >= 0x21 && code <= 0x7E) || (code >= 0xA1 && code <= 0xAC) || (code >= 0xAE && code <= 0xFF);
}

/* The bytes that do not stand for themselves, in order: 00-20, 7F-A0, AD. */
int byte_of_character(int32_t code) {
  if (is_itself(code)) return code;
  if (code < 0x100 || code > 0x143) return -1;
  int rank = code - 0x100;
  if (rank <= 0x20) return rank;
  return rank < 0x43 ? rank - 0x21 + 0x7F : 0xAD;
}

int byte_alphabet_decode(const char *text, size_t size, struct buffer *out, int *whole) {
  size_t kept = out->size;
  *whole = 1;
  for (size_t at = 0; at < size && *whole;) {
    int32_t code;
    at += utf8_next(text + at, size - at, &code);
    int byte = byte_of_character(code);
    char value = (char)byte;
    *whole = byte >= 0;
    if (*whole) TRY(buffer_append(out, &value, 1));
  }
  if (!*whole) out->size = kept;
  return OK;
}
