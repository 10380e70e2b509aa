#include "comm/nccl/library.h"

#include "base/error.h"
#include "base/library.h"

/* What is passed on: result, name, parameters, arguments. */
#define FUNCTIONS(X)                                                                                                  \
  X(ncclResult_t, ncclGetVersion, (int *version), (version))                                                          \
  X(ncclResult_t, ncclGetUniqueId, (ncclUniqueId * id), (id))                                                         \
  X(ncclResult_t, ncclCommInitRankConfig,                                                                             \
    (ncclComm_t * comm, int ranks, ncclUniqueId id, int rank, ncclConfig_t *config), (comm, ranks, id, rank, config)) \
  X(ncclResult_t, ncclCommFinalize, (ncclComm_t comm), (comm))                                                        \
  X(ncclResult_t, ncclCommDestroy, (ncclComm_t comm), (comm))                                                         \
  X(ncclResult_t, ncclCommGetAsyncError, (ncclComm_t comm, ncclResult_t * error), (comm, error))                      \
  X(const char *, ncclGetErrorString, (ncclResult_t result), (result))                                                \
  X(const char *, ncclGetLastError, (ncclComm_t comm), (comm))                                                        \
  X(ncclResult_t, ncclAllReduce,                                                                                      \
    (const void *from, void *to, size_t count, ncclDataType_t type, ncclRedOp_t op, ncclComm_t comm,                  \
     cudaStream_t stream),                                                                                            \
    (from, to, count, type, op, comm, stream))                                                                        \
  X(ncclResult_t, ncclReduceScatter,                                                                                  \
    (const void *from, void *to, size_t count, ncclDataType_t type, ncclRedOp_t op, ncclComm_t comm,                  \
     cudaStream_t stream),                                                                                            \
    (from, to, count, type, op, comm, stream))                                                                        \
  X(ncclResult_t, ncclAllGather,                                                                                      \
    (const void *from, void *to, size_t count, ncclDataType_t type, ncclComm_t comm, cudaStream_t stream),            \
    (from, to, count, type, comm, stream))                                                                            \
  X(ncclResult_t, ncclBroadcast,                                                                                      \
    (const void *from, void *to, size_t count, ncclDataType_t type, int root, ncclComm_t comm, cudaStream_t stream),  \
    (from, to, count, type, root, comm, stream))                                                                      \
  X(ncclResult_t, ncclSend,                                                                                           \
    (const void *from, size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream),            \
    (from, count, type, peer, comm, stream))                                                                          \
  X(ncclResult_t, ncclRecv,                                                                                           \
    (void *to, size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream),                    \
    (to, count, type, peer, comm, stream))

#define SLOT(result, name, parameters, arguments) result(*name) parameters;
static struct {
  void *library;
  int is_whole; /* all functions are found */
  FUNCTIONS(SLOT)
} loaded;
#undef SLOT

#define PASS_ON(result, name, parameters, arguments) \
  result name parameters {                           \
    return loaded.name arguments;                    \
  }
FUNCTIONS(PASS_ON)
#undef PASS_ON

static int load(void) {
  TRY(library_open(&loaded.library, "nccl", NCCL_MAJOR,
                   "several GPUs need it: install NCCL or add its folder to LD_LIBRARY_PATH"));
  TRY(library_find(loaded.library, "ncclGetVersion", &loaded.ncclGetVersion));
  TRY(nccl_check_version()); /* an older one lacks functions */
#define FIND(result, name, parameters, arguments) TRY(library_find(loaded.library, #name, &loaded.name));
  FUNCTIONS(FIND)
#undef FIND
  return OK;
}

int nccl_load(void) {
  if (loaded.is_whole) return OK;
  TRY(fail_at(load(), "nccl"));
  loaded.is_whole = 1;
  return OK;
}
