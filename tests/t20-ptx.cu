/* The wrappers of kernels/cuda/ptx against their definitions, a unique value for each element: whether the layouts that the
 * kernels and the host runtime believe in are those of the machine this runs on. Before any other test on a GPU.
 *
 * RUN ranks=1 device=cuda */
#include <ptx.cuh>
#include <vector>
#include <wgmma.cuh>

#include "check.h"
#include "kernels/cuda/kernel.cuh"

namespace {

using element = __nv_bfloat16;

cuda_context context;

std::vector<void *> blocks;

/** The host's memory, which the device reaches, until the end of main. */
template <typename T>
T *shared_with_gpu(size_t count) {
  void *block = nullptr;
  if (cudaMallocHost(&block, count * sizeof(T)) != cudaSuccess) exit(1);
  blocks.push_back(block);
  memset(block, 0, count * sizeof(T));
  return static_cast<T *>(block);
}

/** One block. */
template <typename... Parameters, typename... Arguments>
void run_threads(int threads, void (*kernel)(Parameters...), size_t shared, Arguments... arguments) {
  CHECK(launch(&context, kernel, dim3(1), threads, shared, arguments...) == cudaSuccess);
  CHECK(cudaStreamSynchronize(context.stream) == cudaSuccess);
}

/** One warp. */
template <typename... Parameters, typename... Arguments>
void run(void (*kernel)(Parameters...), size_t shared, Arguments... arguments) {
  run_threads(WARP, kernel, shared, arguments...);
}

/* ---- matrices of 2-byte elements ----------------------------------------------------------------------------- */

constexpr int MATRICES = 4, SIDE = 8, PITCH = 24; /* elements from row to row */

__global__ void matrices_kernel(unsigned *out, bool transposed) {
  uint16_t *rows = reinterpret_cast<uint16_t *>(shared_memory);
  unsigned lane = threadIdx.x, registers[MATRICES];
  for (unsigned j = 0; j < SIDE; j++) rows[lane * PITCH + j] = (uint16_t)(lane * SIDE + j);
  __syncthreads();
  if (transposed) {
    ptx::load_matrices_transposed(registers, rows + lane * PITCH);
  } else {
    ptx::load_matrices(registers, rows + lane * PITCH);
  }
  for (unsigned m = 0; m < MATRICES; m++) out[lane * MATRICES + m] = registers[m];
}

void test_matrices(bool transposed) {
  unsigned *out = shared_with_gpu<unsigned>(WARP * MATRICES);
  run(matrices_kernel, WARP * PITCH * sizeof(uint16_t), out, transposed);
  for (unsigned lane = 0; lane < WARP; lane++)
    for (unsigned m = 0; m < MATRICES; m++)
      for (unsigned half = 0; half < 2; half++) {
        unsigned far = lane % 4 * 2 + half, near = lane / 4;
        unsigned row = transposed ? far : near, column = transposed ? near : far;
        CHECK((out[lane * MATRICES + m] >> 16 * half & 0xffff) == (m * SIDE + row) * SIDE + column);
      }
}

/* ---- the product --------------------------------------------------------------------------------------------- */

constexpr int M = 16, N = 8, K = 16;

struct factors {
  float a[M][K], b[K][N], c[M][N];
};

/** f.c += f.a · f.b, the operands laid out as ptx.cuh says. */
__global__ void product_kernel(factors *f) {
  unsigned g = threadIdx.x / 4, t = threadIdx.x % 4 * 2, a[4];
  float c[4];
  for (unsigned i = 0; i < 4; i++) {
    const float *row = &f->a[g + i % 2 * 8][t + i / 2 * 8];
    a[i] = ptx::pack_bf16(row[0], row[1]);
    c[i] = f->c[g + i / 2 * 8][t + i % 2];
  }
  ptx::multiply_bf16(c, a, ptx::pack_bf16(f->b[t][g], f->b[t + 1][g]), ptx::pack_bf16(f->b[t + 8][g], f->b[t + 9][g]));
  for (unsigned i = 0; i < 4; i++) f->c[g + i / 2 * 8][t + i % 2] = c[i];
}

/** All numbers are integers that bf16 and the sums hold exactly. */
void check_product(factors *f) {
  factors want = *f;
  for (int i = 0; i < M; i++)
    for (int j = 0; j < N; j++)
      for (int k = 0; k < K; k++) want.c[i][j] += f->a[i][k] * f->b[k][j];
  run(product_kernel, 0, f);
  CHECK(memcmp(f->c, want.c, sizeof f->c) == 0);
}

void test_product(void) {
  factors *f = shared_with_gpu<factors>(1);
  for (int half = 0; half < 2; half++) { /* each element of a, then of b, in a place of c of its own */
    memset(f, 0, sizeof *f);
    for (int i = 0; i < M * K; i++) f->a[i / K][i % K] = (float)(i + 1);
    for (int j = 0; j < N; j++) f->b[half * N + j][j] = 1;
    check_product(f);
    memset(f, 0, sizeof *f);
    for (int i = 0; i < K * N; i++) f->b[i / N][i % N] = (float)(i + 1);
    for (int i = 0; i < M; i++) f->a[i][i] = 1;
    check_product(f);
  }
  for (int i = 0; i < M * K; i++) f->a[i / K][i % K] = (float)(i * 37 % 61 - 30);
  for (int i = 0; i < K * N; i++) f->b[i / N][i % N] = (float)(i * 29 % 53 - 26);
  for (int i = 0; i < M * N; i++) f->c[i / N][i % N] = (float)(1000 * i);
  check_product(f);
}

/* ---- products of warp groups ----------------------------------------------------------------------------------- */

constexpr int GROUP = 4 * WARP, GROUP_ROWS = 64, PANEL = 64, STEP = 16;

/** b: [columns of c, inner] or [inner, columns of c]. */
struct group_factors {
  float a[GROUP_ROWS][128], b[128][128], c[GROUP_ROWS][128];
};

/** Rows [rows, columns] to panels in shared memory, as wgmma.cuh says. */
__device__ void write_panels(element *panels, const float (*x)[128], int rows, int columns) {
  for (int i = (int)threadIdx.x; i < rows * columns; i += GROUP) {
    int row = i / columns, column = i % columns, chunk = column % PANEL / 8 ^ row % 8;
    panels[column / PANEL * rows * PANEL + row * PANEL + chunk * 8 + column % 8] = __float2bfloat16_rn(x[row][column]);
  }
}

__device__ element *panels_in_shared() {
  unsigned past = ptx::shared_address(shared_memory) % 1024;
  return reinterpret_cast<element *>(shared_memory + (1024 - past) % 1024);
}

/** An element of this thread's sums: [8 columns][4]. */
template <typename F>
__device__ void each_sum(int columns, F f) {
  int lane = (int)threadIdx.x % WARP, row = (int)threadIdx.x / WARP * 16 + lane / 4;
  for (int n = 0; n < columns / 8; n++)
    for (int e = 0; e < 4; e++) f(n, e, row + e / 2 * 8, n * 8 + lane % 4 * 2 + e % 2);
}

constexpr size_t GROUP_SHARED = 1024 + sizeof(element) * 128 * (128 + GROUP_ROWS);

/** 128 columns, inner dimension 128: two panels each. With `add` to what c was. */
__global__ void group_rows_kernel(group_factors *f, bool add) {
  constexpr int INNER = 128, COLUMNS = 128;
  element *a = panels_in_shared(), *b = a + GROUP_ROWS * INNER;
  write_panels(a, f->a, GROUP_ROWS, INNER);
  write_panels(b, f->b, COLUMNS, INNER);
  float c[COLUMNS / 8][4];
  each_sum(COLUMNS, [&](int n, int e, int row, int column) { c[n][e] = f->c[row][column]; });
  ptx::fence_async_shared();
  __syncthreads();
  uint64_t rows = ptx::describe_panels(a, GROUP_ROWS * PANEL * 2),
           others = ptx::describe_panels(b, COLUMNS * PANEL * 2);
  ptx::products_begin();
#pragma unroll
  for (int k = 0; k < INNER; k += STEP) {
    uint64_t x = ptx::advance_panels(rows, (unsigned)(k / PANEL * GROUP_ROWS * PANEL * 2 + k % PANEL * 2));
    uint64_t y = ptx::advance_panels(others, (unsigned)(k / PANEL * COLUMNS * PANEL * 2 + k % PANEL * 2));
    if (k == 0 && !add) {
      ptx::multiply_panels<false>(c, x, y);
    } else {
      ptx::multiply_panels<true>(c, x, y);
    }
  }
  ptx::products_commit();
  ptx::products_wait<0>(c);
  each_sum(COLUMNS, [&](int n, int e, int row, int column) { f->c[row][column] = c[n][e]; });
}

/** Inner dimension 128, COLUMNS 64 or 128. */
template <int COLUMNS>
__global__ void group_columns_kernel(group_factors *f) {
  constexpr int INNER = 128;
  element *b = panels_in_shared();
  write_panels(b, f->b, INNER, COLUMNS);
  float c[COLUMNS / 8][4];
  each_sum(COLUMNS, [&](int n, int e, int row, int column) { c[n][e] = f->c[row][column]; });
  ptx::fence_async_shared();
  __syncthreads();
  unsigned a[INNER / STEP][4];
  int lane = (int)threadIdx.x % WARP, warp = (int)threadIdx.x / WARP;
  for (int i = 0; i < INNER / STEP * 4; i++) {
    const float *pair = &f->a[warp * 16 + lane / 4 + i % 2 * 8][i / 4 * STEP + lane % 4 * 2 + i % 4 / 2 * 8];
    a[i / 4][i % 4] = ptx::pack_bf16(pair[0], pair[1]);
  }
  uint64_t others = ptx::describe_panels(b, INNER * PANEL * 2);
  ptx::products_begin();
#pragma unroll
  for (int k = 0; k < INNER / STEP; k++)
    ptx::add_panels(c, a[k], ptx::advance_panels(others, (unsigned)(k * STEP * PANEL * 2)));
  ptx::products_commit();
  ptx::products_wait<0>(c);
  each_sum(COLUMNS, [&](int n, int e, int row, int column) { f->c[row][column] = c[n][e]; });
}

/** Integers that bf16 and the sums hold exactly, and that no exchange of elements leaves as they are. */
void test_groups(bool rows, int columns, bool add) {
  group_factors *f = shared_with_gpu<group_factors>(1), *want = shared_with_gpu<group_factors>(1);
  for (int i = 0; i < GROUP_ROWS * 128; i++) f->a[i / 128][i % 128] = (float)(i * 37 % 61 - 30);
  for (int i = 0; i < 128 * 128; i++) f->b[i / 128][i % 128] = (float)(i * 29 % 59 - 29);
  for (int i = 0; i < GROUP_ROWS * 128; i++) f->c[i / 128][i % 128] = (float)(i * 53 % 2003 - 1000);
  *want = *f;
  for (int i = 0; i < GROUP_ROWS; i++)
    for (int j = 0; j < columns; j++) {
      want->c[i][j] = add ? f->c[i][j] : 0;
      for (int k = 0; k < 128; k++) want->c[i][j] += f->a[i][k] * (rows ? f->b[j][k] : f->b[k][j]);
    }
  if (rows) {
    run_threads(GROUP, group_rows_kernel, GROUP_SHARED, f, add);
  } else if (columns == 64) {
    run_threads(GROUP, group_columns_kernel<64>, GROUP_SHARED, f);
  } else {
    run_threads(GROUP, group_columns_kernel<128>, GROUP_SHARED, f);
  }
  CHECK(memcmp(f->c, want->c, sizeof f->c) == 0);
}

/** Where there are such products. */
bool has_groups(void) {
  cudaDeviceProp properties;
  CHECK(cudaGetDeviceProperties(&properties, 0) == cudaSuccess);
  return QST_SM90A && properties.major == 9 && properties.minor == 0;
}

/* ---- copies --------------------------------------------------------------------------------------------------- */

constexpr int EACH = 16 / sizeof(int), GROUPS = 3;

/** Group g of lane i: 16 bytes, at once or 4 at a time, or zeros where i + g is odd. What is there is taken after each
 *  group. */
__global__ void copy_kernel(int *out, const int *in, bool at_once) {
  int *here = reinterpret_cast<int *>(shared_memory);
  int lane = (int)threadIdx.x;
  auto place = [&](int group) { return (group * WARP + lane) * EACH; };
  auto take = [&](int group) {
    for (int i = 0; i < EACH; i++) out[place(group) + i] = here[place(group) + i];
  };
  for (int g = 0; g < GROUPS; g++) {
    if (at_once) ptx::copy_async_16(here + place(g), in + place(g), (lane + g) % 2 == 0);
    for (int i = 0; !at_once && i < EACH; i++)
      ptx::copy_async_4(here + place(g) + i, in + place(g) + i, (lane + g) % 2 == 0);
    ptx::copy_async_commit();
  }
  ptx::copy_async_wait<2>();
  take(0);
  ptx::copy_async_wait<1>();
  take(1);
  ptx::copy_async_wait<0>();
  take(2);
}

void test_copies(bool at_once) {
  constexpr int COUNT = GROUPS * WARP * EACH;
  int *in = shared_with_gpu<int>(COUNT), *out = shared_with_gpu<int>(COUNT);
  for (int i = 0; i < COUNT; i++) in[i] = i + 1;
  run(copy_kernel, COUNT * sizeof(int), out, in, at_once);
  for (int i = 0; i < COUNT; i++) CHECK(out[i] == ((i / EACH % WARP + i / EACH / WARP) % 2 ? 0 : i + 1));
}

/* ---- numbers -------------------------------------------------------------------------------------------------- */

__global__ void numbers_kernel(float *powers, unsigned *pairs, const float *x) {
  unsigned i = threadIdx.x;
  powers[i] = ptx::exp2_fast(x[i]);
  pairs[i] = ptx::pack_bf16(x[i], x[WARP - 1 - i]);
}

void test_numbers(void) {
  float *x = shared_with_gpu<float>(WARP), *powers = shared_with_gpu<float>(WARP);
  unsigned *pairs = shared_with_gpu<unsigned>(WARP);
  for (int i = 0; i < WARP; i++) x[i] = (float)(i * i) * -0.1237f + (float)i;
  x[0] = 0, x[1] = -INFINITY, x[2] = -140.5f, x[3] = 1.00390625f, x[4] = 1.01171875f; /* the last two: ties */
  run(numbers_kernel, 0, powers, pairs, x);
  for (int i = 0; i < WARP; i++) {
    double want = x[i] < -126 ? 0 : exp2((double)x[i]);
    CHECK(fabs((double)powers[i] - want) <= 0x1p-21 * want);
    CHECK((pairs[i] & 0xffff) == float_to_bf16(x[i]) && pairs[i] >> 16 == float_to_bf16(x[WARP - 1 - i]));
  }
}

}  // namespace

int main(void) {
  if (cudaStreamCreateWithFlags(&context.stream, cudaStreamNonBlocking) != cudaSuccess) return 1;
  test_matrices(false);
  test_matrices(true);
  test_product();
  test_copies(true);
  test_copies(false);
  test_numbers();
  if (has_groups()) {
    test_groups(true, 128, false);
    test_groups(true, 128, true);
    test_groups(false, 64, true);
    test_groups(false, 128, true);
  } else {
    printf("not on this GPU: products of warp groups\n");
  }
  for (void *block : blocks) cudaFreeHost(block);
  cudaStreamDestroy(context.stream);
  return check_result();
}
