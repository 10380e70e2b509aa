/** Embedding rows, rotary embedding and moving rows. */
#include "kernels/cuda/kernel.cuh"

/** A table, and which of its rows each row takes. */
struct lookup {
  const __nv_bfloat16 *table; /**< [rows, cols], or NULL: none */
  const int32_t *index;
  int rows;
};

static lookup lookup_of(const matrix *table, const int32_t *index) {
  return table ? lookup{(const __nv_bfloat16 *)table->codes, index, table->rows} : lookup{};
}

template <typename T>
struct embed {
  T *y;
  lookup tokens, positions;
  unsigned cols;
  cuda_fault *fault;
  template <int N>
  __device__ void run(unsigned i) const {
    float v[N], p[N];
    unsigned row = i / cols, column = i % cols;
    int token = tokens.index[row], position = positions.table ? positions.index[row] : 0;
    if (token < 0 || token >= tokens.rows) return report(fault, FAULT_TOKEN, (int)row, token, tokens.rows);
    load<N>(v, tokens.table, (size_t)token * cols + column);
    if (positions.table) {
      if (position < 0 || position >= positions.rows)
        return report(fault, FAULT_POSITION, (int)row, position, positions.rows);
      load<N>(p, positions.table, (size_t)position * cols + column);
#pragma unroll
      for (int k = 0; k < N; k++) v[k] += p[k];
    }
    store<N>(y, i, v);
  }
};

extern "C" cudaError_t cuda_launch_embed(const cuda_context *context, const embed_args *a) {
  return by_act(context, [&]<typename T>(T) {
    embed<T> f = {(T *)a->y, lookup_of(a->table, a->tokens), lookup_of(a->position_table, a->positions),
                  (unsigned)a->table->cols, context->fault};
    return each<wide_of<T>>(context, f, (size_t)a->rows * f.cols,
                            f.cols % wide_of<T> == 0 && all_aligned(a->y, f.tokens.table, f.positions.table));
  });
}

/** Element i of all rows, heads and halves of a head: rotates x and the element half a head further. */
template <typename T>
struct rope {
  rope_args a;
  unsigned half, row_pairs; /**< pairs of a row */
  cuda_fault *fault;
  template <int N>
  __device__ void run(unsigned i) const {
    float low[N], high[N], cosine[N], sine[N];
    unsigned row = i / row_pairs, inside = i % row_pairs, head = inside / half, element = inside % half;
    int position = a.positions[row];
    if (position < 0 || position >= a.table_positions)
      return report(fault, FAULT_POSITION, (int)row, position, a.table_positions);
    T *x = (T *)a.x + (size_t)row * a.stride + (size_t)head * a.head_dim;
    load<N>(low, x, element);
    load<N>(high, x, element + half);
    load<N>(cosine, a.cosines, (size_t)position * half + element);
    load<N>(sine, a.sines, (size_t)position * half + element);
#pragma unroll
    for (int k = 0; k < N; k++) {
      float turned = a.inverse ? -sine[k] : sine[k], first = low[k], second = high[k];
      low[k] = first * cosine[k] - second * turned;
      high[k] = second * cosine[k] + first * turned;
    }
    store<N>(x, element, low);
    store<N>(x, element + half, high);
  }
};

extern "C" cudaError_t cuda_launch_rope(const cuda_context *context, const rope_args *a) {
  int half = a->head_dim / 2;
  return by_act(context, [&]<typename T>(T) {
    rope<T> f = {*a, (unsigned)half, (unsigned)(a->heads * half), context->fault};
    return each<4>(context, f, (size_t)a->rows * f.row_pairs,
                   half % 4 == 0 && a->stride % 4 == 0 && all_aligned(a->x, a->cosines, a->sines));
  });
}

template <typename T>
struct copy_rows {
  T *y;
  const T *x;
  const int32_t *y_index, *x_index;
  unsigned cols;
  size_t y_stride, x_stride;
  template <int N>
  __device__ void run(unsigned i) const {
    unsigned row = i / cols, column = i % cols;
    size_t to = y_index ? (size_t)y_index[row] : row, from = x_index ? (size_t)x_index[row] : row;
    *reinterpret_cast<pack<T, N> *>(y + to * y_stride + column) =
        *reinterpret_cast<const pack<T, N> *>(x + from * x_stride + column);
  }
};

extern "C" cudaError_t cuda_launch_copy_rows(const cuda_context *context, const copy_rows_args *a) {
  if (a->zero_rows > 0 && !context->prepares)
    TRY_CUDA(cudaMemsetAsync(a->y, 0, (size_t)a->zero_rows * a->cols * dtype_size(context->act), context->stream));
  return by_act(context, [&]<typename T>(T) {
    constexpr int N = wide_of<T>;
    copy_rows<T> f = {(T *)a->y,         (const T *)a->x,     a->y_index,         a->x_index,
                      (unsigned)a->cols, (size_t)a->y_stride, (size_t)a->x_stride};
    bool wide = a->cols % N == 0 && a->y_stride % N == 0 && a->x_stride % N == 0 && all_aligned(a->y, a->x);
    return each<N>(context, f, (size_t)a->rows * a->cols, wide);
  });
}
