#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "io/h5_internal.h"

/* HDF5 does not survive a write that fails: it keeps the file half closed, tries again when the library ends and crashes
 * there. So files are written through this driver, which remembers the first failure in the h5_file, tells HDF5 that all
 * is well and writes nothing from then on; h5.c looks at the failure and throws the file away. (HDF5, "Virtual File
 * Layer" technical note.) */
struct writer {
  H5FD_t base; /* must be first: HDF5 sees only this */
  struct h5_file *file;
  haddr_t end_of_allocation, end_of_file;
};

struct settings {
  struct h5_file *file;
};

static H5FD_t *writer_open(const char *name, unsigned flags, hid_t access, haddr_t largest) {
  (void)name, (void)flags, (void)largest;
  const struct settings *settings = H5Pget_driver_info(access);
  struct writer *writer = settings ? calloc(1, sizeof *writer) : NULL;
  if (!writer) return NULL;
  writer->file = settings->file;
  return &writer->base;
}

static herr_t writer_close(H5FD_t *file) {
  free(file);
  return 0;
}

static herr_t writer_query(const H5FD_t *file, unsigned long *features) {
  (void)file;
  *features = H5FD_FEAT_AGGREGATE_METADATA | H5FD_FEAT_ACCUMULATE_METADATA | H5FD_FEAT_AGGREGATE_SMALLDATA |
              H5FD_FEAT_DEFAULT_VFD_COMPATIBLE;
  return 0;
}

static haddr_t writer_get_allocated(const H5FD_t *file, H5FD_mem_t type) {
  (void)type;
  return ((const struct writer *)file)->end_of_allocation;
}

static herr_t writer_set_allocated(H5FD_t *file, H5FD_mem_t type, haddr_t end) {
  (void)type;
  ((struct writer *)file)->end_of_allocation = end;
  return 0;
}

static haddr_t writer_get_end(const H5FD_t *file, H5FD_mem_t type) {
  (void)type;
  return ((const struct writer *)file)->end_of_file;
}

/* Metadata that was evicted from HDF5's cache; what was never written reads as zeros. */
static herr_t writer_read(H5FD_t *file, H5FD_mem_t type, hid_t transfer, haddr_t at, size_t size, void *out) {
  (void)type, (void)transfer;
  memset(out, 0, size);
  for (size_t done = 0; done < size;) {
    ssize_t got = pread(((struct writer *)file)->file->descriptor, (char *)out + done, size - done, (off_t)(at + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return -1;
    if (got == 0) return 0;
    done += (size_t)got;
  }
  return 0;
}

static herr_t writer_write(H5FD_t *file, H5FD_mem_t type, hid_t transfer, haddr_t at, size_t size, const void *bytes) {
  (void)type, (void)transfer;
  struct writer *writer = (struct writer *)file;
  h5_write_at(writer->file, bytes, size, at);
  if (at + size > writer->end_of_file) writer->end_of_file = at + size;
  return 0;
}

static herr_t writer_truncate(H5FD_t *file, hid_t transfer, hbool_t closing) {
  (void)transfer, (void)closing;
  struct writer *writer = (struct writer *)file;
  struct h5_file *owner = writer->file;
  if (!owner->write_error && ftruncate(owner->descriptor, (off_t)writer->end_of_allocation) != 0)
    owner->write_error = errno;
  writer->end_of_file = writer->end_of_allocation;
  return 0;
}

static const H5FD_class_t writer_class = {
#ifdef H5FD_CLASS_VERSION /* from HDF5 1.14 on */
    .version = H5FD_CLASS_VERSION,
    .value = (H5FD_class_value_t)513, /* in the range open to any program */
#endif
    .name = "qst-writer",
    .maxaddr = (haddr_t)INT64_MAX,
    .fc_degree = H5F_CLOSE_STRONG,
    .fapl_size = sizeof(struct settings),
    .open = writer_open,
    .close = writer_close,
    .query = writer_query,
    .get_eoa = writer_get_allocated,
    .set_eoa = writer_set_allocated,
    .get_eof = writer_get_end,
    .read = writer_read,
    .write = writer_write,
    .truncate = writer_truncate,
    .fl_map = H5FD_FLMAP_DICHOTOMY,
};

void h5_write_at(struct h5_file *file, const void *bytes, uint64_t size, uint64_t offset) {
  for (uint64_t done = 0; !file->write_error && done < size;) {
    ssize_t put = pwrite(file->descriptor, (const char *)bytes + done, size - done, (off_t)(offset + done));
    if (put < 0 && errno != EINTR) file->write_error = errno;
    if (put > 0) done += (uint64_t)put;
  }
}

/* Registered once and kept: HDF5 still looks at the driver after it has given up a file's reference to it. */
int h5_use_writer(struct h5_file *file, hid_t access) {
  static hid_t driver = H5I_INVALID_HID;
  if (driver < 0) driver = H5FDregister(&writer_class);
  struct settings settings = {.file = file};
  bool good = driver >= 0 && H5Pset_driver(access, driver, &settings) >= 0;
  return good ? OK : h5_fault(file, "HDF5 refuses the driver");
}
