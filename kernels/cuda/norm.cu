/** RMSNorm and LayerNorm with their backward passes: a team of threads (a warp, or a block for long rows) a row. */
#include "kernels/cuda/column_sums.cuh"

constexpr int LONG_ROW = 1024;

/** Of the threads of a team, for each of them. */
template <int TEAM>
__device__ inline float team_sum(float x) {
  return TEAM == WARP ? warp_sum(x) : block_sum(x);
}

/** The rows a team of TEAM threads works on, and where a thread starts: N columns at a time, TEAM * N apart. */
template <int TEAM>
struct place {
  int row, lane;
  __device__ place() : row((int)(blockIdx.x * (BLOCK / TEAM) + threadIdx.x / TEAM)), lane((int)(threadIdx.x % TEAM)) {
  }
};

/** Calls f<T, N, TEAM>() with what fits the activation type, the alignment and the row length. */
template <typename F>
static cudaError_t by_row(const cuda_context *context, int cols, bool all_16, F f) {
  return by_act(context, [&]<typename T>(T) {
    bool wide = all_16 && cols % wide_of<T> == 0;
    if (cols > LONG_ROW)
      return wide ? f.template operator()<T, wide_of<T>, BLOCK>() : f.template operator()<T, 1, BLOCK>();
    return wide ? f.template operator()<T, wide_of<T>, WARP>() : f.template operator()<T, 1, WARP>();
  });
}

template <typename T, int N, int TEAM>
__global__ void __launch_bounds__(BLOCK) rmsnorm_kernel(const rmsnorm_args a) {
  place<TEAM> here;
  if (here.row >= a.rows) return;
  const T *x = (const T *)a.x + (size_t)here.row * a.cols;
  float sum = 0, v[N], w[N];
  for (int j = here.lane * N; j < a.cols; j += TEAM * N) {
    load<N>(v, x, j);
#pragma unroll
    for (int k = 0; k < N; k++) sum += v[k] * v[k];
  }
  float rstd = 1.0f / sqrtf(team_sum<TEAM>(sum) / (float)a.cols + a.epsilon);
  for (int j = here.lane * N; j < a.cols; j += TEAM * N) {
    load<N>(v, x, j);
    load<N>(w, a.w, j);
#pragma unroll
    for (int k = 0; k < N; k++) v[k] = w[k] * (v[k] * rstd);
    store<N>((T *)a.y + (size_t)here.row * a.cols, j, v);
  }
  if (a.rstd && here.lane == 0) a.rstd[here.row] = rstd;
}

extern "C" cudaError_t cuda_launch_rmsnorm(const cuda_context *context, const rmsnorm_args *a) {
  return by_row(context, a->cols, all_aligned(a->y, a->x, a->w), [&]<typename T, int N, int TEAM>() {
    return launch(context, rmsnorm_kernel<T, N, TEAM>, blocks_of((size_t)a->rows, BLOCK / TEAM), BLOCK, SHARED_FOR_SUMS,
                  *a);
  });
}

template <typename T, int N, int TEAM>
__global__ void __launch_bounds__(BLOCK) rmsnorm_backward_kernel(const rmsnorm_backward_args a) {
  place<TEAM> here;
  if (here.row >= a.rows) return;
  size_t row = (size_t)here.row * a.cols;
  const T *x = (const T *)a.x + row, *dy = (const T *)a.dy + row;
  T *dx = (T *)a.dx + row;
  float sum = 0, v[N], d[N], w[N], old[N], rstd = a.rstd[here.row];
  for (int j = here.lane * N; j < a.cols; j += TEAM * N) {
    load<N>(v, x, j);
    load<N>(d, dy, j);
    load<N>(w, a.w, j);
#pragma unroll
    for (int k = 0; k < N; k++) sum += w[k] * (d[k] * v[k]);
  }
  float pull = team_sum<TEAM>(sum) / (float)a.cols * rstd * rstd * rstd;
  for (int j = here.lane * N; j < a.cols; j += TEAM * N) {
    load<N>(v, x, j);
    load<N>(d, dy, j);
    load<N>(w, a.w, j);
    if (a.accumulate) load<N>(old, dx, j);
#pragma unroll
    for (int k = 0; k < N; k++) d[k] = (a.accumulate ? old[k] : 0.0f) + (rstd * (w[k] * d[k]) - v[k] * pull);
    store<N>(dx, j, d);
  }
}

template <typename T>
struct rmsnorm_slope {
  const T *dy, *x;
  const float *rstd;
  size_t cols;
  __device__ float at(int t, int j) const {
    size_t i = t * cols + j;
    return to_float(dy[i]) * to_float(x[i]) * rstd[t];
  }
};

extern "C" cudaError_t cuda_launch_rmsnorm_backward(const cuda_context *context, const rmsnorm_backward_args *a) {
  return by_row(context, a->cols, all_aligned(a->dx, a->dy, a->x, a->w), [&]<typename T, int N, int TEAM>() {
    TRY_CUDA(column_sums(context, a->dw, rmsnorm_slope<T>{(const T *)a->dy, (const T *)a->x, a->rstd, (size_t)a->cols},
                         a->rows, a->cols));
    return launch(context, rmsnorm_backward_kernel<T, N, TEAM>, blocks_of((size_t)a->rows, BLOCK / TEAM), BLOCK,
                  SHARED_FOR_SUMS, *a);
  });
}

template <typename T, int N, int TEAM>
__global__ void __launch_bounds__(BLOCK) layernorm_kernel(const layernorm_args a) {
  place<TEAM> here;
  if (here.row >= a.rows) return;
  const T *x = (const T *)a.x + (size_t)here.row * a.cols;
  float sum = 0, squares = 0, v[N], w[N], b[N];
  for (int j = here.lane * N; j < a.cols; j += TEAM * N) {
    load<N>(v, x, j);
#pragma unroll
    for (int k = 0; k < N; k++) sum += v[k];
  }
  float mean = team_sum<TEAM>(sum) / (float)a.cols;
  for (int j = here.lane * N; j < a.cols; j += TEAM * N) {
    load<N>(v, x, j);
#pragma unroll
    for (int k = 0; k < N; k++) squares += (v[k] - mean) * (v[k] - mean);
  }
  float rstd = 1.0f / sqrtf(team_sum<TEAM>(squares) / (float)a.cols + a.epsilon);
  for (int j = here.lane * N; j < a.cols; j += TEAM * N) {
    load<N>(v, x, j);
    load<N>(w, a.w, j);
    load<N>(b, a.b, j);
#pragma unroll
    for (int k = 0; k < N; k++) v[k] = w[k] * ((v[k] - mean) * rstd) + b[k];
    store<N>((T *)a.y + (size_t)here.row * a.cols, j, v);
  }
  if (here.lane == 0 && a.mean) {
    a.mean[here.row] = mean;
    a.rstd[here.row] = rstd;
  }
}

extern "C" cudaError_t cuda_launch_layernorm(const cuda_context *context, const layernorm_args *a) {
  return by_row(context, a->cols, all_aligned(a->y, a->x, a->w, a->b), [&]<typename T, int N, int TEAM>() {
    return launch(context, layernorm_kernel<T, N, TEAM>, blocks_of((size_t)a->rows, BLOCK / TEAM), BLOCK,
                  SHARED_FOR_SUMS, *a);
  });
}

template <typename T, int N, int TEAM>
__global__ void __launch_bounds__(BLOCK) layernorm_backward_kernel(const layernorm_backward_args a) {
  place<TEAM> here;
  if (here.row >= a.rows) return;
  size_t row = (size_t)here.row * a.cols;
  const T *x = (const T *)a.x + row, *dy = (const T *)a.dy + row;
  T *dx = (T *)a.dx + row;
  float g = 0, gx = 0, v[N], d[N], w[N], old[N], mean = a.mean[here.row], rstd = a.rstd[here.row];
  for (int j = here.lane * N; j < a.cols; j += TEAM * N) {
    load<N>(v, x, j);
    load<N>(d, dy, j);
    load<N>(w, a.w, j);
#pragma unroll
    for (int k = 0; k < N; k++) {
      g += w[k] * d[k];
      gx += w[k] * d[k] * ((v[k] - mean) * rstd);
    }
  }
  g = team_sum<TEAM>(g) / (float)a.cols;
  gx = team_sum<TEAM>(gx) / (float)a.cols;
  for (int j = here.lane * N; j < a.cols; j += TEAM * N) {
    load<N>(v, x, j);
    load<N>(d, dy, j);
    load<N>(w, a.w, j);
    if (a.accumulate) load<N>(old, dx, j);
#pragma unroll
    for (int k = 0; k < N; k++)
      d[k] = (a.accumulate ? old[k] : 0.0f) + rstd * (w[k] * d[k] - g - (v[k] - mean) * rstd * gx);
    store<N>(dx, j, d);
  }
}

template <typename T>
struct layernorm_slope {
  const T *dy, *x;
  const float *mean, *rstd;
  size_t cols;
  __device__ float at(int t, int j) const {
    size_t i = t * cols + j;
    return to_float(dy[i]) * ((to_float(x[i]) - mean[t]) * rstd[t]);
  }
};

/** dx comes last: it may be dy. */
extern "C" cudaError_t cuda_launch_layernorm_backward(const cuda_context *context, const layernorm_backward_args *a) {
  return by_row(context, a->cols, all_aligned(a->dx, a->dy, a->x, a->w), [&]<typename T, int N, int TEAM>() {
    layernorm_slope<T> slope = {(const T *)a->dy, (const T *)a->x, a->mean, a->rstd, (size_t)a->cols};
    TRY_CUDA(column_sums(context, a->dw, slope, a->rows, a->cols));
    TRY_CUDA(cuda_launch_column_sums(context, a->db, a->dy, a->rows, a->cols));
    return launch(context, layernorm_backward_kernel<T, N, TEAM>, blocks_of((size_t)a->rows, BLOCK / TEAM), BLOCK,
                  SHARED_FOR_SUMS, *a);
  });
}
