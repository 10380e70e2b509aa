/** The wrappers of kernels/cuda/ptx/ptx.cuh for the host runtime: their contracts are there. */
#ifndef QST_HOST_PTX_CUH
#define QST_HOST_PTX_CUH

#include <cmath>
#include <cstdint>
#include <cstring>

#include "cuda_bf16.h"
#include "cuda_runtime.h"

/** Done when it is asked for, or when it is waited for: as early or late as a GPU may (QST_HOST_SCHEDULE). */
void host_copy_async(void *to, const void *from, size_t bytes, bool there);
void host_copy_async_commit();
void host_copy_async_wait(int most);

/** all[lane] = what each lane of the warp gives, of `bytes` (at most HOST_GATHER_MOST) each. Orders no memory. */
void host_gather(const void *mine, size_t bytes, void *all);
enum { HOST_GATHER_MOST = 32 };

/** Where shared memory begins for those who ask for its address: aligned no better than it must be. */
enum { HOST_SHARED_AT = 16 };
extern "C++" unsigned char shared_memory[];

namespace ptx {

inline unsigned shared_address(const void *pointer) {
  return (unsigned)((const unsigned char *)pointer - shared_memory) + HOST_SHARED_AT;
}

inline const void *at_shared_address(unsigned address) {
  return shared_memory + address - HOST_SHARED_AT;
}

inline void copy_async_16(void *to_shared, const void *from_global, bool there) {
  host_copy_async(to_shared, from_global, 16, there);
}

inline void copy_async_4(void *to_shared, const void *from_global, bool there) {
  host_copy_async(to_shared, from_global, 4, there);
}

inline void copy_async_commit() {
  host_copy_async_commit();
}

template <int MOST>
void copy_async_wait() {
  host_copy_async_wait(MOST);
}

/** A row of one 8 × 8 matrix. */
struct matrix_row {
  uint16_t values[8];
};

inline unsigned pair_of(uint16_t low, uint16_t high) {
  return low | (unsigned)high << 16;
}

inline void load_matrices(unsigned (&out)[4], const void *row_in_shared) {
  matrix_row mine, rows[32];
  memcpy(&mine, __builtin_assume_aligned(row_in_shared, 16), sizeof mine);
  host_gather(&mine, sizeof mine, rows);
  unsigned lane = host_lane(), column = lane % 4 * 2;
  for (unsigned m = 0; m < 4; m++) {
    const uint16_t *row = rows[m * 8 + lane / 4].values;
    out[m] = pair_of(row[column], row[column + 1]);
  }
}

inline void load_matrices_transposed(unsigned (&out)[4], const void *row_in_shared) {
  matrix_row mine, rows[32];
  memcpy(&mine, __builtin_assume_aligned(row_in_shared, 16), sizeof mine);
  host_gather(&mine, sizeof mine, rows);
  unsigned lane = host_lane(), row = lane % 4 * 2, column = lane / 4;
  for (unsigned m = 0; m < 4; m++)
    out[m] = pair_of(rows[m * 8 + row].values[column], rows[m * 8 + row + 1].values[column]);
}

inline float half_of(unsigned pair, unsigned which) {
  return __bfloat162float({(uint16_t)(pair >> 16 * which)});
}

inline void multiply_bf16(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  struct operands {
    unsigned a[4], b[2];
  } mine = {{a[0], a[1], a[2], a[3]}, {b0, b1}}, all[32];
  host_gather(&mine, sizeof mine, all);
  unsigned lane = host_lane();
  for (unsigned e = 0; e < 4; e++) {
    unsigned row = lane / 4 + e / 2 * 8, column = lane % 4 * 2 + e % 2;
    for (unsigned k = 0; k < 16; k++) {
      unsigned of_k = k % 8 / 2;
      c[e] += half_of(all[row % 8 * 4 + of_k].a[row / 8 + k / 8 * 2], k % 2) *
              half_of(all[column * 4 + of_k].b[k / 8], k % 2);
    }
  }
}

inline float exp2_fast(float x) {
  float y = std::exp2(x);
  return y < 0x1p-126f ? 0.0f : y;
}

inline unsigned pack_bf16(float low, float high) {
  return pair_of(__float2bfloat16_rn(low).bits, __float2bfloat16_rn(high).bits);
}

}  // namespace ptx

#endif
