/**
 * @file text.h
 * Small questions about text.
 */
#ifndef QST_BASE_TEXT_H
#define QST_BASE_TEXT_H

#include <stdbool.h>

bool text_ends_with(const char *text, const char *end);

#endif
