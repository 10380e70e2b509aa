/* export --side SIDE --out FILE: a side network in another format, by the name of FILE: X.safetensors for other programs,
 * X.h5 a checkpoint without optimizer state, which is how a foreign safetensors file is imported. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/text.h"
#include "commands/commands.h"
#include "io/checkpoint.h"

struct side_tensors {
  struct named_tensor *tensors; /**< owns names and data */
  int count, capacity;
  int64_t numbers;
};

static void free_tensors(struct side_tensors *side) {
  for (int i = 0; i < side->count; i++) {
    free((char *)side->tensors[i].name);
    free(side->tensors[i].data);
  }
  free(side->tensors);
}

static int grow(struct side_tensors *side) {
  if (side->count < side->capacity) return OK;
  int capacity = side->capacity ? 2 * side->capacity : 64;
  struct named_tensor *tensors = realloc(side->tensors, (size_t)capacity * sizeof *tensors);
  if (!tensors) return fail(ERR_MEMORY, "not enough memory for a list of tensors");
  side->tensors = tensors;
  side->capacity = capacity;
  return OK;
}

static int add_tensor(void *context, const char *name, int64_t rows, int64_t cols) {
  struct side_tensors *side = context;
  TRY(grow(side));
  struct named_tensor *tensor = &side->tensors[side->count];
  int64_t numbers = rows * (cols ? cols : 1);
  *tensor = (struct named_tensor){.name = strdup(name), .rows = rows, .cols = cols};
  side->count++;
  side->numbers += numbers;
  if (!tensor->name) return fail(ERR_MEMORY, "not enough memory for a list of tensors");
  return memory_array(&tensor->data, (size_t)numbers, sizeof *tensor->data);
}

/* What a run was about when it saved says nothing of the side network alone. */
static struct checkpoint_state without_run(const struct checkpoint_state *state) {
  struct checkpoint_state side = *state;
  side.best_loss = INFINITY;
  side.best_step = -1;
  side.data[0] = 0;
  return side;
}

static int convert(struct checkpoint *source, const char *out) {
  struct side_tensors side = {0};
  struct checkpoint_state state = without_run(checkpoint_state(source));
  int status = checkpoint_each(source, add_tensor, &side);
  if (status == OK && side.count == 0) status = fail(ERR_INPUT, "the side network has no tensors");
  if (status == OK) status = checkpoint_read(source, side.tensors, side.count);
  if (status == OK)
    status = text_ends_with(out, ".h5") ? checkpoint_write(out, &state, side.tensors, side.count)
                                        : safetensors_write(out, &state, side.tensors, side.count);
  if (status == OK)
    log_note("export    %s: step %lld, %d tensors, %lld parameters in fp32", out, (long long)state.step, side.count,
             (long long)side.numbers);
  free_tensors(&side);
  return status;
}

static int run(const struct options *options) {
  if (!text_ends_with(options->out, ".h5") && !text_ends_with(options->out, ".safetensors"))
    return fail(ERR_USAGE, "--out %s: its name must end in .safetensors or .h5, which says the format", options->out);
  struct checkpoint *source;
  TRY(checkpoint_open(&source, options->side));
  int status = fail_at(convert(source, options->out), "export of %s", options->side);
  checkpoint_close(&source);
  TRY(status);
  log_note("next      qst-mpi inspect %s", options->out);
  return OK;
}

int command_export(const struct options *options, struct comm *comm) {
  return comm_agree(comm, comm->rank == 0 ? run(options) : OK);
}
