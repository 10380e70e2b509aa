#include "io/h5.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/options.h"
#include "io/h5_internal.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "datasets are read into memory as they are");

/* Metadata is kept together, so that opening a file of thousands of datasets reads a few places of it, not thousands. */
enum { METADATA_BLOCK = 32 << 10, MAX_COMPACT_ATTRIBUTES = 256 };

/* HDF5 locks files when it opens them, which network file systems without locks refuse; our files are never open for
 * reading and writing at once. The variable works in every release, and must be set before the library starts. */
static int start_library(void) {
  static bool started;
  if (started) return OK;
  if (setenv("HDF5_USE_FILE_LOCKING", "FALSE", 1) != 0 || H5open() < 0 || H5Eset_auto2(H5E_DEFAULT, NULL, NULL) < 0)
    return fail(ERR_SYSTEM, "the HDF5 library does not start");
  started = true;
  return OK;
}

static herr_t keep_innermost(unsigned depth, const H5E_error2_t *error, void *out) {
  if (depth == 0 && error->desc) snprintf(out, ERROR_LINE, "%s", error->desc);
  return 0;
}

/* HDF5 wraps the system's reason: "…, errno = 28, error message = 'No space left on device', buf = 0x…". */
static const char *reason_of(char *text) {
  char *quoted = strstr(text, "error message = '");
  if (!quoted) return text;
  quoted += strlen("error message = '");
  quoted[strcspn(quoted, "'")] = 0;
  return quoted;
}

int h5_fault(struct h5_file *file, const char *format, ...) {
  char what[ERROR_LINE / 2], detail[ERROR_LINE] = "";
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(what, sizeof what, format, arguments);
  va_end(arguments);
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, keep_innermost, detail);
  H5Eclear2(H5E_DEFAULT);
  if (file->write_error) return h5_write_fault(file);
  const char *reason = reason_of(detail);
  return fail(file->temporary ? ERR_SYSTEM : ERR_INPUT, "%s: %s%s%s", file->path, what, *reason ? ": " : "", reason);
}

int h5_write_fault(struct h5_file *file) {
  return fail(ERR_SYSTEM, "%s: cannot be written: %s", file->path, strerror(file->write_error));
}

static int new_file(struct h5_file **out, const char *path) {
  *out = NULL;
  TRY(start_library());
  struct h5_file *file;
  TRY(memory_array(&file, 1, sizeof *file));
  file->id = file->pending.id = H5I_INVALID_HID;
  file->descriptor = -1;
  file->path = strdup(path);
  *out = file;
  return file->path ? OK : fail(ERR_MEMORY, "not enough memory for a path");
}

int h5_object_properties(hid_t properties) {
  bool good = H5Pset_obj_track_times(properties, false) >= 0 &&
              H5Pset_attr_phase_change(properties, MAX_COMPACT_ATTRIBUTES, MAX_COMPACT_ATTRIBUTES) >= 0;
  return good ? OK : fail(ERR_INTERNAL, "HDF5 refuses the properties of an object");
}

/* The format of release 1.8 (2008): every reader knows it, and it has checksums on all metadata. Only what it cannot
 * express, virtual datasets, is written as later releases do. */
static int create_hdf5(struct h5_file *file) {
  hid_t creation = H5Pcreate(H5P_FILE_CREATE), access = H5Pcreate(H5P_FILE_ACCESS);
  int status = h5_object_properties(creation);
  if (status == OK) status = h5_use_writer(file, access);
  if (status == OK &&
      (H5Pset_libver_bounds(access, H5F_LIBVER_V18, H5F_LIBVER_LATEST) < 0 ||
       H5Pset_fclose_degree(access, H5F_CLOSE_STRONG) < 0 || H5Pset_meta_block_size(access, METADATA_BLOCK) < 0))
    status = h5_fault(file, "HDF5 refuses the properties of a file");
  if (status == OK) {
    file->id = H5Fcreate(file->temporary, H5F_ACC_TRUNC, creation, access);
    if (file->id < 0) status = h5_fault(file, "cannot be created");
  }
  H5Pclose(creation);
  H5Pclose(access);
  return status;
}

int h5_create(struct h5_file **out, const char *path, const char *format, int version) {
  int status;
  TRY_GOTO(status, failed, new_file(out, path));
  struct h5_file *file = *out;
  TRY_GOTO(status, failed, file_temporary(path, &file->temporary));
  file->descriptor = open(file->temporary, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  file->format = strdup(format);
  if (file->descriptor < 0 || !file->format) {
    status = fail(ERR_SYSTEM, "%s: cannot be created: %s", path, strerror(errno));
    goto failed;
  }
  TRY_GOTO(status, failed, create_hdf5(file));
  TRY_GOTO(status, failed, h5_set_text(file, "/", "format", format));
  TRY_GOTO(status, failed, h5_set_integer(file, "/", "version", version));
  return OK;
failed:
  h5_close(out);
  return status;
}

static int close_hdf5(struct h5_file *file) {
  if (file->pending.id >= 0) H5Dclose(file->pending.id);
  hash_end(&file->pending.hash);
  file->pending.id = H5I_INVALID_HID;
  herr_t closed = file->id >= 0 ? H5Fclose(file->id) : 0;
  file->id = H5I_INVALID_HID;
  return closed >= 0 ? OK : h5_fault(file, "cannot be closed");
}

static void close_descriptor(struct h5_file *file) {
  if (file->descriptor >= 0 && close(file->descriptor) != 0 && !file->write_error)
    file->write_error = errno; /* a network file system may report a failed write only here */
  file->descriptor = -1;
}

/* An incomplete file goes; HDF5 need not write what it still holds of it. */
void h5_close(struct h5_file **file) {
  if (!*file) return;
  struct h5_file *f = *file;
  char message[ERROR_LINE]; /* closing must not replace the message of what went wrong before */
  snprintf(message, sizeof message, "%s", fail_message());
  if (f->temporary && !f->write_error) f->write_error = ECANCELED;
  close_hdf5(f);
  close_descriptor(f);
  if (f->temporary) unlink(f->temporary);
  fail_record("%s", message);
  h5_forget_places(&f->places);
  free(f->path);
  free(f->temporary);
  free(f->format);
  free(f);
  *file = NULL;
}

static int complete(struct h5_file *file) {
  if (file->pending.id >= 0)
    return fail(ERR_INTERNAL, "%s: published while %s is incomplete", file->path, file->pending.name);
  TRY(close_hdf5(file));
  close_descriptor(file);
  return file->write_error ? h5_write_fault(file) : OK;
}

int h5_finish(struct h5_file **file, char **temporary) {
  struct h5_file *f = *file;
  *temporary = NULL;
  int status = complete(f);
  if (status == OK) {
    *temporary = f->temporary;
    f->temporary = NULL;
  }
  h5_close(file);
  return status;
}

int h5_publish(struct h5_file **file) {
  char *temporary = NULL, *path = strdup((*file)->path);
  int status = path ? h5_finish(file, &temporary) : fail(ERR_MEMORY, "not enough memory for a path");
  if (status == OK) status = file_publish(temporary, path);
  h5_close(file);
  free(temporary);
  free(path);
  return status;
}

/* Only files whose whole catalogue has checksums are read (superblock version 2, HDF5 1.8, is the first): a flipped bit or
 * a careless hand never gets as far as HDF5's parsers, which trust sizes. */
static int check_signature(struct h5_file *file) {
  static const unsigned char signature[] = {0x89, 'H', 'D', 'F', '\r', '\n', 0x1a, '\n'};
  unsigned char head[sizeof signature + 1];
  ssize_t got = pread(file->descriptor, head, sizeof head, 0);
  if (got != (ssize_t)sizeof head || memcmp(head, signature, sizeof signature) != 0)
    return fail(ERR_INPUT, "%s: is not an HDF5 file", file->path);
  if (head[sizeof signature] >= 2) return OK;
  return fail(ERR_INPUT, "%s: is in HDF5's oldest format, without checksums; write it for HDF5 1.8 or later",
              file->path);
}

static int open_descriptor(struct h5_file *file) {
  file->descriptor = open(file->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  struct stat info;
  if (file->descriptor < 0 || fstat(file->descriptor, &info) != 0)
    return fail(ERR_INPUT, "%s: %s", file->path, strerror(errno));
  if (!S_ISREG(info.st_mode)) return fail(ERR_INPUT, "%s: is not a file", file->path);
  file->size = (uint64_t)info.st_size;
  return check_signature(file);
}

static int open_hdf5(struct h5_file *file) {
  hid_t access = H5Pcreate(H5P_FILE_ACCESS);
  H5Pset_fclose_degree(access, H5F_CLOSE_STRONG);
  file->id = H5Fopen(file->path, H5F_ACC_RDONLY, access);
  int status = file->id < 0 ? h5_fault(file, "is damaged or incomplete") : OK;
  H5Pclose(access);
  return status;
}

static bool is_ours(const char *format) {
  return strncmp(format, "qst-", 4) == 0 && strspn(format, "abcdefghijklmnopqrstuvwxyz-") == strlen(format);
}

static int check_format(struct h5_file *file, const char *format, int version) {
  if (h5_get_text(file, "/", "format", &file->format) != OK || !is_ours(file->format))
    return fail(ERR_INPUT, "%s: is an HDF5 file, but not one of qst-mpi's (no \"format\" attribute of ours)",
                file->path);
  if (format && strcmp(format, file->format) != 0)
    return fail(ERR_INPUT, "%s: is a %s file where a %s file is needed", file->path, file->format, format);
  int64_t found;
  TRY(h5_get_integer(file, "/", "version", &found));
  if (format && (found < 1 || found > version))
    return fail(ERR_INPUT, "%s: %s version %lld; this qst-mpi reads up to version %d", file->path, format,
                (long long)found, version);
  return OK;
}

int h5_open(struct h5_file **out, const char *path, const char *format, int version) {
  int status;
  TRY_GOTO(status, failed, new_file(out, path));
  TRY_GOTO(status, failed, open_descriptor(*out));
  TRY_GOTO(status, failed, open_hdf5(*out));
  TRY_GOTO(status, failed, check_format(*out, format, version));
  return OK;
failed:
  h5_close(out);
  return status;
}

const char *h5_libraries(void) {
  static char text[96];
  unsigned major = 0, minor = 0, release = 0;
  H5get_libversion(&major, &minor, &release);
  snprintf(text, sizeof text, "qst-mpi %s, HDF5 %u.%u.%u", QST_VERSION, major, minor, release);
  return text;
}

const char *h5_path(const struct h5_file *file) {
  return file->path;
}

const char *h5_format(const struct h5_file *file) {
  return file->format;
}

static int check_link(struct h5_file *file, const char *name, bool *found) {
  H5L_info_t link;
  *found = H5Lget_info(file->id, name, &link, H5P_DEFAULT) >= 0;
  if (!*found) {
    htri_t exists = H5Lexists(file->id, name, H5P_DEFAULT);
    return exists == 0 ? OK : h5_fault(file, "%s cannot be looked up", name);
  }
  if (link.type == H5L_TYPE_HARD) return OK;
  return fail(ERR_INPUT, "%s: %s is a link to elsewhere, which these files never have", file->path, name);
}

/* Datasets lie side by side in their groups: the way to the group reached last is known. */
static size_t known_length(const struct h5_file *file, const char *name) {
  size_t length = strlen(file->known_group);
  return strncmp(name, file->known_group, length) == 0 && name[length] == '/' ? length : 0;
}

int h5_find(struct h5_file *file, const char *name, bool *found) {
  char prefix[H5_NAME];
  size_t length = strlen(name);
  *found = true;
  if (name[0] != '/' || length >= sizeof prefix)
    return fail(ERR_INTERNAL, "%s: \"%.*s\" is no name of a dataset", file->path, H5_NAME, name);
  for (size_t end = known_length(file, name) + 1; *found && end < length; end++) {
    if (end + 1 < length && name[end + 1] != '/') continue;
    snprintf(prefix, sizeof prefix, "%.*s", (int)(end + 1), name);
    TRY(check_link(file, prefix, found));
    if (*found && end + 1 < length) strcpy(file->known_group, prefix);
  }
  return OK;
}

int h5_require(struct h5_file *file, const char *name) {
  bool found;
  TRY(h5_find(file, name, &found));
  return found ? OK : fail(ERR_INPUT, "%s: has no %s", file->path, name);
}

bool h5_has(struct h5_file *file, const char *name) {
  bool found;
  return h5_find(file, name, &found) == OK && found;
}

static int make_group(struct h5_file *file, const char *name) {
  bool found;
  TRY(h5_find(file, name, &found));
  if (found) return OK;
  hid_t creation = H5Pcreate(H5P_GROUP_CREATE);
  int status = h5_object_properties(creation);
  if (status == OK) {
    hid_t group = H5Gcreate2(file->id, name, H5P_DEFAULT, creation, H5P_DEFAULT);
    if (group < 0 || H5Gclose(group) < 0) status = h5_fault(file, "%s cannot be made", name);
  }
  H5Pclose(creation);
  return status;
}

int h5_make_groups(struct h5_file *file, const char *name, bool whole) {
  char prefix[H5_NAME];
  if (strlen(name) >= sizeof prefix) return fail(ERR_INTERNAL, "%s: the name %s is too long", file->path, name);
  for (const char *slash = strchr(name + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
    snprintf(prefix, sizeof prefix, "%.*s", (int)(slash - name), name);
    TRY(make_group(file, prefix));
  }
  return whole && name[1] ? make_group(file, name) : OK;
}
