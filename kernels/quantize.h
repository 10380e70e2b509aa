/**
 * @file quantize.h
 * Quantization to 4 bits on the host, and its scalar inverse: the oracle every device is tested against.
 * Bytes and dequantized values equal bitsandbytes' (functional.quantize_4bit / dequantize_4bit, block size 64,
 * compress_statistics = double_quantized).
 */
#ifndef QST_KERNELS_QUANTIZE_H
#define QST_KERNELS_QUANTIZE_H

#include "base/types.h"

/** Fills the arrays of `out`, whose format, shape and double_quantized are set and whose arrays the caller
 *  allocated by the sizes of base/types.h. `weights`: fp32 [rows * cols]. ERR_INPUT when a weight is not finite. */
int quantize_matrix(struct matrix *out, const float *weights);

/** `out`: fp32 [rows * cols]. */
int dequantize_matrix(float *out, const struct matrix *matrix);

#endif
