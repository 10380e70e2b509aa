/**
 * @file tap_cache.h
 * Copies of a store's segments on a disk of this host. One process of each host copies, beside its work and those of its
 * partners, segment by segment, each under a temporary name until it is whole; all of them read what is there. Rows of a
 * copy are checked against their hashes as those of the store are (tap_reader.h), and where a copy does not hold, it is
 * dropped and the store is read. A cache that fails only costs speed: its first failure is a warning, then it copies no more.
 */
#ifndef QST_IO_TAP_CACHE_H
#define QST_IO_TAP_CACHE_H

#include "io/tap_file.h"

struct tap_cache;

/** Below `folder` each store has a folder of its own, named after its format and data. `copies`: whether this process is the
 *  one of its host that fills it. ERR_SYSTEM when the folder cannot be made. */
int tap_cache_open(struct tap_cache **out, const char *folder, const char *store, const struct tap_format *format,
                   bool copies);
/** Stops copying. NULL-safe. */
void tap_cache_close(struct tap_cache **cache);

/** The segments of these names are wanted: starts copying those that are not there, unless some are still being copied, or says
 *  why copying stopped. Does not wait. */
int tap_cache_want(struct tap_cache *cache, const char *const *names, int count);

/** Where the copy of a segment is or would be; caller frees *path. */
int tap_cache_path(const struct tap_cache *cache, const char *name, char **path);
/** Removes a copy that does not hold. */
void tap_cache_drop(const struct tap_cache *cache, const char *name);

#endif
