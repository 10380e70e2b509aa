/**
 * @file gguf_blocks.h
 * The number formats of GGUF tensors: ggml's blocks of 32 (Q4_0 … Q8_0) and 256 (Q4_K … Q6_K) weights with a half
 * precision scale (ggml/src/ggml-common.h). Decoded values equal gguf.quants.dequantize bit for bit: each product and
 * each sum is rounded by itself.
 */
#ifndef QST_IO_GGUF_BLOCKS_H
#define QST_IO_GGUF_BLOCKS_H

#include "io/input_file.h"

/** The format of a ggml type number: F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K, Q6_K; NULL for others. */
const struct number_format *gguf_number_format(uint32_t type);

/** The name of any ggml type number we have heard of, for messages; "unknown". */
const char *gguf_type_name(uint32_t type);

#endif
