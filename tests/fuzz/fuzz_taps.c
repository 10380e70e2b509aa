/* A segment of a tap store: whatever its bytes, a scan goes on, and rows that are said to be there come whole or with an error,
 * within the buffers that their token counts ask for. */
// SEEDS tests/fuzz/corpus/fuzz_h5/taps*.h5
#include "base/error.h"
#include "base/log.h"
#include "image.h"
#include "io/chat.h"
#include "io/tap_reader.h"

int LLVMFuzzerTestOneInput(const unsigned char *bytes, size_t size);

/* What tests/fixtures/make_stores.py has segments of. */
enum { ROWS = 3 };
static int32_t tokens[] = {5, 6, 7, 8, 9, 1, 2}, labels[] = {5, LABEL_NONE, 7, LABEL_NONE, LABEL_NONE, LABEL_NONE, 2};
static int64_t offsets[ROWS + 1] = {0, 4, 5, 7};
static const struct token_file data = {
    .rows = ROWS, .total = 7, .vocabulary = 10, .tokens = tokens, .labels = labels, .offsets = offsets};

static struct tap_format format_of(bool int8) {
  return (struct tap_format){.backbone = "b",
                             .data = "d",
                             .kind = "hidden",
                             .directions = "-",
                             .compute = "bf16",
                             .layers = 1,
                             .hidden = 6,
                             .cols = 6,
                             .window = 1,
                             .taps = 2,
                             .act = DTYPE_BF16,
                             .int8 = int8};
}

static void read_store(bool int8) {
  struct tap_format format = format_of(int8);
  struct tap_reader *reader = NULL;
  struct tap_planes planes = {0};
  if (tap_reader_open(&reader, image_folder, &format, &data) == OK && tap_reader_scan(reader) == OK) {
    for (int64_t row = 0; row < ROWS; row++) {
      int64_t long_as = tap_row_tokens(&data, row), labelled = tap_row_labels(&data, row);
      if (!tap_reader_holds(reader, row)) continue;
      if (tap_planes_make(&planes, &format, long_as, labelled) != OK) __builtin_trap();
      image_whole += tap_reader_read(reader, &row, 1, &planes) == OK;
      tap_planes_free(&planes);
    }
    if (tap_reader_rows(reader) > ROWS) __builtin_trap();
  }
  tap_reader_close(&reader);
}

int LLVMFuzzerTestOneInput(const unsigned char *bytes, size_t size) {
  log_setup(1, true); /* a rank that says nothing */
  if (!image_write(bytes, size)) return 0;
  read_store(false);
  read_store(true);
  return 0;
}
