/* The image of an HDF5 file, opened as each of our formats and read. Most of what it finds is HDF5's to refuse; what gets
 * past HDF5 must end in an error line or in a file that holds what its reader promises. */
// SEEDS tests/fuzz/corpus/fuzz_h5/*.h5
#include <stdlib.h>

#include "base/error.h"
#include "base/memory.h"
#include "image.h"
#include "io/backbone_file.h"
#include "io/checkpoint.h"
#include "io/token_file.h"

int LLVMFuzzerTestOneInput(const unsigned char *bytes, size_t size);

static void read_tokens(const char *path) {
  struct token_file data;
  if (token_file_read(path, &data) != OK) return;
  image_whole++;
  if (data.rows < 1 || data.offsets[0] != 0 || data.offsets[data.rows] != data.total) __builtin_trap();
  for (int64_t i = 0; i < data.total; i++)
    if (data.tokens[i] < 0 || data.tokens[i] >= data.vocabulary) __builtin_trap();
  token_file_free(&data);
}

static int read_tensor(void *context, const char *name, int64_t rows, int64_t cols) {
  struct checkpoint *checkpoint = context;
  int64_t found_rows, found_cols;
  if (checkpoint_shape(checkpoint, name, &found_rows, &found_cols) != OK) return OK;
  if (found_rows != rows || found_cols != cols) __builtin_trap();
  return OK;
}

static void read_checkpoint(const char *path) {
  struct checkpoint *checkpoint;
  checkpoint_verify(path);
  if (checkpoint_open(&checkpoint, path) != OK) return;
  image_whole++;
  checkpoint_each(checkpoint, read_tensor, checkpoint);
  checkpoint_has_moments(checkpoint);
  checkpoint_close(&checkpoint);
}

static void read_table(struct backbone_file *file, enum backbone_table which) {
  const struct model_config *config = backbone_file_config(file);
  size_t rows = (size_t)backbone_table_rows(config, which);
  bf16 *table;
  if (memory_array(&table, rows * (size_t)config->hidden, sizeof *table) != OK) __builtin_trap();
  if (rows > 0) backbone_file_table(file, which, table); /* a tied head would be the embedding */
  free(table);
}

static void read_backbone(const char *path) {
  struct backbone_file *file;
  if (backbone_file_open(&file, path) != OK) return;
  image_whole++;
  struct tokenizer *tokenizer;
  if (backbone_file_tokenizer(file, &tokenizer) == OK) tokenizer_destroy(&tokenizer);
  for (int table = 0; table < TABLE_COUNT; table++) read_table(file, (enum backbone_table)table);
  backbone_file_close(&file);
}

int LLVMFuzzerTestOneInput(const unsigned char *bytes, size_t size) {
  if (!image_write(bytes, size)) return 0;
  read_backbone(image_path);
  read_tokens(image_path);
  read_checkpoint(image_path);
  return 0;
}
