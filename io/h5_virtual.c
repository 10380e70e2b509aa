/* Datasets that show those of other files. */
#include <string.h>

#include "io/h5_internal.h"

static bool map_part(hid_t creation, hid_t space, const char *name, const struct h5_part *part) {
  hsize_t start[2] = {part->row, part->col}, extent[2] = {part->rows, part->cols};
  hid_t source = H5Screate_simple(2, extent, NULL);
  bool good = H5Sselect_hyperslab(space, H5S_SELECT_SET, start, NULL, extent, NULL) >= 0 &&
              H5Pset_virtual(creation, space, part->file, name, source) >= 0;
  H5Sclose(source);
  return good;
}

/* Maps each part to its place in `space`, which ends with everything selected. */
static bool map_parts(hid_t creation, hid_t space, const char *name, const struct h5_part *parts, size_t count) {
  for (size_t i = 0; i < count; i++)
    if (parts[i].rows > 0 && !map_part(creation, space, name, &parts[i])) return false;
  return H5Sselect_all(space) >= 0;
}

int h5_write_virtual(struct h5_file *file, const char *name, enum h5_type type, uint64_t rows, uint64_t cols,
                     const struct h5_part *parts, size_t count) {
  TRY(h5_make_groups(file, name, false));
  hsize_t extent[2] = {rows, cols};
  hid_t creation = H5Pcreate(H5P_DATASET_CREATE), space = H5Screate_simple(2, extent, NULL);
  int status = h5_object_properties(creation);
  if (status == OK && !map_parts(creation, space, name, parts, count))
    status = h5_fault(file, "HDF5 refuses the parts of %s", name);
  if (status == OK) {
    hid_t dataset = H5Dcreate2(file->id, name, h5_file_type(type), space, H5P_DEFAULT, creation, H5P_DEFAULT);
    if (dataset < 0 || H5Dclose(dataset) < 0) status = h5_fault(file, "%s cannot be made", name);
  }
  H5Sclose(space);
  H5Pclose(creation);
  return status;
}
