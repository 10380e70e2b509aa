/**
 * @file h5.h
 * HDF5 as all our stores use it: files that appear complete or not at all, contiguous little-endian datasets,
 * each with the checksum of its bytes in the attribute "xxh3" (base/hash.h), object times off so that equal
 * content gives equal bytes. Root attributes "format" (name) and "version". HDF5 prints nothing itself.
 *
 * Before a byte of data is read or memory for it is asked for, a dataset must be reached over plain links, lie
 * contiguously and unfiltered in this file, be of a type and rank of ours, and fit the file's size; reading it verifies
 * the checksum. A damaged file is ERR_INPUT with the path and the dataset's name. The format is that of HDF5 1.8, the
 * first whose metadata has checksums of its own; older ones are refused. Use from one thread at a time.
 */
#ifndef QST_IO_H5_H
#define QST_IO_H5_H

#include "base/error.h"
#include "base/hash.h"
#include "base/types.h"

enum h5_type { H5_U8, H5_U16, H5_I32, H5_I64, H5_F32 };

static inline size_t h5_type_size(enum h5_type type) {
  return type == H5_U8 ? 1 : type == H5_U16 ? 2 : type == H5_I64 ? 8 : 4;
}

const char *h5_type_name(enum h5_type type); /**< "u8", "f32", … */

/** Names and versions of what wrote a file, for provenance. */
const char *h5_libraries(void);

struct h5_file;

/** Creates `path` under a temporary name. */
int h5_create(struct h5_file **out, const char *path, const char *format, int version);
/** Flushes, closes, syncs and renames. The handle is gone afterwards, also on error (nothing is left behind). */
int h5_publish(struct h5_file **file);
/** As h5_publish, but leaves the last step, file_publish(*temporary, path), to the caller, who frees *temporary: it needs no
 *  HDF5, and so may run in another thread. */
int h5_finish(struct h5_file **file, char **temporary);
/** Opens for reading (no locks taken: network file systems); ERR_INPUT when it is not HDF5, not `format` (says what
 *  it is instead), or a later version. `format` NULL accepts any of ours, of any version. */
int h5_open(struct h5_file **out, const char *path, const char *format, int version);
/** Closes; an unpublished file is removed. NULL-safe. */
void h5_close(struct h5_file **file);
const char *h5_path(const struct h5_file *file);
const char *h5_format(const struct h5_file *file);

/** Datasets by absolute name ("/layers/000/q_proj/codes"); groups are made on the way. rows x cols, cols = 0: rank 1.
 *  Data is host memory of rows * max(cols, 1) elements. */
int h5_write(struct h5_file *file, const char *name, enum h5_type type, uint64_t rows, uint64_t cols, const void *data);
/** As h5_write, in pieces in order: begin, then append until all is there, then end. One at a time per file. */
int h5_write_begin(struct h5_file *file, const char *name, enum h5_type type, uint64_t rows, uint64_t cols);
int h5_write_more(struct h5_file *file, const void *data, uint64_t elements);
int h5_write_end(struct h5_file *file);

/** A dataset [rows, cols] that shows the datasets of this name in other files of the same folder, each at its place (a
 *  virtual dataset of HDF5 1.10). For readers other than h5_read(): it has no bytes of its own, and so no checksum. */
struct h5_part {
  const char *file; /**< name within the folder */
  uint64_t row, rows, col, cols;
};
int h5_write_virtual(struct h5_file *file, const char *name, enum h5_type type, uint64_t rows, uint64_t cols,
                     const struct h5_part *parts, size_t count);

bool h5_has(struct h5_file *file, const char *name);
int h5_shape(struct h5_file *file, const char *name, enum h5_type *type, uint64_t *rows, uint64_t *cols);
/** The checksum stored with a dataset; reads no data. */
int h5_checksum(struct h5_file *file, const char *name, struct hash_text *out);
/** Where the bytes of a dataset, which must have this type and shape, begin in the file: for readers of parts of it, who use
 *  descriptors of their own and may be other threads. */
int h5_offset(struct h5_file *file, const char *name, enum h5_type type, uint64_t rows, uint64_t cols, uint64_t *out);
/** The whole dataset, which must have this type and shape, checksum verified. */
int h5_read(struct h5_file *file, const char *name, enum h5_type type, uint64_t rows, uint64_t cols, void *data);

/** Attributes of an object ("/" or a group or dataset); setting one makes the group if nothing has that name. */
int h5_set_text(struct h5_file *file, const char *object, const char *name, const char *text);
int h5_set_number(struct h5_file *file, const char *object, const char *name, double value);
int h5_set_integer(struct h5_file *file, const char *object, const char *name, int64_t value);
/** Caller frees *out. */
int h5_get_text(struct h5_file *file, const char *object, const char *name, char **out);
int h5_get_number(struct h5_file *file, const char *object, const char *name, double *out);
int h5_get_integer(struct h5_file *file, const char *object, const char *name, int64_t *out);

/** Calls `visit` for every attribute of an object in name order but "xxh3"; stops at the first status other than OK. */
enum h5_attribute_kind { H5_TEXT, H5_INTEGER, H5_NUMBER };
int h5_each_attribute(struct h5_file *file, const char *object,
                      int (*visit)(void *context, struct h5_file *file, const char *object, const char *name,
                                   enum h5_attribute_kind kind),
                      void *context);

/** Calls `visit` for every dataset with bytes of its own in name order, for `inspect`; stops at the first status other than OK. */
struct h5_dataset {
  const char *name;
  enum h5_type type;
  uint64_t rows, cols, bytes;
};
int h5_each(struct h5_file *file, int (*visit)(void *context, struct h5_file *file, const struct h5_dataset *dataset),
            void *context);
/** Reads a dataset of any size in pieces and compares its checksum: ERR_INPUT when it does not hold. */
int h5_verify(struct h5_file *file, const char *name);

#endif
