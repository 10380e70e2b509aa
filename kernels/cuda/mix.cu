/** Where backbone and side network meet: the gates of the side layers, the mix before the head, and bias with residual. */
#include "kernels/cuda/column_sums.cuh"

template <typename T>
struct gate {
  T *u;
  const T *d, *s;
  const float *z;
  unsigned cols;
  template <int N>
  __device__ void run(unsigned i) const {
    float from_d[N], from_s[N], gates[N];
    load<N>(from_d, d, i);
    load<N>(from_s, s, i);
    load<N>(gates, z, i % cols);
#pragma unroll
    for (int k = 0; k < N; k++) {
      float open = sigmoid(gates[k]);
      from_d[k] = (1.0f - open) * from_d[k] + open * from_s[k];
    }
    store<N>(u, i, from_d);
  }
};

extern "C" cudaError_t cuda_launch_gate(const cuda_context *context, const gate_args *a) {
  return by_act(context, [&]<typename T>(T) {
    return each<wide_of<T>>(context, gate<T>{(T *)a->u, (const T *)a->d, (const T *)a->s, a->z, (unsigned)a->cols},
                            (size_t)a->rows * a->cols,
                            a->cols % wide_of<T> == 0 && all_aligned(a->u, a->d, a->s, a->z));
  });
}

template <typename T>
struct gate_backward {
  T *dd, *ds;
  const T *du;
  const float *z;
  unsigned cols;
  template <int N>
  __device__ void run(unsigned i) const {
    float to_d[N], to_s[N], gates[N];
    load<N>(to_d, du, i);
    load<N>(gates, z, i % cols);
#pragma unroll
    for (int k = 0; k < N; k++) {
      float open = sigmoid(gates[k]);
      to_s[k] = open * to_d[k];
      to_d[k] *= 1.0f - open;
    }
    store<N>(dd, i, to_d);
    store<N>(ds, i, to_s);
  }
};

template <typename T>
struct gate_slope {
  const T *du, *d, *s;
  const float *z;
  size_t cols;
  __device__ float at(int t, int j) const {
    size_t i = t * cols + j;
    float open = sigmoid(z[j]);
    return open * (1.0f - open) * to_float(du[i]) * (to_float(s[i]) - to_float(d[i]));
  }
};

extern "C" cudaError_t cuda_launch_gate_backward(const cuda_context *context, const gate_backward_args *a) {
  return by_act(context, [&]<typename T>(T) {
    const T *du = (const T *)a->du;
    TRY_CUDA(column_sums(context, a->dz, gate_slope<T>{du, (const T *)a->d, (const T *)a->s, a->z, (size_t)a->cols},
                         a->rows, a->cols));
    return each<wide_of<T>>(context, gate_backward<T>{(T *)a->dd, (T *)a->ds, du, a->z, (unsigned)a->cols},
                            (size_t)a->rows * a->cols,
                            a->cols % wide_of<T> == 0 && all_aligned(a->dd, a->ds, a->du, a->z));
  });
}

/** How much of the backbone columns column .. column + N keep. */
template <int N>
__device__ static inline void mix_shares(float (&out)[N], const float *weight, enum mix_kind kind, unsigned column) {
  if (kind == MIX_GATE) load<N>(out, weight, column);
#pragma unroll
  for (int k = 0; k < N; k++) out[k] = kind == MIX_GATE ? sigmoid(out[k]) : kind == MIX_ALPHA ? weight[0] : 0.0f;
}

/** One number is read by itself, numbers for all columns 16 bytes at a time. */
static bool wide_weight(const float *weight, enum mix_kind kind) {
  return kind != MIX_GATE || aligned(weight);
}

template <typename T>
struct mix {
  T *y;
  const T *h, *side;
  const float *weight;
  enum mix_kind kind;
  unsigned cols;
  template <int N>
  __device__ void run(unsigned i) const {
    float a[N], b[N], shares[N];
    load<N>(a, h, i);
    load<N>(b, side, i);
    mix_shares<N>(shares, weight, kind, i % cols);
#pragma unroll
    for (int k = 0; k < N; k++)
      a[k] = kind == MIX_RESIDUAL ? a[k] + b[k] : shares[k] * a[k] + (1.0f - shares[k]) * b[k];
    store<N>(y, i, a);
  }
};

extern "C" cudaError_t cuda_launch_mix(const cuda_context *context, const mix_args *a) {
  return by_act(context, [&]<typename T>(T) {
    mix<T> f = {(T *)a->y, (const T *)a->h, (const T *)a->side, a->weight, a->kind, (unsigned)a->cols};
    return each<wide_of<T>>(
        context, f, (size_t)a->rows * a->cols,
        a->cols % wide_of<T> == 0 && all_aligned(a->y, a->h, a->side) && wide_weight(a->weight, a->kind));
  });
}

template <typename T>
struct mix_backward {
  T *dside;
  const T *dy;
  const float *weight;
  enum mix_kind kind;
  unsigned cols;
  template <int N>
  __device__ void run(unsigned i) const {
    float d[N], shares[N];
    load<N>(d, dy, i);
    mix_shares<N>(shares, weight, kind, i % cols);
#pragma unroll
    for (int k = 0; k < N; k++) d[k] *= 1.0f - shares[k];
    store<N>(dside, i, d);
  }
};

template <typename T>
struct mix_slope {
  const T *dy, *h, *side;
  const float *weight;
  enum mix_kind kind;
  size_t cols;
  __device__ float at(int t, int j) const {
    size_t i = t * cols + j;
    float share[1];
    mix_shares<1>(share, weight, kind, (unsigned)j);
    float slope = kind == MIX_GATE ? share[0] * (1.0f - share[0]) : 1.0f;
    return slope * to_float(dy[i]) * (to_float(h[i]) - to_float(side[i]));
  }
};

/** *total = (*total if more) + Σ x, by one block in a fixed order. */
static __global__ void __launch_bounds__(BLOCK) add_up_kernel(float *total, const float *x, int count, bool more) {
  double sum = 0;
  for (int i = (int)threadIdx.x; i < count; i += BLOCK) sum += (double)x[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) *total = (float)(sum + (more ? (double)*total : 0.0));
}

/** Columns of a piece that column_sums() does at once; their totals follow its partial sums. */
template <typename T>
struct mix_piece {
  mix_slope<T> slope;
  int first;
  __device__ float at(int t, int j) const {
    return slope.at(t, first + j);
  }
};

template <typename T>
static cudaError_t alpha_gradient(const cuda_context *context, const mix_backward_args *a, const mix_slope<T> &slope) {
  float *totals = context->sums + (size_t)SUM_BLOCKS * SUM_COLUMNS;
  for (int first = 0; first < a->cols; first += SUM_COLUMNS) {
    int count = a->cols - first < SUM_COLUMNS ? a->cols - first : SUM_COLUMNS;
    TRY_CUDA(column_sums(context, totals, mix_piece<T>{slope, first}, a->rows, count));
    TRY_CUDA(launch(context, add_up_kernel, dim3(1), BLOCK, SHARED_FOR_SUMS, a->dweight, totals, count, first > 0));
  }
  return cudaSuccess;
}

extern "C" cudaError_t cuda_launch_mix_backward(const cuda_context *context, const mix_backward_args *a) {
  return by_act(context, [&]<typename T>(T) {
    const T *dy = (const T *)a->dy;
    mix_slope<T> slope = {dy, (const T *)a->h, (const T *)a->side, a->weight, a->kind, (size_t)a->cols};
    if (a->kind == MIX_GATE) TRY_CUDA(column_sums(context, a->dweight, slope, a->rows, a->cols));
    if (a->kind == MIX_ALPHA) TRY_CUDA(alpha_gradient(context, a, slope));
    return each<wide_of<T>>(context, mix_backward<T>{(T *)a->dside, dy, a->weight, a->kind, (unsigned)a->cols},
                            (size_t)a->rows * a->cols,
                            a->cols % wide_of<T> == 0 && all_aligned(a->dside, dy) && wide_weight(a->weight, a->kind));
  });
}

template <typename T>
struct finish {
  T *y;
  const float *sums, *row_scales, *col_scales, *bias;
  const T *residual;
  unsigned cols, y_stride;
  template <int N>
  __device__ void run(unsigned i) const {
    float v[N], scales[N], added[N] = {}, more[N] = {};
    unsigned row = i / cols, column = i % cols;
    size_t at = (size_t)row * y_stride + column;
    load<N>(v, sums, i);
    if (bias) load<N>(added, bias, column);
    if (residual) load<N>(more, residual, at);
    if (row_scales) {
      float scale = row_scales[row];
      load<N>(scales, col_scales, column);
#pragma unroll
      for (int k = 0; k < N; k++) v[k] *= scale * scales[k];
    }
#pragma unroll
    for (int k = 0; k < N; k++) v[k] += added[k] + more[k];
    store<N>(y, at, v);
  }
};

extern "C" cudaError_t cuda_launch_finish(const cuda_context *context, const finish_args *a) {
  return by_act(context, [&]<typename T>(T) {
    finish<T> f = {(T *)a->y,         a->sums,
                   a->row_scales,     a->col_scales,
                   a->bias,           (const T *)a->residual,
                   (unsigned)a->cols, (unsigned)a->y_stride};
    bool wide =
        a->cols % 4 == 0 && a->y_stride % 4 == 0 && all_aligned(a->y, a->sums, a->col_scales, a->bias, a->residual);
    return each<4>(context, f, (size_t)a->rows * a->cols, wide);
  });
}

template <typename T>
struct element {
  const T *x;
  size_t cols;
  __device__ float at(int t, int j) const {
    return to_float(x[t * cols + j]);
  }
};

extern "C" cudaError_t cuda_launch_column_sums(const cuda_context *context, float *sums, const void *dy, int rows,
                                               int cols) {
  return by_act(context, [&]<typename T>(T) {
    return column_sums(context, sums, element<T>{(const T *)dy, (size_t)cols}, rows, cols);
  });
}
