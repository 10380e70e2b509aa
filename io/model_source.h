/**
 * @file model_source.h
 * A published model as a set of named tensors: a folder with config.json and safetensors (single file or sharded
 * with model.safetensors.index.json; F32, F16, BF16), or a GGUF file (F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q4_K, Q5_K,
 * Q6_K). Tensors go by their Hugging Face names and layout whatever the source; GGUF names are mapped and LLaMA's
 * permuted q and k rows are put back (llama.cpp, convert_hf_to_gguf.py `LlamaModel.permute`).
 *
 * Files are read with pread, never mapped, so that resident memory is what is asked for. Every offset and length
 * in a header is checked against the file's size before it is used.
 */
#ifndef QST_IO_MODEL_SOURCE_H
#define QST_IO_MODEL_SOURCE_H

#include "base/memory.h"
#include "io/model_config.h"
#include "io/tokenizer.h"

struct model_source;

struct tensor_shape {
  int64_t rows, cols; /**< a vector has cols = 1 */
};

/** `path`: a folder or a .gguf file. Reads headers only. */
int model_source_open(struct model_source **out, const char *path);
void model_source_close(struct model_source **source);

const struct model_config *model_source_config(const struct model_source *source);

/** ERR_INPUT when the model has no such tensor. */
int model_source_shape(struct model_source *source, const char *name, struct tensor_shape *out);
bool model_source_has(struct model_source *source, const char *name);

/** Rows [first, first + count) of a tensor as fp32 into out[count * cols]. */
int model_source_read(struct model_source *source, const char *name, int64_t first, int64_t count, float *out);

/** The model's tokenizer with its chat template; *out = NULL when the source has none. Caller destroys. */
int model_source_tokenizer(struct model_source *source, struct tokenizer **out);

/** Where it came from, for provenance: name of each file, its size, and the XXH3 of its header bytes
 *  (safetensors header or GGUF metadata) and config.json; one line a file. */
int model_source_describe(struct model_source *source, struct buffer *out);

#endif
