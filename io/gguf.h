/**
 * @file gguf.h
 * Reader of GGUF files, versions 2 and 3, little endian (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md):
 * counts, key/value metadata, tensor descriptions, then aligned data. Opening reads and checks the header alone: counts
 * and lengths against the file, keys and names unique, known value types, shapes that do not overflow and fill whole
 * blocks, data aligned, within the file and not overlapping. Data is read with pread, never mapped. Reading may run on
 * several threads at once.
 */
#ifndef QST_IO_GGUF_H
#define QST_IO_GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { GGUF_NAME = 128, GGUF_MAX_RANK = 4 };

struct gguf_tensor {
  char name[GGUF_NAME];
  uint32_t type; /**< ggml's number; gguf_type_name() of io/gguf_blocks.h */
  bool readable; /**< false: a type that gguf_read() does not decode; `bytes` is 0 */
  int rank;
  int64_t rows, cols; /**< cols: the contiguous dimension; rows: the product of the others. A vector is one row */
  uint64_t offset;    /**< first byte, from the start of the file */
  uint64_t bytes;
};

struct gguf;

/** ERR_INPUT names the path and the fault. */
int gguf_open(struct gguf **out, const char *path);
/** Checks a header in memory: the first `size` bytes of a file of `file_size`. The result cannot read tensors; `bytes`
 *  must outlive it. `where` is put in front of errors. */
int gguf_parse(struct gguf **out, const char *where, const void *bytes, size_t size, uint64_t file_size);
/** NULL-safe; resets the pointer. */
void gguf_close(struct gguf **file);

const char *gguf_path(const struct gguf *file);
uint64_t gguf_size(const struct gguf *file);           /**< bytes of the file */
const char *gguf_header_hash(const struct gguf *file); /**< XXH3 of all before the data, 32 hex digits */

/** Tensors in name order (byte-wise). They live as long as the file is open. */
size_t gguf_count(const struct gguf *file);
const struct gguf_tensor *gguf_at(const struct gguf *file, size_t index);
const struct gguf_tensor *gguf_find(const struct gguf *file, const char *name); /**< NULL: none */

/** Metadata. These are ERR_INPUT, naming the key, when it is missing or of another kind or range. */
bool gguf_has(const struct gguf *file, const char *key);
int gguf_integer(const struct gguf *file, const char *key, int64_t *out);
int gguf_number(const struct gguf *file, const char *key, double *out);
int gguf_truth(const struct gguf *file, const char *key, bool *out);
int gguf_text(const struct gguf *file, const char *key, char **out); /**< a copy, caller frees; no embedded NUL */

/** An array of texts: pointers into the file's header, caller frees the two arrays. */
struct gguf_texts {
  size_t count;
  const char **texts;
  size_t *sizes;
};
int gguf_texts(const struct gguf *file, const char *key, struct gguf_texts *out);
int gguf_floats(const struct gguf *file, const char *key, size_t *count, float **out);     /**< caller frees */
int gguf_integers(const struct gguf *file, const char *key, size_t *count, int32_t **out); /**< caller frees */

/** Rows [first, first + count) as fp32 into out[count * cols]. */
int gguf_read(const struct gguf *file, const struct gguf_tensor *tensor, int64_t first, int64_t count, float *out);

#endif
