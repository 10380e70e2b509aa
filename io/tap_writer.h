/**
 * @file tap_writer.h
 * Fills a store of taps (tap_file.h): rows gather in memory until a segment is full, then it is written and, by a thread of
 * its own, synced and given its name. What was not sealed is lost in a crash, and only that.
 */
#ifndef QST_IO_TAP_WRITER_H
#define QST_IO_TAP_WRITER_H

#include "io/tap_file.h"

struct tap_writer;

/** Segments of `tokens` tokens (as many label rows at most), at least as long as a row. The folder is made, and cleared. */
int tap_writer_open(struct tap_writer **out, const char *folder, const struct tap_format *format, int64_t tokens);
/** Waits for the sealing; what has not been sealed is dropped. NULL-safe. */
void tap_writer_close(struct tap_writer **writer);

/** Removes what killed writers left unfinished: those of this host, and of other hosts a day ago. */
int tap_writer_clear(const char *folder);

/** Adds a row; may write a segment. After an error (ERR_SYSTEM: the disk is full, …) nothing more should be added. */
int tap_writer_add(struct tap_writer *writer, int64_t row, int64_t tokens, int64_t labels,
                   const struct tap_planes *planes);
/** Writes what has gathered and waits until all segments have their names. */
int tap_writer_seal(struct tap_writer *writer);

#endif
