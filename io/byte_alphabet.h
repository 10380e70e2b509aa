/**
 * @file byte_alphabet.h
 * The printable alphabet of byte-level BPE: every byte has a character of its own (GPT-2, encoder.py,
 * `bytes_to_unicode`): the bytes 21-7E, A1-AC and AE-FF stand for themselves, the others for U+0100, U+0101, … in order.
 */
#ifndef QST_IO_BYTE_ALPHABET_H
#define QST_IO_BYTE_ALPHABET_H

#include <stdint.h>

#include "base/memory.h"

/** The byte that a character stands for, or -1. */
int byte_of_character(int32_t code);

/** Appends the bytes that `text` (valid UTF-8) stands for; *whole = 0, and nothing appended, when a character of it is
 *  not in the alphabet. */
int byte_alphabet_decode(const char *text, size_t size, struct buffer *out, int *whole);

#endif
