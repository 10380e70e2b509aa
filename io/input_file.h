/**
 * @file input_file.h
 * Large files of numbers, read with pread in small pieces and turned into fp32 on the way: resident memory is what the
 * caller asks for, never the file. Reading may run on many threads at once.
 */
#ifndef QST_IO_INPUT_FILE_H
#define QST_IO_INPUT_FILE_H

#include <stddef.h>
#include <stdint.h>

struct input_file {
  int descriptor;
  uint64_t size; /**< bytes, when it was opened */
  char *path;
};

/** ERR_INPUT names the path and the reason; a folder or a device is not a file. */
int input_open(struct input_file *out, const char *path);
/** Idempotent. Start from {.descriptor = -1} when it may not have been opened. */
void input_close(struct input_file *file);
/** Exactly `size` bytes from `offset`; ERR_INPUT when the file ends before or cannot be read. */
int input_read(const struct input_file *file, uint64_t offset, void *out, size_t size);

/** A number format: blocks of `bytes` that hold `elements` numbers. */
struct number_format {
  const char *name;
  unsigned elements, bytes;
  void (*decode)(const void *blocks, size_t count, float *out); /**< `blocks` has no alignment */
};

extern const struct number_format number_f32, number_f16, number_bf16; /**< little endian */

/** `count` blocks from `offset` as fp32 into out[count * elements], read and decoded by all OpenMP threads. */
int input_decode(const struct input_file *file, const struct number_format *format, uint64_t offset, uint64_t count,
                 float *out);

/** IEEE binary16, exactly. */
float half_to_float(uint16_t half);

#endif
