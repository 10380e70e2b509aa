#include "base/library.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"

int library_open(void **library, const char *name, int version, const char *remedy) {
  char file[64];
  snprintf(file, sizeof file, "lib%s.so.%d", name, version);
  *library = dlopen(file, RTLD_NOW | RTLD_LOCAL);
  return *library ? OK : fail(ERR_SYSTEM, "%s: %s", dlerror(), remedy);
}

int library_find(void *library, const char *name, void *slot) {
  void *function = dlsym(library, name);
  memcpy(slot, &function, sizeof function);
  return function ? OK : fail(ERR_SYSTEM, "%s", dlerror());
}
