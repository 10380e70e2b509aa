/**
 * @file disk_probe.h
 * How fast the disk behind a folder is, past the page cache: what was written a moment ago would be read from memory.
 */
#ifndef QST_IO_DISK_PROBE_H
#define QST_IO_DISK_PROBE_H

#include <stdint.h>

/** Bytes a second of one process that reads or writes large blocks in order. */
struct disk_speed {
  double read, write;
};

/** Writes a temporary file of `bytes` (rounded up to whole 4 MiB) into the folder, syncs it, reads it back and removes it.
 *  O_DIRECT where the file system has it; elsewhere the written pages are dropped before reading. ERR_SYSTEM. */
int disk_probe(const char *folder, int64_t bytes, struct disk_speed *out);

#endif
