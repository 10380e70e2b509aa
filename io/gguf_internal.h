/**
 * @file gguf_internal.h
 * What the parts of the GGUF reader share: gguf.c (file, tensors, data), gguf_header.c (parsing), gguf_metadata.c (values).
 */
#ifndef QST_IO_GGUF_INTERNAL_H
#define QST_IO_GGUF_INTERNAL_H

#include "base/hash.h"
#include "io/gguf.h"
#include "io/input_file.h"

enum gguf_kind {
  GGUF_U8,
  GGUF_I8,
  GGUF_U16,
  GGUF_I16,
  GGUF_U32,
  GGUF_I32,
  GGUF_F32,
  GGUF_BOOL,
  GGUF_TEXT,
  GGUF_ARRAY,
  GGUF_U64,
  GGUF_I64,
  GGUF_F64,
  GGUF_KINDS
};

/** A value, still as its bytes. All lengths within were checked when it was parsed. */
struct gguf_entry {
  char key[GGUF_NAME];
  enum gguf_kind kind; /**< of the value, or of an array's elements */
  bool array;
  uint64_t count;         /**< elements; 1 when not an array */
  const uint8_t *payload; /**< the elements one after another; a text is a u64 length and its bytes */
  uint64_t payload_size;
};

struct gguf {
  struct input_file file;     /**< descriptor -1 when the header came from memory */
  char *header;               /**< owned; NULL when the header came from memory */
  struct gguf_entry *entries; /**< by key */
  size_t entry_count;
  struct gguf_tensor *tensors; /**< by name */
  size_t tensor_count;
  struct hash_text hash;
};

/** Fills entries, tensors and hash of `out` from the first `size` bytes of a file. *starved: the header goes on after
 *  them (an error as well, but worth another try with more bytes). On error `out` may be partly filled. */
int gguf_parse_header(struct gguf *out, const uint8_t *bytes, size_t size, uint64_t file_size, bool *starved);
/** Frees entries and tensors. */
void gguf_forget_header(struct gguf *file);

uint64_t gguf_little(const uint8_t *bytes, size_t size); /**< unsigned, little endian */
size_t gguf_kind_size(enum gguf_kind kind);              /**< bytes of a number; 0 for texts and arrays */

#endif
