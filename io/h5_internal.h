/**
 * @file h5_internal.h
 * What the files of the HDF5 layer share: h5.c (files, links), h5_locate.c, h5_dataset.c,
 * h5_attribute.c, h5_list.c and h5_driver.c (how files are written).
 *
 * HDF5 keeps the catalogue; the bytes of a dataset are read and written with pread and pwrite at the place
 * HDF5 names (H5Dget_offset): one copy, hashed while in cache, any piece of any shape, and a full disk is an errno at
 * the write that met it.
 */
#ifndef QST_IO_H5_INTERNAL_H
#define QST_IO_H5_INTERNAL_H

#include <hdf5.h>

#include "base/hash.h"
#include "io/h5.h"

enum { H5_NAME = 256, H5_BUCKETS = 1024 };

/** A dataset that passed every check. */
struct h5_place {
  struct h5_dataset shape;
  uint64_t offset; /**< of its first byte in the file */
  struct hash_text checksum;
  size_t next; /**< in its bucket: number from 1, 0 ends */
};

/** What h5_locate() has seen of a file: HDF5 is asked once for each dataset. */
struct h5_places {
  struct h5_place *list; /**< names are owned */
  size_t count, capacity;
  size_t buckets[H5_BUCKETS]; /**< by the hash of the name: the first, from 1, or 0 */
};

struct h5_file {
  char *path;
  char *temporary; /**< NULL when reading */
  char *format;
  hid_t id;
  int descriptor;            /**< of the same file, for the data; when writing, for all of it */
  uint64_t size;             /**< bytes of the file; reading only */
  int write_error;           /**< errno of the first write that failed; nothing is written after it */
  struct h5_places places;   /**< reading only */
  char known_group[H5_NAME]; /**< the group reached last; all links to it are plain */
  struct h5_pending {        /**< the dataset between h5_write_begin() and h5_write_end() */
    hid_t id;                /**< H5I_INVALID_HID: none */
    char name[H5_NAME];
    enum h5_type type;
    uint64_t offset, left; /**< bytes */
    struct hash_state *hash;
  } pending;
};

/** Records "<path>: <text>: <HDF5's innermost message>": ERR_SYSTEM of a file being written, else ERR_INPUT. Call it
 *  before the next HDF5 call. */
int h5_fault(struct h5_file *file, const char *format, ...) __attribute__((format(printf, 2, 3)));

/** Writes at an offset, or remembers why not in `write_error`. */
void h5_write_at(struct h5_file *file, const void *bytes, uint64_t size, uint64_t offset);
/** Makes HDF5 write through the descriptor of `file` with h5_write_at(). */
int h5_use_writer(struct h5_file *file, hid_t access);
/** The error line of a `write_error`. */
int h5_write_fault(struct h5_file *file);

/** Whether every link on the way to `name` is there. A link that is not a plain hard link (soft, external) is ERR_INPUT,
 *  found before it is followed. */
int h5_find(struct h5_file *file, const char *name, bool *found);
/** As h5_find(), absence is ERR_INPUT. */
int h5_require(struct h5_file *file, const char *name);
/** Makes the groups of `name`: all but its last part, or with `whole` the last as well. */
int h5_make_groups(struct h5_file *file, const char *name, bool whole);
/** Creation properties of any object: no times, attributes kept in the object's header. */
int h5_object_properties(hid_t properties);
hid_t h5_file_type(enum h5_type type); /**< little endian */
void h5_forget_places(struct h5_places *places);
/** Checks a dataset for everything but its data. The name in `out` lives until the file is closed. */
int h5_locate(struct h5_file *file, const char *name, struct h5_place *out);

#endif
