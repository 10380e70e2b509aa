/**
 * @file tap_file.h
 * A store of taps on disk: a folder of sealed segment files, format "qst-taps" version 1 (HDF5), each with the taps of some
 * rows of a token file, in any order. What a segment holds never changes; its name follows from its format and rows, so that
 * two writers of the same rows write the same file. A stage of a pipeline writes segments of its own taps only: a row is in the
 * store when all of its taps are in some segments.
 *
 *   / attributes: format, version, backbone and data (digests), kind ("hidden", "maxpool", "avgpool", "pca"), directions (of
 *     pca: digest), layers, hidden, cols, window, first and taps (tap first … first + taps − 1 of layers + 1), compute ("bf16",
 *     "fp8"), numbers ("bf16", "f32", "int8"), act ("bf16", "f32"), writer
 *   /rows i64 [n]             row numbers in the token file
 *   /tokens i64 [n + 1]       row i has the tokens tokens[i] .. tokens[i + 1] of this segment
 *   /labels i64 [n + 1]       and the label rows labels[i] .. labels[i + 1]
 *   /hashes u8 [n, 32]        of the bytes of row i in /taps, /scales, /normed (base/hash.h), as text
 *   /taps [tokens, taps · cols]   u16 (bf16 bits), f32, or u8 (int8, two's complement)
 *   /scales f32 [tokens, taps · blocks]   int8 only: value = code · scale; blocks of TAP_BLOCK within a tap
 *   /normed [labels, hidden]  u16 or f32, never int8; where the last tap is
 */
#ifndef QST_IO_TAP_FILE_H
#define QST_IO_TAP_FILE_H

#include "base/memory.h"
#include "base/types.h"
#include "io/h5.h"

enum { TAP_VERSION = 1, TAP_BLOCK = 64 };

/** What a store holds, and of what. */
struct tap_format {
  char backbone[33], data[33]; /**< digests */
  char directions[33];         /**< digest of what pca projects on; "-" for the others */
  char kind[16];
  char compute[8]; /**< what the backbone multiplied: "bf16" (activations as they are) or "fp8" */
  int layers, hidden, cols, window;
  int first, taps; /**< of the file or the rank; the whole has 0 and layers + 1 */
  enum dtype act;
  bool int8;
};

static inline bool tap_format_is_whole(const struct tap_format *format) {
  return format->first == 0 && format->taps == format->layers + 1;
}
/** The same of all taps. */
struct tap_format tap_format_whole(const struct tap_format *format);

/** The bytes of rows of taps, plane by plane, row after row. */
enum tap_plane { TAP_PLANE_TAPS, TAP_PLANE_SCALES, TAP_PLANE_NORMED, TAP_PLANES };
struct tap_planes {
  char *at[TAP_PLANES];
};

/** Columns and bytes of a plane's line: a token of taps and scales, a label row of normed. 0: the format has none. */
uint64_t tap_plane_cols(const struct tap_format *format, enum tap_plane plane);
size_t tap_plane_bytes(const struct tap_format *format, enum tap_plane plane);
enum h5_type tap_plane_type(const struct tap_format *format, enum tap_plane plane);
const char *tap_plane_name(enum tap_plane plane);
static inline int64_t tap_plane_lines(enum tap_plane plane, int64_t tokens, int64_t labels) {
  return plane == TAP_PLANE_NORMED ? labels : tokens;
}

/** Bytes of the planes of that many tokens and label rows: what a store of them takes. */
int64_t tap_bytes(const struct tap_format *format, int64_t tokens, int64_t labels);

/** Buffers for that many tokens and label rows. Free with tap_planes_free(). */
int tap_planes_make(struct tap_planes *planes, const struct tap_format *format, int64_t tokens, int64_t labels);
void tap_planes_free(struct tap_planes *planes);
/** The lines from these on. */
struct tap_planes tap_planes_at(const struct tap_format *format, const struct tap_planes *planes, int64_t token,
                                int64_t label);
/** The hash of one row. */
int tap_planes_hash(const struct tap_format *format, const struct tap_planes *planes, int64_t tokens, int64_t labels,
                    struct hash_text *out);

/** Attributes of a segment or index. */
int tap_format_write(struct h5_file *file, const struct tap_format *format);
/** ERR_INPUT names the first difference between the file's and this format. */
int tap_format_check(struct h5_file *file, const struct tap_format *format);

/** All of it but `first` and `taps` as "name value" lines. */
int tap_format_print(const struct tap_format *format, struct buffer *out);
/** The format of a file. ERR_INPUT when it has none. */
int tap_format_read(struct h5_file *file, struct tap_format *out);

/** int8: `taps` are act, [tokens, taps · cols]; `planes` codes and scales of the same tokens. A tap's block of
 *  TAP_BLOCK numbers is scaled by its largest magnitude / 127, rounded to nearest; one with a number that is not finite comes
 *  back as NaNs. */
void tap_encode(const struct tap_format *format, const void *taps, int64_t tokens, const struct tap_planes *planes);
void tap_decode(const struct tap_format *format, const struct tap_planes *planes, int64_t tokens, void *taps);

#endif
