#include <stdio.h>

#include "base/error.h"
#include "comm/nccl/library.h"

/* Communicators that do not block and ncclCommFinalize() came with 2.14; nothing newer is called. */
enum { OLDEST = 21400 };

static char text[24];

/* Until 2.8 the number had a digit less. */
static void format_version(int version, char out[sizeof text]) {
  int unit = version < 10000 ? 1000 : 10000;
  snprintf(out, sizeof text, "%d.%d.%d", version / unit, version % unit / 100, version % 100);
}

int nccl_check_version(void) {
  int found;
  char oldest[sizeof text];
  if (ncclGetVersion(&found) != ncclSuccess) return fail(ERR_SYSTEM, "NCCL does not say its version");
  format_version(found, text);
  format_version(OLDEST, oldest);
  if (found >= OLDEST) return OK;
  return fail(ERR_SYSTEM,
              "NCCL %s was found, %s or later is needed: install a newer one, or put the folder of one first in "
              "LD_LIBRARY_PATH",
              text, oldest);
}

const char *nccl_version(void) {
  return text;
}
