/* The register tiles and the loops around them; see multiply.h. */
#include "kernels/cpu/multiply.h"

#include "kernels/cpu/isa/pack.h"
#include "kernels/cpu/isa/product_vector.h"
#include "kernels/cpu/isa/write_sums.h"

#define multiply_units ISA_NAME(multiply_units)
#define multiply_run   ISA_NAME(multiply_run)
#define INLINE         static inline __attribute__((always_inline))

enum {
  WIDTH = LANES * VECTORS,
  DEEP_PANELS = 6, /**< packed together when the inner dimension is too long for one */
  FEW_ROWS = 48,   /**< below this, packing is most of the work: long stretches of one panel pack faster */
};
_Static_assert((int)MOST_ROWS <= (int)TILE_ROWS, "the scratch must hold a panel and a tile");

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
  TILE(rows, vectors, true, pairs_##rows##x##vectors) \
  _Static_assert((rows) <= MOST_ROWS && (vectors) <= VECTORS, "a tile's sums must have their place")

/** The tiles of one width, the tallest first. */
struct tile_set {
  int rows[4];
  tile_function *floats[4], *pairs[4];
};

#if defined(__AVX512BF16__)
TILES(8, 3);
TILES(4, 3);
TILES(2, 3);
TILES(1, 3);
TILES(12, 2);
TILES(6, 2);
TILES(2, 2);
TILES(1, 2);
TILES(12, 1);
TILES(6, 1);
TILES(2, 1);
TILES(1, 1);
static const struct tile_set tile_sets[VECTORS] = {
    {{12, 6, 2, 1}, {tile_12x1, tile_6x1, tile_2x1, tile_1x1}, {pairs_12x1, pairs_6x1, pairs_2x1, pairs_1x1}},
    {{12, 6, 2, 1}, {tile_12x2, tile_6x2, tile_2x2, tile_1x2}, {pairs_12x2, pairs_6x2, pairs_2x2, pairs_1x2}},
    {{8, 4, 2, 1}, {tile_8x3, tile_4x3, tile_2x3, tile_1x3}, {pairs_8x3, pairs_4x3, pairs_2x3, pairs_1x3}}};
#elif defined(__AVX2__)
TILES(6, 2);
TILES(3, 2);
TILES(2, 2);
TILES(1, 2);
TILES(12, 1);
TILES(6, 1);
TILES(2, 1);
TILES(1, 1);
static const struct tile_set tile_sets[VECTORS] = {
    {{12, 6, 2, 1}, {tile_12x1, tile_6x1, tile_2x1, tile_1x1}, {pairs_12x1, pairs_6x1, pairs_2x1, pairs_1x1}},
    {{6, 3, 2, 1}, {tile_6x2, tile_3x2, tile_2x2, tile_1x2}, {pairs_6x2, pairs_3x2, pairs_2x2, pairs_1x2}}};
#else
TILES(4, 2);
TILES(3, 2);
TILES(2, 2);
TILES(1, 2);
TILES(4, 1);
TILES(3, 1);
TILES(2, 1);
TILES(1, 1);
static const struct tile_set tile_sets[VECTORS] = {
    {{4, 3, 2, 1}, {tile_4x1, tile_3x1, tile_2x1, tile_1x1}, {pairs_4x1, pairs_3x1, pairs_2x1, pairs_1x1}},
    {{4, 3, 2, 1}, {tile_4x2, tile_3x2, tile_2x2, tile_1x2}, {pairs_4x2, pairs_3x2, pairs_2x2, pairs_1x2}}};
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

static int smaller(int a, int b) {
  return a < b ? a : b;
}

/** Panels side by side that are packed together, and the part of the inner dimension they hold. */
struct group {
  const struct multiply *task;
  struct multiply_scratch *scratch;
  bool pairs, in_place;
  int first_panel, panels;
  int first, count;
};

/** The columns of panel `p` of a group. */
struct columns {
  int first, count, vectors;
};

static struct columns columns_of(const struct group *group, int p) {
  int first = (group->first_panel + p) * WIDTH, count = smaller(WIDTH, group->task->n - first);
  return (struct columns){first, count, (count + LANES - 1) / LANES};
}

static uint32_t *panel_of(const struct group *group, int p) {
  return group->scratch->panel + (size_t)p * WIDTH * steps_of(group->count, group->pairs);
}

static void pack_group(const struct group *group) {
  for (int p = 0; p < group->panels; p++) {
    struct columns columns = columns_of(group, p);
    pack_panel(panel_of(group, p), group->task, group->scratch->rows, group->pairs, columns.first,
               columns.vectors * LANES, group->first, group->count);
  }
}

static struct rows_of_a rows_of_a(const struct group *group, int row, int rows) {
  const struct operand *a = &group->task->a;
  size_t size = dtype_size(a->type);
  if (group->in_place) {
    const char *data = (const char *)a->data + (row * a->row_stride + group->first * a->step_stride) * size;
    return (struct rows_of_a){data, a->row_stride * size, group->pairs ? 4 : a->step_stride * size};
  }
  pack_tile(group->scratch->tile, group->task, group->pairs, row, rows, group->first, group->count);
  const char *data = (const char *)group->scratch->tile;
  size_t steps = (size_t)steps_of(group->count, group->pairs);
  return a->step_stride == 1 ? (struct rows_of_a){data, 4 * steps, 4} : (struct rows_of_a){data, 4, 4 * TILE_ROWS};
}

/** Multiplies `rows` rows of A with panel `p`, into or onto sums[rows][vectors * LANES]. */
static void multiply_panel(const struct group *group, int p, struct rows_of_a a, int rows, float *sums) {
  int steps = steps_of(group->count, group->pairs), vectors = columns_of(group, p).vectors;
  const struct tile_set *set = &tile_sets[vectors - 1];
  for (int i = 0; rows > 0; i++)
    for (int height = set->rows[i]; rows >= height; rows -= height) {
      tile_function *function = group->pairs ? set->pairs[i] : set->floats[i];
      function(steps, a, panel_of(group, p), sums, group->first > 0);
      a.data += height * a.row;
      sums += height * vectors * LANES;
    }
}

static void write_panel(const struct group *group, int p, int row, int rows, const float *sums) {
  struct columns columns = columns_of(group, p);
  write_sums(group->task, sums, columns.vectors * LANES, row, rows, columns.first, columns.count);
}

/** The whole inner dimension is packed: a tile's sums go straight to C. */
static void run_shallow(struct group *group, int row, int end) {
  float sums[MOST_ROWS * WIDTH] __attribute__((aligned(64)));
  int height = tile_sets[columns_of(group, 0).vectors - 1].rows[0];
  group->first = 0;
  group->count = group->task->k;
  pack_group(group);
  for (int rows; row < end; row += rows) {
    rows = smaller(height, end - row);
    struct rows_of_a a = rows_of_a(group, row, rows);
    for (int p = 0; p < group->panels; p++) {
      multiply_panel(group, p, a, rows, sums);
      write_panel(group, p, row, rows, sums);
    }
  }
}

/** Part after part of the inner dimension, `depth` elements each, the sums of all rows kept in between. */
static void run_deep(struct group *group, int depth, int row, int end) {
  int height = tile_sets[columns_of(group, 0).vectors - 1].rows[0];
  size_t panel_sums = (size_t)(end - row) * WIDTH;
  for (group->first = 0; group->first < group->task->k; group->first += depth) {
    group->count = smaller(depth, group->task->k - group->first);
    pack_group(group);
    for (int r = row, rows; r < end; r += rows) {
      rows = smaller(height, end - r);
      struct rows_of_a a = rows_of_a(group, r, rows);
      for (int p = 0; p < group->panels; p++) {
        size_t before = (size_t)(r - row) * columns_of(group, p).vectors * LANES;
        multiply_panel(group, p, a, rows, group->scratch->sums + p * panel_sums + before);
      }
    }
  }
  for (int p = 0; p < group->panels; p++) write_panel(group, p, row, end - row, group->scratch->sums + p * panel_sums);
}

/** Rows row .. end of some panels. */
static void run_panels(const struct multiply *task, struct multiply_scratch *scratch, int panel, int panels, int row,
                       int end) {
  bool pairs = uses_pairs(task);
  int steps = steps_of(task->k, pairs), fit = steps ? PANEL_WORDS / (steps * WIDTH) : panels;
  struct group group = {.task = task, .scratch = scratch, .pairs = pairs, .in_place = reads_in_place(task, pairs)};
  bool deep = steps > MOST_STEPS;
  if (deep) fit = end - row < FEW_ROWS ? 1 : DEEP_PANELS;
  for (int last = panel + panels; panel < last; panel += group.panels) {
    group.first_panel = panel;
    group.panels = smaller(fit, last - panel);
    if (!deep) {
      run_shallow(&group, row, end);
      continue;
    }
    /* Whole blocks of 4-bit weights: parts of them take a slower way. */
    int depth = smaller(PANEL_WORDS / (group.panels * WIDTH) / QUANT_BLOCK * QUANT_BLOCK, MOST_STEPS) * (pairs ? 2 : 1);
    int rows = SUM_WORDS / (group.panels * WIDTH);
    for (int r = row; r < end; r += rows) run_deep(&group, depth, r, smaller(r + rows, end));
  }
}

void multiply_run(const struct multiply *task, struct multiply_scratch *scratch, int64_t first_unit,
                  int64_t last_unit) {
  int units = row_units(task), unit_rows = widest_set(task)->rows[0];
  while (first_unit < last_unit) {
    int panel = (int)(first_unit / units), from = (int)(first_unit % units);
    int64_t left = last_unit - first_unit;
    if (from == 0 && left >= units) {
      run_panels(task, scratch, panel, (int)(left / units), 0, task->m);
      first_unit += left / units * units;
    } else {
      int to = left < units - from ? from + (int)left : units;
      run_panels(task, scratch, panel, 1, from * unit_rows, smaller(to * unit_rows, task->m));
      first_unit += to - from;
    }
  }
}
