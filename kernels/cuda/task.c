#include "kernels/cuda/task.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/log.h"
#include "base/memory.h"
#include "kernels/cuda/cublaslt.h"

static const size_t workspace_bytes = CUDA_BLAS_BYTES;

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
  bool refused;       /**< cuBLASLt has no algorithm */
  cublasLtMatmulAlgo_t algorithm;
};

struct cuda_blas {
  cublasLtHandle_t handle;
  void *workspace[LANE_COUNT];
  struct kept *kept; /**< [KEPT], by hash; at most three quarters of it full */
  int kept_count;
  bool warned; /**< of a product without an algorithm */
};

static struct cuda_blas *cuda_blas(const struct device *device) {
  return cuda_state(device)->blas;
}

static int check_blas(cublasStatus_t status, const char *what) {
  if (status == CUBLAS_STATUS_SUCCESS) return OK;
  return fail(ERR_SYSTEM, "cuda: cuBLASLt could not %s (status %d)", what, (int)status);
}

int cuda_blas_open(struct device *device) {
  struct cuda_blas *blas;
  TRY(cublaslt_load());
  TRY(memory_array(&blas, 1, sizeof *blas));
  cuda_state(device)->blas = blas;
  TRY(memory_array(&blas->kept, KEPT, sizeof *blas->kept));
  TRY(check_blas(cublasLtCreate(&blas->handle), "start"));
  for (enum lane lane = 0; lane < LANE_COUNT; lane++)
    TRY(device_allocate(device, MEMORY_WORKSPACE, &blas->workspace[lane], workspace_bytes));
  return OK;
}

void cuda_blas_close(struct device *device) {
  struct cuda_blas *blas = cuda_blas(device);
  if (!blas) return;
  for (enum lane lane = 0; lane < LANE_COUNT; lane++)
    device_release(device, MEMORY_WORKSPACE, &blas->workspace[lane], workspace_bytes);
  if (blas->handle) cublasLtDestroy(blas->handle);
  free(blas->kept);
  free(blas);
  cuda_state(device)->blas = NULL;
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
static struct kept *place_of(struct cuda_blas *blas, const struct shape *shape) {
  const unsigned char *bytes = (const unsigned char *)shape;
  uint64_t hash = 0xcbf29ce484222325u; /* FNV-1a */
  for (size_t i = 0; i < sizeof *shape; i++) hash = (hash ^ bytes[i]) * 0x100000001b3u;
  size_t at = (size_t)(hash >> 32) % KEPT;
  while (blas->kept[at].shape.m && memcmp(&blas->kept[at].shape, shape, sizeof *shape) != 0) at = (at + 1) % KEPT;
  return &blas->kept[at];
}

static void keep(struct device *device, const struct kept *found) {
  struct cuda_blas *blas = cuda_blas(device);
  if (blas->kept_count == KEPT / 4 * 3) {
    memset(blas->kept, 0, KEPT * sizeof *blas->kept);
    blas->kept_count = 0;
    cuda_state(device)->forgotten++;
  }
  *place_of(blas, &found->shape) = *found;
  blas->kept_count++;
}

static int prefer(cublasLtMatmulPreferenceOpaque_t *preference, const struct shape *shape) {
  uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE; /* through the workspace, in order; or none */
  struct {
    cublasLtMatmulPreferenceAttributes_t name;
    const void *value;
    size_t size;
  } wishes[] = {{CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace_bytes, sizeof(uint64_t)},
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

static int ask(struct device *device, const struct task *t, struct kept *out) {
  struct call call;
  cublasLtMatmulPreferenceOpaque_t preference;
  cublasLtMatmulHeuristicResult_t best;
  int found = 0;
  TRY(describe_call(&call, t, device->act));
  TRY(prefer(&preference, &out->shape));
  cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(cuda_blas(device)->handle, &call.operation, &call.b, &call.a,
                                                         &call.c, &call.c, &preference, 1, &best, &found);
  bool refused =
      status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_INVALID_VALUE; /* as versions differ */
  out->refused = refused || found == 0 || best.state != CUBLAS_STATUS_SUCCESS;
  if (status != CUBLAS_STATUS_SUCCESS && !refused)
    return fail(ERR_SYSTEM, "cuda: cuBLASLt could not choose how to multiply %d x %d x %d (status %d)", t->m, t->n,
                t->k, (int)status);
  if (!out->refused) out->algorithm = best.algo;
  return OK;
}

/** Whether an algorithm is kept for exactly this task. */
static bool known(const struct device *device, const struct task *t) {
  struct shape shape = shape_of(t);
  return place_of(cuda_blas(device), &shape)->shape.m > 0;
}

static int find_algorithm(struct device *device, const struct task *t, struct kept *out) {
  struct shape shape = shape_of(t);
  *out = *place_of(cuda_blas(device), &shape);
  if (out->shape.m) return OK;
  out->shape = shape;
  TRY(ask(device, t, out));
  keep(device, out);
  return OK;
}

/** The task, or the one whose algorithm it takes. */
static struct task task_like(const struct device *device, const struct task *t) {
  return known(device, t) ? *t : with_tokens_like(t);
}

bool cuda_can_run(struct device *device, const struct task *t) {
  struct kept found;
  const struct task like = with_tokens_like(t);
  return find_algorithm(device, &like, &found) == OK && !found.refused;
}

/* ---- running ----------------------------------------------------------------------------------------------- */

static cublasStatus_t multiply(struct device *device, const struct task *t, struct call *call,
                               const struct kept *found) {
  const float one = 1, beta = t->residual ? 1 : 0;
  if (found->refused) return CUBLAS_STATUS_NOT_SUPPORTED;
  return cublasLtMatmul(cuda_blas(device)->handle, &call->operation, &one, t->b, &call->b, t->a, &call->a, &beta,
                        t->residual ? t->residual : t->c, &call->c, t->c, &call->c, &found->algorithm,
                        cuda_blas(device)->workspace[cuda_state(device)->lane], workspace_bytes,
                        cuda_context(device)->stream);
}

static void warn(struct device *device, const struct task *t) {
  int version[3] = {0};
  const libraryPropertyType parts[] = {MAJOR_VERSION, MINOR_VERSION, PATCH_LEVEL};
  for (int i = 0; i < 3; i++) cublasLtGetProperty(parts[i], &version[i]);
  log_warning(
      "cuda: cuBLASLt %d.%d.%d has no algorithm for products like %d x %d x %d in %s: a kernel of this program does "
      "them, right but slowly; another version of the library may be faster",
      version[0], version[1], version[2], t->m, t->n, t->k,
      t->fp8                      ? "fp8"
      : device->act == DTYPE_BF16 ? "bf16"
                                  : "fp32");
}

static int multiply_plainly(struct device *device, const struct task *t) {
  if (!cuda_blas(device)->warned) warn(device, t);
  cuda_blas(device)->warned = true;
  return cuda_check(cuda_launch_task(cuda_context(device), t), "a product");
}

/** With the algorithm of a number of tokens like its own; where that can't do it, with one for exactly this task. */
int cuda_run_task(struct device *device, const struct task *t) {
  struct call call;
  struct kept found;
  if (t->m == 0 || t->n == 0) return OK;
  const struct task like = task_like(device, t);
  TRY(find_algorithm(device, &like, &found));
  if (cuda_context(device)->prepares) return OK;
  if (found.refused) return multiply_plainly(device, t);
  TRY(describe_call(&call, t, device->act));
  cublasStatus_t status = multiply(device, t, &call, &found);
  if (status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_INVALID_VALUE) {
    TRY(find_algorithm(device, t, &found));
    status = multiply(device, t, &call, &found);
  }
  return status == CUBLAS_STATUS_NOT_SUPPORTED ? multiply_plainly(device, t) : check_blas(status, "multiply");
}
