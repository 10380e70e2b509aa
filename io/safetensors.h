/**
 * @file safetensors.h
 * Reader of safetensors files (https://github.com/huggingface/safetensors, "Format"): 8 bytes little-endian header
 * length, a JSON header, then the data. Opening reads and checks the header alone: its length against the file and
 * the format's limit of 100 MB, names unique, types known, shapes that do not overflow, byte ranges that fit shape and
 * type, lie in the file, do not overlap and leave no gap. Data is read with pread, never mapped. Reading may run
 * on several threads at once. Writing: safetensors_write() of io/checkpoint.h.
 */
#ifndef QST_IO_SAFETENSORS_H
#define QST_IO_SAFETENSORS_H

#include <stddef.h>
#include <stdint.h>

/** What can be read as fp32 has an enumerator; the format's other types are listed, not read. */
enum safetensors_type { SAFETENSORS_F32, SAFETENSORS_F16, SAFETENSORS_BF16, SAFETENSORS_OTHER };

enum { SAFETENSORS_MAX_RANK = 8 };

struct safetensors_tensor {
  const char *name;
  enum safetensors_type type;
  char type_name[8]; /**< "F32", "I64", … */
  int rank;          /**< 0: a scalar */
  int64_t shape[SAFETENSORS_MAX_RANK];
  int64_t rows, cols; /**< shape[0] and the product of the rest; 1 where there is none */
  uint64_t offset;    /**< first byte, from the start of the file */
  uint64_t bytes;
};

struct safetensors;

/** ERR_INPUT names the path, the tensor and the fault. */
int safetensors_open(struct safetensors **out, const char *path);
/** Checks a header in memory: `json` of `size` bytes for a file with `data_size` bytes after it. The result lists, it
 *  cannot read. `where` is put in front of errors. */
int safetensors_parse(struct safetensors **out, const char *where, const char *json, size_t size, uint64_t data_size);
/** NULL-safe; resets the pointer. */
void safetensors_close(struct safetensors **file);

const char *safetensors_path(const struct safetensors *file);
uint64_t safetensors_size(const struct safetensors *file); /**< bytes of the file */

/** Tensors in name order (byte-wise). They live as long as the file is open. */
size_t safetensors_count(const struct safetensors *file);
const struct safetensors_tensor *safetensors_at(const struct safetensors *file, size_t index);
const struct safetensors_tensor *safetensors_find(const struct safetensors *file, const char *name); /**< NULL: none */

/** A text of __metadata__, NULL if there is none of that key. */
const char *safetensors_metadata(const struct safetensors *file, const char *key);
/** XXH3 of the header's JSON as 32 hex digits (base/hash.h). */
const char *safetensors_header_hash(const struct safetensors *file);

/** Rows [first, first + count) as fp32 into out[count * cols]. ERR_INPUT for a type that cannot be read or a file cut
 *  short since. */
int safetensors_read(const struct safetensors *file, const struct safetensors_tensor *tensor, int64_t first,
                     int64_t count, float *out);

#endif
