/* Attention against float64, forward in the layouts of training and of decoding from a cache, and its gradients: the
 * float64 gradients are checked against finite differences, the device's against them. For every instruction set of this
 * machine, both activation types and several numbers of threads.
 *
 * RUN ranks=1 timeout=240
 * RUN ranks=1 timeout=240 device=cuda */
#include "kernels.h"

enum { SAMPLES_MAX = 10, ROWS_MAX = 1400 };

/** Of the elements of q and k: usual, and so large that exponentials of scores overflow. */
static const double SIZE = 3, LARGE_SIZE = 25;

struct shape {
  int heads, kv_heads, head_dim;
};

/** Samples with their queries and keys; in training both are the same rows. */
struct batch {
  int count, rows, key_rows, max_queries, max_keys;
  int32_t q_start[SAMPLES_MAX + 1], k_start[SAMPLES_MAX], k_length[SAMPLES_MAX];
};

static void batch_add(struct batch *b, int queries, int keys, int key_gap) {
  int i = b->count++;
  b->q_start[i + 1] = b->rows += queries;
  b->k_start[i] = b->key_rows + key_gap;
  b->k_length[i] = keys;
  b->key_rows += keys + key_gap;
  if (queries > b->max_queries) b->max_queries = queries;
  if (keys > b->max_keys) b->max_keys = keys;
}

/** A copy where the device reaches it, until forget_all(). */
static struct segments batch_segments(const struct batch *b) {
  struct batch *copy = keep(1, sizeof *copy);
  *copy = *b;
  return (struct segments){.count = b->count,
                           .q_start = copy->q_start,
                           .k_start = copy->k_start,
                           .k_length = copy->k_length,
                           .max_queries = b->max_queries,
                           .max_keys = b->max_keys};
}

/* ---- the reference ------------------------------------------------------------------------------------------ */

struct problem {
  struct batch batch;
  struct shape shape;
  int q_stride, kv_stride;
  double scale;
  const double *q, *k, *v, *d_o;
  double *o, *lse;
  double *dq, *dk, *dv; /**< NULL: forward only */
};

struct row {
  const double *q, *k, *v; /**< this head's; keys are kv_stride apart */
  size_t q_at, k_at, o_at, lse_at;
  int keys;
};

static struct row row_of(const struct problem *p, int sample, int query, int head) {
  const struct batch *b = &p->batch;
  int kv_head = head / (p->shape.heads / p->shape.kv_heads), dim = p->shape.head_dim, t = b->q_start[sample] + query;
  struct row r = {.q_at = (size_t)(t * p->q_stride + head * dim),
                  .k_at = (size_t)(b->k_start[sample] * p->kv_stride + kv_head * dim),
                  .o_at = (size_t)((t * p->shape.heads + head) * dim),
                  .lse_at = (size_t)(t * p->shape.heads + head),
                  .keys = b->k_length[sample] - (b->q_start[sample + 1] - t) + 1};
  r.q = p->q + r.q_at, r.k = p->k + r.k_at, r.v = p->v + r.k_at;
  return r;
}

static void forward_row(const struct problem *p, const struct row *r) {
  int dim = p->shape.head_dim;
  double highest = -INFINITY, sum = 0;
  for (int j = 0; j < r->keys; j++) highest = fmax(highest, p->scale * dot(r->q, r->k + j * p->kv_stride, (size_t)dim));
  for (int d = 0; d < dim; d++) p->o[r->o_at + (size_t)d] = 0;
  for (int j = 0; j < r->keys; j++) {
    double weight = exp(p->scale * dot(r->q, r->k + j * p->kv_stride, (size_t)dim) - highest);
    sum += weight;
    for (int d = 0; d < dim; d++) p->o[r->o_at + (size_t)d] += weight * r->v[j * p->kv_stride + d];
  }
  for (int d = 0; d < dim; d++) p->o[r->o_at + (size_t)d] /= sum;
  p->lse[r->lse_at] = highest + log(sum);
}

static void backward_row(const struct problem *p, const struct row *r) {
  int dim = p->shape.head_dim;
  const double *d_o = p->d_o + r->o_at;
  double sum = dot(d_o, p->o + r->o_at, (size_t)dim);
  for (int j = 0; j < r->keys; j++) {
    const double *k = r->k + j * p->kv_stride, *v = r->v + j * p->kv_stride;
    size_t at = r->k_at + (size_t)(j * p->kv_stride);
    double weight = exp(p->scale * dot(r->q, k, (size_t)dim) - p->lse[r->lse_at]);
    double ds = p->scale * weight * (dot(d_o, v, (size_t)dim) - sum);
    for (int d = 0; d < dim; d++) {
      p->dv[at + (size_t)d] += weight * d_o[d];
      p->dk[at + (size_t)d] += ds * r->q[d];
      p->dq[r->q_at + (size_t)d] += ds * k[d];
    }
  }
}

static void for_rows(const struct problem *p, void (*visit)(const struct problem *, const struct row *)) {
  for (int i = 0; i < p->batch.count; i++)
    for (int t = 0; t < p->batch.q_start[i + 1] - p->batch.q_start[i]; t++)
      for (int h = 0; h < p->shape.heads; h++) {
        struct row r = row_of(p, i, t, h);
        visit(p, &r);
      }
}

static double loss(const void *context) {
  const struct problem *p = context;
  for_rows(p, forward_row);
  return dot(p->o, p->d_o, (size_t)(p->batch.rows * p->shape.heads * p->shape.head_dim));
}

/* ---- cases -------------------------------------------------------------------------------------------------- */

struct operands {
  struct operand q, k, v, d_o;
  size_t outputs, lses, queries, keys;
};

/** `size`: of the elements of q and k. */
static struct operands make_operands(struct problem *p, enum dtype act, double size) {
  struct operands x = {.outputs = (size_t)(p->batch.rows * p->shape.heads * p->shape.head_dim),
                       .lses = (size_t)(p->batch.rows * p->shape.heads),
                       .queries = (size_t)(p->batch.rows * p->q_stride),
                       .keys = (size_t)(p->batch.key_rows * p->kv_stride)};
  x.q = operand_random(x.queries, act, size);
  x.k = operand_random(x.keys, act, size);
  x.v = operand_random(x.keys, act, 1);
  x.d_o = operand_random(x.outputs, act, 1);
  p->q = x.q.values, p->k = x.k.values, p->v = x.v.values, p->d_o = x.d_o.values;
  p->o = keep_doubles(x.outputs), p->lse = keep_doubles(x.lses);
  return x;
}

static struct problem make_problem(const struct batch *batch, struct shape shape) {
  return (struct problem){.batch = *batch,
                          .shape = shape,
                          .q_stride = (shape.heads + 2) * shape.head_dim,
                          .kv_stride = (shape.kv_heads + 1) * shape.head_dim,
                          .scale = (double)(float)(1 / sqrt(shape.head_dim))};
}

/** bf16 kernels may round the softmax weights to bf16 as well: one more rounding. Weights are as exact as scores. */
static void check_output(const struct result *o, const double *want, int depth, double size) {
  double score = size * size * sqrt((double)depth);
  CHECK(result_error(o, want) <= 2 * rounding(o->type) + rounding(DTYPE_F32) * (16 * sqrt((double)depth) + 4 * score));
}

static void test_forward(struct crew *crew, const struct batch *batch, struct shape shape, double size) {
  struct problem p = make_problem(batch, shape);
  struct operands x = make_operands(&p, crew->act, size);
  struct result o = result_of(x.outputs, crew->act, NULL), lse = result_of(x.lses, DTYPE_F32, NULL);
  struct attention_args args = {
      o.data,     lse.data,    x.q.data,    x.k.data,       x.v.data,       batch_segments(batch), batch->rows,
      p.q_stride, p.kv_stride, shape.heads, shape.kv_heads, shape.head_dim, (float)p.scale};
  int failed = checks_failed;
  for_rows(&p, forward_row);
  RUN(crew, attention, &args, &o, &lse);
  check_output(&o, p.o, shape.head_dim, size);
  CHECK(result_error(&lse, p.lse) <= 32 * rounding(DTYPE_F32) * sqrt((double)shape.head_dim));
  args.lse = NULL;
  RUN(crew, attention, &args, &o);
  check_output(&o, p.o, shape.head_dim, size);
  if (checks_failed > failed)
    fprintf(stderr, "  %d samples, %d rows, %d/%d heads of %d\n", batch->count, batch->rows, shape.heads,
            shape.kv_heads, shape.head_dim);
  forget_all();
}

/** Elements of the first `width` columns; the rest of dq, dk and dv belongs to others and must stay as it was. */
static void check_columns(const struct result *y, const double *want, int rows, int stride, int width, double bound) {
  double difference = 0, size = 0;
  int touched = 0;
  for (int t = 0; t < rows; t++)
    for (int i = 0; i < stride; i++) {
      size_t at = (size_t)(t * stride + i);
      double delta = result_value(y, at) - want[at];
      if (i >= width) {
        touched += !isnan(result_value(y, at));
        continue;
      }
      difference += delta * delta;
      size += want[at] * want[at];
    }
  CHECK(touched == 0);
  CHECK(sqrt(difference) <= bound * sqrt(size));
}

static void test_backward(struct crew *crew, const struct batch *batch, struct shape shape) {
  struct problem p = make_problem(batch, shape);
  struct operands x = make_operands(&p, crew->act, SIZE);
  for_rows(&p, forward_row);
  struct operand o = operand_of(p.o, x.outputs, crew->act), lse = operand_of(p.lse, x.lses, DTYPE_F32);
  p.o = o.values, p.lse = lse.values;
  p.dq = keep_doubles(x.queries), p.dk = keep_doubles(x.keys), p.dv = keep_doubles(x.keys);
  for_rows(&p, backward_row);
  struct result dq = result_of(x.queries, crew->act, NULL);
  struct result dk = result_of(x.keys, crew->act, NULL), dv = result_of(x.keys, crew->act, NULL);
  struct attention_backward_args args = {dq.data,        dk.data,       dv.data,     x.d_o.data,  o.data,
                                         lse.data,       x.q.data,      x.k.data,    x.v.data,    batch_segments(batch),
                                         batch->rows,    p.q_stride,    p.kv_stride, shape.heads, shape.kv_heads,
                                         shape.head_dim, (float)p.scale};
  int failed = checks_failed, width = shape.kv_heads * shape.head_dim;
  /* bf16 kernels may round weights and their gradients to bf16 as well: one more rounding. */
  double bound = (crew->act == DTYPE_BF16 ? 2 : 1) * rounding(crew->act) +
                 64 * rounding(DTYPE_F32) * sqrt((double)batch->max_keys);
  RUN(crew, attention_backward, &args, &dq, &dk, &dv);
  check_columns(&dq, p.dq, batch->rows, p.q_stride, shape.heads * shape.head_dim, bound);
  check_columns(&dk, p.dk, batch->rows, p.kv_stride, width, bound);
  check_columns(&dv, p.dv, batch->rows, p.kv_stride, width, bound);
  if (checks_failed > failed)
    fprintf(stderr, "  backward, %d samples, %d rows, %d/%d heads of %d\n", batch->count, batch->rows, shape.heads,
            shape.kv_heads, shape.head_dim);
  forget_all();
}

/** The float64 gradients themselves. */
static void test_reference(const struct batch *batch, struct shape shape) {
  struct problem p = make_problem(batch, shape);
  struct operands x = make_operands(&p, DTYPE_F32, SIZE);
  p.dq = keep_doubles(x.queries), p.dk = keep_doubles(x.keys), p.dv = keep_doubles(x.keys);
  for_rows(&p, forward_row);
  for_rows(&p, backward_row);
  double *want_q = finite_differences(x.q.values, x.queries, loss, &p);
  double *want_k = finite_differences(x.k.values, x.keys, loss, &p);
  double *want_v = finite_differences(x.v.values, x.keys, loss, &p);
  for (size_t i = 0; i < x.queries; i++) CHECK(fabs(want_q[i] - p.dq[i]) < 1e-7);
  for (size_t i = 0; i < x.keys; i++) CHECK(fabs(want_k[i] - p.dk[i]) < 1e-7 && fabs(want_v[i] - p.dv[i]) < 1e-7);
  forget_all();
}

static const struct shape shapes[] = {{3, 3, 2},   {9, 3, 4},  {9, 9, 6},  {4, 2, 8},  {2, 1, 12},  {5, 5, 16},
                                      {3, 1, 18},  {4, 4, 36}, {9, 3, 64}, {2, 2, 80}, {70, 1, 10}, {2, 1, 128},
                                      {1, 1, 256}, {4, 2, 32}, {2, 2, 96}, {5, 5, 5},  {2, 1, 33}};
enum { SHAPES = sizeof(shapes) / sizeof(shapes[0]) };

static struct batch training_batch(const int *lengths) {
  struct batch b = {0};
  for (; *lengths; lengths++) batch_add(&b, *lengths, *lengths, 0);
  return b;
}

static struct batch decoding_batch(void) {
  struct batch b = {0};
  batch_add(&b, 1, 1, 3);
  batch_add(&b, 1, 130, 0);
  batch_add(&b, 7, 90, 5);
  batch_add(&b, 0, 20, 1);
  batch_add(&b, 1, 700, 2);
  batch_add(&b, 64, 64, 0);
  batch_add(&b, 70, 600, 0);
  batch_add(&b, 33, 63, 0); /* the last of 32 keys is the first that its first query does not see; */
  batch_add(&b, 5, 67, 0);  /* the same with 64 */
  return b;
}

static void test_crew(struct crew *crew) {
  const int short_samples[] = {1, 17, 64, random_between(65, 100), 3, 0};
  const int long_samples[] = {random_between(130, 200), 31, testing_cuda() ? 50 : random_between(515, 600), 0};
  struct batch small = training_batch(short_samples), large = training_batch(long_samples), decoding = decoding_batch();
  for (int i = 0; i < SHAPES; i++) {
    test_forward(crew, &small, shapes[i], SIZE);
    test_backward(crew, &small, shapes[i]);
  }
  for (int i = 1; i < SHAPES; i += 2) test_forward(crew, &decoding, shapes[i], SIZE);
  for (int i = 1; i <= 8; i += 7) {
    test_forward(crew, &large, shapes[i], SIZE);
    test_forward(crew, &large, shapes[i], LARGE_SIZE);
  }
  test_backward(crew, &large, shapes[1]);
  test_backward(crew, &large, shapes[3]);
}

/** The heads for which tensor cores have kernels with other tiles: samples that end, and that have keys before the first
 *  query, beside the tiles' borders. */
static void test_tiles(struct crew *crew) {
  static const struct shape wide[] = {{2, 1, 64}, {2, 2, 128}};
  const int lengths[] = {65, 128, 193, 0};
  struct batch training = training_batch(lengths), decoding = {0};
  batch_add(&decoding, 65, 128, 0);
  batch_add(&decoding, 66, 194, 3);
  batch_add(&decoding, 1, 129, 1);
  for (int i = 0; i < 2; i++) {
    test_forward(crew, &training, wide[i], SIZE);
    test_forward(crew, &decoding, wide[i], LARGE_SIZE);
  }
}

/** Samples that contradict the arguments are a fault, not a crash. */
static void test_contracts(struct crew *crew) {
  const int lengths[] = {4, 5, 0};
  struct batch b = training_batch(lengths);
  struct problem p = make_problem(&b, shapes[0]);
  struct operands x = make_operands(&p, crew->act, SIZE);
  struct operand lse = operand_random(x.lses, DTYPE_F32, 1);
  struct attention_args args = {x.d_o.data,  NULL, x.q.data, x.k.data, x.v.data, batch_segments(&b), b.rows, p.q_stride,
                                p.kv_stride, 3,    3,        2,        1};
  struct attention_backward_args back = {
      x.q.data,           x.k.data, x.v.data,   x.d_o.data,  x.d_o.data, lse.data, x.q.data, x.k.data, x.v.data,
      batch_segments(&b), b.rows,   p.q_stride, p.kv_stride, 3,          3,        2,        1};
  struct device *device = crew->devices[0];
  struct batch broken = b;
  broken.k_length[1] = 4;
  args.segments = back.segments = batch_segments(&broken);
  CHECK_FAILS(ERR_INTERNAL, "sample 1", FAULT_OF(crew, attention, &args));
  CHECK_FAILS(ERR_INTERNAL, "sample 1", FAULT_OF(crew, attention_backward, &back));
  broken.k_length[1] = 6;
  args.segments = back.segments = batch_segments(&broken);
  CHECK_FAILS(ERR_INTERNAL, "sample 1", FAULT_OF(crew, attention, &args));
  CHECK_FAILS(ERR_INTERNAL, "sample 1", FAULT_OF(crew, attention_backward, &back));
  broken.k_length[1] = 5, broken.q_start[2] = 8;
  args.segments = back.segments = batch_segments(&broken);
  CHECK_FAILS(ERR_INTERNAL, "sample", FAULT_OF(crew, attention, &args));
  CHECK_FAILS(ERR_INTERNAL, "sample", FAULT_OF(crew, attention_backward, &back));
  back.segments = batch_segments(&b), back.rows = 8 * ROWS_MAX;
  back.heads = back.kv_heads = 3, back.head_dim = 256, back.q_stride = back.kv_stride = 768;
  CHECK_FAILS(ERR_INTERNAL, "limits", device_attention_backward(device, &back));
  args.heads = 4;
  CHECK_FAILS(ERR_INTERNAL, "kv_heads", device_attention(device, &args));
  args.heads = 3, args.head_dim = 1;
  CHECK_FAILS(ERR_INTERNAL, "head_dim", device_attention(device, &args));
  args.head_dim = 2, args.q_stride = 5;
  CHECK_FAILS(ERR_INTERNAL, "q_stride", device_attention(device, &args));
  forget_all();
}

static void test_everything(struct crew *crew) {
  test_crew(crew);
  test_tiles(crew);
  test_contracts(crew);
}

int main(int count, char **words) {
  const int lengths[] = {1, 5, 9, 0};
  struct batch batch = training_batch(lengths);
  random_begin(count, words);
  test_reference(&batch, shapes[0]);
  test_reference(&batch, shapes[1]);
  const struct device_limits limits = {.rows = ROWS_MAX, .hidden = 1000, .side_hidden = 700};
  for_each_crew(limits, test_everything);
  if (testing_cuda()) for_each_crew_of("sm_80", limits, test_tiles); /* and without Hopper's products */
  return check_result();
}
