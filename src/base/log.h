/**
 * @file log.h
 * What people read while a job runs: stderr, rank 0 only, one line a call. Results (answers, JSON, tables)
 * go to stdout by the commands themselves.
 */
#ifndef QST_BASE_LOG_H
#define QST_BASE_LOG_H

#include <stdbool.h>

#include "base/error.h"

/** Only rank 0 speaks; `quiet` silences notes (never warnings). */
void log_setup(int rank, bool quiet);

/** A line of progress or explanation. */
void log_note(const char *format, ...) __attribute__((format(printf, 1, 2)));

/** A line that starts with "warning: ". Every rank keeps the first of each kind, which is its format, so that those of other
 *  ranks can be said as well (comm_share_warnings()). */
void log_warning(const char *format, ...) __attribute__((format(printf, 1, 2)));

/** A kept warning. */
struct log_kept {
  char kind[128];
  char line[ERROR_LINE + 128];
  bool shared;
};
/** The oldest one that is not shared; NULL without one. */
const struct log_kept *log_unshared(void);
/** Nobody needs to hear of this kind of warning again. Returns whether this rank had one to share. */
bool log_mark_shared(const struct log_kept *told);

/** On a terminal the line replaces the last progress line; elsewhere it is a line of its own. */
void log_progress(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
