/**
 * @file tap_prune.h
 * What a store of taps (tap_file.h) can do without.
 */
#ifndef QST_IO_TAP_PRUNE_H
#define QST_IO_TAP_PRUNE_H

#include "io/tap_reader.h"

struct tap_pruned {
  int damaged, doubled,
      beyond; /**< segments removed: with rows that cannot be read; that others hold; over the limit */
  int64_t bytes;
};

/** The format of the store in the folder, of its first readable segment. ERR_INPUT when it has none. */
int tap_store_format(const char *folder, struct tap_format *out);

/** Reads all segments and removes the damaged ones, those whose rows are all in others, and, the smallest first, as many as
 *  are more than `limit` bytes in all (0: no limit). The reader must be closed afterwards. Whoever replays from a segment
 *  meanwhile computes its rows again. */
int tap_prune(struct tap_reader *reader, int64_t limit, struct tap_pruned *out);

#endif
