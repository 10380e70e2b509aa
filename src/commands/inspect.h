/**
 * @file inspect.h
 * What a file holds, as JSON: `inspect` prints it as it is (--json) or as lines for people. Each function fills `out`; what
 * is damaged in a file that can still be described goes into the array out["damaged"], one line of text each.
 */
#ifndef QST_COMMANDS_INSPECT_H
#define QST_COMMANDS_INSPECT_H

#include <jansson.h>
#include <stdint.h>

#include "io/model_config.h"

/** One of our HDF5 files: attributes, datasets, and whether their checksums hold. */
int inspect_store(const char *path, json_t *out);
int inspect_safetensors(const char *path, json_t *out);
int inspect_gguf(const char *path, json_t *out);
/** A folder with config.json and safetensors. */
int inspect_model_folder(const char *path, json_t *out);

/** The shape of a model. */
json_t *inspect_model_config(const struct model_config *config);
/** Puts a text into an object; bytes that are not UTF-8 become U+FFFD. */
void inspect_set_text(json_t *object, const char *key, const char *text);
void inspect_set_integer(json_t *object, const char *key, int64_t value);
/** Adds a line to out["damaged"]. */
void inspect_damaged(json_t *out, const char *line);

#endif
