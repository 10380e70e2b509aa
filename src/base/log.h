/**
 * @file log.h
 * What people read while a job runs: stderr, rank 0 only, one line a call. Results (answers, JSON, tables)
 * go to stdout by the commands themselves.
 */
#ifndef QST_BASE_LOG_H
#define QST_BASE_LOG_H

#include <stdbool.h>

/** Only rank 0 speaks; `quiet` silences notes (never warnings). */
void log_setup(int rank, bool quiet);

/** A line of progress or explanation. */
void log_note(const char *format, ...) __attribute__((format(printf, 1, 2)));

/** A line that starts with "warning: ". */
void log_warning(const char *format, ...) __attribute__((format(printf, 1, 2)));

/** On a terminal the line replaces the last progress line; elsewhere it is a line of its own. */
void log_progress(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
