/* Streams and memory of the host runtime. */
#include "runtime.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <sched.h>
#include <set>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(block, bytes)   ((void)(block), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(block, bytes) ((void)(block), (void)(bytes))
#endif

/** What a stream was given while it was captured. */
struct CUgraph_st {
  std::vector<std::function<cudaError_t()>> work;
};

struct CUgraphExec_st {
  CUgraph_st graph;
};

/** A piece of a stream's work; it waits until `count` pieces of the stream `after` are done. */
struct piece {
  std::function<cudaError_t()> work;
  cudaStream_t after;
  size_t count;
};

struct CUstream_st {
  std::deque<piece> work;
  size_t given = 0, done = 0;
  cudaGraph_t captured = nullptr; /**< where its work goes instead */
};

struct CUevent_st {
  cudaStream_t stream = nullptr;
  size_t given = 0; /**< what the stream had been given when this was recorded */
};

namespace {

enum { RUNTIME_VERSION = 13000, MEMORY = 1 << 30 };
enum kind { DEVICE, MANAGED, PINNED };
struct allocation {
  size_t bytes;
  kind where;
};

std::map<const char *, allocation> allocations;
std::set<cudaStream_t> streams;
cudaError_t last_error = cudaSuccess;
size_t allowed = HOST_SHARED_FREE;
bool recorded; /**< some event was */

cudaError_t failed(cudaError_t error) {
  return last_error = error;
}

/** While a stream is captured: nothing that might wait for the GPU, or change its memory, is permitted. */
bool capturing() {
  for (cudaStream_t stream : streams)
    if (stream->captured) return true;
  return false;
}

/** Of an allocation as much is poisoned: for large ones that would take longer than what they are for. */
size_t watched(size_t bytes) {
  return bytes < (size_t)1 << 20 ? bytes : (size_t)1 << 20;
}

/** Device memory is open while work is done and closed to the host otherwise. */
void open_memory(bool open) {
  for (auto &[block, a] : allocations) {
    if (a.where != DEVICE) continue;
    if (open) {
      ASAN_UNPOISON_MEMORY_REGION(block, watched(a.bytes));
    } else {
      ASAN_POISON_MEMORY_REGION(block, watched(a.bytes));
    }
  }
}

cudaError_t allocate(void **out, size_t bytes, kind where) {
  *out = nullptr;
  if (capturing()) return failed(cudaErrorStreamCaptureUnsupported);
  if (posix_memalign(out, 256, bytes) != 0 || !*out) return failed(cudaErrorMemoryAllocation);
  memset(*out, 0xff, bytes); /* NaN in every format */
  allocations[(const char *)*out] = {bytes, where};
  if (where == DEVICE) ASAN_POISON_MEMORY_REGION(*out, watched(bytes));
  return cudaSuccess;
}

cudaError_t release(void *block) {
  if (!block) return cudaSuccess;
  if (capturing()) return failed(cudaErrorStreamCaptureUnsupported);
  cudaError_t status = cudaSuccess;
  for (cudaStream_t stream : streams)
    if (cudaError_t error = cudaStreamSynchronize(stream)) status = error;
  auto found = allocations.find((const char *)block);
  if (found == allocations.end()) return failed(cudaErrorInvalidValue);
  ASAN_UNPOISON_MEMORY_REGION(block, found->second.bytes);
  allocations.erase(found);
  free(block);
  return status;
}

/** Does the next piece of a stream's work, or of the stream that it waits for. cudaErrorNotReady: there is none, or it needs
 *  what another rank has not done yet. */
cudaError_t advance(cudaStream_t stream) {
  if (stream->work.empty()) return cudaErrorNotReady;
  piece &next = stream->work.front();
  if (next.after && streams.count(next.after) && next.after->done < next.count) return advance(next.after);
  cudaError_t status = next.work ? next.work() : cudaSuccess;
  if (status == cudaErrorNotReady) return status;
  stream->work.pop_front();
  stream->done++;
  return status;
}

cudaError_t advance_far(cudaStream_t stream) {
  cudaError_t status = cudaSuccess;
  while (status == cudaSuccess) status = advance(stream);
  return status == cudaErrorNotReady ? cudaSuccess : status;
}

/** A little of every stream's work but one's. */
cudaError_t advance_others(cudaStream_t waited) {
  for (cudaStream_t stream : std::vector<cudaStream_t>(streams.begin(), streams.end())) {
    cudaError_t status = stream == waited ? cudaSuccess : advance(stream);
    if (status != cudaSuccess && status != cudaErrorNotReady) return status;
  }
  return cudaSuccess;
}

/** Some work, while a stream is waited for: what the others do meanwhile is the schedule's choice. A stream that waits for
 *  another rank lets all others go on: that rank may need what they do. */
cudaError_t advance_some(cudaStream_t waited) {
  const host_schedule schedule = host_schedule_of_tests();
  cudaStream_t next = waited;
  if (schedule == HOST_REVERSE)
    for (cudaStream_t stream : streams)
      if (stream != waited)
        if (cudaError_t status = advance_far(stream)) return status;
  if (schedule == HOST_RANDOM)
    next = std::vector<cudaStream_t>(streams.begin(), streams.end())[host_random((unsigned)streams.size())];
  cudaError_t status = advance(next);
  if (status != cudaErrorNotReady) return status;
  sched_yield();
  return advance_others(next);
}

/** Whether the first `count` pieces of a stream's work are done; does some work when not. */
cudaError_t query(cudaStream_t stream, size_t count) {
  if (!streams.count(stream) || stream->done >= count) return cudaSuccess;
  open_memory(true);
  cudaError_t status = advance_some(stream);
  open_memory(false);
  if (status != cudaSuccess) return failed(status);
  return stream->done >= count ? cudaSuccess : cudaErrorNotReady;
}

/** The host waits for the first `count` pieces of a stream's work. */
cudaError_t wait_until(cudaStream_t stream, size_t count) {
  cudaError_t status = cudaErrorNotReady;
  while (status == cudaErrorNotReady) status = query(stream, count);
  return status;
}

const allocation *find(const void *block, size_t *inside) {
  auto after = allocations.upper_bound((const char *)block);
  if (after == allocations.begin()) return nullptr;
  --after;
  *inside = (size_t)((const char *)block - after->first);
  return *inside < after->second.bytes ? &after->second : nullptr;
}

}  // namespace

host_schedule host_schedule_of_tests() {
  const char *name = getenv("QST_HOST_SCHEDULE");
  return name && strcmp(name, "reverse") == 0  ? HOST_REVERSE
         : name && strcmp(name, "random") == 0 ? HOST_RANDOM
                                               : HOST_FORWARD;
}

unsigned host_random(unsigned limit) {
  static uint64_t random = 0x9e3779b97f4a7c15u;
  random = random * 6364136223846793005u + 1442695040888963407u;
  return (unsigned)(random >> 33) % limit;
}

void host_enqueue(cudaStream_t stream, std::function<cudaError_t()> work) {
  if (stream->captured) {
    stream->captured->work.push_back(std::move(work));
    return;
  }
  stream->work.push_back({std::move(work), nullptr, 0});
  stream->given++;
}

void host_advance() {
  open_memory(true);
  cudaError_t status = advance_others(nullptr);
  open_memory(false);
  if (status != cudaSuccess) failed(status);
}

bool host_on_device(const void *block, size_t bytes, const char *what) {
  size_t inside;
  const allocation *a = find(block, &inside);
  if (a && a->where != PINNED && bytes <= a->bytes - inside) return true;
  fprintf(stderr, "host runtime: %s: %zu bytes at %p are not device memory\n", what, bytes, block);
  return false;
}

size_t host_shared_allowed() {
  return allowed;
}

bool host_may_choose() {
  return !capturing() && !(recorded && getenv("QST_HOST_EARLY_CHOICE"));
}

extern "C" {

const char *cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorInsufficientDriver:
      return "CUDA driver version is insufficient for CUDA runtime version";
    case cudaErrorNoDevice:
      return "no CUDA-capable device is detected";
    case cudaErrorECCUncorrectable:
      return "uncorrectable ECC error encountered";
    case cudaErrorNvlinkUncorrectable:
      return "uncorrectable NVLink error detected during the execution";
    case cudaErrorNotReady:
      return "device not ready";
    case cudaErrorLaunchFailure:
      return "unspecified launch failure";
    case cudaErrorStreamCaptureUnsupported:
      return "operation not permitted when stream is capturing";
  }
  return "unknown error";
}

cudaError_t cudaGetLastError(void) {
  cudaError_t error = last_error;
  last_error = cudaSuccess;
  return error;
}

/* QST_HOST_DRIVER: the driver's version, as new as the runtime's by default. */
cudaError_t cudaDriverGetVersion(int *version) {
  const char *wanted = getenv("QST_HOST_DRIVER");
  *version = wanted ? atoi(wanted) : RUNTIME_VERSION;
  return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version) {
  *version = RUNTIME_VERSION;
  return cudaSuccess;
}

/* QST_HOST_GPUS: how many there are, 1 by default. */
cudaError_t cudaGetDeviceCount(int *count) {
  const char *wanted = getenv("QST_HOST_GPUS");
  int driver;
  cudaDriverGetVersion(&driver);
  if (driver < RUNTIME_VERSION) return failed(cudaErrorInsufficientDriver);
  *count = wanted ? atoi(wanted) : 1;
  return *count > 0 ? cudaSuccess : failed(cudaErrorNoDevice);
}

cudaError_t cudaSetDevice(int device) {
  int count;
  cudaError_t status = cudaGetDeviceCount(&count);
  return status != cudaSuccess ? status : device >= 0 && device < count ? cudaSuccess : failed(cudaErrorInvalidValue);
}

/* Every process has GPUs of its own, as a scheduler may see to; QST_HOST_SHARED_GPU: all see the same ones. */
static unsigned first_gpu() {
  return getenv("QST_HOST_SHARED_GPU") ? 0 : (unsigned)getpid() << 4;
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device) {
  (void)attribute, (void)device;
  *value = 1;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetPCIBusId(char *address, int size, int device) {
  snprintf(address, (size_t)size, "%04x:00:00.0", (first_gpu() + (unsigned)device) & 0xffff);
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *properties, int device) {
  const char *capability = getenv("QST_HOST_CAPABILITY"), *minor = capability ? strchr(capability, '.') : nullptr;
  *properties = cudaDeviceProp{};
  snprintf(properties->name, sizeof properties->name, "host runtime %d", device);
  properties->totalGlobalMem = MEMORY;
  properties->major = capability ? atoi(capability) : 9;
  properties->minor = minor ? atoi(minor + 1) : 0;
  unsigned number = first_gpu() + (unsigned)device;
  memcpy(properties->uuid.bytes, &number, sizeof number);
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags) {
  (void)flags;
  *stream = new CUstream_st;
  streams.insert(*stream);
  return cudaSuccess;
}

/* Of priorities the schedule knows nothing. */
cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *most) {
  *least = 0, *most = -5;
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int priority) {
  if (priority > 0 || priority < -5) return failed(cudaErrorInvalidValue);
  return cudaStreamCreateWithFlags(stream, flags);
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream->captured;
  stream->captured = nullptr;
  cudaError_t status = cudaStreamSynchronize(stream);
  streams.erase(stream);
  delete stream;
  return status;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (capturing()) return failed(cudaErrorStreamCaptureUnsupported);
  return wait_until(stream, stream->given);
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
  if (capturing()) return failed(cudaErrorStreamCaptureUnsupported);
  return query(stream, stream->given);
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  if (capturing()) return failed(cudaErrorStreamCaptureUnsupported);
  return event->stream ? query(event->stream, event->given) : cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags) {
  (void)flags;
  *event = new CUevent_st;
  return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  if (stream->captured) return failed(cudaErrorStreamCaptureUnsupported);
  recorded = true;
  *event = {stream, stream->given};
  return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  if (capturing()) return failed(cudaErrorStreamCaptureUnsupported);
  return event->stream ? wait_until(event->stream, event->given) : cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags) {
  (void)flags;
  if (stream->captured) return failed(cudaErrorStreamCaptureUnsupported);
  if (event->stream && event->stream != stream) {
    stream->work.push_back({nullptr, event->stream, event->given});
    stream->given++;
  }
  return cudaSuccess;
}

/* ---- graphs: work that is put on a stream again and again, with the arguments it had when it was captured -------- */

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode) {
  (void)mode;
  if (stream->captured) return failed(cudaErrorStreamCaptureUnsupported);
  stream->captured = new CUgraph_st;
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph) {
  *graph = stream->captured;
  stream->captured = nullptr;
  return *graph ? cudaSuccess : failed(cudaErrorInvalidValue);
}

cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *out, cudaGraph_t graph, unsigned long long flags) {
  (void)flags;
  *out = new CUgraphExec_st{*graph};
  return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream) {
  for (const auto &work : graph->graph.work) host_enqueue(stream, work);
  return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
  delete graph;
  return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *left, size_t *all) {
  *all = *left = MEMORY;
  for (const auto &[block, a] : allocations)
    if (a.where == DEVICE) *left -= a.bytes < *left ? a.bytes : *left;
  return cudaSuccess;
}

cudaError_t cudaMalloc(void **out, size_t bytes) {
  return allocate(out, bytes, DEVICE);
}

cudaError_t cudaMallocHost(void **out, size_t bytes) {
  return allocate(out, bytes, PINNED);
}

cudaError_t cudaMallocManaged(void **out, size_t bytes, unsigned flags) {
  (void)flags;
  return allocate(out, bytes, MANAGED);
}

cudaError_t cudaFree(void *block) {
  return release(block);
}

cudaError_t cudaFreeHost(void *block) {
  return release(block);
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind, cudaStream_t stream) {
  size_t inside;
  bool good = (kind == cudaMemcpyDeviceToHost || host_on_device(to, bytes, "copy to")) &&
              (kind == cudaMemcpyHostToDevice || host_on_device(from, bytes, "copy from"));
  if (!good) return failed(cudaErrorInvalidValue);
  if (stream->captured && kind != cudaMemcpyDeviceToDevice) return failed(cudaErrorStreamCaptureUnsupported);
  if (kind == cudaMemcpyHostToDevice && !find(from, &inside)) { /* pageable: read before the call returns */
    auto kept = std::make_shared<std::vector<char>>((const char *)from, (const char *)from + bytes);
    host_enqueue(stream, [=] {
      memcpy(to, kept->data(), bytes);
      return cudaSuccess;
    });
  } else {
    host_enqueue(stream, [=] {
      memmove(to, from, bytes);
      return cudaSuccess;
    });
  }
  return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *block, int value, size_t bytes, cudaStream_t stream) {
  if (bytes && !host_on_device(block, bytes, "set")) return failed(cudaErrorInvalidValue);
  host_enqueue(stream, [=] {
    memset(block, value, bytes);
    return cudaSuccess;
  });
  return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void *function, enum cudaFuncAttribute attribute, int value) {
  (void)function, (void)attribute;
  if (value > HOST_SHARED_MOST) return failed(cudaErrorInvalidValue);
  allowed = (size_t)value;
  return cudaSuccess;
}

}  // extern "C"

/** Whether a word is the address of memory that is mapped, where programs have theirs, and in no allocation. */
static bool points_to_host(uint64_t word) {
  const void *address = (const void *)word;
  size_t inside;
  unsigned char resident;
  if (word >> 40 < 0x55 || word >> 47) return false;
  if (find(address, &inside) || find((const char *)address - 1, &inside)) return false; /* an end is no start */
  return mincore((void *)(word & ~(uint64_t)4095), 1, &resident) == 0;
}

bool host_words_point_to_host(const void *argument, size_t bytes) {
  for (size_t at = 0; at + 8 <= bytes; at += 8) {
    uint64_t word;
    memcpy(&word, (const char *)argument + at, sizeof word);
    if (!points_to_host(word)) continue;
    fprintf(stderr, "host runtime: byte %zu of a kernel's argument points to memory of the host\n", at);
    return true;
  }
  return false;
}

cudaError_t host_launch(const cudaLaunchConfig_t &config, std::function<void()> thread) {
  const dim3 &grid = config.gridDim, &block = config.blockDim;
  size_t threads = (size_t)block.x * block.y * block.z;
  bool fits = grid.x > 0 && grid.y > 0 && grid.z > 0 && grid.y < 65536 && grid.z < 65536 && threads > 0 &&
              threads <= 1024 && config.dynamicSmemBytes <= allowed;
  allowed = HOST_SHARED_FREE;
  if (!fits) return failed(cudaErrorInvalidValue);
  host_enqueue(config.stream, [config, thread] { return host_run_grid(config, thread); });
  return cudaSuccess;
}
