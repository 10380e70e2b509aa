#include "io/gguf_blocks.h"

#include <assert.h>
#include <string.h>

/* Blocks lie unaligned in a file: each is copied into a local struct first. Halves are kept as their bits. */

struct q4_0 {
  uint16_t scale;
  uint8_t low_high[16]; /* element j in the low nibble, j + 16 in the high one */
};
static_assert(sizeof(struct q4_0) == 18, "ggml block_q4_0");

struct q4_1 {
  uint16_t scale, minimum;
  uint8_t low_high[16];
};
static_assert(sizeof(struct q4_1) == 20, "ggml block_q4_1");

struct q5_0 {
  uint16_t scale;
  uint8_t fifth[4]; /* bit j: the fifth bit of element j */
  uint8_t low_high[16];
};
static_assert(sizeof(struct q5_0) == 22, "ggml block_q5_0");

struct q5_1 {
  uint16_t scale, minimum;
  uint8_t fifth[4];
  uint8_t low_high[16];
};
static_assert(sizeof(struct q5_1) == 24, "ggml block_q5_1");

struct q8_0 {
  uint16_t scale;
  int8_t values[32];
};
static_assert(sizeof(struct q8_0) == 34, "ggml block_q8_0");

struct q4_k {
  uint16_t scale, minimum;
  uint8_t sub_scales[12]; /* eight scales and eight minima of 6 bits */
  uint8_t low_high[128];  /* four runs of 32 bytes, each two groups of 32 elements */
};
static_assert(sizeof(struct q4_k) == 144, "ggml block_q4_K");

struct q5_k {
  uint16_t scale, minimum;
  uint8_t sub_scales[12];
  uint8_t fifth[32]; /* bit g of byte j: the fifth bit of element j of group g */
  uint8_t low_high[128];
};
static_assert(sizeof(struct q5_k) == 176, "ggml block_q5_K");

struct q6_k {
  uint8_t low[128];
  uint8_t high[64];
  int8_t sub_scales[16];
  uint16_t scale;
};
static_assert(sizeof(struct q6_k) == 210, "ggml block_q6_K");

enum { SMALL = 32, LARGE = 256, GROUPS = LARGE / SMALL };

/* Two statements, never a fused multiply-add: both roundings count. */
static float scale_and_shift(float scale, int value, float shift) {
  float product = scale * (float)value;
  return product + shift;
}

static void decode_q4_0(const void *blocks, size_t count, float *out) {
  for (size_t b = 0; b < count; b++, out += SMALL) {
    struct q4_0 block;
    memcpy(&block, (const char *)blocks + b * sizeof block, sizeof block);
    float scale = half_to_float(block.scale);
    for (int j = 0; j < 16; j++) {
      out[j] = scale * (float)((block.low_high[j] & 15) - 8);
      out[j + 16] = scale * (float)((block.low_high[j] >> 4) - 8);
    }
  }
}

static void decode_q4_1(const void *blocks, size_t count, float *out) {
  for (size_t b = 0; b < count; b++, out += SMALL) {
    struct q4_1 block;
    memcpy(&block, (const char *)blocks + b * sizeof block, sizeof block);
    float scale = half_to_float(block.scale), minimum = half_to_float(block.minimum);
    for (int j = 0; j < 16; j++) {
      out[j] = scale_and_shift(scale, block.low_high[j] & 15, minimum);
      out[j + 16] = scale_and_shift(scale, block.low_high[j] >> 4, minimum);
    }
  }
}

static int fifth_bit(const uint8_t bits[4], int j) {
  return (bits[j / 8] >> (j % 8) & 1) << 4;
}

static void decode_q5_0(const void *blocks, size_t count, float *out) {
  for (size_t b = 0; b < count; b++, out += SMALL) {
    struct q5_0 block;
    memcpy(&block, (const char *)blocks + b * sizeof block, sizeof block);
    float scale = half_to_float(block.scale);
    for (int j = 0; j < 16; j++) {
      out[j] = scale * (float)(((block.low_high[j] & 15) | fifth_bit(block.fifth, j)) - 16);
      out[j + 16] = scale * (float)(((block.low_high[j] >> 4) | fifth_bit(block.fifth, j + 16)) - 16);
    }
  }
}

static void decode_q5_1(const void *blocks, size_t count, float *out) {
  for (size_t b = 0; b < count; b++, out += SMALL) {
    struct q5_1 block;
    memcpy(&block, (const char *)blocks + b * sizeof block, sizeof block);
    float scale = half_to_float(block.scale), minimum = half_to_float(block.minimum);
    for (int j = 0; j < 16; j++) {
      out[j] = scale_and_shift(scale, (block.low_high[j] & 15) | fifth_bit(block.fifth, j), minimum);
      out[j + 16] = scale_and_shift(scale, (block.low_high[j] >> 4) | fifth_bit(block.fifth, j + 16), minimum);
    }
  }
}

static void decode_q8_0(const void *blocks, size_t count, float *out) {
  for (size_t b = 0; b < count; b++, out += SMALL) {
    struct q8_0 block;
    memcpy(&block, (const char *)blocks + b * sizeof block, sizeof block);
    float scale = half_to_float(block.scale);
    for (int j = 0; j < SMALL; j++) out[j] = scale * (float)block.values[j];
  }
}

/* Scale and minimum of group g. Bytes 0-3: scales 0-3 and, in the upper two bits, the upper bits of scales 4-7; bytes 4-7
 * the same of the minima; bytes 8-11: the lower four bits of scales 4-7 and minima 4-7. */
static void unpack_group(const uint8_t packed[12], int g, int *scale, int *minimum) {
  if (g < 4) {
    *scale = packed[g] & 63;
    *minimum = packed[g + 4] & 63;
  } else {
    *scale = (packed[g + 4] & 15) | (packed[g - 4] >> 6) << 4;
    *minimum = packed[g + 4] >> 4 | (packed[g] >> 6) << 4;
  }
}

static int nibble(const uint8_t low_high[128], int g, int j) {
  uint8_t byte = low_high[g / 2 * SMALL + j];
  return g % 2 ? byte >> 4 : byte & 15;
}

static void decode_q4_k(const void *blocks, size_t count, float *out) {
  for (size_t b = 0; b < count; b++) {
    struct q4_k block;
    memcpy(&block, (const char *)blocks + b * sizeof block, sizeof block);
    for (int g = 0; g < GROUPS; g++, out += SMALL) {
      int group_scale, group_minimum;
      unpack_group(block.sub_scales, g, &group_scale, &group_minimum);
      float scale = half_to_float(block.scale) * (float)group_scale;
      float minimum = half_to_float(block.minimum) * (float)group_minimum;
      for (int j = 0; j < SMALL; j++) out[j] = scale_and_shift(scale, nibble(block.low_high, g, j), -minimum);
    }
  }
}

static void decode_q5_k(const void *blocks, size_t count, float *out) {
  for (size_t b = 0; b < count; b++) {
    struct q5_k block;
    memcpy(&block, (const char *)blocks + b * sizeof block, sizeof block);
    for (int g = 0; g < GROUPS; g++, out += SMALL) {
      int group_scale, group_minimum;
      unpack_group(block.sub_scales, g, &group_scale, &group_minimum);
      float scale = half_to_float(block.scale) * (float)group_scale;
      float minimum = half_to_float(block.minimum) * (float)group_minimum;
      for (int j = 0; j < SMALL; j++) {
        int value = nibble(block.low_high, g, j) | (block.fifth[j] >> g & 1) << 4;
        out[j] = scale_and_shift(scale, value, -minimum);
      }
    }
  }
}

/* Eight groups of 32 in two halves. In a half, groups 0 and 1 are the low nibbles of its 64 bytes, 2 and 3 the high ones;
 * group q has its upper two bits at bit 2 q of the half's 32 high bytes. Each 16 elements have a scale. */
static void decode_q6_k(const void *blocks, size_t count, float *out) {
  for (size_t b = 0; b < count; b++) {
    struct q6_k block;
    memcpy(&block, (const char *)blocks + b * sizeof block, sizeof block);
    float scale = half_to_float(block.scale);
    for (int g = 0; g < GROUPS; g++, out += SMALL) {
      int half = g / 4, quarter = g % 4;
      const uint8_t *low = block.low + half * 64 + quarter % 2 * SMALL, *high = block.high + half * SMALL;
      for (int j = 0; j < SMALL; j++) {
        int value = (quarter < 2 ? low[j] & 15 : low[j] >> 4) | (high[j] >> (2 * quarter) & 3) << 4;
        int sixteen = g * 2 + j / 16;
        float sub_scale = scale * (float)block.sub_scales[sixteen];
        out[j] = sub_scale * (float)(value - 32);
      }
    }
  }
}

static const struct number_format q4_0_format = {"Q4_0", SMALL, sizeof(struct q4_0), decode_q4_0};
static const struct number_format q4_1_format = {"Q4_1", SMALL, sizeof(struct q4_1), decode_q4_1};
static const struct number_format q5_0_format = {"Q5_0", SMALL, sizeof(struct q5_0), decode_q5_0};
static const struct number_format q5_1_format = {"Q5_1", SMALL, sizeof(struct q5_1), decode_q5_1};
static const struct number_format q8_0_format = {"Q8_0", SMALL, sizeof(struct q8_0), decode_q8_0};
static const struct number_format q4_k_format = {"Q4_K", LARGE, sizeof(struct q4_k), decode_q4_k};
static const struct number_format q5_k_format = {"Q5_K", LARGE, sizeof(struct q5_k), decode_q5_k};
static const struct number_format q6_k_format = {"Q6_K", LARGE, sizeof(struct q6_k), decode_q6_k};

/* enum ggml_type; holes are types that were removed. */
static const struct {
  const char *name;
  const struct number_format *format;
} types[] = {
    [0] = {"F32", &number_f32},    [1] = {"F16", &number_f16},    [2] = {"Q4_0", &q4_0_format},
    [3] = {"Q4_1", &q4_1_format},  [6] = {"Q5_0", &q5_0_format},  [7] = {"Q5_1", &q5_1_format},
    [8] = {"Q8_0", &q8_0_format},  [9] = {"Q8_1", NULL},          [10] = {"Q2_K", NULL},
    [11] = {"Q3_K", NULL},         [12] = {"Q4_K", &q4_k_format}, [13] = {"Q5_K", &q5_k_format},
    [14] = {"Q6_K", &q6_k_format}, [15] = {"Q8_K", NULL},         [16] = {"IQ2_XXS", NULL},
    [17] = {"IQ2_XS", NULL},       [18] = {"IQ3_XXS", NULL},      [19] = {"IQ1_S", NULL},
    [20] = {"IQ4_NL", NULL},       [21] = {"IQ3_S", NULL},        [22] = {"IQ2_S", NULL},
    [23] = {"IQ4_XS", NULL},       [24] = {"I8", NULL},           [25] = {"I16", NULL},
    [26] = {"I32", NULL},          [27] = {"I64", NULL},          [28] = {"F64", NULL},
    [29] = {"IQ1_M", NULL},        [30] = {"BF16", &number_bf16}, [34] = {"TQ1_0", NULL},
    [35] = {"TQ2_0", NULL},        [39] = {"MXFP4", NULL},
};
enum { TYPES = sizeof types / sizeof *types };

const struct number_format *gguf_number_format(uint32_t type) {
  return type < TYPES ? types[type].format : NULL;
}

const char *gguf_type_name(uint32_t type) {
  return type < TYPES && types[type].name ? types[type].name : "unknown";
}
