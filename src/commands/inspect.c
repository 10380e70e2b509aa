/* inspect FILE...: what files hold, where they come from, and whether they are whole. */
#include "commands/inspect.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file.h"
#include "commands/commands.h"

enum { TEXT_ENTRIES = 24, INDENT = 2, NAME_WIDTH = 44 };

/* What is no UTF-8 with ? for all that is not ASCII. */
static json_t *text_of(const char *text) {
  json_t *value = json_string(text);
  if (value) return value;
  char *ascii = strdup(text);
  for (char *at = ascii; at && *at; at++)
    if ((unsigned char)*at > 0x7e) *at = '?';
  value = ascii ? json_string(ascii) : json_null();
  free(ascii);
  return value;
}

void inspect_set_text(json_t *object, const char *key, const char *text) {
  json_object_set_new(object, key, text_of(text));
}

void inspect_set_integer(json_t *object, const char *key, int64_t value) {
  json_object_set_new(object, key, json_integer(value));
}

void inspect_damaged(json_t *out, const char *line) {
  json_t *lines = json_object_get(out, "damaged");
  if (!lines) json_object_set_new(out, "damaged", lines = json_array());
  json_array_append_new(lines, text_of(line));
}

/* ---- which kind ---- */

static bool is_folder(const char *path) {
  struct stat info;
  return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

static int inspect_file(const char *path, json_t *out) {
  unsigned char head[9] = {0};
  struct stat info;
  int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor >= 0 && fstat(descriptor, &info) == 0) inspect_set_integer(out, "bytes", info.st_size);
  ssize_t got = descriptor < 0 ? 0 : read(descriptor, head, sizeof head);
  if (descriptor >= 0) close(descriptor);
  if (got >= 4 && memcmp(head, "GGUF", 4) == 0) return inspect_gguf(path, out);
  if (got == (ssize_t)sizeof head && head[8] == '{') return inspect_safetensors(path, out);
  return inspect_store(path, out);
}

static int is_checkpoint_name(const struct dirent *entry) {
  size_t size = strlen(entry->d_name);
  return strncmp(entry->d_name, "step-", 5) == 0 && size > 8 && strcmp(entry->d_name + size - 3, ".h5") == 0;
}

static void add_link(const char *folder, const char *name, json_t *out) {
  char *path, target[256];
  if (file_join(folder, name, &path) != OK) return;
  ssize_t size = readlink(path, target, sizeof target - 1);
  if (size > 0) {
    target[size] = 0;
    inspect_set_text(out, name, target);
  }
  free(path);
}

static int inspect_checkpoint_of(const char *folder, const char *name, json_t *run) {
  char *path;
  TRY(file_join(folder, name, &path));
  json_t *out = json_object();
  inspect_set_text(out, "file", name);
  int status = inspect_file(path, out);
  if (status == ERR_INPUT) {
    inspect_damaged(run, fail_message());
    status = OK;
  }
  json_t *lines = json_object_get(out, "damaged");
  for (size_t i = 0; i < json_array_size(lines); i++) inspect_damaged(run, json_string_value(json_array_get(lines, i)));
  json_object_del(out, "datasets");
  json_array_append_new(json_object_get(run, "checkpoints"), out);
  free(path);
  return status;
}

static int inspect_run(const char *path, json_t *out) {
  struct dirent **entries;
  int count = scandir(path, &entries, is_checkpoint_name, alphasort);
  if (count <= 0) return fail(ERR_INPUT, "%s: is neither a run (step-*.h5) nor a model (config.json)", path);
  inspect_set_text(out, "format", "run folder");
  add_link(path, "latest", out);
  add_link(path, "best", out);
  json_object_set_new(out, "checkpoints", json_array());
  int status = OK;
  for (int i = 0; i < count; i++) {
    if (status == OK) status = inspect_checkpoint_of(path, entries[i]->d_name, out);
    free(entries[i]);
  }
  free(entries);
  return status;
}

static int inspect_folder(const char *path, json_t *out) {
  char *config;
  TRY(file_join(path, "config.json", &config));
  bool model = access(config, F_OK) == 0;
  free(config);
  return model ? inspect_model_folder(path, out) : inspect_run(path, out);
}

/* ---- printing ---- */

static void print_value(const char *key, const json_t *value, int depth);

/* Texts come from files: control characters must not steer the terminal. */
static void print_plain(const char *text, size_t size) {
  for (size_t i = 0; i < size; i++) putchar((unsigned char)text[i] < ' ' || text[i] == 0x7f ? '?' : text[i]);
}

static void print_lines(const char *key, const char *text, int depth) {
  size_t length = strcspn(text, "\n");
  bool single = text[length] == 0;
  printf(single ? "%*s%-20s " : "%*s%s\n", depth * INDENT, "", key);
  for (; *text; text += length + (text[length] == '\n')) {
    length = strcspn(text, "\n");
    if (!single) printf("%*s", (depth + 1) * INDENT, "");
    print_plain(text, length);
    if (!single) putchar('\n');
  }
  if (single) putchar('\n');
}

static void print_entry(const json_t *entry, int depth) {
  char *shape = json_dumps(json_object_get(entry, "shape"), JSON_COMPACT);
  const char *name = json_string_value(json_object_get(entry, "name"));
  printf("%*s%-44s %-5s %-16s %lld bytes\n", depth * INDENT, "", name,
         json_string_value(json_object_get(entry, "type")), shape ? shape : "",
         (long long)json_integer_value(json_object_get(entry, "bytes")));
  free(shape);
}

/* Long lists of datasets and tensors are cut; --json has them all. */
static void print_list(const char *key, const json_t *list, int depth) {
  size_t count = json_array_size(list), shown = count > TEXT_ENTRIES ? TEXT_ENTRIES : count;
  printf("%*s%s: %zu\n", depth * INDENT, "", key, count);
  for (size_t i = 0; i < shown; i++) {
    const json_t *entry = json_array_get(list, i);
    if (json_object_get(entry, "shape"))
      print_entry(entry, depth + 1);
    else
      print_value("-", entry, depth + 1);
  }
  if (shown < count) printf("%*s… and %zu more (--json)\n", (depth + 1) * INDENT, "", count - shown);
}

static void print_object(const json_t *object, int depth) {
  const char *key;
  json_t *value;
  json_object_foreach((json_t *)object, key, value) print_value(key, value, depth);
}

static void print_value(const char *key, const json_t *value, int depth) {
  if (json_is_object(value)) {
    printf("%*s%s\n", depth * INDENT, "", key);
    print_object(value, depth + 1);
  } else if (json_is_array(value)) {
    print_list(key, value, depth);
  } else if (json_is_string(value)) {
    print_lines(key, json_string_value(value), depth);
  } else {
    char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_REAL_PRECISION(9));
    printf("%*s%-20s %s\n", depth * INDENT, "", key, text ? text : "");
    free(text);
  }
}

static void print_verdict(const json_t *out) {
  size_t datasets = json_array_size(json_object_get(out, "datasets"));
  size_t damaged = json_array_size(json_object_get(out, "damaged"));
  if (datasets > 0 && damaged == 0) printf("checksums            all %zu hold\n", datasets);
  if (damaged > 0) printf("DAMAGED              %zu faults\n", damaged);
}

static void print_text(const json_t *out) {
  print_object(out, 0);
  print_verdict(out);
  printf("\n");
}

/* ---- the command ---- */

static int inspect_one(const char *path, json_t *files) {
  json_t *out = json_object();
  inspect_set_text(out, "path", path);
  int status = is_folder(path) ? inspect_folder(path, out) : inspect_file(path, out);
  if (status == ERR_INPUT) {
    inspect_damaged(out, fail_message());
    status = OK;
  }
  json_array_append_new(files, out);
  return status;
}

/* The status of the command: the first fault of all files. */
static int verdict(const json_t *files) {
  for (size_t i = 0; i < json_array_size(files); i++) {
    const json_t *damaged = json_object_get(json_array_get(files, i), "damaged");
    size_t count = json_array_size(damaged);
    if (count == 0) continue;
    const char *first = json_string_value(json_array_get(damaged, 0));
    if (count == 1) return fail(ERR_INPUT, "%s", first);
    return fail(ERR_INPUT, "%s (and %zu more faults)", first, count - 1);
  }
  return OK;
}

static int print_json(const json_t *files) {
  const json_t *what = json_array_size(files) == 1 ? json_array_get(files, 0) : files;
  char *text = json_dumps(what, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
  if (!text) return fail(ERR_MEMORY, "not enough memory for the description");
  puts(text);
  free(text);
  return OK;
}

static int run(const struct options *options) {
  json_t *files = json_array();
  int status = OK;
  for (int i = 0; status == OK && i < options->argument_count; i++) status = inspect_one(options->arguments[i], files);
  if (status == OK && options->json) status = print_json(files);
  for (size_t i = 0; status == OK && !options->json && i < json_array_size(files); i++)
    print_text(json_array_get(files, i));
  if (status == OK && fflush(stdout) != 0) status = fail(ERR_SYSTEM, "standard output: %s", strerror(errno));
  if (status == OK) status = verdict(files);
  json_decref(files);
  return status;
}

int command_inspect(const struct options *options, struct comm *comm) {
  return comm_agree(comm, comm->rank == 0 ? run(options) : OK);
}
