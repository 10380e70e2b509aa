/* The register tiles and the loops around them; see multiply.h. */
#include "kernels/cpu/multiply.h"

#include "kernels/cpu/isa/pack.h"
#include "kernels/cpu/isa/product_vector.h"

#define multiply_units ISA_NAME(multiply_units)
#define multiply_run   ISA_NAME(multiply_run)
#define INLINE         static inline __attribute__((always_inline))

enum { WIDTH = LANES * VECTORS };
_Static_assert((int)WIDTH <= (int)PANEL_COLUMNS && (int)MOST_ROWS <= (int)TILE_ROWS,
               "the scratch must hold a panel and a tile");

/** A as the tile reads it: the step s of row r is the word at data + r * row + s * step, in bytes. */
struct rows_of_a {
  const char *data;
  size_t row, step;
};

/** sums[rows][vectors * LANES] (+)= A · panel. With `rows`, `vectors` and `pairs` constant all sums live in registers. */
INLINE void tile(int rows, int vectors, bool pairs, int steps, struct rows_of_a a, const uint32_t *panel, float *sums,
                 bool accumulate) {
  vector sum[MOST_ROWS][VECTORS];
#pragma GCC unroll 12
  for (int r = 0; r < rows; r++)
#pragma GCC unroll 3
    for (int v = 0; v < vectors; v++)
      sum[r][v] = accumulate ? load(sums + (r * vectors + v) * LANES) : broadcast(&(float){0});
#pragma GCC unroll 1
  for (int s = 0; s < steps; s++, a.data += a.step, panel += vectors * LANES) {
    vector b[VECTORS];
#pragma GCC unroll 3
    for (int v = 0; v < vectors; v++) b[v] = load(panel + v * LANES);
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++) {
      vector x = broadcast(a.data + r * a.row);
#pragma GCC unroll 3
      for (int v = 0; v < vectors; v++)
        sum[r][v] = pairs ? multiply_add_pairs(sum[r][v], x, b[v]) : multiply_add(sum[r][v], x, b[v]);
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < rows; r++)
#pragma GCC unroll 3
    for (int v = 0; v < vectors; v++) store(sums + (r * vectors + v) * LANES, sum[r][v]);
}

typedef void tile_function(int steps, struct rows_of_a a, const uint32_t *panel, float *sums, bool accumulate);

#define TILE(rows, vectors, pairs, name)                                                                 \
  static void name(int steps, struct rows_of_a a, const uint32_t *panel, float *sums, bool accumulate) { \
    if (accumulate)                                                                                      \
      tile(rows, vectors, pairs, steps, a, panel, sums, true);                                           \
    else                                                                                                 \
      tile(rows, vectors, pairs, steps, a, panel, sums, false);                                          \
  }
#define TILES(rows, vectors)                          \
  TILE(rows, vectors, false, tile_##rows##x##vectors) \
  TILE(rows, vectors, true, pairs_##rows##x##vectors)

/** The tiles of one width, the tallest first. */
struct tile_set {
  int rows[4];
  tile_function *floats[4], *pairs[4];
};
#define TILE_SET(v, a, b, c, d)                                                                                  \
  {                                                                                                              \
    .rows = {a, b, c, d}, .floats = {tile_##a##x##v, tile_##b##x##v, tile_##c##x##v, tile_##d##x##v}, .pairs = { \
      pairs_##a##x##v,                                                                                           \
      pairs_##b##x##v,                                                                                           \
      pairs_##c##x##v,                                                                                           \
      pairs_##d##x##v                                                                                            \
    }                                                                                                            \
  }

#if defined(__AVX512BF16__)
TILES(8, 3)
TILES(4, 3)
TILES(2, 3)
TILES(1, 3) TILES(12, 2) TILES(6, 2) TILES(2, 2) TILES(1, 2) TILES(12, 1) TILES(6, 1) TILES(2, 1)
    TILES(1, 1) static const
    struct tile_set tile_sets[VECTORS] = {TILE_SET(1, 12, 6, 2, 1), TILE_SET(2, 12, 6, 2, 1), TILE_SET(3, 8, 4, 2, 1)};
#elif defined(__AVX2__)
TILES(6, 2)
TILES(3, 2)
TILES(2, 2)
TILES(1, 2) TILES(12, 1) TILES(6, 1) TILES(2, 1) TILES(1, 1) static const
    struct tile_set tile_sets[VECTORS] = {TILE_SET(1, 12, 6, 2, 1), TILE_SET(2, 6, 3, 2, 1)};
#else
TILES(4, 2)
TILES(3, 2)
TILES(2, 2)
TILES(1, 2) TILES(4, 1) TILES(3, 1) TILES(2, 1) TILES(1, 1) static const
    struct tile_set tile_sets[VECTORS] = {TILE_SET(1, 4, 3, 2, 1), TILE_SET(2, 4, 3, 2, 1)};
#endif

/** bf16 operands multiplied as they are, in pairs. */
static bool uses_pairs(const struct multiply *task) {
  return HAS_PAIRS && task->a.type == DTYPE_BF16;
}

/** The tile reads A where it lies: the words of a step are whole, and of the right type. */
static bool reads_in_place(const struct multiply *task, bool pairs) {
  return pairs ? task->a.step_stride == 1 && task->k % 2 == 0 : task->a.type == DTYPE_F32;
}

static const struct tile_set *widest_set(const struct multiply *task) {
  return &tile_sets[task->n >= WIDTH ? VECTORS - 1 : (task->n - 1) / LANES];
}

static int row_units(const struct multiply *task) {
  int rows = widest_set(task)->rows[0];
  return (task->m + rows - 1) / rows;
}

int64_t multiply_units(const struct multiply *task) {
  return (int64_t)((task->n + WIDTH - 1) / WIDTH) * row_units(task);
}

#if defined(__AVX512BF16__)
/** Adds bias and residual and rounds. */
INLINE void write_vector(const struct multiply *task, const float *sums, size_t place, int column, __mmask16 mask) {
  __m512 value = _mm512_loadu_ps(sums);
  if (task->bias) value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(mask, task->bias + column));
  if (task->c_type == DTYPE_BF16) {
    if (task->residual) {
      __m256i bits = _mm256_maskz_loadu_epi16(mask, (const bf16 *)task->residual + place);
      value = _mm512_add_ps(value, _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16)));
    }
    _mm256_mask_storeu_epi16((bf16 *)task->c + place, mask, (__m256i)_mm512_cvtneps_pbh(value));
  } else {
    if (task->residual)
      value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(mask, (const float *)task->residual + place));
    _mm512_mask_storeu_ps((float *)task->c + place, mask, value);
  }
}

static void write_row(const struct multiply *task, const float *sums, size_t place, int column, int count) {
  for (int j = 0; j < count; j += LANES) {
    __mmask16 mask = (__mmask16)(count - j >= LANES ? 0xffff : (1 << (count - j)) - 1);
    write_vector(task, sums + j, place + j, column + j, mask);
  }
}
#else
static float read_act(const void *x, enum dtype type, size_t i) {
  return type == DTYPE_BF16 ? bf16_to_float(((const bf16 *)x)[i]) : ((const float *)x)[i];
}

static void write_row(const struct multiply *task, const float *sums, size_t place, int column, int count) {
  for (int j = 0; j < count; j++) {
    float value = sums[j];
    if (task->bias) value += task->bias[column + j];
    if (task->residual) value += read_act(task->residual, task->c_type, place + j);
    if (task->c_type == DTYPE_BF16)
      ((bf16 *)task->c)[place + j] = float_to_bf16(value);
    else
      ((float *)task->c)[place + j] = value;
  }
}
#endif

/** Some rows of one panel. */
struct block {
  const struct multiply *task;
  struct multiply_scratch *scratch;
  const struct tile_set *set;
  bool pairs, in_place;
  int column, width, columns; /**< width: padded to whole vectors */
  int first, count;           /**< of the inner dimension */
};

static struct rows_of_a rows_of_a(const struct block *block, int row, int rows) {
  const struct operand *a = &block->task->a;
  size_t size = dtype_size(a->type);
  if (block->in_place) {
    const char *data = (const char *)a->data + (row * a->row_stride + block->first * a->step_stride) * size;
    return (struct rows_of_a){data, a->row_stride * size, block->pairs ? 4 : a->step_stride * size};
  }
  pack_tile(block->task, block->scratch, block->pairs, row, rows, block->first, block->count);
  const char *data = (const char *)block->scratch->tile;
  size_t steps = (size_t)steps_of(block->count, block->pairs);
  return a->step_stride == 1 ? (struct rows_of_a){data, 4 * steps, 4} : (struct rows_of_a){data, 4, 4 * TILE_ROWS};
}

/** Multiplies `rows` rows from `row` on with the packed panel, into sums[rows][width]. */
static void multiply_rows(const struct block *block, int row, int rows, float *sums) {
  struct rows_of_a a = rows_of_a(block, row, rows);
  int steps = steps_of(block->count, block->pairs);
  for (int i = 0, done = 0; done < rows; i++)
    for (; rows - done >= block->set->rows[i]; done += block->set->rows[i]) {
      struct rows_of_a part = {a.data + done * a.row, a.row, a.step};
      tile_function *function = block->pairs ? block->set->pairs[i] : block->set->floats[i];
      function(steps, part, block->scratch->panel, sums + (size_t)done * block->width, block->first > 0);
    }
}

static void write_rows(const struct block *block, int row, int rows, const float *sums) {
  const struct multiply *task = block->task;
  for (int r = 0; r < rows; r++)
    write_row(task, sums + (size_t)r * block->width, (size_t)(row + r) * task->n + block->column, block->column,
              block->columns);
}

static int smaller(int a, int b) {
  return a < b ? a : b;
}

/** The inner dimension fits a panel: a tile's sums go straight to C. */
static void run_shallow(struct block *block, int row, int end) {
  float sums[MOST_ROWS * WIDTH] __attribute__((aligned(64)));
  block->first = 0;
  block->count = block->task->k;
  pack_panel(block->task, block->scratch, block->pairs, block->column, block->width, 0, block->count);
  for (int rows; row < end; row += rows) {
    rows = smaller(block->set->rows[0], end - row);
    multiply_rows(block, row, rows, sums);
    write_rows(block, row, rows, sums);
  }
}

/** Panel after panel along the inner dimension, the sums of all rows kept in between. At most SUM_ROWS rows. */
static void run_deep(struct block *block, int row, int end) {
  int depth = block->pairs ? 2 * PANEL_STEPS : PANEL_STEPS;
  float *sums = block->scratch->sums;
  for (block->first = 0; block->first < block->task->k; block->first += depth) {
    block->count = smaller(depth, block->task->k - block->first);
    pack_panel(block->task, block->scratch, block->pairs, block->column, block->width, block->first, block->count);
    for (int r = row, rows; r < end; r += rows) {
      rows = smaller(block->set->rows[0], end - r);
      multiply_rows(block, r, rows, sums + (size_t)(r - row) * block->width);
    }
  }
  write_rows(block, row, end - row, sums);
}

static void run_panel(const struct multiply *task, struct multiply_scratch *scratch, int panel, int row, int end) {
  int column = panel * WIDTH, columns = smaller(WIDTH, task->n - column), vectors = (columns + LANES - 1) / LANES;
  bool pairs = uses_pairs(task);
  struct block block = {.task = task,
                        .scratch = scratch,
                        .set = &tile_sets[vectors - 1],
                        .pairs = pairs,
                        .in_place = reads_in_place(task, pairs),
                        .column = column,
                        .width = vectors * LANES,
                        .columns = columns};
  if (steps_of(task->k, pairs) <= PANEL_STEPS) {
    run_shallow(&block, row, end);
    return;
  }
  for (; row < end; row += SUM_ROWS) run_deep(&block, row, smaller(row + SUM_ROWS, end));
}

void multiply_run(const struct multiply *task, struct multiply_scratch *scratch, int64_t first_unit,
                  int64_t last_unit) {
  int units = row_units(task), unit_rows = widest_set(task)->rows[0];
  while (first_unit < last_unit) {
    int panel = (int)(first_unit / units), from = (int)(first_unit % units);
    int to = (int)(last_unit - first_unit < units - from ? from + (last_unit - first_unit) : units);
    run_panel(task, scratch, panel, from * unit_rows, smaller(to * unit_rows, task->m));
    first_unit += to - from;
  }
}
