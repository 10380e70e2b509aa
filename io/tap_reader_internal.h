/**
 * @file tap_reader_internal.h
 * What tap_reader.c, tap_segment.c, tap_index.c and tap_prune.c share.
 */
#ifndef QST_IO_TAP_READER_INTERNAL_H
#define QST_IO_TAP_READER_INTERNAL_H

#include <dirent.h>
#include <sys/types.h>
#include <time.h>

#include "io/tap_cache.h"
#include "io/tap_reader.h"

struct tap_segment {
  struct tap_format format; /**< with the taps of its own */
  char *name;               /**< within the folder */
  int descriptor;           /**< -1: not open */
  bool cached;              /**< the descriptor is of the copy in the cache */
  bool shunned;             /**< its copy did not hold */
  bool foreign;             /**< of something else: nothing is read of it */
  int64_t count;            /**< rows; 0: damaged, nothing is read of it */
  int64_t *rows;            /**< [count] */
  int64_t *tokens;          /**< [count + 1] */
  int64_t *labels;          /**< [count + 1] */
  char *hashes;             /**< [count][32] */
  uint64_t offsets[TAP_PLANES];
  int64_t bytes;
  ino_t file; /**< what was looked at */
  struct timespec changed;
};

/** Where some taps of a row lie. */
struct tap_place {
  int32_t segment, index;
  int32_t next; /**< place of more of its taps, from 1; 0: no more */
};

struct tap_reader {
  char *folder;
  struct tap_cache *cache; /**< NULL: none */
  struct tap_format format;
  const struct token_file *data;
  struct tap_segment *segments;
  int segment_count, segment_capacity;
  int open_count, victim;   /**< descriptors in use; where to look for the next one to close */
  struct tap_place *places; /**< [place_count] */
  int32_t place_count, place_capacity;
  int32_t *heads;            /**< [data->rows] first place of a row, from 1; 0: nowhere */
  bool *whole;               /**< [data->rows] all taps of the row are somewhere */
  int64_t row_count;         /**< whole ones */
  struct tap_planes scratch; /**< a row as its segment has it, where that has other taps than are asked for */
  int64_t scratch_tokens;
  int64_t cached_bytes;     /**< read from the cache */
  int cache_faults;         /**< copies there that did not hold, since the last scan */
  char foreign[ERROR_LINE]; /**< what a segment of something else holds, until it was said; "": none */
  bool foreign_said;
};

/** Takes in what the file says of its rows, which must be those of the reader's data; reads no taps. ERR_INPUT, with `foreign` set
 *  where the file is whole, but not one of this store. */
int tap_segment_read(struct tap_segment *segment, const struct tap_reader *reader, const char *path);
/** Its lists. */
void tap_segment_free(struct tap_segment *segment);
/** Whether a file of the folder is a segment, by its name. */
int tap_is_segment(const struct dirent *entry);
/** Row `index` of a segment as it lies there, checked against its hash. */
int tap_read_place(struct tap_reader *reader, int segment, int64_t index, const struct tap_planes *out);

#endif
