#include "claim_device.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/hash.h"
#include "base/memory.h"
#include "kernels/device.h"

/* Not 0: that is said of hardware that ranks may share. */
static int64_t number_of(const char *identity) {
  struct hash_text hash = hash_bytes(identity, strlen(identity));
  hash.hex[15] = 0;
  return *identity ? (int64_t)strtoull(hash.hex, NULL, 16) + 1 : 0;
}

static int compare(struct comm *comm, const char *identity, int64_t *numbers) {
  int64_t mine = number_of(identity);
  numbers[comm->rank] = mine;
  TRY(comm_sum_i64(comm, numbers, (size_t)comm->size));
  for (int rank = 0; rank < comm->size && mine != 0; rank++)
    if (rank != comm->rank && numbers[rank] == mine)
      return fail(
          ERR_USAGE,
          "rank %d and rank %d would share the GPU %s: start one rank for each GPU (srun: --gpus-per-task=1, or "
          "all of a node's GPUs for all of its tasks)",
          comm->rank, rank, identity);
  return OK;
}

int claim_device(const struct options *options, struct comm *comm) {
  char identity[DEVICE_IDENTITY];
  int64_t *numbers;
  TRY(comm_agree(comm, device_identify(options->device, comm->local_rank, identity)));
  TRY(comm_agree(comm, memory_array(&numbers, (size_t)comm->size, sizeof *numbers)));
  int status = compare(comm, identity, numbers);
  free(numbers);
  return comm_agree(comm, status);
}
