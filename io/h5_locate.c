#include <stdlib.h>
#include <string.h>

#include "io/h5_internal.h"

hid_t h5_file_type(enum h5_type type) {
  switch (type) {
    case H5_U8:
      return H5T_STD_U8LE;
    case H5_U16:
      return H5T_STD_U16LE;
    case H5_I32:
      return H5T_STD_I32LE;
    case H5_I64:
      return H5T_STD_I64LE;
    case H5_F32:
      return H5T_IEEE_F32LE;
  }
  return H5I_INVALID_HID;
}

static int check_type(struct h5_file *file, hid_t dataset, struct h5_dataset *shape) {
  hid_t found = H5Dget_type(dataset);
  int type = H5_U8;
  while (type <= H5_F32 && H5Tequal(found, h5_file_type((enum h5_type)type)) <= 0) type++;
  H5Tclose(found);
  shape->type = (enum h5_type)type;
  if (type <= H5_F32) return OK;
  return fail(ERR_INPUT, "%s: %s has a number format that these files never have", file->path, shape->name);
}

static int check_extent(struct h5_file *file, hid_t dataset, struct h5_dataset *shape) {
  hid_t space = H5Dget_space(dataset);
  hsize_t extent[2] = {0, 0};
  int rank = H5Sget_simple_extent_type(space) == H5S_SIMPLE ? H5Sget_simple_extent_ndims(space) : 0;
  bool good = (rank == 1 || rank == 2) && H5Sget_simple_extent_dims(space, extent, NULL) == rank;
  H5Sclose(space);
  shape->rows = extent[0];
  shape->cols = rank == 2 ? extent[1] : 0;
  uint64_t width = h5_type_size(shape->type) * (rank == 2 ? extent[1] : 1);
  good = good && (rank == 1 || (extent[1] > 0 && extent[1] <= file->size)) && extent[0] <= file->size / width;
  shape->bytes = good ? extent[0] * width : 0;
  return good ? OK : fail(ERR_INPUT, "%s: %s has a shape that its file cannot hold", file->path, shape->name);
}

/* Data of a dataset may by HDF5's rules also lie in chunks, in the header, in other files, or be filtered. */
static int check_storage(struct h5_file *file, hid_t dataset, struct h5_place *place) {
  hid_t creation = H5Dget_create_plist(dataset);
  bool plain = creation >= 0 && H5Pget_layout(creation) == H5D_CONTIGUOUS && H5Pget_external_count(creation) == 0 &&
               H5Pget_nfilters(creation) == 0;
  H5Pclose(creation);
  const char *name = place->shape.name;
  if (!plain) return fail(ERR_INPUT, "%s: %s is not stored contiguously in this file", file->path, name);
  if (place->shape.bytes == 0) return OK;
  haddr_t offset = H5Dget_offset(dataset);
  if (offset == HADDR_UNDEF || H5Dget_storage_size(dataset) != place->shape.bytes || offset > file->size ||
      place->shape.bytes > file->size - offset)
    return fail(ERR_INPUT, "%s: the data of %s lies outside of the file", file->path, name);
  place->offset = offset;
  return OK;
}

/* Read with the dataset at hand: the way to it is not walked again. */
static int read_checksum(struct h5_file *file, hid_t dataset, struct h5_place *place) {
  hid_t attribute = H5Aexists(dataset, "xxh3") > 0 ? H5Aopen(dataset, "xxh3", H5P_DEFAULT) : H5I_INVALID_HID;
  hid_t type = attribute >= 0 ? H5Aget_type(attribute) : H5I_INVALID_HID;
  hid_t space = attribute >= 0 ? H5Aget_space(attribute) : H5I_INVALID_HID;
  char *hex = place->checksum.hex;
  bool good = type >= 0 && H5Tget_class(type) == H5T_STRING && H5Tis_variable_str(type) == 0 &&
              H5Tget_size(type) == 32 && H5Sget_simple_extent_type(space) == H5S_SCALAR &&
              H5Aread(attribute, type, hex) >= 0;
  if (space >= 0) H5Sclose(space);
  if (type >= 0) H5Tclose(type);
  if (attribute >= 0) H5Aclose(attribute);
  hex[32] = 0;
  if (good && strspn(hex, "0123456789abcdef") == 32) return OK;
  return fail(ERR_INPUT, "%s: %s has no checksum", file->path, place->shape.name);
}

static int look_at(struct h5_file *file, const char *name, struct h5_place *out) {
  *out = (struct h5_place){.shape.name = name};
  TRY(h5_require(file, name));
  hid_t dataset = H5Dopen2(file->id, name, H5P_DEFAULT);
  if (dataset < 0) return h5_fault(file, "%s cannot be opened", name);
  int status = check_type(file, dataset, &out->shape);
  if (status == OK) status = check_extent(file, dataset, &out->shape);
  if (status == OK) status = check_storage(file, dataset, out);
  if (status == OK) status = read_checksum(file, dataset, out);
  H5Dclose(dataset);
  return status;
}

static size_t *bucket_of(struct h5_places *places, const char *name) {
  uint64_t hash = 14695981039346656037u; /* FNV-1a */
  for (; *name; name++) hash = (hash ^ (unsigned char)*name) * 1099511628211u;
  return &places->buckets[(hash >> 32) % H5_BUCKETS];
}

static const struct h5_place *known_place(struct h5_places *places, const char *name) {
  for (size_t at = *bucket_of(places, name); at > 0; at = places->list[at - 1].next)
    if (strcmp(places->list[at - 1].shape.name, name) == 0) return &places->list[at - 1];
  return NULL;
}

static int remember(struct h5_places *places, struct h5_place *place) {
  if (places->count == places->capacity) {
    size_t capacity = places->capacity ? 2 * places->capacity : 64;
    struct h5_place *list = realloc(places->list, capacity * sizeof *list);
    if (!list) return fail(ERR_MEMORY, "not enough memory for a list of datasets");
    places->list = list;
    places->capacity = capacity;
  }
  place->shape.name = strdup(place->shape.name);
  if (!place->shape.name) return fail(ERR_MEMORY, "not enough memory for a list of datasets");
  size_t *bucket = bucket_of(places, place->shape.name);
  place->next = *bucket;
  places->list[places->count++] = *place;
  *bucket = places->count;
  return OK;
}

int h5_locate(struct h5_file *file, const char *name, struct h5_place *out) {
  const struct h5_place *known = known_place(&file->places, name);
  if (known) {
    *out = *known;
    return OK;
  }
  TRY(look_at(file, name, out));
  return remember(&file->places, out);
}

void h5_forget_places(struct h5_places *places) {
  for (size_t i = 0; i < places->count; i++) free((char *)places->list[i].shape.name);
  free(places->list);
  *places = (struct h5_places){0};
}
