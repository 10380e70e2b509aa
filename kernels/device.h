/**
 * @file device.h
 * Arithmetic on one device behind one interface. A device is two tables: memory, and operations. Callers use the
 * device_NAME() wrappers, which check shapes once and dispatch.
 *
 * Conventions
 * - Row-major. T or `rows` counts tokens; an "act" buffer holds activations in the device's activation type
 *   (`device->act`: bf16 on fast paths, fp32 on the plain reference path); `float` is fp32.
 * - All pointers inside an argument struct are device memory unless the comment says host. An argument struct is
 *   read during the call only.
 * - Accumulation is in fp32 or better. The result depends on the arguments alone: not on the number of threads.
 * - Buffers may be the same only where a comment says so.
 * - Every operation returns a status; ERR_INTERNAL for a broken contract. A device may work later than it is asked: then
 *   what only device memory shows (an index out of range) is an error of the next download or device_synchronize().
 * - `rows` may be 0: nothing is done.
 */
#ifndef QST_KERNELS_DEVICE_H
#define QST_KERNELS_DEVICE_H

#include "base/types.h"

struct device;
struct hardware; /**< kernels/null/hardware.h */

/** What memory is for; the banner and the plan print it by kind. */
enum memory_kind {
  MEMORY_WEIGHTS,       /**< the frozen backbone */
  MEMORY_TAPS,          /**< hidden states kept for the side network */
  MEMORY_SIDE,          /**< activations of the side network and their gradients */
  MEMORY_OPTIMIZER,     /**< masters, gradients, moments, fixed-point sums */
  MEMORY_COMMUNICATION, /**< what exists for sums over ranks alone; messages go from and to where they are used */
  MEMORY_WORKSPACE,     /**< everything reused from operation to operation */
  MEMORY_KINDS
};

/* ---- frozen weights ------------------------------------------------------------------------------------ */

/** y[t] = table[tokens[t]], plus position_table[positions[t]] where there is one. */
struct embed_args {
  void *y;                             /**< act [rows, table->cols] */
  const struct matrix *table;          /**< WEIGHT_BF16 */
  const struct matrix *position_table; /**< WEIGHT_BF16 as wide as the table, or NULL */
  const int32_t *tokens;               /**< [rows], below table->rows */
  const int32_t *positions;            /**< [rows], below position_table->rows; NULL without one */
  int rows;
};

enum { FROZEN_PARTS = 3 };

/** y = x · [W_0; W_1; …]ᵀ + bias + residual: products with up to three frozen matrices side by side (q, k, v; gate, up). */
struct frozen_linear_args {
  void *y;                                  /**< act [rows, Σ parts[i]->rows] */
  const void *x;                            /**< act [rows, parts[0]->cols] */
  const struct matrix *parts[FROZEN_PARTS]; /**< all with the same cols */
  int part_count;
  const float *bias;    /**< [Σ rows] or NULL */
  const void *residual; /**< act like y, or NULL; may be y itself */
  int rows;
};

/** logits = x · Wᵀ in fp32. */
struct frozen_logits_args {
  float *logits;               /**< [rows, weight->rows] */
  const void *x;               /**< act [rows, weight->cols] */
  const struct matrix *weight; /**< WEIGHT_BF16 */
  int rows;
};

/** dx = dy · W: the gradient that passes through the frozen head. */
struct frozen_input_grad_args {
  void *dx;                    /**< act [rows, weight->cols] */
  const void *dy;              /**< act [rows, weight->rows] */
  const struct matrix *weight; /**< WEIGHT_BF16 */
  int rows;
};

/* ---- trained weights ------------------------------------------------------------------------------------ */

/** y = x · wᵀ + bias + residual. */
struct linear_args {
  void *y;              /**< act [rows, n] */
  const void *x;        /**< act [rows, k] */
  const void *w;        /**< act [n, k] */
  const float *bias;    /**< [n] or NULL */
  const void *residual; /**< act [rows, n] or NULL; may be y itself */
  int rows, n, k;
};

/** dx = dy · w, or dx += dy · w. */
struct linear_input_grad_args {
  void *dx;       /**< act [rows, k] */
  const void *dy; /**< act [rows, n] */
  const void *w;  /**< act [n, k] */
  int rows, n, k;
  bool accumulate;
};

/** dw = dyᵀ · x; dbias = column sums of dy. Summed over rows in an order fixed by `rows` alone. */
struct linear_weight_grad_args {
  float *dw;      /**< [n, k]; overwritten, zero when rows = 0 */
  float *dbias;   /**< [n] or NULL; likewise */
  const void *dy; /**< act [rows, n] */
  const void *x;  /**< act [rows, k] */
  int rows, n, k;
};

/* ---- norms ---------------------------------------------------------------------------------------------- */

/** RMSNorm (Zhang and Sennrich 2019): y = w ⊙ x / sqrt(mean(x²) + epsilon). */
struct rmsnorm_args {
  void *y;        /**< act [rows, cols] */
  float *rstd;    /**< [rows] for the backward pass, or NULL */
  const void *x;  /**< act [rows, cols] */
  const float *w; /**< [cols] */
  int rows, cols;
  float epsilon;
};

struct rmsnorm_backward_args {
  void *dx;          /**< act [rows, cols] */
  float *dw;         /**< [cols], overwritten */
  const void *dy;    /**< act [rows, cols] */
  const void *x;     /**< act [rows, cols] */
  const float *w;    /**< [cols] */
  const float *rstd; /**< [rows] */
  int rows, cols;
  bool accumulate; /**< dx += instead of dx = */
};

/** LayerNorm (Ba et al. 2016): y = w ⊙ (x − mean) · rstd + b, biased variance. */
struct layernorm_args {
  void *y;            /**< act [rows, cols] */
  float *mean, *rstd; /**< [rows] each, or both NULL */
  const void *x;      /**< act [rows, cols] */
  const float *w, *b; /**< [cols] */
  int rows, cols;
  float epsilon;
};

struct layernorm_backward_args {
  void *dx;                 /**< act [rows, cols]; may be dy */
  float *dw, *db;           /**< [cols], overwritten */
  const void *dy, *x;       /**< act [rows, cols] */
  const float *w;           /**< [cols] */
  const float *mean, *rstd; /**< [rows] */
  int rows, cols;
  bool accumulate; /**< dx += instead of dx = */
};

/* ---- attention ------------------------------------------------------------------------------------------ */

/** Rotary embedding in place, Hugging Face's half-split layout (element i pairs with i + head_dim/2), on the first
 *  `heads` heads of each row: x[t, h] ← rotate(x[t, h], ±angle(positions[t])). */
struct rope_args {
  void *x;                      /**< act [rows, stride] */
  const int32_t *positions;     /**< [rows], below table_positions */
  const float *cosines, *sines; /**< [table_positions, head_dim / 2] */
  int rows, stride, heads, head_dim, table_positions;
  bool inverse; /**< the backward pass: rotate by minus the angle */
};

/** Which queries see which keys. Sample i has queries q_start[i] .. q_start[i+1] and keys k_start[i] .. k_start[i] +
 *  k_length[i] of the key rows; the last query is the last key (causal, aligned at the end). In training k_start[i] =
 *  q_start[i]; in decoding the keys live in a cache. All three are device memory, q_start[0] = 0. */
struct segments {
  int count;
  const int32_t *q_start;    /**< [count + 1] */
  const int32_t *k_start;    /**< [count] */
  const int32_t *k_length;   /**< [count], at least the sample's number of queries */
  int max_queries, max_keys; /**< upper bounds, host numbers */
  int64_t pairs;             /**< host: queries × the keys each sees, in all; only the null device needs it */
};

/** Causal grouped-query attention, o = softmax(scale · q kᵀ) v per sample; query head h reads key head
 *  h / (heads / kv_heads). Head dimension 2 to 256. */
struct attention_args {
  void *o;           /**< act [rows, heads * head_dim] */
  float *lse;        /**< [rows, heads] natural log of the softmax denominators, or NULL */
  const void *q;     /**< act [rows, q_stride], head h at h * head_dim */
  const void *k, *v; /**< act [key rows, kv_stride], head h at h * head_dim */
  struct segments segments;
  int rows, q_stride, kv_stride, heads, kv_heads, head_dim;
  float scale;
};

/** Training layout only (k_start = q_start, k_length = queries). */
struct attention_backward_args {
  void *dq;            /**< act [rows, q_stride] */
  void *dk, *dv;       /**< act [rows, kv_stride] */
  const void *d_o, *o; /**< act [rows, heads * head_dim] */
  const float *lse;    /**< [rows, heads] */
  const void *q, *k, *v;
  struct segments segments;
  int rows, q_stride, kv_stride, heads, kv_heads, head_dim;
  float scale;
};

/* ---- element-wise --------------------------------------------------------------------------------------- */

/** SwiGLU (Shazeer 2020): y = silu(gate) ⊙ up with x = [gate | up] a row. */
struct swiglu_args {
  void *y;       /**< act [rows, cols] */
  const void *x; /**< act [rows, 2 * cols] */
  int rows, cols;
};

struct swiglu_backward_args {
  void *dx;       /**< act [rows, 2 * cols] */
  const void *dy; /**< act [rows, cols] */
  const void *x;  /**< act [rows, 2 * cols] */
  int rows, cols;
};

/** y = silu(x). */
struct silu_args {
  void *y;       /**< act [rows, cols]; may be x */
  const void *x; /**< act [rows, cols] */
  int rows, cols;
};

struct silu_backward_args {
  void *dx;           /**< act [rows, cols]; may be dy */
  const void *dy, *x; /**< act [rows, cols] */
  int rows, cols;
};

/** y = max(x, 0). */
struct relu_args {
  void *y;       /**< act [rows, cols]; may be x */
  const void *x; /**< act [rows, cols] */
  int rows, cols;
};

/** dx = dy where y > 0, else 0. */
struct relu_backward_args {
  void *dx;           /**< act [rows, cols]; may be dy */
  const void *dy, *y; /**< act [rows, cols]; y = relu(x), all that is needed of x */
  int rows, cols;
};

enum { POOL_WINDOW_MAX = 1024 };

/** Pools windows of `window` neighbours of the hidden dimension; at most POOL_WINDOW_MAX. */
struct pool_args {
  void *y;       /**< act [rows, cols] */
  const void *x; /**< act [rows, cols * window] */
  int rows, cols, window;
  bool maximum; /**< else the mean */
};

/** The gate between backbone and side network: u = (1 − σ(z)) ⊙ d + σ(z) ⊙ s. */
struct gate_args {
  void *u;           /**< act [rows, cols] */
  const void *d, *s; /**< act [rows, cols] */
  const float *z;    /**< [cols] */
  int rows, cols;
};

struct gate_backward_args {
  void *dd;          /**< act [rows, cols], overwritten */
  void *ds;          /**< act [rows, cols], overwritten; may be du */
  float *dz;         /**< [cols], overwritten */
  const void *du;    /**< act [rows, cols] */
  const void *d, *s; /**< act [rows, cols] */
  const float *z;    /**< [cols] */
  int rows, cols;
};

/** How the side network meets the backbone before the head. */
enum mix_kind {
  MIX_ALPHA,    /**< y = α h + (1 − α) side, one trained number, init 1 (the paper) */
  MIX_GATE,     /**< y = σ(g) ⊙ h + (1 − σ(g)) ⊙ side, a trained vector, init 1 (the reference code) */
  MIX_RESIDUAL, /**< y = h + side, side initially 0 (ours) */
};

struct mix_args {
  void *y;             /**< act [rows, cols]; may be side */
  const void *h;       /**< act [rows, cols] normed backbone output */
  const void *side;    /**< act [rows, cols] */
  const float *weight; /**< [1] for MIX_ALPHA, [cols] for MIX_GATE, else NULL */
  enum mix_kind kind;
  int rows, cols;
};

struct mix_backward_args {
  void *dside;          /**< act [rows, cols]; may be dy */
  float *dweight;       /**< like weight, overwritten */
  const void *dy;       /**< act [rows, cols] */
  const void *h, *side; /**< act [rows, cols] */
  const float *weight;
  enum mix_kind kind;
  int rows, cols;
};

/** y[y_index[i]] = x[x_index[i]] for whole rows of `cols` elements; an index that is NULL means i. With zero_rows > 0, y
 *  is first zeroed for that many rows (cols wide only when y_stride = cols, which is then required). */
struct copy_rows_args {
  void *y;                          /**< act, row stride y_stride */
  const void *x;                    /**< act, row stride x_stride */
  const int32_t *y_index, *x_index; /**< [rows] */
  int rows, cols, y_stride, x_stride;
  int zero_rows;
};

/** y = x rounded to the activation type. */
struct to_act_args {
  void *y;        /**< act [count] */
  const float *x; /**< [count] */
  size_t count;
};

/** y = x, widened to fp32. */
struct from_act_args {
  float *y;      /**< [count] */
  const void *x; /**< act [count] */
  size_t count;
};

/* ---- loss ----------------------------------------------------------------------------------------------- */

/** loss[i] = log Σ exp(logits[i]) − logits[i, label[i]] in nats; dlogits = softmax − one-hot. */
struct cross_entropy_args {
  float *loss;           /**< [rows] */
  void *dlogits;         /**< act [rows, cols], or NULL */
  const float *logits;   /**< [rows, cols] */
  const int32_t *labels; /**< [rows], below cols */
  int rows, cols;
};

/** index[i] = the first position of the largest logit. */
struct argmax_args {
  int32_t *index;      /**< [rows] */
  const float *logits; /**< [rows, cols] */
  int rows, cols;
};

/* ---- sums and the optimizer ----------------------------------------------------------------------------- */

/** Order-independent sums: each fp32 value is rounded to a multiple of 2^-FIXED_FRACTION_BITS and added to a signed
 *  64-bit sum. A value that is not finite or of 2^(62 - FIXED_FRACTION_BITS) or more counts in *faults instead. */
enum { FIXED_FRACTION_BITS = 36 };

/** sums[i] += fixed(x[i]). */
struct fixed_add_args {
  int64_t *sums;   /**< [count] */
  int64_t *faults; /**< [1] */
  const float *x;  /**< [count] */
  size_t count;
};

/** *sum += Σ fixed(x[i]). */
struct fixed_total_args {
  int64_t *sum;    /**< [1] */
  int64_t *faults; /**< [1] */
  const float *x;  /**< [count] */
  size_t count;
};

/** y[i] = sums[i] · 2^-FIXED_FRACTION_BITS · scale, in double, rounded once. */
struct fixed_get_args {
  float *y;            /**< [count] */
  const int64_t *sums; /**< [count] */
  double scale;
  size_t count;
};

/** *result = Σ x², in double, in an order fixed by `count` alone. */
struct sum_squares_args {
  double *result; /**< [1] */
  const float *x; /**< [count] */
  size_t count;
};

/** AdamW (Loshchilov and Hutter 2019): g = gradient · gradient_scale; m, v moments with bias correction by `step`;
 *  master −= lr · (m̂ / (sqrt(v̂) + epsilon) + decay · master); weights = master rounded to act. */
struct adamw_args {
  float *master, *m, *v; /**< [count] */
  void *weights;         /**< act [count], or NULL */
  const float *gradient; /**< [count] */
  size_t count;
  float gradient_scale, lr, beta1, beta2, epsilon, decay;
  int64_t step; /**< 1 for the first update */
};

/* ---- the tables ----------------------------------------------------------------------------------------- */

/** Every operation; all are required of every device. */
/* clang-format off */
#define DEVICE_OPERATIONS(X)                                                                        \
  X(embed) X(frozen_linear) X(frozen_logits) X(frozen_input_grad) X(linear) X(linear_input_grad)    \
  X(linear_weight_grad) X(rmsnorm) X(rmsnorm_backward) X(layernorm) X(layernorm_backward) X(rope)   \
  X(attention) X(attention_backward) X(swiglu) X(swiglu_backward) X(silu) X(silu_backward) X(relu)  \
  X(relu_backward) X(pool) X(gate) X(gate_backward) X(mix) X(mix_backward) X(copy_rows) X(to_act) \
  X(from_act) X(cross_entropy) X(argmax) X(fixed_add) X(fixed_total) X(fixed_get) X(sum_squares) X(adamw)
/* clang-format on */

#define DEVICE_SLOT(name) int (*name)(struct device *, const struct name##_args *);
struct device_operations {
  DEVICE_OPERATIONS(DEVICE_SLOT)
};
#undef DEVICE_SLOT

/** The two lanes of work: the backbone runs ahead of the side network. Work of a lane (uploads, downloads and zeroing too) is
 *  done in the order it was given; between lanes only events and device_synchronize() order it. A fresh allocation is zero
 *  for all lanes. */
enum lane { LANE_BACKBONE, LANE_SIDE, LANE_COUNT };

struct device_event; /**< a point in a lane's work */

struct device_memory {
  int (*allocate)(struct device *, void **out, size_t bytes); /**< 64-byte aligned, zeroed */
  void (*release)(struct device *, void *block);
  int (*upload)(struct device *, void *to_device, const void *from_host, size_t bytes);
  int (*download)(struct device *, void *to_host, const void *from_device, size_t bytes); /**< waits for the result */
  int (*zero)(struct device *, void *block, size_t bytes);
  int (*synchronize)(struct device *);
  /* Optional, all or none: a device without them has done its work when the call returns. */
  int (*use_lane)(struct device *, enum lane lane);
  int (*event_open)(struct device *, struct device_event **out);
  void (*event_close)(struct device *, struct device_event *event);
  int (*record)(struct device *, struct device_event *event);
  int (*wait)(struct device *, struct device_event *event);
  int (*finish)(struct device *, struct device_event *event);
  /* Optional, both or none: a device without them never replays. */
  int (*task_begin)(struct device *, uint64_t key, bool *replayed);
  int (*task_end)(struct device *);
  /* Optional: a device without it has nothing to find out. */
  int (*prepare)(struct device *, int rows, int (*work)(void *context, int rows), void *context);
  /* Optional, both or none: a device without them copies from and to any memory alike. */
  int (*host_allocate)(struct device *, void **out, size_t bytes);
  void (*host_release)(struct device *, void *block);
  void (*close)(struct device *); /**< frees what the device owns besides the struct */
};

struct device {
  const char *name;      /**< "cpu" */
  char description[128]; /**< for the banner: "cpu, 2 threads, avx512-bf16, oneDNN 2.6.3" */
  enum dtype act;
  bool fp8;           /**< as the limits said */
  bool lanes_overlap; /**< works on both lanes at a time */
  bool reads_host;    /**< operations read host memory where it lies: what they only read need not be uploaded */
  bool counts_only;   /**< has no memory and computes nothing: what goes up need not be there */
  int logit_rows;     /**< rows of logits that exist at a time: memory against the speed of the head's products */
  const struct device_memory *memory;
  const struct device_operations *operations;
  size_t allocated[MEMORY_KINDS]; /**< bytes in use by kind */
  void *state;                    /**< the device's own */
};

/** Upper bounds by which a device lays out its workspace at opening; nothing is allocated later. */
struct device_limits {
  int rows;               /**< tokens of a micro-batch */
  int64_t widest_product; /**< largest Σ rows · cols of one frozen_linear, in elements */
  int vocabulary, hidden;
  int side_hidden;  /**< heads * head_dim of attention_backward; 0 = no backward pass */
  bool fp8;         /**< frozen_linear multiplies in 8-bit floats: kernels/fp8.h */
  int widest_input; /**< columns of the widest weight of frozen_linear; needed with fp8 */
};

struct device_options {
  const char *name;                /**< "auto", "cpu", …: device_list() */
  const char *cpu_isa;             /**< "auto", "avx512-bf16", "avx2", "plain": the cpu device's kernels */
  const char *gpu_isa;             /**< "auto", "sm_90a", "sm_80": the cuda device's own kernels */
  const char *act;                 /**< "auto", "bf16", "fp32" */
  int threads;                     /**< 0: as many as this rank may run on */
  int local_rank;                  /**< among the ranks of this host: chooses the GPU */
  const struct hardware *hardware; /**< what the null device stands for; NULL for the others */
  struct device_limits limits;
};

/** Opens a device; ERR_USAGE for an unknown or absent name, with the closest. "auto" is cuda where the program has it and
 *  sees a GPU, else cpu. */
int device_open(struct device **out, const struct device_options *options);
void device_close(struct device **device);

enum { DEVICE_IDENTITY = 64 };
/** Which hardware device_open() would take, without opening it: its PCI address and UUID; "" where ranks may share it. */
int device_identify(const char *name, int local_rank, char identity[DEVICE_IDENTITY]);
/** "cpu" and what else is compiled in, separated by ", ". */
const char *device_list(void);

int device_allocate(struct device *device, enum memory_kind kind, void *out, size_t bytes);
/** NULL-safe; resets the pointer. `bytes` as allocated. */
void device_release(struct device *device, enum memory_kind kind, void *block_pointer, size_t bytes);
/** Host memory that copies go fastest from and to; zeroed. An upload from it reads it when the lane comes to it: it must stay
 *  as it is until then (device_finish). Other host memory has been read when device_upload() returns. */
int device_host_allocate(struct device *device, void *out, size_t bytes);
/** NULL-safe; resets the pointer. */
void device_host_release(struct device *device, void *block_pointer);
int device_upload(struct device *device, void *to_device, const void *from_host, size_t bytes);
int device_download(struct device *device, void *to_host, const void *from_device, size_t bytes);
int device_zero(struct device *device, void *block, size_t bytes);
int device_synchronize(struct device *device); /**< waits for all lanes */

/** What follows is given to this lane; LANE_SIDE at first. */
int device_use_lane(struct device *device, enum lane lane);
/** NULL on a device that works at once. */
int device_event_open(struct device *device, struct device_event **out);
void device_event_close(struct device *device, struct device_event **event);
/** Marks what the current lane was given so far. */
int device_record(struct device *device, struct device_event *event);
/** The current lane goes on when what the event marked last is done; at once when it never marked anything. */
int device_wait(struct device *device, struct device_event *event);
/** The host goes on when what the event marked last is done; at once when it never marked anything. */
int device_finish(struct device *device, struct device_event *event);

/** Brackets operations on the current lane that come again and again. Equal keys promise the same operations with the same
 *  arguments, also those that are host numbers; what is in device memory may differ. With *replayed set the work has been
 *  given to the lane and the operations are left out; device_task_end() comes either way, but need not after an error, when
 *  the device can only be closed. Between the two: operations and device_zero() only, no copies, waits or events. */
int device_task_begin(struct device *device, uint64_t key, bool *replayed);
int device_task_end(struct device *device);

/** A device that finds out how to do an operation when it first meets its shape does so now: it calls work() with every
 *  number of rows up to `rows` that makes a difference to it. What work() asks of it computes nothing: operations and
 *  device_zero() only. */
int device_prepare(struct device *device, int rows, int (*work)(void *context, int rows), void *context);

static inline size_t device_act_bytes(const struct device *device, size_t elements) {
  return elements * dtype_size(device->act);
}
/** The address `elements` activations after `block`; the constness of what it points to is the caller's to keep. */
static inline void *device_act_at(const struct device *device, const void *block, size_t elements) {
  return (char *)(uintptr_t)block + device_act_bytes(device, elements);
}

#define DEVICE_WRAPPER(name) int device_##name(struct device *device, const struct name##_args *arguments);
DEVICE_OPERATIONS(DEVICE_WRAPPER)
#undef DEVICE_WRAPPER

#endif
