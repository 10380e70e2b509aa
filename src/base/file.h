/**
 * @file file.h
 * Whole files. A file we write appears complete or not at all: it is written under a temporary name beside
 * its place, synced, then renamed.
 */
#ifndef QST_BASE_FILE_H
#define QST_BASE_FILE_H

#include <stdint.h>

#include "base/memory.h"

/** Reads a file of at most `limit` bytes. ERR_INPUT names the path and the reason. */
int file_read(const char *path, uint64_t limit, struct buffer *out);

/** Writes a whole file atomically. ERR_SYSTEM names the path and the reason (disk full, no permission, …). */
int file_write(const char *path, const void *bytes, size_t size);

/** Whether a file could be written there: asked before hours of work, not after. ERR_SYSTEM as of file_write(). */
int file_try(const char *path);

/** The name to write `path` under until it is complete: "<path>.tmp-<host>-<pid>". Caller frees `*out`. */
int file_temporary(const char *path, char **out);

/** Removes what is left under the newest few of these names. For a signal handler: async-signal-safe. */
void file_remove_temporaries(void);

/** Syncs the temporary file, renames it to `path` and syncs the folder. On error the temporary file is removed. */
int file_publish(const char *temporary, const char *path);

/** Makes a folder and its parents; fine when it exists. */
int file_make_folder(const char *path);

/** `*out` = folder + "/" + name; caller frees. */
int file_join(const char *folder, const char *name, char **out);

#endif
