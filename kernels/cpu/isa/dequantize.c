/* 4-bit codes to values (base/types.h), for the panels of a product. */
#include "kernels/cpu/isa/product_vector.h"
#include "kernels/cpu/multiply.h"

#define dequantize ISA_NAME(dequantize)

enum { MOST_BLOCKS = 16 };

static const float *code_map(const struct matrix *matrix) {
  return matrix->format == WEIGHT_NF4 ? nf4_map : fp4_map;
}

/** Elements that need not begin or end with a block. */
static void dequantize_part(void *out, enum dtype type, const struct matrix *matrix, size_t first, int count) {
  const uint8_t *codes = matrix->codes;
  const float *map = code_map(matrix);
  float scale;
  block_scales(&scale, matrix, first / QUANT_BLOCK, 1);
  for (int i = 0; i < count; i++) {
    size_t element = first + i;
    if (element % QUANT_BLOCK == 0) block_scales(&scale, matrix, element / QUANT_BLOCK, 1);
    float value = map[element % 2 ? codes[element / 2] & 15 : codes[element / 2] >> 4] * scale;
    if (type == DTYPE_BF16)
      ((bf16 *)out)[i] = float_to_bf16(value);
    else
      ((float *)out)[i] = value;
  }
}

#if defined(__AVX512BF16__)
/** Nibble i of 32 bytes, high ones first, as word (byte i / 2, shifted by 4 for even i; what is above 4 bits stays). */
static inline __m512i spread_codes(const uint8_t *codes, __m512i places, __m512i shifts) {
  __m512i bytes = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)(const void *)codes));
  return _mm512_srlv_epi16(_mm512_maskz_permutexvar_epi8(0x5555555555555555, places, bytes), shifts);
}

/** The 16 products of the map and the scale are rounded first, then looked up. */
static void dequantize_blocks_bf16(bf16 *out, const struct matrix *matrix, const float *scales, size_t block,
                                   int blocks) {
  __m512 map = _mm512_loadu_ps(code_map(matrix));
  __m512i places = _mm512_set_epi16(15, 15, 14, 14, 13, 13, 12, 12, 11, 11, 10, 10, 9, 9, 8, 8, 7, 7, 6, 6, 5, 5, 4, 4,
                                    3, 3, 2, 2, 1, 1, 0, 0);
  __m512i later = _mm512_add_epi16(places, _mm512_set1_epi16(16)), shifts = _mm512_set1_epi32(4);
  const uint8_t *codes = (const uint8_t *)matrix->codes + block * (QUANT_BLOCK / 2);
  for (int b = 0; b < blocks; b++, codes += QUANT_BLOCK / 2, out += QUANT_BLOCK) {
    __m256i rounded = (__m256i)_mm512_cvtneps_pbh(_mm512_mul_ps(map, _mm512_set1_ps(scales[b])));
    __m512i values = _mm512_broadcast_i64x4(rounded); /* twice 16: the fifth bit of an index does not matter */
    _mm512_storeu_si512(out, _mm512_permutexvar_epi16(spread_codes(codes, places, shifts), values));
    _mm512_storeu_si512(out + 32, _mm512_permutexvar_epi16(spread_codes(codes, later, shifts), values));
  }
}

static void dequantize_blocks_f32(float *out, const struct matrix *matrix, const float *scales, size_t block,
                                  int blocks) {
  __m512 map = _mm512_loadu_ps(code_map(matrix));
  __m512i places = _mm512_set_epi32(7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0);
  __m512i shifts = _mm512_set1_epi64(4);
  const uint8_t *codes = (const uint8_t *)matrix->codes + block * (QUANT_BLOCK / 2);
  for (int b = 0; b < blocks; b++, codes += QUANT_BLOCK / 2, out += QUANT_BLOCK) {
    __m512 values = _mm512_mul_ps(map, _mm512_set1_ps(scales[b]));
    __m512i bytes = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)(const void *)codes));
    for (int part = 0; part < 4; part++) {
      __m512i from = _mm512_add_epi32(places, _mm512_set1_epi32(8 * part));
      __m512i index = _mm512_srlv_epi32(_mm512_maskz_permutexvar_epi8(0x1111111111111111, from, bytes), shifts);
      _mm512_storeu_ps(out + 16 * part, _mm512_permutexvar_ps(index, values));
    }
  }
}

#elif defined(__AVX2__)
/** The 16 products of map and scale in two registers; a code's fourth bit chooses between them. */
static void dequantize_blocks_f32(float *out, const struct matrix *matrix, const float *scales, size_t block,
                                  int blocks) {
  __m256 map_low = load(code_map(matrix)), map_high = load(code_map(matrix) + 8);
  __m256i shifts = _mm256_set_epi32(24, 28, 16, 20, 8, 12, 0, 4);
  const uint8_t *codes = (const uint8_t *)matrix->codes + block * (QUANT_BLOCK / 2);
  for (int b = 0; b < blocks; b++) {
    __m256 scale = _mm256_set1_ps(scales[b]);
    __m256 low = _mm256_mul_ps(map_low, scale), high = _mm256_mul_ps(map_high, scale);
    for (int i = 0; i < QUANT_BLOCK; i += 8, codes += 4, out += 8) {
      int word;
      memcpy(&word, codes, sizeof word);
      __m256i index = _mm256_srlv_epi32(_mm256_set1_epi32(word), shifts);
      __m256 choose = _mm256_castsi256_ps(_mm256_slli_epi32(index, 28));
      store(out, _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, index), _mm256_permutevar8x32_ps(high, index), choose));
    }
  }
}
#endif

/** Whole blocks, at most MOST_BLOCKS. */
static void dequantize_blocks(void *out, enum dtype type, const struct matrix *matrix, size_t block, int blocks) {
#if defined(__AVX2__)
  float scales[MOST_BLOCKS];
  block_scales(scales, matrix, block, blocks);
  if (type == DTYPE_F32) {
    dequantize_blocks_f32(out, matrix, scales, block, blocks);
    return;
  }
#endif
#if defined(__AVX512BF16__)
  dequantize_blocks_bf16(out, matrix, scales, block, blocks);
#else
  dequantize_part(out, type, matrix, block * QUANT_BLOCK, blocks * QUANT_BLOCK);
#endif
}

void dequantize(void *out, enum dtype type, const struct matrix *matrix, size_t first, int count) {
  size_t size = dtype_size(type);
  char *to = out;
  while (count > 0) {
    size_t inside = first % QUANT_BLOCK;
    int part, blocks = inside ? 0 : count / QUANT_BLOCK;
    if (blocks) {
      blocks = blocks < MOST_BLOCKS ? blocks : MOST_BLOCKS;
      part = blocks * QUANT_BLOCK;
      dequantize_blocks(to, type, matrix, first / QUANT_BLOCK, blocks);
    } else {
      part = count < (int)(QUANT_BLOCK - inside) ? count : (int)(QUANT_BLOCK - inside);
      dequantize_part(to, type, matrix, first, part);
    }
    to += part * size;
    first += part;
    count -= part;
  }
}
