#include "io/tap_cache.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "io/tap_writer.h"

enum { BLOCK = 4 << 20 };

struct tap_cache {
  char *folder, *store, *temporary;
  bool copies;
  pthread_t thread;
  bool running;
  atomic_bool stop, done;
  char **names; /* what the thread is to copy */
  int count;
  char message[ERROR_LINE]; /* why it stopped; "" when it did not */
};

/* A name for what the store's files have in common. */
static int folder_name(const char *parent, const struct tap_format *format, char **out) {
  struct buffer text = {0};
  char name[48];
  int status = tap_format_print(format, &text);
  if (status == OK) {
    struct hash_text hash = hash_bytes(text.data, text.size);
    snprintf(name, sizeof name, "taps-%.16s", hash.hex);
    status = file_join(parent, name, out);
  }
  buffer_free(&text);
  return status;
}

int tap_cache_open(struct tap_cache **out, const char *folder, const char *store, const struct tap_format *format,
                   bool copies) {
  char *part;
  TRY(memory_array(out, 1, sizeof **out));
  struct tap_cache *cache = *out;
  cache->copies = copies;
  cache->store = strdup(store);
  if (!cache->store) return fail(ERR_MEMORY, "not enough memory for a path");
  TRY(folder_name(folder, format, &cache->folder));
  if (!copies) return OK;
  TRY(file_make_folder(cache->folder));
  TRY(tap_writer_clear(cache->folder)); /* what a killed run was copying */
  TRY(file_join(cache->folder, "segment", &part));
  int status = file_temporary(part, &cache->temporary);
  free(part);
  return status;
}

static void forget_names(struct tap_cache *cache) {
  for (int i = 0; i < cache->count; i++) free(cache->names[i]);
  free(cache->names);
  cache->names = NULL;
  cache->count = 0;
}

static void wait_for_copies(struct tap_cache *cache) {
  if (cache->running) pthread_join(cache->thread, NULL);
  cache->running = false;
  forget_names(cache);
}

/* Only the first failure is worth a line. */
static void give_up(struct tap_cache *cache) {
  if (!cache->message[0]) return;
  log_warning("%s; the tap cache is not filled further", cache->message);
  cache->copies = false;
  cache->message[0] = 0;
}

void tap_cache_close(struct tap_cache **cache) {
  struct tap_cache *c = *cache;
  if (!c) return;
  atomic_store(&c->stop, true);
  wait_for_copies(c);
  give_up(c);
  free(c->folder);
  free(c->store);
  free(c->temporary);
  free(c);
  *cache = NULL;
}

int tap_cache_path(const struct tap_cache *cache, const char *name, char **path) {
  return file_join(cache->folder, name, path);
}

void tap_cache_drop(const struct tap_cache *cache, const char *name) {
  char *path;
  if (tap_cache_path(cache, name, &path) == OK) unlink(path);
  free(path);
}

/* ---- copying ---------------------------------------------------------------------------------------------- */

static int write_block(int to, const char *block, size_t size, const char *path) {
  for (size_t done = 0; done < size;) {
    ssize_t moved = write(to, block + done, size - done);
    if (moved < 0 && errno == EINTR) continue;
    if (moved < 0) return fail(ERR_SYSTEM, "%s: %s", path, strerror(errno));
    done += (size_t)moved;
  }
  return OK;
}

static int copy_blocks(struct tap_cache *cache, int from, const char *from_path, int to) {
  char *block;
  TRY(memory_array(&block, BLOCK, 1));
  int status = OK;
  for (;;) {
    ssize_t got = read(from, block, BLOCK);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) status = fail(ERR_SYSTEM, "%s: %s", from_path, strerror(errno));
    if (atomic_load(&cache->stop)) status = STOPPED;
    if (got <= 0 || status != OK) break;
    status = write_block(to, block, (size_t)got, cache->temporary);
    if (status != OK) break;
  }
  free(block);
  return status;
}

static int copy_file(struct tap_cache *cache, const char *from_path, const char *to_path) {
  int from = open(from_path, O_RDONLY | O_CLOEXEC);
  if (from < 0) return fail(ERR_SYSTEM, "%s: %s", from_path, strerror(errno));
  int to = open(cache->temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  int status = to < 0 ? fail(ERR_SYSTEM, "%s: %s", cache->temporary, strerror(errno)) : OK;
  if (status == OK) status = copy_blocks(cache, from, from_path, to);
  if (to >= 0 && close(to) != 0 && status == OK) status = fail(ERR_SYSTEM, "%s: %s", cache->temporary, strerror(errno));
  close(from);
  if (status == OK) return file_publish(cache->temporary, to_path);
  unlink(cache->temporary);
  return status;
}

static int copy_segment(struct tap_cache *cache, const char *name) {
  char *from = NULL, *to = NULL;
  int status = file_join(cache->store, name, &from);
  if (status == OK) status = file_join(cache->folder, name, &to);
  if (status == OK && access(to, F_OK) != 0) status = copy_file(cache, from, to);
  free(from);
  free(to);
  return status;
}

static void *copy_all(void *context) {
  struct tap_cache *cache = context;
  int status = OK;
  for (int i = 0; i < cache->count && status == OK; i++) status = copy_segment(cache, cache->names[i]);
  if (status != OK && status != STOPPED) snprintf(cache->message, sizeof cache->message, "%s", fail_message());
  atomic_store(&cache->done, true);
  return NULL;
}

static int take_names(struct tap_cache *cache, const char *const *names, int count) {
  TRY(memory_array(&cache->names, (size_t)count + 1, sizeof *cache->names));
  for (; cache->count < count; cache->count++) {
    cache->names[cache->count] = strdup(names[cache->count]);
    if (!cache->names[cache->count]) return fail(ERR_MEMORY, "not enough memory for names of segments");
  }
  return OK;
}

/* Nobody waits for copies: while some are being made, others are not begun. */
int tap_cache_want(struct tap_cache *cache, const char *const *names, int count) {
  if (!cache->copies || (cache->running && !atomic_load(&cache->done))) return OK;
  wait_for_copies(cache);
  give_up(cache);
  if (!cache->copies) return OK;
  TRY(take_names(cache, names, count));
  atomic_store(&cache->done, false);
  cache->running = pthread_create(&cache->thread, NULL, copy_all, cache) == 0;
  if (!cache->running) copy_all(cache);
  return OK;
}
