/**
 * @file tap_reader.h
 * Which rows a store of taps (tap_file.h) holds, and their bytes. Segments are found by looking into the folder, so that
 * whatever was sealed counts, whoever wrote it.
 */
#ifndef QST_IO_TAP_READER_H
#define QST_IO_TAP_READER_H

#include "io/tap_file.h"
#include "io/token_file.h"

struct tap_reader;
struct tap_cache;

/** `format` has the taps to read. An absent folder is an empty store. `data` must outlive the reader. */
int tap_reader_open(struct tap_reader **out, const char *folder, const struct tap_format *format,
                    const struct token_file *data);
void tap_reader_close(struct tap_reader **reader);

/** From the next scan on, copies in the cache are read where there are some, and the cache is told what is wanted of it. The
 *  reader closes it. */
void tap_reader_use_cache(struct tap_reader *reader, struct tap_cache *cache);

/** Takes in the segments that came since. ERR_INPUT, naming the difference, where all are of another backbone, data, kind or
 *  format; among others such ones, and damaged ones always, are warned of and passed over. Not while tap_reader_read() runs
 *  in another thread. */
int tap_reader_scan(struct tap_reader *reader);

/** Whether all taps of the row are in the store, in whatever segments. */
bool tap_reader_has(const struct tap_reader *reader, int64_t row);
/** Whether those of this format are. */
bool tap_reader_holds(const struct tap_reader *reader, int64_t row);
/** Rows in the store, and the bytes of its segments. */
int64_t tap_reader_rows(const struct tap_reader *reader);
int64_t tap_reader_bytes(const struct tap_reader *reader);
/** Bytes that tap_reader_read() took from the cache so far. */
int64_t tap_reader_cached_bytes(const struct tap_reader *reader);

/** Their taps of this format, one row after the other, each checked against its hash. ERR_INPUT names a damaged row, ERR_SYSTEM a
 *  segment that the system does not give. May run in a thread of its own. */
int tap_reader_read(struct tap_reader *reader, const int64_t *rows, int count, const struct tap_planes *out);

/** Tokens of a row and its label rows, as the store counts them. */
int64_t tap_row_tokens(const struct token_file *data, int64_t row);
int64_t tap_row_labels(const struct token_file *data, int64_t row);

/** Writes DIR/index.h5, for people and their tools: virtual datasets over all segments, in the order of their names, and
 *  rows, tokens and labels of all of them as in one segment. The program itself never reads it. */
int tap_reader_write_index(const struct tap_reader *reader);

#endif
