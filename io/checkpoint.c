#include "io/checkpoint.h"

#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "io/h5.h"
#include "io/safetensors.h"

enum { CHECKPOINT_VERSION = 1, NAME_SIZE = 200 };

/* One of the two is open. */
struct checkpoint {
  struct h5_file *h5;
  struct safetensors *plain;
  struct checkpoint_state state;
};

enum store { STORE_SIDE, STORE_M, STORE_V };

static void dataset_name(enum store store, const char *tensor, char name[NAME_SIZE]) {
  static const char *const groups[] = {[STORE_SIDE] = "/side", [STORE_M] = "/optimizer/m", [STORE_V] = "/optimizer/v"};
  snprintf(name, NAME_SIZE, "%s/%s", groups[store], tensor);
}

/* Writing */

static int write_state(struct h5_file *file, const struct checkpoint_state *state) {
  TRY(h5_set_integer(file, "/", "step", state->step));
  TRY(h5_set_number(file, "/", "best_loss", state->best_loss));
  TRY(h5_set_integer(file, "/", "best_step", state->best_step));
  TRY(h5_set_text(file, "/", "backbone", state->backbone));
  TRY(h5_set_text(file, "/", "data", state->data));
  return h5_set_text(file, "/", "settings", state->settings.data ? state->settings.data : "");
}

/* Names may come from a foreign safetensors file; in HDF5 a slash makes groups and a dot is the group itself. */
static int check_name(const char *path, const char *name) {
  size_t plain = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-");
  if (plain > 0 && name[plain] == 0 && plain < 160 && name[0] != '.') return OK;
  return fail(ERR_INPUT, "%s: \"%.160s\" is no name of a tensor", path, name);
}

static int write_store(struct h5_file *file, enum store store, const struct named_tensor *tensors, int count) {
  for (int i = 0; i < count; i++) {
    const struct named_tensor *tensor = &tensors[i];
    const float *data = store == STORE_SIDE ? tensor->data : store == STORE_M ? tensor->m : tensor->v;
    if (!data) continue;
    char name[NAME_SIZE];
    TRY(check_name(h5_path(file), tensor->name));
    dataset_name(store, tensor->name, name);
    TRY(h5_write(file, name, H5_F32, (uint64_t)tensor->rows, (uint64_t)tensor->cols, data));
  }
  return OK;
}

int checkpoint_write(const char *path, const struct checkpoint_state *state, const struct named_tensor *tensors,
                     int count) {
  struct h5_file *file;
  TRY(h5_create(&file, path, "qst-checkpoint", CHECKPOINT_VERSION));
  int status = write_state(file, state);
  if (status == OK) status = write_store(file, STORE_SIDE, tensors, count);
  if (status == OK) status = write_store(file, STORE_M, tensors, count);
  if (status == OK) status = write_store(file, STORE_V, tensors, count);
  if (status == OK) return h5_publish(&file);
  h5_close(&file);
  return status;
}

/* Opening */

static int read_digest(struct h5_file *file, const char *name, char out[33]) {
  char *text;
  TRY(h5_get_text(file, "/", name, &text));
  snprintf(out, 33, "%s", text);
  free(text);
  return OK;
}

static int read_settings(struct h5_file *file, struct buffer *out) {
  char *text;
  TRY(h5_get_text(file, "/", "settings", &text));
  int status = buffer_append(out, text, strlen(text));
  free(text);
  return status;
}

static int read_state(struct h5_file *file, struct checkpoint_state *out) {
  TRY(h5_get_integer(file, "/", "step", &out->step));
  TRY(h5_get_number(file, "/", "best_loss", &out->best_loss));
  TRY(h5_get_integer(file, "/", "best_step", &out->best_step));
  TRY(read_digest(file, "backbone", out->backbone));
  TRY(read_digest(file, "data", out->data));
  TRY(read_settings(file, &out->settings));
  if (out->step < 0 || out->best_step < -1 || isnan(out->best_loss))
    return fail(ERR_INPUT, "%s: the state of the run is out of range", h5_path(file));
  return OK;
}

/* Only what describes the side network is in a safetensors file. */
static int read_metadata(struct checkpoint *checkpoint) {
  struct checkpoint_state *state = &checkpoint->state;
  const char *format = safetensors_metadata(checkpoint->plain, "qst_format");
  state->best_loss = INFINITY;
  state->best_step = -1;
  TRY(buffer_append(&state->settings, "", 0));
  if (!format || strcmp(format, "qst-side 1") != 0) return OK;
  const char *settings = safetensors_metadata(checkpoint->plain, "qst_settings");
  const char *backbone = safetensors_metadata(checkpoint->plain, "qst_backbone");
  const char *step = safetensors_metadata(checkpoint->plain, "qst_step");
  if (backbone) snprintf(state->backbone, sizeof state->backbone, "%s", backbone);
  if (step) state->step = strtoll(step, NULL, 10);
  return settings ? buffer_append(&state->settings, settings, strlen(settings)) : OK;
}

/* The first bytes tell: HDF5's signature, or a safetensors header's length followed by its brace. */
static int open_by_kind(struct checkpoint *checkpoint, const char *path) {
  unsigned char head[9] = {0};
  int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  ssize_t got = descriptor < 0 ? 0 : read(descriptor, head, sizeof head);
  if (descriptor >= 0) close(descriptor);
  if (got == (ssize_t)sizeof head && head[8] == '{') {
    TRY(safetensors_open(&checkpoint->plain, path));
    return read_metadata(checkpoint);
  }
  TRY(h5_open(&checkpoint->h5, path, "qst-checkpoint", CHECKPOINT_VERSION));
  return read_state(checkpoint->h5, &checkpoint->state);
}

int checkpoint_open(struct checkpoint **out, const char *path) {
  struct checkpoint *checkpoint;
  char *latest = NULL;
  struct stat info;
  *out = NULL;
  if (stat(path, &info) == 0 && S_ISDIR(info.st_mode)) TRY(file_join(path, "latest", &latest));
  int status = memory_array(&checkpoint, 1, sizeof *checkpoint);
  if (status == OK) {
    status = open_by_kind(checkpoint, latest ? latest : path);
    if (status == OK)
      *out = checkpoint;
    else
      checkpoint_close(&checkpoint);
  }
  free(latest);
  return status;
}

void checkpoint_close(struct checkpoint **checkpoint) {
  if (!*checkpoint) return;
  h5_close(&(*checkpoint)->h5);
  safetensors_close(&(*checkpoint)->plain);
  buffer_free(&(*checkpoint)->state.settings);
  free(*checkpoint);
  *checkpoint = NULL;
}

const struct checkpoint_state *checkpoint_state(const struct checkpoint *checkpoint) {
  return &checkpoint->state;
}

static const char *path_of(const struct checkpoint *checkpoint) {
  return checkpoint->h5 ? h5_path(checkpoint->h5) : safetensors_path(checkpoint->plain);
}

/* Listing */

struct listing {
  int (*visit)(void *context, const char *name, int64_t rows, int64_t cols);
  void *context;
};

static int list_dataset(void *context, struct h5_file *file, const struct h5_dataset *dataset) {
  const struct listing *listing = context;
  if (strncmp(dataset->name, "/optimizer/", 11) == 0) return OK;
  if (strncmp(dataset->name, "/side/", 6) != 0 || dataset->type != H5_F32)
    return fail(ERR_INPUT, "%s: %s does not belong in a checkpoint", h5_path(file), dataset->name);
  return listing->visit(listing->context, dataset->name + 6, (int64_t)dataset->rows, (int64_t)dataset->cols);
}

static int64_t plain_cols(const struct safetensors_tensor *tensor) {
  return tensor->rank == 2 ? tensor->cols : 0;
}

static int list_plain(const struct checkpoint *checkpoint, const struct listing *listing) {
  for (size_t i = 0; i < safetensors_count(checkpoint->plain); i++) {
    const struct safetensors_tensor *tensor = safetensors_at(checkpoint->plain, i);
    if (tensor->rank < 1 || tensor->rank > 2 || tensor->type == SAFETENSORS_OTHER)
      return fail(ERR_INPUT, "%s: %s is neither a vector nor a matrix of numbers", path_of(checkpoint), tensor->name);
    TRY(listing->visit(listing->context, tensor->name, tensor->rows, plain_cols(tensor)));
  }
  return OK;
}

int checkpoint_each(struct checkpoint *checkpoint,
                    int (*visit)(void *context, const char *name, int64_t rows, int64_t cols), void *context) {
  struct listing listing = {visit, context};
  return checkpoint->h5 ? h5_each(checkpoint->h5, list_dataset, &listing) : list_plain(checkpoint, &listing);
}

int checkpoint_shape(struct checkpoint *checkpoint, const char *name, int64_t *rows, int64_t *cols) {
  *rows = *cols = 0;
  if (checkpoint->plain) {
    const struct safetensors_tensor *tensor = safetensors_find(checkpoint->plain, name);
    if (!tensor) return OK;
    *rows = tensor->rows;
    *cols = plain_cols(tensor);
    return OK;
  }
  char dataset[NAME_SIZE];
  enum h5_type type;
  uint64_t height, width;
  dataset_name(STORE_SIDE, name, dataset);
  if (!h5_has(checkpoint->h5, dataset)) return OK;
  TRY(h5_shape(checkpoint->h5, dataset, &type, &height, &width));
  *rows = (int64_t)height;
  *cols = (int64_t)width;
  return OK;
}

bool checkpoint_has_moments(struct checkpoint *checkpoint) {
  return checkpoint->h5 && h5_has(checkpoint->h5, "/optimizer/m") && h5_has(checkpoint->h5, "/optimizer/v");
}

/* Reading */

static void print_shape(char text[48], int64_t rows, int64_t cols) {
  if (cols)
    snprintf(text, 48, "[%lld, %lld]", (long long)rows, (long long)cols);
  else
    snprintf(text, 48, "[%lld]", (long long)rows);
}

static int check_shape(struct checkpoint *checkpoint, const struct named_tensor *want) {
  int64_t rows, cols;
  TRY(checkpoint_shape(checkpoint, want->name, &rows, &cols));
  if (rows == 0) return fail(ERR_INPUT, "%s: has no tensor %s", path_of(checkpoint), want->name);
  if (rows == want->rows && cols == want->cols) return OK;
  char found[48], expected[48];
  print_shape(found, rows, cols);
  print_shape(expected, want->rows, want->cols);
  return fail(ERR_INPUT, "%s: %s is %s where %s is expected; was it trained with another model or reduction factor?",
              path_of(checkpoint), want->name, found, expected);
}

struct wanted {
  const struct checkpoint *checkpoint;
  const char **names; /* sorted */
  size_t count;
};

static int compare_names(const void *a, const void *b) {
  return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int require_wanted(void *context, const char *name, int64_t rows, int64_t cols) {
  (void)rows, (void)cols;
  const struct wanted *wanted = context;
  if (bsearch(&name, wanted->names, wanted->count, sizeof name, compare_names)) return OK;
  return fail(ERR_INPUT, "%s: has the tensor %s, which this side network does not have", path_of(wanted->checkpoint),
              name);
}

static int check_superfluous(struct checkpoint *checkpoint, const struct named_tensor *tensors, int count) {
  struct wanted wanted = {.checkpoint = checkpoint, .count = (size_t)count};
  TRY(memory_array(&wanted.names, wanted.count, sizeof *wanted.names));
  for (int i = 0; i < count; i++) wanted.names[i] = tensors[i].name;
  qsort(wanted.names, wanted.count, sizeof *wanted.names, compare_names);
  int status = checkpoint_each(checkpoint, require_wanted, &wanted);
  free(wanted.names);
  return status;
}

static int read_store(struct checkpoint *checkpoint, enum store store, const struct named_tensor *tensor, float *out) {
  if (!out) return OK;
  char name[NAME_SIZE];
  dataset_name(store, tensor->name, name);
  return h5_read(checkpoint->h5, name, H5_F32, (uint64_t)tensor->rows, (uint64_t)tensor->cols, out);
}

static int read_tensor(struct checkpoint *checkpoint, const struct named_tensor *tensor) {
  if (!tensor->data) return OK;
  if (checkpoint->h5) {
    TRY(read_store(checkpoint, STORE_SIDE, tensor, tensor->data));
    TRY(read_store(checkpoint, STORE_M, tensor, tensor->m));
    return read_store(checkpoint, STORE_V, tensor, tensor->v);
  }
  if (tensor->m || tensor->v)
    return fail(ERR_INPUT, "%s: a safetensors file has no optimizer state to resume from", path_of(checkpoint));
  const struct safetensors_tensor *found = safetensors_find(checkpoint->plain, tensor->name);
  return safetensors_read(checkpoint->plain, found, 0, found->rows, tensor->data);
}

int checkpoint_read(struct checkpoint *checkpoint, struct named_tensor *tensors, int count) {
  for (int i = 0; i < count; i++) TRY(check_shape(checkpoint, &tensors[i]));
  TRY(check_superfluous(checkpoint, tensors, count));
  for (int i = 0; i < count; i++) TRY(read_tensor(checkpoint, &tensors[i]));
  return OK;
}

/* Verifying */

static int verify_dataset(void *context, struct h5_file *file, const struct h5_dataset *dataset) {
  (void)context;
  return h5_verify(file, dataset->name);
}

int checkpoint_verify(const char *path) {
  struct h5_file *file;
  TRY(h5_open(&file, path, "qst-checkpoint", CHECKPOINT_VERSION));
  int status = h5_each(file, verify_dataset, NULL);
  h5_close(&file);
  return status;
}
