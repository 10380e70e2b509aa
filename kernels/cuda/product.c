#include "kernels/cuda/product.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "kernels/cuda/cublaslt.h"
#include "kernels/cuda/task.h"

static const size_t blas_bytes = CUDA_BLAS_BYTES;

/** What an algorithm depends on; bytes between members are zero. */
struct shape {
  int m, n, k, lda, ldb, ldc;
  int a_by_step, b_by_step, c_type, adds, fp8, scaled;
  uint32_t alignment[4]; /**< of A, B, residual and C, in bytes, at most 16 */
};

/** Shapes whose algorithms are kept: 63 numbers of tokens up to 8192 times the products of a model, with room. */
enum { KEPT = 8192 };

struct kept {
  struct shape shape; /**< m = 0: a free place */
  cublasLtMatmulAlgo_t algorithm;
};

struct cuda_product {
  cublasLtHandle_t handle;
  struct workspace lanes[LANE_COUNT];
  size_t weight_count, sum_count, fp8_bytes;
  struct kept *kept; /**< [KEPT], by hash; at most three quarters of it full */
  int kept_count;
};

struct workspace *cuda_workspace_of(const struct device *device) {
  struct cuda_state *state = cuda_state(device);
  return &state->product->lanes[state->lane];
}

size_t cuda_weight_bytes(const struct device *device) {
  return device_act_bytes(device, cuda_state(device)->product->weight_count);
}

size_t cuda_sums(const struct device *device) {
  return cuda_state(device)->product->sum_count;
}

static int check_blas(cublasStatus_t status, const char *what) {
  if (status == CUBLAS_STATUS_SUCCESS) return OK;
  return fail(ERR_SYSTEM, "cuda: cuBLASLt could not %s (status %d)", what, (int)status);
}

/* ---- workspace ------------------------------------------------------------------------------------------- */

int cuda_product_open(struct device *device, const struct device_options *options) {
  struct cuda_product *p;
  const struct device_limits *limits = &options->limits;
  TRY(cublaslt_load());
  TRY(memory_array(&p, 1, sizeof *p));
  cuda_state(device)->product = p;
  TRY(memory_array(&p->kept, KEPT, sizeof *p->kept));
  p->weight_count = cuda_weight_count(limits);
  p->sum_count = cuda_sum_count(limits);
  p->fp8_bytes = cuda_fp8_bytes(limits);
  TRY(check_blas(cublasLtCreate(&p->handle), "start"));
  for (enum lane lane = 0; lane < LANE_COUNT; lane++) {
    struct workspace *w = &p->lanes[lane];
    TRY(device_allocate(device, MEMORY_WORKSPACE, &w->weights, device_act_bytes(device, p->weight_count)));
    TRY(device_allocate(device, MEMORY_WORKSPACE, &w->sums, p->sum_count * sizeof(float)));
    TRY(device_allocate(device, MEMORY_WORKSPACE, &w->blas, blas_bytes));
    if (limits->fp8) TRY(device_allocate(device, MEMORY_WORKSPACE, &w->fp8, p->fp8_bytes));
  }
  return OK;
}

void cuda_product_close(struct device *device) {
  struct cuda_product *p = cuda_state(device)->product;
  if (!p) return;
  for (enum lane lane = 0; lane < LANE_COUNT; lane++) {
    struct workspace *w = &p->lanes[lane];
    device_release(device, MEMORY_WORKSPACE, &w->weights, device_act_bytes(device, p->weight_count));
    device_release(device, MEMORY_WORKSPACE, &w->sums, p->sum_count * sizeof(float));
    device_release(device, MEMORY_WORKSPACE, &w->blas, blas_bytes);
    device_release(device, MEMORY_WORKSPACE, &w->fp8, p->fp8_bytes);
  }
  if (p->handle) cublasLtDestroy(p->handle);
  free(p->kept);
  free(p);
  cuda_state(device)->product = NULL;
}

/* ---- one product ----------------------------------------------------------------------------------------- */

/** A task as cuBLASLt sees it: column by column, so that C is its n × m matrix and B the first operand. */
struct call {
  cublasLtMatmulDescOpaque_t operation;
  cublasLtMatrixLayoutOpaque_t a, b, c;
};

static cudaDataType_t data_type(enum dtype type) {
  return type == DTYPE_BF16 ? CUDA_R_16BF : CUDA_R_32F;
}

static int describe_matrix(cublasLtMatrixLayoutOpaque_t *layout, cudaDataType_t type, int rows, int steps, bool by_step,
                           int ld) {
  uint64_t height = (uint64_t)(by_step ? rows : steps), width = (uint64_t)(by_step ? steps : rows);
  return check_blas(cublasLtMatrixLayoutInit(layout, type, height, width, ld), "describe a matrix");
}

/** Each sum is multiplied by its row's scale and its column's; cuBLASLt's first operand is B. */
static int describe_scales(struct call *call, const struct task *t) {
  const int32_t mode = CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
  const struct {
    cublasLtMatmulDescAttributes_t mode, pointer;
    const float *scales;
  } operands[] = {{CUBLASLT_MATMUL_DESC_A_SCALE_MODE, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, t->b_scales},
                  {CUBLASLT_MATMUL_DESC_B_SCALE_MODE, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, t->a_scales}};
  for (int i = 0; i < 2; i++) {
    const float *scales = operands[i].scales;
    TRY(check_blas(cublasLtMatmulDescSetAttribute(&call->operation, operands[i].mode, &mode, sizeof mode),
                   "scale rows"));
    TRY(check_blas(cublasLtMatmulDescSetAttribute(&call->operation, operands[i].pointer, &scales, sizeof scales),
                   "scale rows"));
  }
  return OK;
}

/** Sums stay in the tensor cores, which keep 14 bits of them: less is lost there than by rounding the operands. */
static int describe_sums(struct call *call) {
  const int8_t fast = 1;
  return check_blas(
      cublasLtMatmulDescSetAttribute(&call->operation, CUBLASLT_MATMUL_DESC_FAST_ACCUM, &fast, sizeof fast),
      "choose sums");
}

static int describe_call(struct call *call, const struct task *t, enum dtype act) {
  cudaDataType_t type = t->fp8 ? CUDA_R_8F_E4M3 : data_type(act);
  cublasOperation_t first = t->b_by_step ? CUBLAS_OP_N : CUBLAS_OP_T, second = t->a_by_step ? CUBLAS_OP_T : CUBLAS_OP_N;
  memset(call, 0, sizeof *call);
  TRY(check_blas(cublasLtMatmulDescInit(&call->operation, CUBLAS_COMPUTE_32F, CUDA_R_32F), "describe a product"));
  TRY(check_blas(cublasLtMatmulDescSetAttribute(&call->operation, CUBLASLT_MATMUL_DESC_TRANSA, &first, sizeof first),
                 "transpose"));
  TRY(check_blas(cublasLtMatmulDescSetAttribute(&call->operation, CUBLASLT_MATMUL_DESC_TRANSB, &second, sizeof second),
                 "transpose"));
  if (t->fp8) TRY(describe_sums(call));
  if (t->a_scales) TRY(describe_scales(call, t));
  TRY(describe_matrix(&call->a, type, t->m, t->k, t->a_by_step, t->lda));
  TRY(describe_matrix(&call->b, type, t->n, t->k, t->b_by_step, t->ldb));
  return describe_matrix(&call->c, data_type(t->c_type), t->m, t->n, false, t->ldc);
}

static uint32_t alignment_of(const void *pointer) {
  uintptr_t bits = (uintptr_t)pointer | 16;
  return (uint32_t)(bits & -bits);
}

static struct shape shape_of(const struct task *t) {
  struct shape s;
  memset(&s, 0, sizeof s);
  s.m = t->m, s.n = t->n, s.k = t->k, s.lda = t->lda, s.ldb = t->ldb, s.ldc = t->ldc;
  s.a_by_step = t->a_by_step, s.b_by_step = t->b_by_step, s.c_type = (int)t->c_type, s.adds = t->residual != NULL;
  s.fp8 = t->fp8, s.scaled = t->a_scales != NULL;
  s.alignment[0] = alignment_of(t->a), s.alignment[1] = alignment_of(t->b);
  s.alignment[2] = alignment_of(t->residual ? t->residual : t->c), s.alignment[3] = alignment_of(t->c);
  return s;
}

/* ---- algorithms ------------------------------------------------------------------------------------------- */

/** Micro-batches differ in their tokens, but not in what multiplies them best: powers of two up to 64, eight numbers an
 *  octave above. */
int cuda_tokens_like(int tokens) {
  int step = 1;
  if (tokens > 64) {
    while (step * 16 < tokens) step *= 2;
    return (tokens + step - 1) / step * step;
  }
  while (step < tokens) step *= 2;
  return step;
}

/** The task with as many tokens as stand for its number: rows of C, or steps of a sum over tokens. */
static struct task with_tokens_like(const struct task *t) {
  struct task like = *t;
  int *tokens = t->a_by_step ? &like.k : &like.m;
  *tokens = cuda_tokens_like(*tokens);
  return like;
}

/** Where the shape is, or is to be kept. */
static struct kept *place_of(struct cuda_product *p, const struct shape *shape) {
  const unsigned char *bytes = (const unsigned char *)shape;
  uint64_t hash = 0xcbf29ce484222325u; /* FNV-1a */
  for (size_t i = 0; i < sizeof *shape; i++) hash = (hash ^ bytes[i]) * 0x100000001b3u;
  size_t at = (size_t)(hash >> 32) % KEPT;
  while (p->kept[at].shape.m && memcmp(&p->kept[at].shape, shape, sizeof *shape) != 0) at = (at + 1) % KEPT;
  return &p->kept[at];
}

static void keep(struct device *device, const struct shape *shape, const cublasLtMatmulAlgo_t *algorithm) {
  struct cuda_product *p = cuda_state(device)->product;
  if (p->kept_count == KEPT / 4 * 3) {
    memset(p->kept, 0, KEPT * sizeof *p->kept);
    p->kept_count = 0;
    cuda_state(device)->forgotten++;
  }
  *place_of(p, shape) = (struct kept){*shape, *algorithm};
  p->kept_count++;
}

static int prefer(cublasLtMatmulPreferenceOpaque_t *preference, const struct shape *shape) {
  uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE; /* through the workspace, in order; or none */
  struct {
    cublasLtMatmulPreferenceAttributes_t name;
    const void *value;
    size_t size;
  } wishes[] = {{CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &blas_bytes, sizeof(uint64_t)},
                {CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reductions, sizeof reductions},
                {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &shape->alignment[1], sizeof(uint32_t)},
                {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &shape->alignment[0], sizeof(uint32_t)},
                {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &shape->alignment[2], sizeof(uint32_t)},
                {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &shape->alignment[3], sizeof(uint32_t)}};
  TRY(check_blas(cublasLtMatmulPreferenceInit(preference), "state a preference"));
  for (size_t i = 0; i < sizeof wishes / sizeof *wishes; i++)
    TRY(check_blas(cublasLtMatmulPreferenceSetAttribute(preference, wishes[i].name, wishes[i].value, wishes[i].size),
                   "state a preference"));
  return OK;
}

static int ask(struct device *device, const struct task *t, const struct shape *shape, cublasLtMatmulAlgo_t *out) {
  struct call call;
  cublasLtMatmulPreferenceOpaque_t preference;
  cublasLtMatmulHeuristicResult_t best;
  int found = 0;
  TRY(describe_call(&call, t, device->act));
  TRY(prefer(&preference, shape));
  cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(cuda_state(device)->product->handle, &call.operation, &call.b,
                                                         &call.a, &call.c, &call.c, &preference, 1, &best, &found);
  if (status != CUBLAS_STATUS_SUCCESS || found == 0 || best.state != CUBLAS_STATUS_SUCCESS)
    return fail(ERR_SYSTEM, "cuda: cuBLASLt has no algorithm for a product of %d x %d x %d (status %d)", shape->m,
                shape->n, shape->k, (int)status);
  *out = best.algo;
  return OK;
}

/** Whether an algorithm is kept for exactly this task. */
static bool known(const struct device *device, const struct task *t) {
  struct shape shape = shape_of(t);
  return place_of(cuda_state(device)->product, &shape)->shape.m > 0;
}

static int find_algorithm(struct device *device, const struct task *t, cublasLtMatmulAlgo_t *out) {
  struct cuda_product *p = cuda_state(device)->product;
  struct shape shape = shape_of(t);
  const struct kept *kept = place_of(p, &shape);
  if (kept->shape.m) {
    *out = kept->algorithm;
    return OK;
  }
  TRY(ask(device, t, &shape, out));
  keep(device, &shape, out);
  return OK;
}

/** The task, or the one whose algorithm it takes. */
static struct task task_like(const struct device *device, const struct task *t) {
  return known(device, t) ? *t : with_tokens_like(t);
}

bool cuda_can_run(struct device *device, const struct task *t) {
  cublasLtMatmulAlgo_t algorithm;
  const struct task like = task_like(device, t);
  return find_algorithm(device, &like, &algorithm) == OK;
}

static cublasStatus_t multiply(struct device *device, const struct task *t, struct call *call,
                               const cublasLtMatmulAlgo_t *algorithm) {
  const float one = 1, beta = t->residual ? 1 : 0;
  return cublasLtMatmul(cuda_state(device)->product->handle, &call->operation, &one, t->b, &call->b, t->a, &call->a,
                        &beta, t->residual ? t->residual : t->c, &call->c, t->c, &call->c, algorithm,
                        cuda_workspace_of(device)->blas, blas_bytes, cuda_context(device)->stream);
}

/** With the algorithm of a number of tokens like its own; where that can't do it, with one for exactly this task. */
int cuda_run_task(struct device *device, const struct task *t) {
  struct call call;
  cublasLtMatmulAlgo_t algorithm;
  if (t->m == 0 || t->n == 0) return OK;
  const struct task like = task_like(device, t);
  TRY(find_algorithm(device, &like, &algorithm));
  if (cuda_context(device)->prepares) return OK;
  TRY(describe_call(&call, t, device->act));
  cublasStatus_t status = multiply(device, t, &call, &algorithm);
  if (status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_INVALID_VALUE) {
    TRY(find_algorithm(device, t, &algorithm));
    status = multiply(device, t, &call, &algorithm);
  }
  return check_blas(status, "multiply");
}

/* ---- frozen weights -------------------------------------------------------------------------------------- */

/** Rows of a stack of matrices, as activations. */
struct frozen_rows {
  const struct matrix *const *parts;
  int first, last; /**< of the stack */
};

/** Fills the workspace with rows first .. last of the parts, one below the other. */
static int dequantize_rows(struct device *device, const struct frozen_rows *rows) {
  char *weights = cuda_workspace_of(device)->weights;
  size_t filled = 0;
  int above = 0;
  for (int i = 0; above < rows->last; above += rows->parts[i++]->rows) {
    const struct matrix *part = rows->parts[i];
    int first = rows->first > above ? rows->first - above : 0;
    int last = rows->last - above < part->rows ? rows->last - above : part->rows;
    if (first >= last) continue;
    size_t cols = (size_t)part->cols, count = (size_t)(last - first) * cols;
    TRY(cuda_check(cuda_launch_dequantize(cuda_context(device), device_act_at(device, weights, filled), part,
                                          (size_t)first * cols, count),
                   "dequantization"));
    filled += count;
  }
  return OK;
}

/** Columns first .. of the result with the same number of weights, which start at b. */
static struct task columns_of(const struct device *device, const struct task *whole, const void *b, int first,
                              int count) {
  struct task part = *whole;
  size_t elements = (size_t)first;
  part.b = b, part.n = count;
  part.c = (char *)whole->c + elements * dtype_size(whole->c_type);
  if (whole->residual) part.residual = device_act_at(device, whole->residual, elements);
  return part;
}

/** Whether the parts of a stack of `rows` rows are activations already. */
static bool in_place(const struct device *device, const struct matrix *const *parts, int rows) {
  bool all = device->act == DTYPE_BF16;
  for (int i = 0, above = 0; above < rows; above += parts[i++]->rows) all = all && parts[i]->format == WEIGHT_BF16;
  return all;
}

/** Rows of a weight of `cols` columns that are dequantized at a time: whole tiles, so that what follows begins aligned. */
static int rows_at_a_time(const struct device *device, int cols) {
  const int tile = 256;
  int most = (int)(cuda_state(device)->product->weight_count / (size_t)cols);
  return most > tile ? most / tile * tile : most;
}

/** C = A · [parts]ᵀ: weights that are activations already are used where they are, others are
 *  dequantized as many rows at a time as the workspace holds. */
static int run_frozen(struct device *device, const struct task *whole, const struct matrix *const *parts) {
  if (in_place(device, parts, whole->n)) {
    for (int i = 0, above = 0; above < whole->n; above += parts[i++]->rows) {
      struct task part = columns_of(device, whole, parts[i]->codes, above, parts[i]->rows);
      TRY(cuda_run_task(device, &part));
    }
    return OK;
  }
  int most = rows_at_a_time(device, whole->k);
  if (most == 0) return fail(ERR_INTERNAL, "weights of %d columns: more than the workspace holds", whole->k);
  for (int first = 0; first < whole->n; first += most) {
    int count = whole->n - first < most ? whole->n - first : most;
    TRY(dequantize_rows(device, &(struct frozen_rows){parts, first, first + count}));
    struct task part = columns_of(device, whole, cuda_workspace_of(device)->weights, first, count);
    TRY(cuda_run_task(device, &part));
  }
  return OK;
}

/** A product with a bias makes as many rows of C at a time as the workspace holds fp32 sums of: bias and residual are added
 *  before anything is rounded. `parts`: the frozen weights, or NULL for those of the task. */
static int run_with_bias(struct device *device, const struct task *whole, const struct matrix *const *parts,
                         const float *bias) {
  const struct cuda_product *p = cuda_state(device)->product;
  float *sums = cuda_workspace_of(device)->sums;
  int most = (int)(p->sum_count / (size_t)whole->n);
  if (most == 0) return fail(ERR_INTERNAL, "a product of %d columns: more than its workspace holds", whole->n);
  for (int row = 0; row < whole->m; row += most) {
    struct task part = *whole;
    size_t from = (size_t)row * (size_t)whole->n;
    part.m = whole->m - row < most ? whole->m - row : most;
    part.a = device_act_at(device, whole->a, (size_t)row * (size_t)whole->lda);
    part.c = sums, part.c_type = DTYPE_F32, part.residual = NULL;
    TRY(parts ? run_frozen(device, &part, parts) : cuda_run_task(device, &part));
    struct finish_args finish = {.y = device_act_at(device, whole->c, from),
                                 .sums = sums,
                                 .bias = bias,
                                 .residual = whole->residual ? device_act_at(device, whole->residual, from) : NULL,
                                 .rows = part.m,
                                 .cols = whole->n,
                                 .y_stride = whole->n};
    TRY(cuda_check(cuda_launch_finish(cuda_context(device), &finish), "the end of a product"));
  }
  return OK;
}

int cuda_frozen_linear(struct device *device, const struct frozen_linear_args *a) {
  if (cuda_workspace_of(device)->fp8) return cuda_frozen_linear_fp8(device, a);
  int n = 0, k = a->parts[0]->cols;
  for (int i = 0; i < a->part_count; i++) n += a->parts[i]->rows;
  struct task task = {.a = a->x,
                      .residual = a->residual,
                      .c = a->y,
                      .m = a->rows,
                      .n = n,
                      .k = k,
                      .lda = k,
                      .ldb = k,
                      .ldc = n,
                      .c_type = device->act};
  return a->bias ? run_with_bias(device, &task, a->parts, a->bias) : run_frozen(device, &task, a->parts);
}

int cuda_frozen_logits(struct device *device, const struct frozen_logits_args *a) {
  int n = a->weight->rows, k = a->weight->cols;
  struct task task = {
      .a = a->x, .c = a->logits, .m = a->rows, .n = n, .k = k, .lda = k, .ldb = k, .ldc = n, .c_type = DTYPE_F32};
  return run_frozen(device, &task, &a->weight);
}

/** The inner dimension is the vocabulary: pieces of it are added up in order. */
int cuda_frozen_input_grad(struct device *device, const struct frozen_input_grad_args *a) {
  const struct matrix *w = a->weight;
  bool direct = in_place(device, &a->weight, w->rows);
  int most = direct ? w->rows : rows_at_a_time(device, w->cols);
  if (most == 0) return fail(ERR_INTERNAL, "weights of %d columns: more than the workspace holds", w->cols);
  for (int first = 0; first < w->rows; first += most) {
    int count = w->rows - first < most ? w->rows - first : most;
    if (!direct) TRY(dequantize_rows(device, &(struct frozen_rows){&a->weight, first, first + count}));
    TRY(cuda_run_task(device, &(struct task){.a = device_act_at(device, a->dy, (size_t)first),
                                             .b = direct ? w->codes : cuda_workspace_of(device)->weights,
                                             .residual = first > 0 ? a->dx : NULL,
                                             .c = a->dx,
                                             .m = a->rows,
                                             .n = w->cols,
                                             .k = count,
                                             .lda = w->rows,
                                             .ldb = w->cols,
                                             .ldc = w->cols,
                                             .b_by_step = true,
                                             .c_type = device->act}));
  }
  return OK;
}

/* ---- trained weights ------------------------------------------------------------------------------------- */

int cuda_linear(struct device *device, const struct linear_args *a) {
  struct task task = {.a = a->x,
                      .b = a->w,
                      .residual = a->residual,
                      .c = a->y,
                      .m = a->rows,
                      .n = a->n,
                      .k = a->k,
                      .lda = a->k,
                      .ldb = a->k,
                      .ldc = a->n,
                      .c_type = device->act};
  return a->bias ? run_with_bias(device, &task, NULL, a->bias) : cuda_run_task(device, &task);
}

int cuda_linear_input_grad(struct device *device, const struct linear_input_grad_args *a) {
  return cuda_run_task(device, &(struct task){.a = a->dy,
                                              .b = a->w,
                                              .residual = a->accumulate ? a->dx : NULL,
                                              .c = a->dx,
                                              .m = a->rows,
                                              .n = a->k,
                                              .k = a->n,
                                              .lda = a->n,
                                              .ldb = a->k,
                                              .ldc = a->k,
                                              .b_by_step = true,
                                              .c_type = device->act});
}

int cuda_linear_weight_grad(struct device *device, const struct linear_weight_grad_args *a) {
  if (a->rows == 0) {
    TRY(device_zero(device, a->dw, (size_t)a->n * (size_t)a->k * sizeof(float)));
    return a->dbias ? device_zero(device, a->dbias, (size_t)a->n * sizeof(float)) : OK;
  }
  TRY(cuda_run_task(device, &(struct task){.a = a->dy,
                                           .b = a->x,
                                           .c = a->dw,
                                           .m = a->n,
                                           .n = a->k,
                                           .k = a->rows,
                                           .lda = a->n,
                                           .ldb = a->k,
                                           .ldc = a->k,
                                           .a_by_step = true,
                                           .b_by_step = true,
                                           .c_type = DTYPE_F32}));
  if (!a->dbias) return OK;
  return cuda_check(cuda_launch_column_sums(cuda_context(device), a->dbias, a->dy, a->rows, a->n), "sums of columns");
}
