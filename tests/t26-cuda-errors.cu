/* What becomes of CUDA's errors: a GPU that fails is a lost rank, for which another start may do; too little memory and all
 * else are not.
 *
 * RUN device=cuda */
#include <cuda_runtime_api.h>

extern "C" {
#include "base/error.h"
int cuda_check(cudaError_t error, const char *what);
}

#include "check.h"

int main(void) {
  CHECK_OK(cuda_check(cudaSuccess, "sum"));
  CHECK_FAILS(ERR_LOST, "cuda: sum: ", cuda_check(cudaErrorECCUncorrectable, "sum"));
  CHECK_FAILS(ERR_LOST, "cuda: sum: ", cuda_check(cudaErrorNvlinkUncorrectable, "sum"));
  CHECK_FAILS(ERR_MEMORY, "lower --micro-batch-tokens", cuda_check(cudaErrorMemoryAllocation, "sum"));
  CHECK_FAILS(ERR_SYSTEM, "cuda: sum: ", cuda_check(cudaErrorLaunchFailure, "sum"));
  return check_result();
}
