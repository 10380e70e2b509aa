/* NCCL over MPI. An operation first tells all ranks of its communicator what it is, so that ranks whose operations do not
 * match are found, and then moves copies: a buffer that is read too early, or changed before it was sent, shows. */
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <mpi.h>
#include <nccl.h>
#include <vector>

#include "base/types.h"
#include "runtime.h"

struct ncclComm {
  MPI_Comm mpi;
  MPI_Op sum_bf16;
  int rank, size;
  int busy = 0; /**< how often the next questions are answered with ncclInProgress */
  uint64_t calls = 0;
  ncclResult_t error = ncclSuccess;
  char text[256] = "";
};

namespace {

enum { TAG = 1 << 20, BUSY = 3 };

int under_way; /**< operations of this process */

/** What must be equal on all ranks. */
struct signature {
  char name[24];
  uint64_t call, count;
  int type, root;
};

/** One operation on its way: first the signatures, then the data. */
struct operation {
  ncclComm_t comm;
  signature mine;
  std::vector<signature> all;
  std::vector<char> data;
  std::function<int(operation &)> send;    /**< begins to move `data` */
  std::function<void(operation &)> finish; /**< puts it where it belongs */
  MPI_Request request = MPI_REQUEST_NULL;
  int phase = 0;
};

size_t size_of(ncclDataType_t type) {
  return type == ncclInt64 ? 8 : type == ncclFloat32 ? 4 : type == ncclBfloat16 ? 2 : 1;
}

MPI_Datatype mpi_type(ncclDataType_t type) {
  return type == ncclInt64      ? MPI_INT64_T
         : type == ncclFloat32  ? MPI_FLOAT
         : type == ncclBfloat16 ? MPI_UINT16_T
                                : MPI_INT8_T;
}

void add_bf16(void *from, void *to, int *count, MPI_Datatype *) {
  for (int i = 0; i < *count; i++) {
    bf16 *y = (bf16 *)to + i;
    *y = float_to_bf16(bf16_to_float(((bf16 *)from)[i]) + bf16_to_float(*y));
  }
}

bool agree(operation &o) {
  for (int rank = 0; rank < o.comm->size; rank++) {
    const signature &a = o.mine, &b = o.all[(size_t)rank];
    if (memcmp(&a, &b, sizeof a) == 0) continue;
    snprintf(o.comm->text, sizeof o.comm->text,
             "%s %d of %zu elements of type %d, root %d, meets rank %d's %s %d of %zu elements of type %d, root %d",
             a.name, (int)a.call, (size_t)a.count, a.type, a.root, rank, b.name, (int)b.call, (size_t)b.count, b.type,
             b.root);
    o.comm->error = ncclInvalidUsage;
    return false;
  }
  return true;
}

/** Goes on as far as it can; never ends when the ranks do not match, as on a GPU. */
cudaError_t go_on(operation &o) {
  if (o.comm->error != ncclSuccess) return cudaErrorNotReady;
  if (o.phase == 0) {
    o.all.resize((size_t)o.comm->size);
    PMPI_Iallgather(&o.mine, sizeof o.mine, MPI_BYTE, o.all.data(), sizeof o.mine, MPI_BYTE, o.comm->mpi, &o.request);
    o.phase = 1;
  }
  int arrived = 0;
  PMPI_Test(&o.request, &arrived, MPI_STATUS_IGNORE);
  if (!arrived) return cudaErrorNotReady;
  if (o.phase == 1) {
    if (!agree(o)) return cudaErrorNotReady;
    o.phase = 2;
    return o.send(o) == MPI_SUCCESS ? cudaErrorNotReady : cudaErrorLaunchFailure;
  }
  o.finish(o);
  under_way--;
  return cudaSuccess;
}

/** As a communicator that does not block: the call is taken a little later. */
ncclResult_t enqueue(ncclComm_t comm, cudaStream_t stream, const char *name, size_t count, ncclDataType_t type,
                     int root, std::function<int(operation &)> send, std::function<void(operation &)> finish) {
  if (comm->busy > 0) return ncclInvalidUsage;
  auto o = std::make_shared<operation>();
  o->comm = comm;
  memset(&o->mine, 0, sizeof o->mine);
  snprintf(o->mine.name, sizeof o->mine.name, "%s", name);
  o->mine.call = comm->calls++;
  o->mine.count = count;
  o->mine.type = type;
  o->mine.root = root;
  o->send = std::move(send);
  o->finish = std::move(finish);
  under_way++;
  host_enqueue(stream, [o] { return go_on(*o); });
  comm->busy = BUSY;
  return ncclInProgress;
}

void take(operation &o, const void *from, size_t bytes) {
  o.data.assign((const char *)from, (const char *)from + bytes);
}

/** `data` becomes the sum over ranks. */
int sum(operation &o, size_t count, ncclDataType_t type) {
  return PMPI_Iallreduce(MPI_IN_PLACE, o.data.data(), (int)count, mpi_type(type),
                         type == ncclBfloat16 ? o.comm->sum_bf16 : MPI_SUM, o.comm->mpi, &o.request);
}

struct identity {
  int creator, number;
};

/** Everybody learns the world ranks of all members from the creator of the id, who is one of them. */
std::vector<int> find_members(identity id, int ranks, int rank) {
  std::vector<int> members((size_t)ranks);
  int world, tag = TAG + id.number;
  PMPI_Comm_rank(MPI_COMM_WORLD, &world);
  if (world != id.creator) {
    int mine[2] = {rank, world};
    PMPI_Send(mine, 2, MPI_INT, id.creator, tag, MPI_COMM_WORLD);
    PMPI_Recv(members.data(), ranks, MPI_INT, id.creator, tag, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    return members;
  }
  members[(size_t)rank] = world;
  for (int i = 1; i < ranks; i++) {
    int other[2];
    PMPI_Recv(other, 2, MPI_INT, MPI_ANY_SOURCE, tag, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    members[(size_t)other[0]] = other[1];
  }
  for (int member : members)
    if (member != world) PMPI_Send(members.data(), ranks, MPI_INT, member, tag, MPI_COMM_WORLD);
  return members;
}

}  // namespace

extern "C" {

/* While the host waits for MPI the GPU goes on: another rank may wait for what it does. */
int MPI_Test(MPI_Request *request, int *flag, MPI_Status *state) {
  if (under_way > 0) host_advance();
  return PMPI_Test(request, flag, state);
}

int nccl_check_version(void);

int nccl_load(void) {
  return nccl_check_version();
}

/* That of the interface; QST_HOST_NCCL is another one. */
ncclResult_t ncclGetVersion(int *version) {
  const char *wanted = getenv("QST_HOST_NCCL");
  *version = wanted ? atoi(wanted) : 22809;
  return ncclSuccess;
}

const char *ncclGetErrorString(ncclResult_t result) {
  switch (result) {
    case ncclSuccess:
      return "no error";
    case ncclInvalidArgument:
      return "invalid argument";
    case ncclInvalidUsage:
      return "invalid usage";
    case ncclRemoteError:
      return "remote process exited or there was a network error";
    case ncclInProgress:
      return "NCCL operation in progress";
  }
  return "unknown result code";
}

const char *ncclGetLastError(ncclComm_t comm) {
  return comm->text;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId *id) {
  static int number;
  identity made = {0, number++};
  PMPI_Comm_rank(MPI_COMM_WORLD, &made.creator);
  memset(id, 0, sizeof *id);
  memcpy(id->internal, &made, sizeof made);
  return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *comm, int ranks, ncclUniqueId id, int rank, ncclConfig_t *config) {
  if (rank < 0 || rank >= ranks || config->blocking) return ncclInvalidArgument;
  identity made;
  memcpy(&made, id.internal, sizeof made);
  std::vector<int> members = find_members(made, ranks, rank);
  MPI_Group world, group;
  PMPI_Comm_group(MPI_COMM_WORLD, &world);
  PMPI_Group_incl(world, ranks, members.data(), &group);
  *comm = new ncclComm{};
  (*comm)->rank = rank;
  (*comm)->size = ranks;
  PMPI_Comm_create_group(MPI_COMM_WORLD, group, TAG + made.number, &(*comm)->mpi);
  PMPI_Op_create(add_bf16, 1, &(*comm)->sum_bf16);
  PMPI_Group_free(&group);
  PMPI_Group_free(&world);
  (*comm)->busy = BUSY;
  return ncclInProgress;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *error) {
  if (getenv("QST_HOST_UNREACHABLE")) comm->error = ncclRemoteError;
  *error = comm->error != ncclSuccess ? comm->error : comm->busy > 0 ? ncclInProgress : ncclSuccess;
  if (comm->busy > 0) comm->busy--;
  return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t comm) {
  if (comm->busy > 0) return ncclInvalidUsage;
  comm->busy = BUSY;
  return ncclInProgress;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  PMPI_Op_free(&comm->sum_bf16);
  PMPI_Comm_free(&comm->mpi);
  delete comm;
  return ncclSuccess;
}

ncclResult_t ncclAllReduce(const void *from, void *to, size_t count, ncclDataType_t type, ncclRedOp_t, ncclComm_t comm,
                           cudaStream_t stream) {
  size_t bytes = count * size_of(type);
  if (!host_on_device(from, bytes, "all-reduce") || !host_on_device(to, bytes, "all-reduce"))
    return ncclInvalidArgument;
  return enqueue(
      comm, stream, "all-reduce", count, type, 0,
      [=](operation &o) {
        take(o, from, bytes);
        return sum(o, count, type);
      },
      [=](operation &o) { memcpy(to, o.data.data(), bytes); });
}

ncclResult_t ncclReduceScatter(const void *from, void *to, size_t count, ncclDataType_t type, ncclRedOp_t,
                               ncclComm_t comm, cudaStream_t stream) {
  size_t part = count * size_of(type), bytes = part * (size_t)comm->size;
  if (!host_on_device(from, bytes, "reduce-scatter") || !host_on_device(to, part, "reduce-scatter"))
    return ncclInvalidArgument;
  return enqueue(
      comm, stream, "reduce-scatter", count, type, 0,
      [=](operation &o) {
        take(o, from, bytes);
        return sum(o, count * (size_t)comm->size, type);
      },
      [=](operation &o) { memcpy(to, o.data.data() + part * (size_t)comm->rank, part); });
}

ncclResult_t ncclAllGather(const void *from, void *to, size_t count, ncclDataType_t type, ncclComm_t comm,
                           cudaStream_t stream) {
  size_t part = count * size_of(type), bytes = part * (size_t)comm->size;
  if (!host_on_device(from, part, "all-gather") || !host_on_device(to, bytes, "all-gather")) return ncclInvalidArgument;
  return enqueue(
      comm, stream, "all-gather", count, type, 0,
      [=](operation &o) {
        o.data.resize(bytes);
        memcpy(o.data.data() + part * (size_t)comm->rank, from, part);
        return PMPI_Iallgather(MPI_IN_PLACE, 0, MPI_BYTE, o.data.data(), (int)part, MPI_BYTE, comm->mpi, &o.request);
      },
      [=](operation &o) { memcpy(to, o.data.data(), bytes); });
}

ncclResult_t ncclBroadcast(const void *from, void *to, size_t count, ncclDataType_t type, int root, ncclComm_t comm,
                           cudaStream_t stream) {
  size_t bytes = count * size_of(type);
  bool sends = comm->rank == root;
  if (!host_on_device(sends ? from : to, bytes, "broadcast")) return ncclInvalidArgument;
  return enqueue(
      comm, stream, "broadcast", count, type, root,
      [=](operation &o) {
        o.data.resize(bytes);
        if (sends) take(o, from, bytes);
        return PMPI_Ibcast(o.data.data(), (int)bytes, MPI_BYTE, root, comm->mpi, &o.request);
      },
      [=](operation &o) {
        if (to && to != from) memcpy(to, o.data.data(), bytes);
        if (to == from && !sends) memcpy(to, o.data.data(), bytes);
      });
}

/* Between two ranks alone a message is a broadcast. */
static ncclResult_t pass(const void *from, void *to, size_t count, ncclDataType_t type, int sender, ncclComm_t comm,
                         cudaStream_t stream) {
  size_t bytes = count * size_of(type);
  if (comm->size != 2 || !host_on_device(from ? from : to, bytes, "message")) return ncclInvalidArgument;
  return enqueue(
      comm, stream, "message", count, type, sender,
      [=](operation &o) {
        o.data.resize(bytes);
        if (from) take(o, from, bytes);
        return PMPI_Ibcast(o.data.data(), (int)bytes, MPI_BYTE, sender, comm->mpi, &o.request);
      },
      [=](operation &o) {
        if (to) memcpy(to, o.data.data(), bytes);
      });
}

ncclResult_t ncclSend(const void *from, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  return peer == comm->rank ? ncclInvalidArgument : pass(from, nullptr, count, type, comm->rank, comm, stream);
}

ncclResult_t ncclRecv(void *to, size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream) {
  return peer == comm->rank ? ncclInvalidArgument : pass(nullptr, to, count, type, peer, comm, stream);
}

}  // extern "C"
