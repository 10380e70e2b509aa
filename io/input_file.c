#include "io/input_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/types.h"

enum { PIECE_BYTES = 1 << 16 };

int input_open(struct input_file *out, const char *path) {
  *out = (struct input_file){.descriptor = open(path, O_RDONLY | O_CLOEXEC)};
  if (out->descriptor < 0) return fail(ERR_INPUT, "%s: %s", path, strerror(errno));
  struct stat about;
  int status = OK;
  if (fstat(out->descriptor, &about) != 0)
    status = fail(ERR_INPUT, "%s: %s", path, strerror(errno));
  else if (!S_ISREG(about.st_mode))
    status = fail(ERR_INPUT, "%s: not a file", path);
  else if (!(out->path = strdup(path)))
    status = fail(ERR_MEMORY, "not enough memory for a path");
  else
    out->size = (uint64_t)about.st_size;
  if (status != OK) input_close(out);
  return status;
}

void input_close(struct input_file *file) {
  if (file->descriptor >= 0) close(file->descriptor);
  free(file->path);
  *file = (struct input_file){.descriptor = -1};
}

/* 0, an errno, or -1 for the end of the file. Records nothing: messages belong to the thread that asked. */
static int read_at(int descriptor, uint64_t offset, char *out, size_t size) {
  while (size > 0) {
    ssize_t got = pread(descriptor, out, size, (off_t)offset);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return errno;
    if (got == 0) return -1;
    out += got;
    offset += (uint64_t)got;
    size -= (size_t)got;
  }
  return 0;
}

static int read_failed(const struct input_file *file, uint64_t offset, uint64_t size, int why) {
  if (why == 0) return OK;
  return fail(ERR_INPUT, "%s: bytes %llu to %llu cannot be read: %s", file->path, (unsigned long long)offset,
              (unsigned long long)(offset + size), why < 0 ? "the file ends before" : strerror(why));
}

int input_read(const struct input_file *file, uint64_t offset, void *out, size_t size) {
  return read_failed(file, offset, size, read_at(file->descriptor, offset, out, size));
}

int input_decode(const struct input_file *file, const struct number_format *format, uint64_t offset, uint64_t count,
                 float *out) {
  uint64_t piece = PIECE_BYTES / format->bytes, pieces = (count + piece - 1) / piece;
  int why = 0;
#pragma omp parallel for schedule(static) reduction(max : why) if (pieces > 8)
  for (uint64_t p = 0; p < pieces; p++) {
    char raw[PIECE_BYTES];
    uint64_t first = p * piece, blocks = count - first < piece ? count - first : piece;
    int failed = read_at(file->descriptor, offset + first * format->bytes, raw, blocks * format->bytes);
    if (failed)
      why = failed < 0 ? INT32_MAX : failed;
    else
      format->decode(raw, blocks, out + first * format->elements);
  }
  return read_failed(file, offset, count * format->bytes, why == INT32_MAX ? -1 : why);
}

/* The exponent is rebased by a multiplication, which is exact and normalizes subnormal halves as well. */
float half_to_float(uint16_t half) {
  union {
    uint32_t bits;
    float number;
  } u = {.bits = (uint32_t)(half & 0x7fff) << 13};
  u.number *= 0x1p112f;
  if ((half & 0x7c00) == 0x7c00) u.bits |= 0x7f800000u;
  u.bits |= (uint32_t)(half & 0x8000) << 16;
  return u.number;
}

static void decode_f32(const void *blocks, size_t count, float *out) {
  memcpy(out, blocks, count * sizeof *out);
}

static void decode_f16(const void *blocks, size_t count, float *out) {
  for (size_t i = 0; i < count; i++) {
    uint16_t half;
    memcpy(&half, (const char *)blocks + 2 * i, sizeof half);
    out[i] = half_to_float(half);
  }
}

static void decode_bf16(const void *blocks, size_t count, float *out) {
  for (size_t i = 0; i < count; i++) {
    bf16 value;
    memcpy(&value, (const char *)blocks + 2 * i, sizeof value);
    out[i] = bf16_to_float(value);
  }
}

const struct number_format number_f32 = {.name = "F32", .elements = 1, .bytes = 4, .decode = decode_f32};
const struct number_format number_f16 = {.name = "F16", .elements = 1, .bytes = 2, .decode = decode_f16};
const struct number_format number_bf16 = {.name = "BF16", .elements = 1, .bytes = 2, .decode = decode_bf16};
