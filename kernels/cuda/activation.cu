/** SwiGLU, SiLU, ReLU, pooling and rounding to activations. */
#include "kernels/cuda/kernel.cuh"

template <typename T>
struct swiglu {
  T *y;
  const T *x;
  unsigned cols;
  template <int N>
  __device__ void run(unsigned i) const {
    float gate[N], up[N];
    size_t at = (size_t)i + (size_t)(i / cols) * cols;
    load<N>(gate, x, at);
    load<N>(up, x, at + cols);
#pragma unroll
    for (int k = 0; k < N; k++) up[k] *= gate[k] * sigmoid(gate[k]);
    store<N>(y, i, up);
  }
};

extern "C" cudaError_t cuda_launch_swiglu(const cuda_context *context, const swiglu_args *a) {
  return by_act(context, [&]<typename T>(T) {
    return each<wide_of<T>>(context, swiglu<T>{(T *)a->y, (const T *)a->x, (unsigned)a->cols},
                            (size_t)a->rows * a->cols, a->cols % wide_of<T> == 0 && all_aligned(a->y, a->x));
  });
}

template <typename T>
struct swiglu_backward {
  T *dx;
  const T *dy, *x;
  unsigned cols;
  template <int N>
  __device__ void run(unsigned i) const {
    float gate[N], up[N], d[N];
    size_t at = (size_t)i + (size_t)(i / cols) * cols;
    load<N>(gate, x, at);
    load<N>(up, x, at + cols);
    load<N>(d, dy, i);
#pragma unroll
    for (int k = 0; k < N; k++) {
      float open = sigmoid(gate[k]);
      float d_gate = d[k] * up[k] * (open * (1.0f + gate[k] * (1.0f - open)));
      up[k] = d[k] * (gate[k] * open);
      gate[k] = d_gate;
    }
    store<N>(dx, at, gate);
    store<N>(dx, at + cols, up);
  }
};

extern "C" cudaError_t cuda_launch_swiglu_backward(const cuda_context *context, const swiglu_backward_args *a) {
  return by_act(context, [&]<typename T>(T) {
    return each<wide_of<T>>(context,
                            swiglu_backward<T>{(T *)a->dx, (const T *)a->dy, (const T *)a->x, (unsigned)a->cols},
                            (size_t)a->rows * a->cols, a->cols % wide_of<T> == 0 && all_aligned(a->dx, a->dy, a->x));
  });
}

/** A function of one number, and what its gradient makes of dy where its input (SiLU) or its result (ReLU) is v. */
struct silu {
  __device__ static float value(float x) {
    return x * sigmoid(x);
  }
  __device__ static float gradient(float v, float dy) {
    float open = sigmoid(v);
    return dy * (open * (1.0f + v * (1.0f - open)));
  }
};

struct relu {
  __device__ static float value(float x) {
    return x < 0.0f ? 0.0f : x; /* a NaN stays one, as fmaxf() would not have it */
  }
  __device__ static float gradient(float v, float dy) {
    return v > 0.0f ? dy : 0.0f;
  }
};

template <typename F, typename T>
struct value_of {
  T *y;
  const T *x;
  template <int N>
  __device__ void run(unsigned i) const {
    float v[N];
    load<N>(v, x, i);
#pragma unroll
    for (int k = 0; k < N; k++) v[k] = F::value(v[k]);
    store<N>(y, i, v);
  }
};

template <typename F, typename T>
struct gradient_of {
  T *dx;
  const T *dy, *at;
  template <int N>
  __device__ void run(unsigned i) const {
    float v[N], d[N];
    load<N>(v, at, i);
    load<N>(d, dy, i);
#pragma unroll
    for (int k = 0; k < N; k++) d[k] = F::gradient(v[k], d[k]);
    store<N>(dx, i, d);
  }
};

template <typename F>
static cudaError_t values(const cuda_context *context, void *y, const void *x, size_t count) {
  return by_act(context, [&]<typename T>(T) {
    return each<wide_of<T>>(context, value_of<F, T>{(T *)y, (const T *)x}, count,
                            count % wide_of<T> == 0 && all_aligned(y, x));
  });
}

template <typename F>
static cudaError_t gradients(const cuda_context *context, void *dx, const void *dy, const void *at, size_t count) {
  return by_act(context, [&]<typename T>(T) {
    return each<wide_of<T>>(context, gradient_of<F, T>{(T *)dx, (const T *)dy, (const T *)at}, count,
                            count % wide_of<T> == 0 && all_aligned(dx, dy, at));
  });
}

extern "C" cudaError_t cuda_launch_silu(const cuda_context *context, const silu_args *a) {
  return values<silu>(context, a->y, a->x, (size_t)a->rows * a->cols);
}
extern "C" cudaError_t cuda_launch_silu_backward(const cuda_context *context, const silu_backward_args *a) {
  return gradients<silu>(context, a->dx, a->dy, a->x, (size_t)a->rows * a->cols);
}
extern "C" cudaError_t cuda_launch_relu(const cuda_context *context, const relu_args *a) {
  return values<relu>(context, a->y, a->x, (size_t)a->rows * a->cols);
}
extern "C" cudaError_t cuda_launch_relu_backward(const cuda_context *context, const relu_backward_args *a) {
  return gradients<relu>(context, a->dx, a->dy, a->y, (size_t)a->rows * a->cols);
}

/** WIDE elements of a window at a time; in order either way. */
template <typename T, int WIDE>
struct pool {
  T *y;
  const T *x;
  int window;
  bool maximum;
  template <int N>
  __device__ void run(unsigned i) const {
    float v[WIDE], result = 0;
    for (int at = 0; at < window; at += WIDE) {
      load<WIDE>(v, x, (size_t)i * window + at);
#pragma unroll
      for (int k = 0; k < WIDE; k++)
        result = at + k == 0 ? v[0] : maximum ? (v[k] > result ? v[k] : result) : result + v[k];
    }
    from_float(y + i, maximum ? result : result / (float)window);
  }
};

extern "C" cudaError_t cuda_launch_pool(const cuda_context *context, const pool_args *a) {
  size_t count = (size_t)a->rows * a->cols;
  return by_act(context, [&]<typename T>(T) {
    constexpr int WIDE = wide_of<T>;
    T *y = (T *)a->y;
    const T *x = (const T *)a->x;
    if (a->window % WIDE || !aligned(x)) return each<1>(context, pool<T, 1>{y, x, a->window, a->maximum}, count, false);
    return each<1>(context, pool<T, WIDE>{y, x, a->window, a->maximum}, count, false);
  });
}

template <typename T>
struct to_act {
  T *y;
  const float *x;
  template <int N>
  __device__ void run(unsigned i) const {
    float v[N];
    load<N>(v, x, i);
    store<N>(y, i, v);
  }
};

extern "C" cudaError_t cuda_launch_to_act(const cuda_context *context, const to_act_args *a) {
  return by_act(context, [&]<typename T>(T) {
    return each<4>(context, to_act<T>{(T *)a->y, a->x}, a->count, a->count % 4 == 0 && all_aligned(a->y, a->x));
  });
}

template <typename T>
struct from_act {
  float *y;
  const T *x;
  template <int N>
  __device__ void run(unsigned i) const {
    float v[N];
    load<N>(v, x, i);
    store<N>(y, i, v);
  }
};

extern "C" cudaError_t cuda_launch_from_act(const cuda_context *context, const from_act_args *a) {
  return by_act(context, [&]<typename T>(T) {
    return each<4>(context, from_act<T>{a->y, (const T *)a->x}, a->count, a->count % 4 == 0 && all_aligned(a->y, a->x));
  });
}
