#include "same_command.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"

static int describe(const struct options *options, bool prints, struct buffer *out) {
  TRY(buffer_print(out, "qst-mpi %s %s%s\n", QST_VERSION, command_name(options->command), prints ? " --help" : ""));
  return prints ? OK : options_print_shared(options, out);
}

/* The first line of `ours` that is another in `theirs`. */
static int compare(const char *ours, const char *theirs) {
  if (strcmp(ours, theirs) == 0) return OK;
  size_t a = strcspn(ours, "\n"), b = strcspn(theirs, "\n");
  while (a == b && memcmp(ours, theirs, a) == 0) {
    ours += a + 1;
    theirs += b + 1;
    a = strcspn(ours, "\n");
    b = strcspn(theirs, "\n");
  }
  return fail(ERR_USAGE, "has \"%.*s\" where rank 0 has \"%.*s\": give all ranks the same command line and --config",
              (int)a, ours, (int)b, theirs);
}

/* What rank 0 says, on all. */
static int share(struct comm *comm, const struct buffer *own, struct buffer *out) {
  int64_t size = (int64_t)own->size;
  TRY(comm_broadcast(comm, &size, sizeof size, 0));
  char *text = NULL;
  TRY(comm_agree(comm, memory_array(&text, (size_t)size + 1, 1)));
  if (comm->rank == 0) memcpy(text, own->data, own->size);
  int status = comm_broadcast(comm, text, (size_t)size, 0);
  if (status == OK) status = buffer_append(out, text, (size_t)size);
  free(text);
  return status;
}

int same_command(const struct options *options, bool prints, struct comm *comm) {
  struct buffer own = {0}, first = {0};
  if (comm->size == 1) return OK;
  int status = comm_agree(comm, describe(options, prints, &own));
  if (status == OK) status = share(comm, &own, &first);
  if (status == OK) status = comm_agree(comm, compare(own.data, first.data));
  buffer_free(&own);
  buffer_free(&first);
  return status;
}

int same_file(struct comm *comm, const char *path, const char digest[33]) {
  char first[33];
  memcpy(first, digest, sizeof first);
  TRY(comm_broadcast(comm, first, sizeof first, 0));
  bool same = memcmp(first, digest, sizeof first) == 0;
  return comm_agree(
      comm, same ? OK : fail(ERR_INPUT, "%s: is not the file that rank 0 has: copy it to all nodes again", path));
}
