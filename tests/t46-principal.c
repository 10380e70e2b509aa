/**
 * @file t46-principal.c
 * The principal directions: of points against numpy's eigendecomposition; of matrices with equal, zero and widely spread
 * eigenvalues by what defines them; of a backbone's taps, whatever the groups of modules and the stages of a pipeline.
 */
// RUN ranks=1,2,3
#include "calibrate.h"
#include "principal.h"
#include "tiny.h"

/* ---- against numpy ---------------------------------------------------------------------------------------- */

static double dot(const double *a, const double *b, int size) {
  double sum = 0;
  for (int i = 0; i < size; i++) sum += a[i] * b[i];
  return sum;
}

/* Sums over points as float64; `squares` [d][d], `sums` [d]. */
static void sum_points(const float *x, size_t points, int d, double *squares, double *sums) {
  for (size_t n = 0; n < points; n++)
    for (int i = 0; i < d; i++) {
      sums[i] += x[n * (size_t)d + (size_t)i];
      for (int j = 0; j < d; j++)
        squares[i * d + j] += (double)x[n * (size_t)d + (size_t)i] * (double)x[n * (size_t)d + (size_t)j];
    }
}

/* The largest angle of `got` to a vector of the reference: those are apart, so that each has its own. */
static void check_cloud(const struct safetensors *reference, const char *name, int d, int k) {
  char prefix[32];
  snprintf(prefix, sizeof prefix, "%s.", name);
  char full[64];
  snprintf(full, sizeof full, "%sx", prefix);
  size_t points = reference_count(reference, full) / (size_t)d;
  float *x = reference_read(reference, prefix, "x", points * (size_t)d);
  float *vectors = reference_read(reference, prefix, "vectors", (size_t)(k * d));
  float *values = reference_read(reference, prefix, "values", (size_t)k);
  float *mean = reference_read(reference, prefix, "mean", (size_t)d);
  float *variance = reference_read(reference, prefix, "variance", 1);
  double *squares = calloc((size_t)(d * d), sizeof *squares), *sums = calloc((size_t)d, sizeof *sums), explained;
  float *got = calloc(principal_floats(d, k), sizeof *got);
  sum_points(x, points, d, squares, sums);
  CHECK_OK(principal_solve(squares, sums, (double)points, d, k, got, &explained));
  double kept = 0;
  for (int i = 0; i < k; i++) {
    double shift = 0, scale = sqrt((double)values[i]);
    for (int j = 0; j < d; j++) {
      CHECK(fabs(got[i * d + j] * scale - (double)vectors[i * d + j]) < 2e-6);
      shift -= (double)got[i * d + j] * (double)mean[j];
    }
    CHECK(fabs(got[k * d + i] - shift) < 1e-5 * (1 + fabs(shift)));
    kept += (double)values[i];
  }
  CHECK(fabs(explained - kept / (double)*variance) < 1e-6);
  free(x);
  free(vectors);
  free(values);
  free(mean);
  free(variance);
  free(squares);
  free(sums);
  free(got);
}

/* ---- by definition ---------------------------------------------------------------------------------------- */

/* A matrix with these eigenvalues: a reflection of the diagonal one. */
static double *make_matrix(const double *values, int d) {
  double *matrix = calloc((size_t)(d * d), sizeof *matrix), *u = calloc((size_t)d, sizeof *u), length;
  for (int i = 0; i < d; i++) u[i] = sin(1.7 * i) + 0.3;
  length = dot(u, u, d);
  for (int i = 0; i < d; i++)
    for (int j = 0; j < d; j++) {
      double sum = 0;
      for (int n = 0; n < d; n++)
        sum += ((i == n) - 2 * u[i] * u[n] / length) * values[n] * ((j == n) - 2 * u[j] * u[n] / length);
      matrix[i * d + j] = sum;
    }
  free(u);
  return matrix;
}

/* values: descending. C v = λ v, lengths 1, right angles. */
static void check_definition(const double *values, int d, int k) {
  double *matrix = make_matrix(values, d), *vectors = calloc((size_t)(k * d), sizeof *vectors);
  double *got = calloc((size_t)k, sizeof *got);
  CHECK_OK(principal_vectors(matrix, d, k, vectors, got));
  for (int i = 0; i < k; i++) {
    const double *v = vectors + i * d;
    CHECK(fabs(got[i] - values[i]) <= 1e-9 * values[0]);
    for (int j = 0; j <= i; j++) CHECK(fabs(dot(v, vectors + j * d, d) - (i == j)) < 1e-9);
    double off = 0;
    for (int r = 0; r < d; r++) off = fmax(off, fabs(dot(matrix + r * d, v, d) - got[i] * v[r]));
    CHECK(off <= 1e-9 * values[0]);
  }
  free(matrix);
  free(vectors);
  free(got);
}

static void check_definitions(void) {
  enum { D = 150 };
  double values[D];
  for (int i = 0; i < D; i++) values[i] = 1.0 / (1 + i);
  check_definition(values, D, 16);
  for (int i = 0; i < D; i++) values[i] = pow(0.5, i);
  check_definition(values, D, 16);
  for (int i = 0; i < D; i++) values[i] = i < 4 ? 3 : i < 9 ? 1 : 0; /* equal ones, and fewer than asked for */
  check_definition(values, D, 12);
  for (int i = 0; i < D; i++) values[i] = 1 - 1e-3 * i;
  check_definition(values, D, 40);
  values[0] = 2;
  check_definition(values, 1, 1);
}

/* ---- of taps ---------------------------------------------------------------------------------------------- */

enum { DIRECTIONS = 5, CALIBRATION_TOKENS = 150 };

/* The same in the plain: taps downloaded, normed and summed in float64. */
static void add_taps(struct tiny *tiny, int tap, double *squares, double *sums) {
  int d = tiny->backbone.config.hidden;
  size_t rows = (size_t)tiny->batch.rows;
  size_t at = (size_t)tap * (size_t)tiny->source.capacity * (size_t)d;
  float *h = tiny_activations(tiny, device_act_at(tiny->device, tiny->source.slots[0].hidden, at), rows * (size_t)d);
  for (size_t n = 0; n < rows; n++) {
    double length = d * (double)tiny->backbone.config.norm_epsilon;
    for (int i = 0; i < d; i++) length += (double)h[n * (size_t)d + (size_t)i] * (double)h[n * (size_t)d + (size_t)i];
    for (int i = 0; i < d; i++) h[n * (size_t)d + (size_t)i] = (float)(h[n * (size_t)d + (size_t)i] / sqrt(length));
  }
  sum_points(h, rows, d, squares, sums);
  free(h);
}

static void solve_plainly(struct tiny *tiny, const struct token_file *data, int module, float *out) {
  int d = tiny->backbone.config.hidden;
  double *squares = calloc((size_t)(d * d), sizeof *squares), *sums = calloc((size_t)d, sizeof *sums), explained;
  struct data_order order;
  int64_t tokens = 0;
  CHECK_OK(data_order_open(&order, data->rows, 0, true));
  for (int64_t place = 0; place < data->rows && tokens < CALIBRATION_TOKENS; place++) {
    int64_t row = data_order_row(&order, place);
    tiny_load(tiny, data, &row, 1);
    tokens += tiny->batch.rows;
    CHECK_OK(
        backbone_forward(&tiny->backbone, &tiny->batch, tiny->source.slots[0].hidden, tiny->source.capacity, NULL));
    if (module == 0) add_taps(tiny, 0, squares, sums);
    add_taps(tiny, module + 1, squares, sums);
  }
  CHECK_OK(principal_solve(squares, sums, (double)tokens * (module == 0 ? 2 : 1), d, DIRECTIONS, out, &explained));
  data_order_close(&order);
  free(squares);
  free(sums);
}

/* A pipeline of all ranks, one pass a module and all at once, against `want` of ranks that have the whole model. */
static void check_stages(struct comm *comm, const struct tiny_path *path, const struct token_file *data,
                         const float *want) {
  struct tiny tiny;
  struct grid grid;
  CHECK_OK(grid_open(&grid, comm, comm->size, PLACE_STAGES));
  tiny_open_stage(&tiny, path, "tests/fixtures/tiny-llama3", WEIGHT_NF4, TINY_ROWS, TINY_POSITIONS, grid.stages,
                  grid.stage);
  CHECK_OK(tap_source_open(&tiny.source, &tiny.backbone, TAPS_HIDDEN, tiny.backbone.config.hidden, 1));
  size_t floats = (size_t)tiny.backbone.config.layers * principal_floats(tiny.backbone.config.hidden, DIRECTIONS);
  float *out = calloc(floats, sizeof *out);
  for (int64_t at_once = 0; at_once < 2; at_once++) {
    CHECK_OK(calibrate(&(struct calibration){.source = &tiny.source,
                                             .batch = &tiny.batch,
                                             .data = data,
                                             .tokens = CALIBRATION_TOKENS,
                                             .count = DIRECTIONS,
                                             .threads = path->threads,
                                             .at_once = at_once},
                       &grid, out));
    CHECK(memcmp(out, want, floats * sizeof *out) == 0);
    memset(out, 0, floats * sizeof *out);
  }
  free(out);
  tiny_close(&tiny);
  grid_close(&grid);
}

static void check_taps(struct comm *comm, const struct tiny_path *path, double bound) {
  struct tiny tiny;
  struct grid grid;
  struct safetensors *reference = reference_open("grad-llama3-adapter-residual");
  struct token_file data = reference_rows(reference);
  tiny_open_backbone(&tiny, path, "tests/fixtures/tiny-llama3", WEIGHT_NF4, TINY_ROWS, TINY_POSITIONS);
  tiny_open_head(&tiny);
  int d = tiny.backbone.config.hidden, layers = tiny.backbone.config.layers;
  size_t floats = principal_floats(d, DIRECTIONS);
  float *out = calloc((size_t)layers * floats, sizeof *out), *again = calloc((size_t)layers * floats, sizeof *again);
  float *plain = calloc(floats, sizeof *plain);
  struct calibration calibration = {.source = &tiny.source,
                                    .batch = &tiny.batch,
                                    .data = &data,
                                    .tokens = CALIBRATION_TOKENS,
                                    .count = DIRECTIONS,
                                    .threads = path->threads};
  CHECK_OK(grid_open(&grid, comm, 1, PLACE_STAGES));
  CHECK_OK(calibrate(&calibration, &grid, out));
  calibration.at_once = 1; /* a pass a module */
  CHECK_OK(calibrate(&calibration, &grid, again));
  CHECK(memcmp(out, again, (size_t)layers * floats * sizeof *out) == 0);
  for (int module = 0; module < layers; module++) {
    solve_plainly(&tiny, &data, module, plain);
    CHECK_NEAR(out + (size_t)module * floats, plain, floats, bound);
  }
  check_stages(comm, path, &data, out);
  free(out);
  free(again);
  free(plain);
  grid_close(&grid);
  tiny_close(&tiny);
  token_file_free(&data);
  safetensors_close(&reference);
}

int main(void) {
  struct comm *comm;
  scratch_make();
  CHECK_OK(comm_open(&comm));
  if (comm->rank == 0) {
    struct safetensors *reference = reference_open("principal");
    check_cloud(reference, "steep", 24, 5);
    check_cloud(reference, "flat", 64, 8);
    check_cloud(reference, "all", 12, 12);
    safetensors_close(&reference);
    check_definitions();
  }
  check_taps(comm, &plain_path, 1e-4);
  check_taps(comm, &fast_path, 0.05);
  comm_close(&comm);
  scratch_remove();
  return check_result();
}
