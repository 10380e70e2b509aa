/**
 * @file error.h
 * The one error path.
 *
 * A function that can fail returns `int`: OK (0) or a `status`. Where the fault is found, `fail()`
 * records one line for people — what is wrong, where, what to do — and returns its status; callers
 * pass it up with TRY or TRY_GOTO and may put the place in front with `fail_at()`. Nothing is printed on
 * the way and nothing exits: main prints the line once and ends all ranks with the status.
 */
#ifndef QST_BASE_ERROR_H
#define QST_BASE_ERROR_H

/** Also the exit status of the program. */
enum status {
  OK = 0,
  ERR_INPUT = 1,    /**< a file or its content is missing, damaged, mismatched or not supported */
  ERR_USAGE = 2,    /**< the command line or the config file is wrong */
  ERR_SYSTEM = 3,   /**< the operating system or a library refused (disk full, MPI, HDF5, …) */
  ERR_MEMORY = 4,   /**< not enough memory */
  ERR_INTERNAL = 5, /**< a fault of this program: a contract of a header was broken */
  ERR_LOST = 6,     /**< a rank was lost: it died, did not come in time or cannot be reached; another start may do */
  STOPPED = 75      /**< not an error: a signal asked to stop, a checkpoint was saved (EX_TEMPFAIL) */
};

/** Records a message (printf style, one line, no newline, at most ERROR_LINE - 1 bytes; control characters are shown as
 *  '?') and is the status. A macro, so that compilers see which status comes back. */
#define fail(status, ...) (fail_record(__VA_ARGS__), (int)(status))
void fail_record(const char *format, ...) __attribute__((format(printf, 1, 2)));

/** Puts "<place>: " in front of the recorded message and returns `status`; does nothing when it is OK. */
int fail_at(int status, const char *format, ...) __attribute__((format(printf, 2, 3)));

/** The line recorded last on this thread ("" if none). Valid until the thread's next fail(). */
const char *fail_message(void);

#define ERROR_LINE 1024

#define TRY(expression)                        \
  do {                                         \
    int try_status_ = (expression);            \
    if (try_status_ != OK) return try_status_; \
  } while (0)

/** For functions that own something: stores the status and jumps to the label that frees it. */
#define TRY_GOTO(status, label, expression) \
  do {                                      \
    (status) = (expression);                \
    if ((status) != OK) goto label;         \
  } while (0)

#endif
