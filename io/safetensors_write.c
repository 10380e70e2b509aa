#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file.h"
#include "io/checkpoint.h"

/* https://github.com/huggingface/safetensors, "Format": u64 length of the header, the header (JSON), the data. The
 * header is padded with spaces, so that the data is aligned. */
enum { HEADER_ALIGNMENT = 64 };

static uint64_t tensor_bytes(const struct named_tensor *tensor) {
  return (uint64_t)tensor->rows * (uint64_t)(tensor->cols ? tensor->cols : 1) * sizeof(float);
}

static json_t *metadata(const struct checkpoint_state *state) {
  return json_pack("{s:s, s:s, s:s, s:s, s:o}", "format", "pt", "qst_format", "qst-side 1", "qst_backbone",
                   state->backbone, "qst_settings", state->settings.data ? state->settings.data : "", "qst_step",
                   json_sprintf("%lld", (long long)state->step));
}

static json_t *describe(const struct named_tensor *tensor, uint64_t begin) {
  json_t *shape = tensor->cols ? json_pack("[I, I]", (json_int_t)tensor->rows, (json_int_t)tensor->cols)
                               : json_pack("[I]", (json_int_t)tensor->rows);
  return json_pack("{s:s, s:o, s:[I, I]}", "dtype", "F32", "shape", shape, "data_offsets", (json_int_t)begin,
                   (json_int_t)(begin + tensor_bytes(tensor)));
}

static int make_header(const struct checkpoint_state *state, const struct named_tensor *tensors, int count,
                       struct buffer *out) {
  json_t *header = json_object();
  int failed = json_object_set_new(header, "__metadata__", metadata(state));
  uint64_t offset = 0;
  for (int i = 0; i < count && !failed; i++) {
    failed = json_object_set_new(header, tensors[i].name, describe(&tensors[i], offset));
    offset += tensor_bytes(&tensors[i]);
  }
  char *text = failed ? NULL : json_dumps(header, JSON_COMPACT | JSON_ENSURE_ASCII);
  json_decref(header);
  if (!text) return fail(ERR_INTERNAL, "the safetensors header cannot be made: a setting is not UTF-8");
  uint64_t size = (strlen(text) + 8 + HEADER_ALIGNMENT - 1) / HEADER_ALIGNMENT * HEADER_ALIGNMENT - 8;
  int status = buffer_append(out, &size, sizeof size);
  if (status == OK) status = buffer_print(out, "%-*s", (int)size, text);
  free(text);
  return status;
}

static int put(int descriptor, const char *path, const void *bytes, uint64_t size) {
  for (uint64_t done = 0; done < size;) {
    ssize_t wrote = write(descriptor, (const char *)bytes + done, size - done);
    if (wrote < 0 && errno != EINTR) return fail(ERR_SYSTEM, "%s: cannot be written: %s", path, strerror(errno));
    if (wrote > 0) done += (uint64_t)wrote;
  }
  return OK;
}

static int put_all(int descriptor, const char *path, const struct buffer *header, const struct named_tensor *tensors,
                   int count) {
  TRY(put(descriptor, path, header->data, header->size));
  for (int i = 0; i < count; i++) TRY(put(descriptor, path, tensors[i].data, tensor_bytes(&tensors[i])));
  return OK;
}

int safetensors_write(const char *path, const struct checkpoint_state *state, const struct named_tensor *tensors,
                      int count) {
  struct buffer header = {0};
  char *temporary = NULL;
  int status, descriptor;
  TRY_GOTO(status, cleanup, make_header(state, tensors, count, &header));
  TRY_GOTO(status, cleanup, file_temporary(path, &temporary));
  descriptor = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (descriptor < 0) {
    status = fail(ERR_SYSTEM, "%s: cannot be created: %s", path, strerror(errno));
    goto cleanup;
  }
  status = put_all(descriptor, path, &header, tensors, count);
  if (close(descriptor) != 0 && status == OK) status = fail(ERR_SYSTEM, "%s: %s", path, strerror(errno));
  if (status == OK) status = file_publish(temporary, path);
  if (status != OK) unlink(temporary);
cleanup:
  free(temporary);
  buffer_free(&header);
  return status;
}
