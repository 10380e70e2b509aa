#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "io/h5_internal.h"

enum { MAX_DEPTH = 8, MAX_DATASETS = 1 << 17 };

/* The datasets below a group, collected before any is visited, so that a visitor may use the file freely. HDF5 is asked for
 * them as they come, and they are put in order here: for any other order it makes a table of the links, and where it cannot
 * read all of them frees what it has not set (1.10.8, H5G__dense_iterate). */
struct listing {
  struct h5_file *file;
  const char *parent;
  int depth, status;
  char **names;
  size_t count;
};

static int list_group(struct listing *listing, const char *group, int depth);

static int list_add(struct listing *listing, const char *name) {
  if (listing->count % 64 == 0) {
    char **names = realloc(listing->names, (listing->count + 64) * sizeof *names);
    if (!names) return fail(ERR_MEMORY, "not enough memory for a list of datasets");
    listing->names = names;
  }
  if (listing->count >= MAX_DATASETS) return fail(ERR_INPUT, "%s: too many datasets", listing->file->path);
  listing->names[listing->count] = strdup(name);
  return listing->names[listing->count++] ? OK : fail(ERR_MEMORY, "not enough memory for a list of datasets");
}

static bool is_plain_name(const char *name) {
  for (; *name; name++)
    if (*name <= ' ' || *name > '~') return false;
  return true;
}

static bool is_virtual(hid_t dataset) {
  hid_t creation = H5Dget_create_plist(dataset);
  bool shows_others = creation >= 0 && H5Pget_layout(creation) == H5D_VIRTUAL;
  H5Pclose(creation);
  return shows_others;
}

static int list_link(struct listing *listing, const char *last) {
  struct h5_file *file = listing->file;
  char name[H5_NAME];
  const char *parent = listing->parent;
  if (!is_plain_name(last) || strlen(parent) + strlen(last) + 2 > sizeof name)
    return fail(ERR_INPUT, "%s: %s holds a name that these files never have", file->path, parent);
  strcpy(name, parent[1] ? parent : "");
  strcat(strcat(name, "/"), last);
  TRY(h5_require(file, name));
  hid_t object = H5Oopen(file->id, name, H5P_DEFAULT);
  if (object < 0) return h5_fault(file, "%s cannot be opened", name);
  H5I_type_t type = H5Iget_type(object);
  bool passed_over = type == H5I_DATASET && is_virtual(object);
  H5Oclose(object);
  if (passed_over) return OK;
  if (type == H5I_GROUP) return list_group(listing, name, listing->depth + 1);
  if (type == H5I_DATASET) return list_add(listing, name);
  return fail(ERR_INPUT, "%s: %s is neither a group nor a dataset", file->path, name);
}

static herr_t on_link(hid_t group, const char *name, const H5L_info_t *link, void *context) {
  (void)group, (void)link;
  struct listing *listing = context;
  listing->status = list_link(listing, name);
  return listing->status == OK ? 0 : 1;
}

static int list_group(struct listing *listing, const char *group, int depth) {
  struct h5_file *file = listing->file;
  if (depth > MAX_DEPTH) return fail(ERR_INPUT, "%s: groups are nested too deeply at %s", file->path, group);
  hid_t id = H5Gopen2(file->id, group, H5P_DEFAULT);
  if (id < 0) return h5_fault(file, "%s cannot be opened", group);
  struct listing outer = *listing;
  listing->parent = group;
  listing->depth = depth;
  herr_t walked = H5Literate(id, H5_INDEX_NAME, H5_ITER_NATIVE, NULL, on_link, listing);
  int status = walked < 0 ? h5_fault(file, "%s cannot be listed", group) : listing->status;
  listing->parent = outer.parent;
  listing->depth = outer.depth;
  H5Gclose(id);
  return status;
}

/* By group, then by name: '/' before all else. */
static int compare_names(const void *first, const void *second) {
  const unsigned char *a, *b;
  memcpy(&a, first, sizeof a);
  memcpy(&b, second, sizeof b);
  while (*a && *a == *b) a++, b++;
  return (*a == '/' ? 1 : *a) - (*b == '/' ? 1 : *b);
}

static int visit_one(struct h5_file *file, const char *name,
                     int (*visit)(void *context, struct h5_file *file, const struct h5_dataset *dataset),
                     void *context) {
  struct h5_place place;
  TRY(h5_locate(file, name, &place));
  return visit(context, file, &place.shape);
}

int h5_each(struct h5_file *file, int (*visit)(void *context, struct h5_file *file, const struct h5_dataset *dataset),
            void *context) {
  struct listing listing = {.file = file};
  int status = list_group(&listing, "/", 0);
  if (listing.count) qsort(listing.names, listing.count, sizeof *listing.names, compare_names);
  for (size_t i = 0; status == OK && i < listing.count; i++) status = visit_one(file, listing.names[i], visit, context);
  for (size_t i = 0; i < listing.count; i++) free(listing.names[i]);
  free(listing.names);
  return status;
}
