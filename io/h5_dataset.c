#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/memory.h"
#include "io/h5_internal.h"

/* Read and hashed in one go: small enough to be in the second-level cache when it is hashed. */
enum { PIECE = 512 << 10 };

static const char *const type_names[] = {
    [H5_U8] = "u8", [H5_U16] = "u16", [H5_I32] = "i32", [H5_I64] = "i64", [H5_F32] = "f32"};

/* Writing */

static int create_dataset(struct h5_file *file, struct h5_pending *pending, uint64_t rows, uint64_t cols) {
  hsize_t extent[2] = {rows, cols};
  hid_t creation = H5Pcreate(H5P_DATASET_CREATE), space = H5Screate_simple(cols ? 2 : 1, extent, NULL);
  int status = h5_object_properties(creation);
  if (status == OK &&
      (H5Pset_layout(creation, H5D_CONTIGUOUS) < 0 || H5Pset_alloc_time(creation, H5D_ALLOC_TIME_EARLY) < 0 ||
       H5Pset_fill_time(creation, H5D_FILL_TIME_NEVER) < 0))
    status = h5_fault(file, "HDF5 refuses the properties of a dataset");
  if (status == OK) {
    pending->id =
        H5Dcreate2(file->id, pending->name, h5_file_type(pending->type), space, H5P_DEFAULT, creation, H5P_DEFAULT);
    if (pending->id < 0) status = h5_fault(file, "%s cannot be made", pending->name);
  }
  H5Sclose(space);
  H5Pclose(creation);
  return status;
}

int h5_write_begin(struct h5_file *file, const char *name, enum h5_type type, uint64_t rows, uint64_t cols) {
  struct h5_pending *pending = &file->pending;
  if (pending->id >= 0 || !file->temporary) return fail(ERR_INTERNAL, "%s: %s begins out of turn", file->path, name);
  TRY(h5_make_groups(file, name, false));
  snprintf(pending->name, sizeof pending->name, "%s", name);
  pending->type = type;
  pending->left = rows * (cols ? cols : 1) * h5_type_size(type);
  TRY(hash_begin(&pending->hash));
  int status = create_dataset(file, pending, rows, cols);
  if (status != OK) {
    hash_end(&pending->hash);
    return status;
  }
  haddr_t offset = pending->left ? H5Dget_offset(pending->id) : 0;
  if (offset == HADDR_UNDEF) return h5_fault(file, "%s was given no place", name);
  pending->offset = offset;
  return OK;
}

int h5_write_more(struct h5_file *file, const void *data, uint64_t elements) {
  struct h5_pending *pending = &file->pending;
  if (pending->id < 0 || elements > pending->left / h5_type_size(pending->type))
    return fail(ERR_INTERNAL, "%s: more data than %s was made for", file->path, pending->name);
  uint64_t size = elements * h5_type_size(pending->type);
  for (uint64_t done = 0; done < size; done += PIECE) {
    uint64_t piece = size - done < PIECE ? size - done : PIECE;
    hash_more(pending->hash, (const char *)data + done, piece);
    h5_write_at(file, (const char *)data + done, piece, pending->offset);
    if (file->write_error) return h5_write_fault(file);
    pending->offset += piece;
    pending->left -= piece;
  }
  return OK;
}

int h5_write_end(struct h5_file *file) {
  struct h5_pending *pending = &file->pending;
  if (pending->id < 0 || pending->left > 0)
    return fail(ERR_INTERNAL, "%s: %s ends before all of its data", file->path, pending->name);
  struct hash_text checksum = hash_digest(pending->hash);
  hash_end(&pending->hash);
  herr_t closed = H5Dclose(pending->id);
  pending->id = H5I_INVALID_HID;
  if (closed < 0) return h5_fault(file, "%s cannot be written", pending->name);
  return h5_set_text(file, pending->name, "xxh3", checksum.hex);
}

int h5_write(struct h5_file *file, const char *name, enum h5_type type, uint64_t rows, uint64_t cols,
             const void *data) {
  TRY(h5_write_begin(file, name, type, rows, cols));
  TRY(h5_write_more(file, data, rows * (cols ? cols : 1)));
  return h5_write_end(file);
}

/* Reading */

int h5_shape(struct h5_file *file, const char *name, enum h5_type *type, uint64_t *rows, uint64_t *cols) {
  struct h5_place place;
  TRY(h5_locate(file, name, &place));
  *type = place.shape.type;
  *rows = place.shape.rows;
  *cols = place.shape.cols;
  return OK;
}

int h5_checksum(struct h5_file *file, const char *name, struct hash_text *out) {
  struct h5_place place;
  TRY(h5_locate(file, name, &place));
  *out = place.checksum;
  return OK;
}

static int read_at(struct h5_file *file, const char *name, char *out, uint64_t size, uint64_t offset) {
  while (size > 0) {
    ssize_t got = pread(file->descriptor, out, size, (off_t)offset);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0)
      return fail(ERR_INPUT, "%s: %s cannot be read: %s", file->path, name, got ? strerror(errno) : "the file ends");
    out += got;
    size -= (uint64_t)got;
    offset += (uint64_t)got;
  }
  return OK;
}

/* Reads the dataset into out, or with `out` NULL through a buffer, and compares its checksum. */
static int read_hashed(struct h5_file *file, const struct h5_place *place, char *out) {
  const char *name = place->shape.name;
  struct hash_state *hash;
  char *buffer = NULL;
  TRY(hash_begin(&hash));
  /* No larger than needed: glibc before 2.38 does not reuse freed aligned blocks, and files hold many small datasets. */
  int status = out ? OK : memory_array(&buffer, place->shape.bytes < PIECE ? place->shape.bytes : PIECE, 1);
  for (uint64_t done = 0; status == OK && done < place->shape.bytes; done += PIECE) {
    uint64_t piece = place->shape.bytes - done < PIECE ? place->shape.bytes - done : PIECE;
    char *to = out ? out + done : buffer;
    status = read_at(file, name, to, piece, place->offset + done);
    if (status == OK) hash_more(hash, to, piece);
  }
  if (status == OK && strcmp(hash_digest(hash).hex, place->checksum.hex) != 0)
    status =
        fail(ERR_INPUT, "%s: %s is damaged: its checksum does not hold; copy or make the file again", file->path, name);
  hash_end(&hash);
  free(buffer);
  return status;
}

static int check_shape(struct h5_file *file, const struct h5_dataset *found, const struct h5_dataset *want) {
  if (found->type == want->type && found->rows == want->rows && found->cols == want->cols) return OK;
  return fail(ERR_INPUT, "%s: %s is %s [%llu, %llu] where %s [%llu, %llu] is expected", file->path, want->name,
              type_names[found->type], (unsigned long long)found->rows, (unsigned long long)found->cols,
              type_names[want->type], (unsigned long long)want->rows, (unsigned long long)want->cols);
}

int h5_read(struct h5_file *file, const char *name, enum h5_type type, uint64_t rows, uint64_t cols, void *data) {
  struct h5_dataset want = {.name = name, .type = type, .rows = rows, .cols = cols};
  struct h5_place place;
  TRY(h5_locate(file, name, &place));
  int status = check_shape(file, &place.shape, &want);
  return status == OK ? read_hashed(file, &place, data) : status;
}

int h5_verify(struct h5_file *file, const char *name) {
  struct h5_place place;
  TRY(h5_locate(file, name, &place));
  return read_hashed(file, &place, NULL);
}

const char *h5_type_name(enum h5_type type) {
  return type_names[type];
}
