#include "principal.h"

#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "base/random.h"

/* ---- the eigenvalues of a tridiagonal matrix -------------------------------------------------------------- */

struct tridiagonal {
  double *d, *e;   /* [steps] diagonal; e[i] couples i and i + 1 */
  double *vectors; /* [steps][steps], a row an eigenvector in the end */
  int steps;
};

static double wilkinson_shift(const struct tridiagonal *t, int last) {
  double half = (t->d[last - 1] - t->d[last]) / 2, e = t->e[last - 1];
  double root = hypot(half, e);
  return t->d[last] - e * e / (half + (half < 0 ? -root : root));
}

static void rotate_rows(double *a, double *b, double c, double s, int count) {
  for (int i = 0; i < count; i++) {
    double x = a[i], y = b[i];
    a[i] = c * x + s * y;
    b[i] = c * y - s * x;
  }
}

/* One implicit QR step on rows first .. last: rotations chase the element outside the three diagonals downwards. */
static void qr_step(struct tridiagonal *t, int first, int last) {
  double *d = t->d, *e = t->e;
  double x = d[first] - wilkinson_shift(t, last), z = e[first];
  for (int k = first; k < last; k++) {
    double r = hypot(x, z), c = r > 0 ? x / r : 1, s = r > 0 ? z / r : 0;
    double a = d[k], b = e[k], g = d[k + 1];
    if (k > first) e[k - 1] = r;
    d[k] = c * c * a + 2 * c * s * b + s * s * g;
    d[k + 1] = s * s * a - 2 * c * s * b + c * c * g;
    e[k] = c * s * (g - a) + (c * c - s * s) * b;
    x = e[k];
    if (k + 1 < last) {
      z = s * e[k + 1];
      e[k + 1] *= c;
    }
    rotate_rows(t->vectors + (size_t)k * (size_t)t->steps, t->vectors + (size_t)(k + 1) * (size_t)t->steps, c, s,
                t->steps);
  }
}

static bool is_split(const struct tridiagonal *t, int i) {
  return fabs(t->e[i]) <= DBL_EPSILON * (fabs(t->d[i]) + fabs(t->d[i + 1]));
}

/* d becomes the eigenvalues, in no order. */
static int diagonalize(struct tridiagonal *t) {
  enum { STEPS_PER_VALUE = 50 };
  memset(t->vectors, 0, (size_t)t->steps * (size_t)t->steps * sizeof *t->vectors);
  for (int i = 0; i < t->steps; i++) t->vectors[(size_t)i * (size_t)t->steps + (size_t)i] = 1;
  int last = t->steps - 1;
  for (int64_t left = (int64_t)STEPS_PER_VALUE * t->steps; last > 0; left--) {
    if (is_split(t, last - 1)) {
      last--;
      continue;
    }
    if (left == 0) return fail(ERR_INTERNAL, "the eigenvalues of a matrix of %d do not converge", t->steps);
    int first = last - 1;
    while (first > 0 && !is_split(t, first - 1)) first--;
    qr_step(t, first, last);
  }
  return OK;
}

/* ---- Lanczos ---------------------------------------------------------------------------------------------- */

struct lanczos {
  const double *matrix;
  int size, steps, room;
  double *basis;        /* [room][size], orthonormal */
  double *alpha, *beta; /* [room] */
};

static double dot(const double *a, const double *b, int size) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int i = 0; i < size; i++) sum += a[i] * b[i];
  return sum;
}

static void add_scaled(double *y, double factor, const double *x, int size) {
  for (int i = 0; i < size; i++) y[i] += factor * x[i];
}

static double *basis_at(const struct lanczos *l, int i) {
  return l->basis + (size_t)i * (size_t)l->size;
}

/* Twice: once leaves what rounding brought back. */
static void orthogonalize(const struct lanczos *l, double *x, int count) {
  for (int pass = 0; pass < 2; pass++)
    for (int i = 0; i < count; i++) add_scaled(x, -dot(x, basis_at(l, i), l->size), basis_at(l, i), l->size);
}

/* x becomes the basis's vector `at`, with its length before that; a random one where nothing is left of x. */
static double normalize(const struct lanczos *l, double *x, int at) {
  double length = sqrt(dot(x, x, l->size)), used = length;
  if (!(length > 1e-13 * (fabs(l->alpha[0]) + DBL_MIN))) {
    struct random random = random_start(0, RANDOM_SIDE_INIT, (uint64_t)at);
    for (int i = 0; i < l->size; i++) x[i] = random_normal(&random);
    orthogonalize(l, x, at);
    used = sqrt(dot(x, x, l->size));
    length = 0;
  }
  for (int i = 0; i < l->size; i++) x[i] /= used;
  return length;
}

static void multiply(const struct lanczos *l, double *y, const double *x) {
#pragma omp parallel for schedule(static) if (l->size >= 256)
  for (int i = 0; i < l->size; i++) y[i] = dot(l->matrix + (size_t)i * (size_t)l->size, x, l->size);
}

/* Goes on to that many steps; the vector after the last is in the basis, too, unless it fills the space. */
static void iterate(struct lanczos *l, int steps) {
  for (int j = l->steps; j < steps; j++) {
    bool more = j + 1 < l->size;
    double *next = basis_at(l, j + 1);
    multiply(l, next, basis_at(l, j));
    l->alpha[j] = dot(next, basis_at(l, j), l->size);
    orthogonalize(l, next, j + 1);
    l->beta[j] = more ? normalize(l, next, j + 1) : 0;
  }
  l->steps = steps;
}

static int grow(struct lanczos *l, int room) {
  struct lanczos grown = *l;
  int status;
  grown.basis = grown.alpha = grown.beta = NULL;
  TRY_GOTO(status, cleanup, memory_array(&grown.basis, ((size_t)room + 1) * (size_t)l->size, sizeof(double)));
  TRY_GOTO(status, cleanup, memory_array(&grown.alpha, (size_t)room, sizeof(double)));
  TRY_GOTO(status, cleanup, memory_array(&grown.beta, (size_t)room, sizeof(double)));
  if (l->room > 0) {
    memcpy(grown.basis, l->basis, ((size_t)l->room + 1) * (size_t)l->size * sizeof(double));
    memcpy(grown.alpha, l->alpha, (size_t)l->room * sizeof(double));
    memcpy(grown.beta, l->beta, (size_t)l->room * sizeof(double));
  }
  grown.room = room;
cleanup:
  free(status == OK ? l->basis : grown.basis);
  free(status == OK ? l->alpha : grown.alpha);
  free(status == OK ? l->beta : grown.beta);
  if (status == OK) *l = grown;
  return status;
}

static void lanczos_close(struct lanczos *l) {
  free(l->basis);
  free(l->alpha);
  free(l->beta);
}

/* ---- together --------------------------------------------------------------------------------------------- */

/* The row of the largest value that was not taken yet; takes it. */
static int take_largest(struct tridiagonal *t, bool *taken) {
  int best = -1;
  for (int i = 0; i < t->steps; i++)
    if (!taken[i] && (best < 0 || t->d[i] > t->d[best])) best = i;
  taken[best] = true;
  return best;
}

static void write_vector(const struct lanczos *l, const double *weights, double *out) {
  memset(out, 0, (size_t)l->size * sizeof *out);
  for (int j = 0; j < l->steps; j++) add_scaled(out, weights[j], basis_at(l, j), l->size);
  int largest = 0;
  for (int i = 1; i < l->size; i++)
    if (fabs(out[i]) > fabs(out[largest])) largest = i;
  double scale = copysign(1 / sqrt(dot(out, out, l->size)), out[largest]);
  for (int i = 0; i < l->size; i++) out[i] *= scale;
}

/* The eigenvectors as they are after l->steps; *done when they move no more. */
static int extract(struct lanczos *l, int count, double *vectors, double *values, bool *done) {
  const double CONVERGED = 1e-10;
  struct tridiagonal t = {.steps = l->steps};
  size_t steps = (size_t)l->steps;
  bool *taken = NULL;
  int status;
  TRY_GOTO(status, cleanup, memory_array(&t.d, 2 * steps, sizeof *t.d));
  TRY_GOTO(status, cleanup, memory_array(&t.vectors, steps * steps, sizeof *t.vectors));
  TRY_GOTO(status, cleanup, memory_array(&taken, steps, sizeof *taken));
  t.e = t.d + steps;
  memcpy(t.d, l->alpha, steps * sizeof *t.d);
  memcpy(t.e, l->beta, steps * sizeof *t.e);
  TRY_GOTO(status, cleanup, diagonalize(&t));
  *done = true;
  for (int i = 0; i < count; i++) {
    int row = take_largest(&t, taken);
    const double *weights = t.vectors + (size_t)row * steps;
    values[i] = t.d[row];
    write_vector(l, weights, vectors + (size_t)i * (size_t)l->size);
    if (fabs(l->beta[l->steps - 1] * weights[steps - 1]) > CONVERGED * values[0]) *done = false;
  }
cleanup:
  free(t.d);
  free(t.vectors);
  free(taken);
  return status;
}

int principal_vectors(const double *matrix, int size, int count, double *vectors, double *values) {
  if (count < 1 || count > size) return fail(ERR_INTERNAL, "%d principal directions of %d", count, size);
  struct lanczos l = {.matrix = matrix, .size = size};
  bool done = false;
  int status = OK;
  for (int steps = 2 * count + 32; status == OK && !done; steps *= 2) {
    if (steps > size) steps = size;
    TRY_GOTO(status, cleanup, grow(&l, steps));
    if (l.steps == 0) normalize(&l, l.basis, 0);
    iterate(&l, steps);
    TRY_GOTO(status, cleanup, extract(&l, count, vectors, values, &done));
  }
cleanup:
  lanczos_close(&l);
  return status;
}

/* squares ← the covariance; returns its trace */
static double center(double *squares, const double *sums, double tokens, int size) {
  double trace = 0;
  for (int i = 0; i < size; i++) {
    double *row = squares + (size_t)i * (size_t)size;
    for (int j = 0; j < size; j++) row[j] = row[j] / tokens - sums[i] / tokens * (sums[j] / tokens);
    trace += row[i];
  }
  return trace;
}

int principal_solve(double *squares, const double *sums, double tokens, int size, int count, float *out,
                    double *explained) {
  const double NOTHING = 1e-9; /* of the largest value: what fixed-point sums of few tokens leave of a zero */
  double *vectors = NULL, *values = NULL, kept = 0;
  double trace = center(squares, sums, tokens, size);
  int status;
  TRY_GOTO(status, cleanup, memory_array(&vectors, (size_t)count * (size_t)size, sizeof *vectors));
  TRY_GOTO(status, cleanup, memory_array(&values, (size_t)count, sizeof *values));
  TRY_GOTO(status, cleanup, principal_vectors(squares, size, count, vectors, values));
  float *bias = out + (size_t)count * (size_t)size;
  for (int i = 0; i < count; i++) {
    const double *vector = vectors + (size_t)i * (size_t)size;
    bool real = values[i] > NOTHING * values[0] && values[i] > 0;
    double scale = real ? 1 / sqrt(values[i]) : 0;
    for (int j = 0; j < size; j++) out[(size_t)i * (size_t)size + (size_t)j] = (float)(scale * vector[j]);
    bias[i] = (float)(-scale * dot(vector, sums, size) / tokens);
    kept += real ? values[i] : 0;
  }
  *explained = trace > 0 ? kept / trace : 1;
cleanup:
  free(vectors);
  free(values);
  return status;
}
