/* What is found out before the first micro-batch: cuBLASLt's algorithms for all numbers of tokens that have one of their own. */
#include "base/error.h"
#include "kernels/cuda/task.h"

static void set_prepares(struct cuda_state *state, bool prepares) {
  for (enum lane lane = 0; lane < LANE_COUNT; lane++) state->lanes[lane].prepares = prepares;
}

int cuda_prepare(struct device *device, int rows, int (*work)(void *context, int rows), void *context) {
  int status = OK;
  set_prepares(cuda_state(device), true);
  for (int count = 0; status == OK && count < rows;) {
    int like = cuda_tokens_like(count + 1);
    count = like < rows ? like : rows;
    status = work(context, count);
  }
  set_prepares(cuda_state(device), false);
  return status;
}
