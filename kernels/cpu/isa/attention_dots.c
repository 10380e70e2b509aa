/**
 * @file attention_dots.c
 * An attention item in bf16 dot products (AVX-512 BF16: each of 16 lanes adds two products to an fp32 sum). Keys are laid
 * out so that the two are neighbouring dimensions of 16 keys, values so that they are neighbouring keys in 16
 * dimensions; the softmax weights are rounded to bf16 for the second product. A block of softmax rows goes through
 * scores, weights and values while its sums are in registers.
 */
#include "kernels/cpu/isa/attention.h"

#if defined(__AVX512BF16__)
#include <math.h>

enum { BLOCK = 6, TILE = 64, TILE_VECS = TILE / 16, HEAD_DIM_MAX = 256 };
_Static_assert(DOTS_ROWS % BLOCK == 0, "blocks fill an item");
_Static_assert(TILE *HEAD_DIM_MAX + DOTS_ROWS * HEAD_DIM_MAX <= CPU_THREAD_SCRATCH, "the tiles fit the scratch");

struct dots {
  int rows, pairs, width; /**< pairs = head_dim / 2; width: head_dim rounded up to 32 */
  int q_stride;
  uint32_t *keys;   /**< [width / 2, TILE] pairs of bf16 */
  uint32_t *values; /**< [TILE / 2, width] pairs of bf16 */
  float *o;         /**< [DOTS_ROWS, width] */
  float scale;      /**< of scores, to units of log 2 */
  float highest[DOTS_ROWS], sum[DOTS_ROWS];
};

struct block {
  const bf16 *q[BLOCK];
  int seen[BLOCK], most_seen; /**< keys of the tile */
  float scores[BLOCK][TILE], rescale[BLOCK];
  bf16 weights[BLOCK][TILE];
};

static void transpose(__m512i r[16]) {
  __m512i t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  for (int i = 0; i < 4; i++) {
    __m512i a = _mm512_shuffle_i32x4(r[i], r[4 + i], 0x88), b = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0x88);
    __m512i c = _mm512_shuffle_i32x4(r[i], r[4 + i], 0xdd), d = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0xdd);
    t[i] = _mm512_shuffle_i32x4(a, b, 0x88);
    t[4 + i] = _mm512_shuffle_i32x4(c, d, 0x88);
    t[8 + i] = _mm512_shuffle_i32x4(a, b, 0xdd);
    t[12 + i] = _mm512_shuffle_i32x4(c, d, 0xdd);
  }
  memcpy(r, t, sizeof t);
}

/** 32 dimensions from `column` of row `row`, zero beyond `rows` and head_dim. */
static inline __m512i load_dims(const bf16 *x, int row, int rows, int stride, int column, int head_dim) {
  int left = row < rows ? head_dim - column : 0;
  __mmask32 mask = left >= 32 ? 0xffffffffu : (1u << left) - 1;
  return _mm512_maskz_loadu_epi16(mask, x + (size_t)row * (size_t)stride + column);
}

static void pack_keys(struct dots *s, const bf16 *k, int rows, int stride, int head_dim) {
  for (int column = 0; column < s->width; column += 32)
    for (int j = 0; j < TILE && j < rows; j += 16) {
      __m512i r[16];
      for (int i = 0; i < 16; i++) r[i] = load_dims(k, j + i, rows, stride, column, head_dim);
      transpose(r);
      for (int i = 0; i < 16; i++) _mm512_store_si512(s->keys + (column / 2 + i) * TILE + j, r[i]);
    }
}

static void pack_values(struct dots *s, const bf16 *v, int rows, int stride, int head_dim) {
  const __m512i step = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6, 37,
                                        5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
  const __m512i second = _mm512_add_epi16(step, _mm512_set1_epi16(16));
  for (int j = 0; j < rows; j += 2)
    for (int column = 0; column < s->width; column += 32) {
      __m512i a = load_dims(v, j, rows, stride, column, head_dim);
      __m512i b = load_dims(v, j + 1, rows, stride, column, head_dim);
      uint32_t *out = s->values + j / 2 * s->width + column;
      _mm512_store_si512(out, _mm512_permutex2var_epi16(a, step, b));
      _mm512_store_si512(out + 16, _mm512_permutex2var_epi16(a, second, b));
    }
}

/** The pair of bf16 at `from` in every lane. */
static inline __m512bh broadcast_pair(const bf16 *from) {
  int32_t pair;
  memcpy(&pair, from, sizeof pair);
  return (__m512bh)_mm512_set1_epi32(pair);
}

static inline __attribute__((always_inline)) void score_block(struct block *b, const struct dots *s, int vecs) {
  __m512 sum[BLOCK][TILE_VECS];
  for (int r = 0; r < BLOCK; r++)
    for (int v = 0; v < vecs; v++) sum[r][v] = _mm512_setzero_ps();
  for (int d = 0; d < s->pairs; d++) {
    __m512bh keys[TILE_VECS];
    for (int v = 0; v < vecs; v++) keys[v] = (__m512bh)_mm512_load_si512(s->keys + d * TILE + 16 * v);
    for (int r = 0; r < BLOCK; r++) {
      __m512bh q = broadcast_pair(b->q[r] + 2 * d);
      for (int v = 0; v < vecs; v++) sum[r][v] = _mm512_dpbf16_ps(sum[r][v], q, keys[v]);
    }
  }
  for (int r = 0; r < BLOCK; r++)
    for (int v = 0; v < vecs; v++) _mm512_storeu_ps(b->scores[r] + 16 * v, sum[r][v]);
}

/** Scores of row r of the block become weights relative to the highest score so far. */
static inline __attribute__((always_inline)) void soften_row(struct block *b, struct dots *s, int r, int row,
                                                             int vecs) {
  __m512 x[TILE_VECS], total = _mm512_setzero_ps(), high = _mm512_set1_ps(SCORE_UNSEEN);
  for (int v = 0; v < vecs; v++) {
    x[v] = _mm512_loadu_ps(b->scores[r] + 16 * v);
    int seen = b->seen[r] - 16 * v;
    if (seen < 16)
      x[v] = _mm512_mask_mov_ps(_mm512_set1_ps(SCORE_UNSEEN), (__mmask16)(seen > 0 ? (1u << seen) - 1 : 0), x[v]);
    high = _mm512_max_ps(high, x[v]);
  }
  float highest = vec_highest(high) * s->scale;
  highest = highest > s->highest[row] ? highest : s->highest[row];
  for (int v = 0; v < vecs; v++) {
    x[v] = vec_exp2(x[v] * s->scale - highest);
    total += x[v];
  }
  for (int v = 0; v < vecs; v += 2) {
    __m512 next = v + 1 < vecs ? x[v + 1] : _mm512_setzero_ps();
    _mm512_storeu_si512(b->weights[r] + 16 * v, (__m512i)_mm512_cvtne2ps_pbh(next, x[v]));
  }
  b->rescale[r] = highest > s->highest[row] ? row_exp((s->highest[row] - highest) * LN_2) : 1;
  s->sum[row] = s->sum[row] * b->rescale[r] + vec_sum(total);
  s->highest[row] = highest;
}

/** `vecs` · 16 dimensions of the block's output, from `first` on. */
static inline __attribute__((always_inline)) void add_values(const struct block *b, struct dots *s, int row, int first,
                                                             int vecs) {
  __m512 sum[BLOCK][TILE_VECS];
  float *o = s->o + row * s->width + first;
  for (int r = 0; r < BLOCK; r++)
    for (int v = 0; v < vecs; v++) sum[r][v] = _mm512_load_ps(o + r * s->width + 16 * v) * b->rescale[r];
  for (int j = 0; j < b->most_seen; j += 2) {
    __m512bh values[TILE_VECS];
    for (int v = 0; v < vecs; v++)
      values[v] = (__m512bh)_mm512_load_si512(s->values + j / 2 * s->width + first + 16 * v);
    for (int r = 0; r < BLOCK; r++) {
      __m512bh weight = broadcast_pair(b->weights[r] + j);
      for (int v = 0; v < vecs; v++) sum[r][v] = _mm512_dpbf16_ps(sum[r][v], weight, values[v]);
    }
  }
  for (int r = 0; r < BLOCK; r++)
    for (int v = 0; v < vecs; v++) _mm512_store_ps(o + r * s->width + 16 * v, sum[r][v]);
}

static inline __attribute__((always_inline)) void weigh_block(struct block *b, struct dots *s, int row, int vecs) {
  score_block(b, s, vecs);
  for (int r = 0; r < BLOCK; r++) soften_row(b, s, r, row + r, vecs);
}

/** A block of rows against a tile: only the vectors of keys that some row sees. */
static void take_tile(struct block *b, struct dots *s, int row) {
  switch ((b->most_seen + 15) / 16) {
    case 0:
      return;
    case 1:
      weigh_block(b, s, row, 1);
      break;
    case 2:
      weigh_block(b, s, row, 2);
      break;
    case 3:
      weigh_block(b, s, row, 3);
      break;
    default:
      weigh_block(b, s, row, 4);
  }
  int first = 0;
  for (; first + 16 * TILE_VECS <= s->width; first += 16 * TILE_VECS) add_values(b, s, row, first, TILE_VECS);
  if (first < s->width) add_values(b, s, row, first, 2);
}

/** The rows beyond the last repeat it; what they give is not stored. */
static void find_rows(struct block *b, const struct dots *s, const struct attention_args *a,
                      const struct attention_item *item, int row, int first) {
  b->most_seen = 0;
  for (int r = 0; r < BLOCK; r++) {
    int index = row + r < s->rows ? row + r : s->rows - 1, head = item->head + index % item->heads;
    b->q[r] = (const bf16 *)a->q + (size_t)(item->query + index / item->heads) * (size_t)a->q_stride +
              (size_t)(head * a->head_dim);
    b->seen[r] = visible_keys(item, index, first, TILE);
    if (b->seen[r] > b->most_seen) b->most_seen = b->seen[r];
  }
}

static void store_rows(struct dots *s, const struct attention_args *a, const struct attention_item *item) {
  for (int r = 0; r < s->rows; r++) {
    float *o = s->o + r * s->width, inverse = 1.0f / s->sum[r];
    size_t row = (size_t)(item->query + r / item->heads) * (size_t)a->heads + (size_t)(item->head + r % item->heads);
    for (int d = 0; d < a->head_dim; d++) o[d] *= inverse;
    act_store(a->o, row * (size_t)a->head_dim, o, a->head_dim, DTYPE_BF16);
    if (a->lse) a->lse[row] = s->highest[r] * LN_2 + logf(s->sum[r]);
  }
}

static void lay_out(struct dots *s, const struct attention_args *a, const struct attention_item *item, float *scratch) {
  s->rows = item->queries * item->heads;
  s->pairs = a->head_dim / 2;
  s->width = (a->head_dim + 31) / 32 * 32;
  s->scale = a->scale * LOG2_E;
  s->keys = (uint32_t *)(void *)scratch;
  s->values = s->keys + s->width / 2 * TILE;
  s->o = scratch + s->width * TILE;
  int padded = (s->rows + BLOCK - 1) / BLOCK * BLOCK;
  memset(s->o, 0, (size_t)(padded * s->width) * sizeof *s->o);
  for (int r = 0; r < padded; r++) {
    s->highest[r] = SCORE_UNSEEN;
    s->sum[r] = 0;
  }
}

void ISA_NAME(attention_dots)(const struct attention_args *a, const struct attention_item *item, float *scratch,
                              enum dtype act) {
  struct dots s;
  struct block b = {0};
  int keys = item_keys(item);
  (void)act;
  lay_out(&s, a, item, scratch);
  for (int first = 0; first < keys; first += TILE) {
    int count = keys - first < TILE ? keys - first : TILE;
    size_t from = (size_t)(item->key + first) * (size_t)a->kv_stride + (size_t)(item->kv_head * a->head_dim);
    pack_keys(&s, (const bf16 *)a->k + from, count, a->kv_stride, a->head_dim);
    pack_values(&s, (const bf16 *)a->v + from, count, a->kv_stride, a->head_dim);
    for (int row = 0; row < s.rows; row += BLOCK) {
      find_rows(&b, &s, a, item, row, first);
      take_tile(&b, &s, row);
    }
  }
  store_rows(&s, a, item);
}
#endif
