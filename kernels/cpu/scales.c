/* Scales are decoded here, not beside the code that uses them, because that code may contract a * b + c to a fused
 * operation and the oracle (kernels/quantize.h) rounds twice. */
#include "kernels/cpu/multiply.h"

void block_scales(float *out, const struct matrix *matrix, size_t first, int count) {
  for (int i = 0; i < count; i++) {
    size_t block = first + i;
    if (!matrix->double_quantized) {
      out[i] = matrix->scales[block];
      continue;
    }
    float scale = dynamic_map[matrix->scale_codes[block]] * matrix->scale_scales[block / QUANT_SCALE_BLOCK];
    out[i] = scale + matrix->scale_mean;
  }
}
