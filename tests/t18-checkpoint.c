/**
 * @file t18-checkpoint.c
 * Checkpoints and side networks as safetensors: round trips, other names and shapes, a run folder, damage.
 */
// RUN ranks=1 args=""
#include <sys/stat.h>

#include "damage.h"
#include "io/checkpoint.h"
#include "io/safetensors.h"

static float matrix[6] = {1, 2, 3, 4, 5, 6}, vector[2] = {-1, 0.5f};
static float moments[4][6] = {{1}, {2}, {3}, {4}};

static void start_tensors(struct named_tensor tensors[2]) {
  tensors[0] = (struct named_tensor){"model.downsample.0.adapter_A.weight", 2, 3, matrix, moments[0], moments[1]};
  tensors[1] = (struct named_tensor){"model.z.0", 2, 0, vector, moments[2], moments[3]};
}

static struct checkpoint_state sample_state(void) {
  struct checkpoint_state state = {.step = 12, .best_loss = INFINITY, .best_step = -1};
  strcpy(state.backbone, "0123456789abcdef0123456789abcdef");
  strcpy(state.data, "fedcba9876543210fedcba9876543210");
  state.settings.data = "mix = alpha\nlr = 0.001\n";
  state.settings.size = strlen(state.settings.data);
  return state;
}

static int write_sample(const char *path) {
  struct named_tensor tensors[2];
  struct checkpoint_state state = sample_state();
  start_tensors(tensors);
  return checkpoint_write(path, &state, tensors, 2);
}

static int check_content(struct checkpoint *checkpoint) {
  float got[6][6] = {{0}};
  struct named_tensor tensors[2];
  const struct checkpoint_state *state = checkpoint_state(checkpoint), want = sample_state();
  start_tensors(tensors);
  tensors[0].data = got[0], tensors[0].m = got[1], tensors[0].v = got[2];
  tensors[1].data = got[3], tensors[1].m = got[4], tensors[1].v = got[5];
  CHECK(state->step == 12);
  CHECK(state->best_loss == INFINITY && state->best_step == -1);
  CHECK(strcmp(state->backbone, want.backbone) == 0 && strcmp(state->data, want.data) == 0);
  CHECK(strcmp(state->settings.data, want.settings.data) == 0);
  TRY(checkpoint_read(checkpoint, tensors, 2));
  CHECK(memcmp(got[0], matrix, sizeof matrix) == 0 && memcmp(got[3], vector, sizeof vector) == 0);
  CHECK(got[1][0] == 1 && got[2][0] == 2 && got[4][0] == 3 && got[5][0] == 4);
  return OK;
}

static int read_sample(const char *path) {
  struct checkpoint *checkpoint;
  TRY(checkpoint_open(&checkpoint, path));
  int status = check_content(checkpoint);
  checkpoint_close(&checkpoint);
  CHECK(checkpoint == NULL);
  return status;
}

static void test_round_trip(void) {
  char *path = scratch_path("step-000012.h5"), *again = scratch_path("again.h5"), *link = scratch_path("latest");
  CHECK_OK(write_sample(path));
  CHECK_OK(read_sample(path));
  CHECK_OK(write_sample(again));
  CHECK(same_bytes(path, again));
  struct checkpoint *checkpoint;
  CHECK_FAILS(ERR_INPUT, "latest", checkpoint_open(&checkpoint, scratch_folder));
  CHECK(symlink("step-000012.h5", link) == 0);
  CHECK_OK(read_sample(scratch_folder));
  unlink(link);
  free(path);
  free(again);
  free(link);
}

static void test_mismatches(void) {
  char *path = scratch_path("step-000012.h5");
  float data[6];
  struct checkpoint *checkpoint;
  struct named_tensor tensors[3];
  int64_t rows, cols;
  CHECK_OK(checkpoint_open(&checkpoint, path));
  start_tensors(tensors);
  CHECK_OK(checkpoint_shape(checkpoint, "model.z.0", &rows, &cols));
  CHECK(rows == 2 && cols == 0);
  CHECK_OK(checkpoint_shape(checkpoint, "model.z.1", &rows, &cols));
  CHECK(rows == 0 && cols == 0);
  CHECK(checkpoint_has_moments(checkpoint));
  CHECK_FAILS(ERR_INPUT, "has the tensor model.z.0", checkpoint_read(checkpoint, tensors, 1));
  tensors[2] = (struct named_tensor){"lm_head_z", 2, 0, data, NULL, NULL};
  CHECK_FAILS(ERR_INPUT, "has no tensor lm_head_z", checkpoint_read(checkpoint, tensors, 3));
  tensors[0].cols = 4;
  CHECK_FAILS(ERR_INPUT, "adapter_A.weight is [2, 3] where [2, 4]", checkpoint_read(checkpoint, tensors, 2));
  tensors[0].rows = 6, tensors[0].cols = 0;
  CHECK_FAILS(ERR_INPUT, "is [2, 3] where [6]", checkpoint_read(checkpoint, tensors, 2));
  checkpoint_close(&checkpoint);
  char *other = scratch_path("names.h5");
  struct checkpoint_state state = sample_state();
  static const char *const names[] = {"", ".", "../x", "a/b", "a b", "\n"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    tensors[0] = (struct named_tensor){names[i], 2, 0, vector, NULL, NULL};
    CHECK_FAILS(ERR_INPUT, "no name of a tensor", checkpoint_write(other, &state, tensors, 1));
    CHECK(scratch_count("names") == 0);
  }
  free(path);
  free(other);
}

static void test_safetensors(void) {
  char *path = scratch_path("side.safetensors"), *again = scratch_path("again.safetensors");
  struct named_tensor tensors[2];
  struct checkpoint_state state = sample_state();
  struct checkpoint *checkpoint;
  float got[2][6] = {{0}};
  start_tensors(tensors);
  CHECK_OK(safetensors_write(path, &state, tensors, 2));
  CHECK_OK(safetensors_write(again, &state, tensors, 2));
  CHECK(same_bytes(path, again));
  CHECK_OK(checkpoint_open(&checkpoint, path));
  const struct checkpoint_state *found = checkpoint_state(checkpoint);
  CHECK(found->step == 12 && strcmp(found->backbone, state.backbone) == 0 && found->data[0] == 0);
  CHECK(strcmp(found->settings.data, state.settings.data) == 0 && !checkpoint_has_moments(checkpoint));
  CHECK_FAILS(ERR_INPUT, "no optimizer state", checkpoint_read(checkpoint, tensors, 2));
  for (int i = 0; i < 2; i++) tensors[i].data = got[i], tensors[i].m = tensors[i].v = NULL;
  CHECK_OK(checkpoint_read(checkpoint, tensors, 2));
  CHECK(memcmp(got[0], matrix, sizeof matrix) == 0 && memcmp(got[1], vector, sizeof vector) == 0);
  tensors[0].rows = 3, tensors[0].cols = 2;
  CHECK_FAILS(ERR_INPUT, "[2, 3] where [3, 2]", checkpoint_read(checkpoint, tensors, 2));
  checkpoint_close(&checkpoint);
  free(path);
  free(again);
}

static int read_plain(const char *path) {
  struct checkpoint *checkpoint;
  float got[2][6];
  struct named_tensor tensors[2];
  start_tensors(tensors);
  for (int i = 0; i < 2; i++) tensors[i].data = got[i], tensors[i].m = tensors[i].v = NULL;
  TRY(checkpoint_open(&checkpoint, path));
  int status = checkpoint_read(checkpoint, tensors, 2);
  checkpoint_close(&checkpoint);
  return status;
}

static void test_damage(void) {
  char *path = scratch_path("step-000012.h5"), *plain = scratch_path("side.safetensors");
  damage_bits(path, 13, read_sample);
  damage_length(path, read_sample);
  damage_bits(plain, 1, read_plain);
  damage_length(plain, read_plain);
  CHECK_FAILS(ERR_INPUT, "not an HDF5 file", read_sample("Makefile"));
  CHECK_FAILS(ERR_INPUT, "No such file", read_sample("/nowhere"));
  free(path);
  free(plain);
}

static void test_full_disk(void) {
  struct named_tensor tensors[2];
  struct checkpoint_state state = sample_state();
  start_tensors(tensors);
  CHECK_FAILS(ERR_SYSTEM, "No such file", safetensors_write("/nowhere/side.safetensors", &state, tensors, 2));
  CHECK_FAILS(ERR_SYSTEM, "/dev/full", safetensors_write("/dev/full/x", &state, tensors, 2));
  CHECK_FAILS(ERR_SYSTEM, "No such file", write_sample("/nowhere/step-000001.h5"));
}

int main(void) {
  scratch_make();
  test_round_trip();
  test_mismatches();
  test_safetensors();
  test_damage();
  test_full_disk();
  scratch_remove();
  return check_result();
}
