/** The wrappers of kernels/cuda/ptx/wgmma.cuh for the host runtime: their contracts are there. */
#ifndef QST_HOST_WGMMA_CUH
#define QST_HOST_WGMMA_CUH

#include "ptx.cuh"

/** Done when it is asked for, or when it is waited for, in order: run(what), of `bytes` (at most HOST_PRODUCT_MOST). */
void host_product_async(void (*run)(const void *what), const void *what, size_t bytes);
void host_products_begin();
void host_products_commit();
void host_products_wait(int most);
void host_fence_async();
enum { HOST_PRODUCT_MOST = 192 };

namespace ptx {

inline uint64_t describe_panels(const void *shared, unsigned panel_bytes) {
  return (uint64_t)(shared_address(shared) >> 4) | (uint64_t)(panel_bytes >> 4) << 16 | (uint64_t)(1024 >> 4) << 32 |
         (uint64_t)1 << 62;
}

inline uint64_t advance_panels(uint64_t panels, unsigned bytes) {
  return panels + (bytes >> 4);
}

inline void fence_async_shared() {
  host_fence_async();
}

inline void products_begin() {
  host_products_begin();
}

inline void products_commit() {
  host_products_commit();
}

template <int MOST, int N>
void products_wait(float (&)[N][4]) {
  host_products_wait(MOST);
}

inline void compute_before_wait(float x, float *spare) {
  *spare = x;
}

/** What a GPU finds by a descriptor (PTX ISA, "Shared Memory Matrix Layout"): bits 0 to 13 the address, 16 to 29 the bytes from
 *  64 columns to the next, 32 to 45 those from 8 rows to the next, all in 16ths; 62 and 63 the swizzle, 1: of 128 bytes,
 *  by address. */
inline float panel_value(uint64_t panels, unsigned row, unsigned column) {
  unsigned start = (unsigned)(panels & 0x3fff) << 4, by_64_columns = (unsigned)(panels >> 16 & 0x3fff) << 4,
           by_8_rows = (unsigned)(panels >> 32 & 0x3fff) << 4;
  unsigned at = start + column / 64 * by_64_columns + row / 8 * by_8_rows + row % 8 * 128 + column % 64 * 2;
  at ^= (at >> 7 & 7) << 4;
  return __bfloat162float({*(const uint16_t *)at_shared_address(at)});
}

/** This lane's part of a product of a warp group. */
struct group_product {
  float (*c)[4];
  int columns; /**< of c */
  bool add, in_registers;
  unsigned row; /**< the first of two, 8 apart */
  unsigned lane;
  float a[2][16]; /**< their elements, if in registers */
  uint64_t a_panels, b_panels;
};
static_assert(sizeof(group_product) <= HOST_PRODUCT_MOST);

inline void run_group_product(const void *what) {
  const group_product &p = *(const group_product *)what;
  float a[2][16];
  for (unsigned h = 0; h < 2; h++)
    for (unsigned k = 0; k < 16; k++) a[h][k] = p.in_registers ? p.a[h][k] : panel_value(p.a_panels, p.row + 8 * h, k);
  for (int n = 0; n < p.columns / 8; n++)
    for (unsigned e = 0; e < 4; e++) {
      unsigned column = (unsigned)n * 8 + p.lane % 4 * 2 + e % 2;
      float sum = p.add ? p.c[n][e] : 0;
      for (unsigned k = 0; k < 16; k++)
        sum += a[e / 2][k] * (p.in_registers ? panel_value(p.b_panels, k, column) : panel_value(p.b_panels, column, k));
      p.c[n][e] = sum;
    }
}

template <bool ADD>
void multiply_panels(float (&c)[16][4], uint64_t a, uint64_t b) {
  unsigned lane = host_lane(), warp = threadIdx.x / 32 % 4;
  group_product p = {c, 128, ADD, false, warp * 16 + lane / 4, lane, {}, a, b};
  __syncwarp();
  host_product_async(run_group_product, &p, sizeof p);
}

template <int N>
void add_panels(float (&c)[N][4], const unsigned (&a)[4], uint64_t b) {
  struct operand {
    unsigned a[4];
  } mine = {{a[0], a[1], a[2], a[3]}}, all[32];
  host_gather(&mine, sizeof mine, all);
  unsigned lane = host_lane();
  group_product p = {c, N * 8, true, true, 0, lane, {}, 0, b};
  for (unsigned h = 0; h < 2; h++)
    for (unsigned k = 0; k < 16; k++) p.a[h][k] = half_of(all[lane / 4 * 4 + k % 8 / 2].a[h + k / 8 * 2], k % 2);
  host_product_async(run_group_product, &p, sizeof p);
}

}  // namespace ptx

#endif
