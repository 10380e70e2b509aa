#include "comm/nccl/library.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"

/* What is passed on: result, name, parameters, arguments. */
#define FUNCTIONS(X)                                                                                                  \
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
  FUNCTIONS(SLOT)
} loaded;
#undef SLOT

#define PASS_ON(result, name, parameters, arguments) \
  result name parameters {                           \
    return loaded.name arguments;                    \
  }
FUNCTIONS(PASS_ON)
#undef PASS_ON

static int find(void *slot, const char *name) {
  void *function = dlsym(loaded.library, name);
  memcpy(slot, &function, sizeof function);
  return function ? OK : fail(ERR_SYSTEM, "nccl: %s", dlerror());
}

int nccl_load(void) {
  if (loaded.library) return OK;
  char name[64];
  snprintf(name, sizeof name, "libnccl.so.%d", NCCL_MAJOR);
  loaded.library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
  if (!loaded.library)
    return fail(ERR_SYSTEM, "nccl: %s: several GPUs need NCCL %d: install it or add its folder to LD_LIBRARY_PATH",
                dlerror(), NCCL_MAJOR);
#define FIND(result, name, parameters, arguments) TRY(find(&loaded.name, #name));
  FUNCTIONS(FIND)
#undef FIND
  return OK;
}
