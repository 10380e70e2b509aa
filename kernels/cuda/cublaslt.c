#include "kernels/cuda/cublaslt.h"

#include "base/error.h"
#include "base/library.h"

/* What is passed on: name, parameters, arguments. */
#define FUNCTIONS(X)                                                                                                  \
  X(cublasLtCreate, (cublasLtHandle_t * handle), (handle))                                                            \
  X(cublasLtGetProperty, (libraryPropertyType part, int *value), (part, value))                                       \
  X(cublasLtDestroy, (cublasLtHandle_t handle), (handle))                                                             \
  X(cublasLtMatrixLayoutInit_internal,                                                                                \
    (cublasLtMatrixLayout_t layout, size_t size, cudaDataType type, uint64_t rows, uint64_t cols, int64_t ld),        \
    (layout, size, type, rows, cols, ld))                                                                             \
  X(cublasLtMatmulDescInit_internal,                                                                                  \
    (cublasLtMatmulDesc_t desc, size_t size, cublasComputeType_t compute, cudaDataType_t scale),                      \
    (desc, size, compute, scale))                                                                                     \
  X(cublasLtMatmulDescSetAttribute,                                                                                   \
    (cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t attribute, const void *value, size_t size),            \
    (desc, attribute, value, size))                                                                                   \
  X(cublasLtMatmulPreferenceInit_internal, (cublasLtMatmulPreference_t preference, size_t size), (preference, size))  \
  X(cublasLtMatmulPreferenceSetAttribute,                                                                             \
    (cublasLtMatmulPreference_t preference, cublasLtMatmulPreferenceAttributes_t attribute, const void *value,        \
     size_t size),                                                                                                    \
    (preference, attribute, value, size))                                                                             \
  X(cublasLtMatmulAlgoGetHeuristic,                                                                                   \
    (cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,          \
     cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d, cublasLtMatmulPreference_t preference, int most,             \
     cublasLtMatmulHeuristicResult_t *results, int *count),                                                           \
    (handle, desc, a, b, c, d, preference, most, results, count))                                                     \
  X(cublasLtMatmul,                                                                                                   \
    (cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void *alpha, const void *a, cublasLtMatrixLayout_t la, \
     const void *b, cublasLtMatrixLayout_t lb, const void *beta, const void *c, cublasLtMatrixLayout_t lc, void *d,   \
     cublasLtMatrixLayout_t ld, const cublasLtMatmulAlgo_t *algo, void *workspace, size_t size, cudaStream_t stream), \
    (handle, desc, alpha, a, la, b, lb, beta, c, lc, d, ld, algo, workspace, size, stream))

#define SLOT(name, parameters, arguments) cublasStatus_t(*name) parameters;
static struct {
  void *library;
  FUNCTIONS(SLOT)
} loaded;
#undef SLOT

#define PASS_ON(name, parameters, arguments) \
  cublasStatus_t name parameters {           \
    return loaded.name arguments;            \
  }
FUNCTIONS(PASS_ON)
#undef PASS_ON

static int load(void) {
  TRY(library_open(&loaded.library, "cublasLt", CUBLAS_VER_MAJOR,
                   "install CUDA's libraries or add their folder to LD_LIBRARY_PATH"));
#define FIND(name, parameters, arguments) TRY(library_find(loaded.library, #name, &loaded.name));
  FUNCTIONS(FIND)
#undef FIND
  return OK;
}

int cublaslt_load(void) {
  return loaded.library ? OK : fail_at(load(), "cuda");
}
