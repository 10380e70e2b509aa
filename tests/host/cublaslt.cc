/* The products of kernels/cuda/task.c on the host: op(A) · op(B) + beta · C in fp32, one sum after the other. */
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <cublasLt.h>
#include <memory>
#include <vector>

#include "cuda_bf16.h"
#include "runtime.h"

namespace {

enum : uint64_t { LAYOUT = 0x4c41594f5554u, PRODUCT = 0x50524f4455u, WISHES = 0x574953484553u, CHOSEN = 0x43484f53u };

struct layout {
  uint64_t magic, rows, cols;
  int64_t ld;
  uint64_t type;
};
struct product {
  uint64_t magic, first, second; /**< whether an operand is transposed */
  const float *scales[2];        /**< of the rows of the result, and its columns; or NULL */
  uint64_t by_rows[2];
  uint64_t fast; /**< changes nothing here */
};

template <typename T, typename Opaque>
T read(const Opaque *opaque) {
  T value;
  static_assert(sizeof value <= sizeof *opaque);
  memcpy(&value, opaque, sizeof value);
  return value;
}

bool sound(const layout &l) {
  return l.magic == LAYOUT && l.rows > 0 && l.cols > 0 && l.ld >= (int64_t)l.rows;
}

size_t bytes_of(const layout &l) {
  return (((size_t)l.cols - 1) * (size_t)l.ld + l.rows) * (l.type == CUDA_R_8F_E4M3 ? 1
                                                           : l.type == CUDA_R_16BF  ? 2
                                                                                    : 4);
}

/** E4M3: sign, 4 bits of exponent (bias 7), 3 of fraction; the largest pattern is NaN. */
float from_e4m3(uint8_t bits) {
  int exponent = bits >> 3 & 15, fraction = bits & 7;
  float size = exponent ? ldexpf((float)(8 + fraction), exponent - 10) : ldexpf((float)fraction, -9);
  if ((bits & 0x7f) == 0x7f) size = NAN;
  return bits & 0x80 ? -size : size;
}

float element(const void *data, const layout &l, size_t row, size_t col) {
  size_t at = col * (size_t)l.ld + row;
  if (l.type == CUDA_R_8F_E4M3) return from_e4m3(((const uint8_t *)data)[at]);
  return l.type == CUDA_R_16BF ? __bfloat162float(((const __nv_bfloat16 *)data)[at]) : ((const float *)data)[at];
}

void set_element(void *data, const layout &l, size_t row, size_t col, float value) {
  size_t at = col * (size_t)l.ld + row;
  if (l.type == CUDA_R_16BF) {
    ((__nv_bfloat16 *)data)[at] = __float2bfloat16_rn(value);
  } else {
    ((float *)data)[at] = value;
  }
}

struct task {
  layout a, b, d;
  bool first, second;
  float alpha, beta;
  const void *from_a, *from_b, *from_c;
  void *to;
  const float *row_scales, *col_scales;
};

/** out[s * rows + i] = op(A)[i, s] */
std::vector<float> by_step(const void *data, const layout &l, bool transposed, size_t rows, size_t steps) {
  std::vector<float> out(rows * steps);
  for (size_t s = 0; s < steps; s++)
    for (size_t i = 0; i < rows; i++) out[s * rows + i] = transposed ? element(data, l, s, i) : element(data, l, i, s);
  return out;
}

void multiply(const task &t) {
  constexpr size_t TOGETHER = 64;
  size_t rows = t.d.rows, cols = t.d.cols, steps = t.first ? t.a.rows : t.a.cols;
  std::vector<float> a = by_step(t.from_a, t.a, t.first, rows, steps);
  std::vector<float> b = by_step(t.from_b, t.b, !t.second, cols, steps);
  for (size_t begin = 0; begin < rows; begin += TOGETHER) {
    size_t count = rows - begin < TOGETHER ? rows - begin : TOGETHER;
    for (size_t j = 0; j < cols; j++) {
      float sums[TOGETHER] = {};
      for (size_t s = 0; s < steps; s++) {
        const float *x = a.data() + s * rows + begin;
        float factor = b[s * cols + j];
        if (count == TOGETHER) {
          for (size_t i = 0; i < TOGETHER; i++) sums[i] += factor * x[i];
        } else {
          for (size_t i = 0; i < count; i++) sums[i] += factor * x[i];
        }
      }
      for (size_t i = 0; i < count; i++) {
        float old = t.beta != 0 ? t.beta * element(t.from_c, t.d, begin + i, j) : 0.0f;
        if (t.row_scales) sums[i] *= t.row_scales[begin + i] * t.col_scales[j];
        set_element(t.to, t.d, begin + i, j, t.alpha * sums[i] + old);
      }
    }
  }
}

/** An algorithm remembers what it was found for. */
void remember(cublasLtMatmulAlgo_t *algorithm, const task &t) {
  *algorithm = {{CHOSEN, t.d.rows, t.d.cols, t.first ? t.a.rows : t.a.cols}};
}

/** A third of all shapes, for which other shapes' algorithms are not fit. */
bool is_special(const task &t) {
  return (t.d.rows + t.d.cols + (t.first ? t.a.rows : t.a.cols)) % 3 == 0;
}

/** QST_HOST_EARLY_CHOICE: all are fit, as no other is to be had. */
bool suits(const cublasLtMatmulAlgo_t *algorithm, const task &t) {
  cublasLtMatmulAlgo_t own;
  remember(&own, t);
  return getenv("QST_HOST_EARLY_CHOICE") || memcmp(algorithm, &own, sizeof own) == 0 || !is_special(t);
}

/** QST_HOST_NO_ALGORITHM: for all products, or for special shapes. QST_HOST_NO_ROW_SCALES: for scaled ones. */
bool has_algorithm(const task &t, const product &p) {
  const char *without = getenv("QST_HOST_NO_ALGORITHM");
  if (without && (strcmp(without, "all") == 0 || is_special(t))) return false;
  return !(getenv("QST_HOST_NO_ROW_SCALES") && p.scales[0]);
}

bool fits(const task &t) {
  size_t rows = t.first ? t.a.cols : t.a.rows, steps = t.first ? t.a.rows : t.a.cols;
  size_t cols = t.second ? t.b.rows : t.b.cols, others = t.second ? t.b.cols : t.b.rows;
  return rows == t.d.rows && cols == t.d.cols && steps == others && t.a.type == t.b.type;
}

/** E4M3: the first operand transposed, the second not, rows and steps multiples of 16 bytes, scales for both or none. */
bool fits_8_bits(const task &t, const product &p) {
  bool scaled = p.scales[0] || p.scales[1];
  if (t.a.type != CUDA_R_8F_E4M3) return !scaled;
  bool both = p.scales[0] && p.scales[1] && p.by_rows[0] && p.by_rows[1];
  return t.first && !t.second && t.a.rows % 16 == 0 && t.a.cols % 16 == 0 && t.a.ld % 16 == 0 && t.b.ld % 16 == 0 &&
         (!scaled || both);
}

}  // namespace

extern "C" {

int cublaslt_load(void) {
  return 0;
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle) {
  *handle = (cublasLtHandle_t) new int(0);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  delete (int *)handle;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtGetProperty(libraryPropertyType part, int *value) {
  *value = part == MAJOR_VERSION ? 13 : 0;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutInit(cublasLtMatrixLayout_t opaque, cudaDataType type, uint64_t rows, uint64_t cols,
                                        int64_t ld) {
  layout l = {LAYOUT, rows, cols, ld, (uint64_t)type};
  memcpy(opaque, &l, sizeof l);
  return sound(l) ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatmulDescInit(cublasLtMatmulDesc_t desc, cublasComputeType_t compute, cudaDataType_t scale) {
  product p = {PRODUCT, 0, 0, {}, {}, 0};
  memcpy(desc, &p, sizeof p);
  return compute == CUBLAS_COMPUTE_32F && scale == CUDA_R_32F ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t attribute,
                                              const void *value, size_t size) {
  product p = read<product>(desc);
  struct {
    cublasLtMatmulDescAttributes_t attribute;
    void *to;
    size_t size;
  } places[] = {{CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &p.scales[0], sizeof(void *)},
                {CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &p.scales[1], sizeof(void *)},
                {CUBLASLT_MATMUL_DESC_A_SCALE_MODE, &p.by_rows[0], sizeof(int32_t)},
                {CUBLASLT_MATMUL_DESC_B_SCALE_MODE, &p.by_rows[1], sizeof(int32_t)},
                {CUBLASLT_MATMUL_DESC_FAST_ACCUM, &p.fast, sizeof(int8_t)},
                {CUBLASLT_MATMUL_DESC_TRANSA, &p.first, sizeof(cublasOperation_t)},
                {CUBLASLT_MATMUL_DESC_TRANSB, &p.second, sizeof(cublasOperation_t)}};
  if (p.magic != PRODUCT) return CUBLAS_STATUS_INVALID_VALUE;
  for (const auto &place : places)
    if (place.attribute == attribute) {
      if (size != place.size) return CUBLAS_STATUS_INVALID_VALUE;
      memcpy(place.to, value, size);
    }
  memcpy(desc, &p, sizeof p);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceInit(cublasLtMatmulPreference_t preference) {
  uint64_t magic = WISHES;
  memcpy(preference, &magic, sizeof magic);
  return CUBLAS_STATUS_SUCCESS;
}

/** The size of a value must be right; what is wished changes nothing here. */
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute, const void *value,
                                                    size_t size) {
  size_t right = attribute == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES ? sizeof(uint64_t) : sizeof(uint32_t);
  bool good = read<uint64_t>(preference) == WISHES && value && size == right;
  return good ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int most,
                                              cublasLtMatmulHeuristicResult_t *results, int *count) {
  product p = read<product>(desc);
  task t = {
      read<layout>(a), read<layout>(b), read<layout>(d), p.first != 0, p.second != 0, 1, 0, {}, {}, {}, {}, {}, {}};
  layout lc = read<layout>(c);
  *count = 0;
  if (!host_may_choose()) return CUBLAS_STATUS_INTERNAL_ERROR;
  if (!handle || p.magic != PRODUCT || read<uint64_t>(preference) != WISHES || most < 1 || !sound(t.a) || !sound(t.b) ||
      !sound(t.d) || !sound(lc) || !fits(t) || !fits_8_bits(t, p))
    return CUBLAS_STATUS_INVALID_VALUE;
  if (!has_algorithm(t, p)) return CUBLAS_STATUS_NOT_SUPPORTED;
  *results = cublasLtMatmulHeuristicResult_t{};
  remember(&results->algo, t);
  *count = 1;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void *alpha, const void *a,
                              cublasLtMatrixLayout_t la, const void *b, cublasLtMatrixLayout_t lb, const void *beta,
                              const void *c, cublasLtMatrixLayout_t lc, void *d, cublasLtMatrixLayout_t ld,
                              const cublasLtMatmulAlgo_t *algo, void *workspace, size_t size, cudaStream_t stream) {
  product p = read<product>(desc);
  task t = {read<layout>(la), read<layout>(lb), read<layout>(ld), p.first != 0, p.second != 0, 0, 0, a, b, c, d,
            p.scales[0],      p.scales[1]};
  memcpy(&t.alpha, alpha, sizeof t.alpha);
  memcpy(&t.beta, beta, sizeof t.beta);
  if (!handle || algo->data[0] != CHOSEN || !fits(t) || !fits_8_bits(t, p) || memcmp(lc, ld, sizeof(layout)) != 0)
    return CUBLAS_STATUS_INVALID_VALUE;
  if (!suits(algo, t)) return CUBLAS_STATUS_NOT_SUPPORTED;
  bool there = host_on_device(a, bytes_of(t.a), "first operand") &&
               host_on_device(b, bytes_of(t.b), "second operand") && host_on_device(d, bytes_of(t.d), "product") &&
               (!p.scales[0] || host_on_device(p.scales[0], t.d.rows * sizeof(float), "scales of rows")) &&
               (!p.scales[1] || host_on_device(p.scales[1], t.d.cols * sizeof(float), "scales of columns")) &&
               (t.beta == 0 || host_on_device(c, bytes_of(t.d), "C")) && host_on_device(workspace, size, "workspace");
  if (!there) return CUBLAS_STATUS_INVALID_VALUE;
  host_enqueue(stream, [t] {
    multiply(t);
    return cudaSuccess;
  });
  return CUBLAS_STATUS_SUCCESS;
}

}  // extern "C"
