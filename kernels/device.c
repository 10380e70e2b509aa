#include "kernels/device.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "base/options.h"
#include "kernels/cpu/cpu.h"
#ifdef QST_CUDA
#include "kernels/cuda/cuda.h"
#endif
#include "kernels/null/null.h"

/* The devices of this program, with what tells one piece of their hardware from another where no two ranks may share it;
 * and those that it knows but was built without. "auto" is the last one that this machine has. */
#ifdef QST_CUDA
#define DEVICES_PRESENT(X) X(cpu, NULL) X(null, NULL) X(cuda, cuda_identify)
#define DEVICES_ABSENT(X)
#else
#define DEVICES_PRESENT(X) X(cpu, NULL) X(null, NULL)
#define DEVICES_ABSENT(X)  X(cuda, NULL)
#endif

struct backend {
  const char *name;
  int (*open)(struct device *device, const struct device_options *options);
  bool (*present)(void);
  int (*identify)(int local_rank, char identity[DEVICE_IDENTITY]); /**< NULL: ranks may share it */
};

#define BACKEND(kind, how) {.name = #kind, .open = kind##_open, .present = kind##_present, .identify = how},
static const struct backend backends[] = {DEVICES_PRESENT(BACKEND)};
#undef BACKEND

enum { BACKENDS = sizeof(backends) / sizeof(backends[0]) };

const char *device_list(void) {
#define LIST(name, how) ", " #name
  static const char list[] = DEVICES_PRESENT(LIST);
#undef LIST
  return list + strlen(", ");
}

static int refuse_name(const char *name) {
#define NAME(name, how) #name,
  static const char *const absent[] = {DEVICES_ABSENT(NAME) NULL};
  static const char *const present[] = {"auto", DEVICES_PRESENT(NAME) NULL};
#undef NAME
  for (const char *const *known = absent; *known; known++)
    if (strcmp(name, *known) == 0)
      return fail(ERR_USAGE, "device %s is not compiled into this program; it has: %s", name, device_list());
  const char *nearest = nearest_name(name, present);
  if (nearest) return fail(ERR_USAGE, "unknown device \"%s\": did you mean %s?", name, nearest);
  return fail(ERR_USAGE, "unknown device \"%s\"; there are: auto, %s", name, device_list());
}

static const struct backend *find_backend(const char *name) {
  bool automatic = !name || strcmp(name, "auto") == 0;
  for (int i = BACKENDS - 1; i >= 0; i--)
    if (automatic ? backends[i].present() : strcmp(name, backends[i].name) == 0) return &backends[i];
  return NULL;
}

int device_open(struct device **out, const struct device_options *options) {
  struct device *device = NULL;
  *out = NULL;
  const struct backend *backend = find_backend(options->name);
  if (!backend) return refuse_name(options->name);
  TRY(memory_array(&device, 1, sizeof *device));
  device->name = backend->name;
  device->fp8 = options->limits.fp8;
  int status = backend->open(device, options);
  if (status != OK) {
    device_close(&device);
    return status;
  }
  *out = device;
  return OK;
}

int device_identify(const char *name, int local_rank, char identity[DEVICE_IDENTITY]) {
  const struct backend *backend = find_backend(name);
  memset(identity, 0, DEVICE_IDENTITY);
  if (!backend) return refuse_name(name);
  return backend->identify ? backend->identify(local_rank, identity) : OK;
}

void device_close(struct device **device) {
  if (!*device) return;
  if ((*device)->memory) (*device)->memory->close(*device);
  free(*device);
  *device = NULL;
}

int device_allocate(struct device *device, enum memory_kind kind, void *out, size_t bytes) {
  void *block = NULL;
  TRY(device->memory->allocate(device, &block, bytes));
  memcpy(out, &block, sizeof block);
  device->allocated[kind] += bytes;
  return OK;
}

void device_release(struct device *device, enum memory_kind kind, void *block_pointer, size_t bytes) {
  void *block, *none = NULL;
  memcpy(&block, block_pointer, sizeof block);
  if (!block) return;
  device->memory->release(device, block);
  memcpy(block_pointer, &none, sizeof none);
  device->allocated[kind] -= bytes;
}

int device_host_allocate(struct device *device, void *out, size_t bytes) {
  void *block = NULL;
  if (!device->memory->host_allocate) return memory_array(out, bytes, 1);
  TRY(device->memory->host_allocate(device, &block, bytes));
  memcpy(out, &block, sizeof block);
  return OK;
}

void device_host_release(struct device *device, void *block_pointer) {
  void *block, *none = NULL;
  memcpy(&block, block_pointer, sizeof block);
  if (block && device->memory->host_release) {
    device->memory->host_release(device, block);
  } else {
    free(block);
  }
  memcpy(block_pointer, &none, sizeof none);
}

int device_upload(struct device *device, void *to_device, const void *from_host, size_t bytes) {
  return bytes ? device->memory->upload(device, to_device, from_host, bytes) : OK;
}

int device_download(struct device *device, void *to_host, const void *from_device, size_t bytes) {
  return bytes ? device->memory->download(device, to_host, from_device, bytes) : OK;
}

int device_zero(struct device *device, void *block, size_t bytes) {
  return bytes ? device->memory->zero(device, block, bytes) : OK;
}

int device_synchronize(struct device *device) {
  return device->memory->synchronize(device);
}

int device_use_lane(struct device *device, enum lane lane) {
  return device->memory->use_lane ? device->memory->use_lane(device, lane) : OK;
}

int device_event_open(struct device *device, struct device_event **out) {
  *out = NULL;
  return device->memory->event_open ? device->memory->event_open(device, out) : OK;
}

void device_event_close(struct device *device, struct device_event **event) {
  if (*event) device->memory->event_close(device, *event);
  *event = NULL;
}

int device_record(struct device *device, struct device_event *event) {
  return event ? device->memory->record(device, event) : OK;
}

int device_wait(struct device *device, struct device_event *event) {
  return event ? device->memory->wait(device, event) : OK;
}

int device_finish(struct device *device, struct device_event *event) {
  return event ? device->memory->finish(device, event) : OK;
}

int device_task_begin(struct device *device, uint64_t key, bool *replayed) {
  *replayed = false;
  return device->memory->task_begin ? device->memory->task_begin(device, key, replayed) : OK;
}

int device_task_end(struct device *device) {
  return device->memory->task_end ? device->memory->task_end(device) : OK;
}

int device_prepare(struct device *device, int rows, int (*work)(void *context, int rows), void *context) {
  return device->memory->prepare ? device->memory->prepare(device, rows, work, context) : OK;
}
