#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "io/h5_internal.h"

enum { MAX_TEXT = 1 << 20 };

/* Attributes are scalars: fixed-length UTF-8 texts, 64-bit integers, 64-bit floating point numbers. */
static int set_scalar(struct h5_file *file, const char *object, const char *name, hid_t type, const void *value) {
  TRY(h5_make_groups(file, object, !h5_has(file, object)));
  hid_t space = H5Screate(H5S_SCALAR);
  hid_t attribute = H5Acreate_by_name(file->id, object, name, type, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
  int status = OK;
  if (attribute < 0 || H5Awrite(attribute, type, value) < 0)
    status = h5_fault(file, "the attribute %s of %s cannot be written", name, object);
  if (attribute >= 0) H5Aclose(attribute);
  H5Sclose(space);
  return status;
}

int h5_set_text(struct h5_file *file, const char *object, const char *name, const char *text) {
  size_t size = strlen(text);
  hid_t type = H5Tcopy(H5T_C_S1);
  H5Tset_size(type, size ? size : 1);
  H5Tset_strpad(type, H5T_STR_NULLPAD);
  H5Tset_cset(type, H5T_CSET_UTF8);
  int status = set_scalar(file, object, name, type, text);
  H5Tclose(type);
  return status;
}

int h5_set_number(struct h5_file *file, const char *object, const char *name, double value) {
  return set_scalar(file, object, name, H5T_IEEE_F64LE, &value);
}

int h5_set_integer(struct h5_file *file, const char *object, const char *name, int64_t value) {
  return set_scalar(file, object, name, H5T_STD_I64LE, &value);
}

static int open_scalar(struct h5_file *file, const char *object, const char *name, hid_t *out) {
  TRY(h5_require(file, object));
  htri_t exists = H5Aexists_by_name(file->id, object, name, H5P_DEFAULT);
  if (exists < 0) return h5_fault(file, "the attributes of %s cannot be read", object);
  if (exists == 0) return fail(ERR_INPUT, "%s: %s has no attribute \"%s\"", file->path, object, name);
  *out = H5Aopen_by_name(file->id, object, name, H5P_DEFAULT, H5P_DEFAULT);
  if (*out < 0) return h5_fault(file, "the attribute %s of %s cannot be read", name, object);
  hid_t space = H5Aget_space(*out);
  bool scalar = space >= 0 && H5Sget_simple_extent_type(space) == H5S_SCALAR;
  H5Sclose(space);
  if (scalar) return OK;
  H5Aclose(*out);
  return fail(ERR_INPUT, "%s: the attribute %s of %s is not a single value", file->path, name, object);
}

static int get_scalar(struct h5_file *file, const char *object, const char *name, hid_t type, void *out) {
  hid_t attribute = H5I_INVALID_HID;
  TRY(open_scalar(file, object, name, &attribute));
  hid_t found = H5Aget_type(attribute);
  int status = OK;
  if (found < 0 || H5Tequal(found, type) <= 0)
    status = fail(ERR_INPUT, "%s: the attribute %s of %s has another type than expected", file->path, name, object);
  else if (H5Aread(attribute, type, out) < 0)
    status = h5_fault(file, "the attribute %s of %s cannot be read", name, object);
  H5Tclose(found);
  H5Aclose(attribute);
  return status;
}

int h5_get_number(struct h5_file *file, const char *object, const char *name, double *out) {
  return get_scalar(file, object, name, H5T_IEEE_F64LE, out);
}

int h5_get_integer(struct h5_file *file, const char *object, const char *name, int64_t *out) {
  return get_scalar(file, object, name, H5T_STD_I64LE, out);
}

static int read_text(struct h5_file *file, hid_t attribute, hid_t type, const char *name, char **out) {
  if (type < 0 || H5Tget_class(type) != H5T_STRING || H5Tis_variable_str(type) != 0 || H5Tget_size(type) > MAX_TEXT)
    return fail(ERR_INPUT, "%s: the attribute %s is not a text of fixed length", file->path, name);
  TRY(memory_array(out, H5Tget_size(type) + 1, 1));
  if (H5Aread(attribute, type, *out) >= 0) return OK;
  free(*out);
  *out = NULL;
  return h5_fault(file, "the attribute %s cannot be read", name);
}

int h5_get_text(struct h5_file *file, const char *object, const char *name, char **out) {
  *out = NULL;
  hid_t attribute = H5I_INVALID_HID;
  TRY(open_scalar(file, object, name, &attribute));
  hid_t type = H5Aget_type(attribute);
  int status = read_text(file, attribute, type, name, out);
  H5Tclose(type);
  H5Aclose(attribute);
  return status;
}

struct attribute_list {
  struct buffer names; /* each with its end */
  int status;
};

static herr_t on_attribute(hid_t object, const char *name, const H5A_info_t *info, void *context) {
  (void)object, (void)info;
  struct attribute_list *list = context;
  if (strcmp(name, "xxh3") != 0) list->status = buffer_append(&list->names, name, strlen(name) + 1);
  return list->status == OK ? 0 : 1;
}

static int list_attributes(struct h5_file *file, const char *object, struct attribute_list *list) {
  TRY(h5_require(file, object));
  if (H5Aiterate_by_name(file->id, object, H5_INDEX_NAME, H5_ITER_INC, NULL, on_attribute, list, H5P_DEFAULT) < 0)
    return h5_fault(file, "the attributes of %s cannot be read", object);
  return list->status;
}

static int kind_of(struct h5_file *file, const char *object, const char *name, enum h5_attribute_kind *out) {
  hid_t attribute = H5I_INVALID_HID;
  TRY(open_scalar(file, object, name, &attribute));
  hid_t type = H5Aget_type(attribute);
  H5T_class_t class = H5Tget_class(type);
  H5Tclose(type);
  H5Aclose(attribute);
  *out = class == H5T_INTEGER ? H5_INTEGER : class == H5T_FLOAT ? H5_NUMBER : H5_TEXT;
  return OK;
}

int h5_each_attribute(struct h5_file *file, const char *object,
                      int (*visit)(void *context, struct h5_file *file, const char *object, const char *name,
                                   enum h5_attribute_kind kind),
                      void *context) {
  struct attribute_list list = {.status = OK};
  int status = list_attributes(file, object, &list);
  for (size_t at = 0; status == OK && at < list.names.size; at += strlen(list.names.data + at) + 1) {
    enum h5_attribute_kind kind;
    status = kind_of(file, object, list.names.data + at, &kind);
    if (status == OK) status = visit(context, file, object, list.names.data + at, kind);
  }
  buffer_free(&list.names);
  return status;
}
