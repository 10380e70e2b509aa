#include "io/tap_file.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

struct tap_format tap_format_whole(const struct tap_format *format) {
  struct tap_format whole = *format;
  whole.first = 0;
  whole.taps = format->layers + 1;
  return whole;
}

/* ---- planes --------------------------------------------------------------------------------------------- */

static const char *const plane_names[] = {
    [TAP_PLANE_TAPS] = "/taps", [TAP_PLANE_SCALES] = "/scales", [TAP_PLANE_NORMED] = "/normed"};

const char *tap_plane_name(enum tap_plane plane) {
  return plane_names[plane];
}

uint64_t tap_plane_cols(const struct tap_format *format, enum tap_plane plane) {
  uint64_t taps = (uint64_t)format->taps, cols = (uint64_t)format->cols;
  bool last = format->first + format->taps == format->layers + 1;
  if (plane == TAP_PLANE_NORMED) return last ? (uint64_t)format->hidden : 0;
  if (plane == TAP_PLANE_TAPS) return taps * cols;
  return format->int8 ? taps * ((cols + TAP_BLOCK - 1) / TAP_BLOCK) : 0;
}

enum h5_type tap_plane_type(const struct tap_format *format, enum tap_plane plane) {
  if (plane == TAP_PLANE_SCALES) return H5_F32;
  if (plane == TAP_PLANE_TAPS && format->int8) return H5_U8;
  return format->act == DTYPE_BF16 ? H5_U16 : H5_F32;
}

size_t tap_plane_bytes(const struct tap_format *format, enum tap_plane plane) {
  return tap_plane_cols(format, plane) * h5_type_size(tap_plane_type(format, plane));
}

int64_t tap_bytes(const struct tap_format *format, int64_t tokens, int64_t labels) {
  int64_t bytes = 0;
  for (int p = 0; p < TAP_PLANES; p++)
    bytes += tap_plane_lines((enum tap_plane)p, tokens, labels) * (int64_t)tap_plane_bytes(format, (enum tap_plane)p);
  return bytes;
}

int tap_planes_make(struct tap_planes *planes, const struct tap_format *format, int64_t tokens, int64_t labels) {
  *planes = (struct tap_planes){0};
  for (int p = 0; p < TAP_PLANES; p++)
    TRY(memory_array(&planes->at[p], (size_t)tap_plane_lines((enum tap_plane)p, tokens, labels) + 1,
                     tap_plane_bytes(format, (enum tap_plane)p)));
  return OK;
}

void tap_planes_free(struct tap_planes *planes) {
  for (int p = 0; p < TAP_PLANES; p++) free(planes->at[p]);
  *planes = (struct tap_planes){0};
}

struct tap_planes tap_planes_at(const struct tap_format *format, const struct tap_planes *planes, int64_t token,
                                int64_t label) {
  struct tap_planes out;
  for (int p = 0; p < TAP_PLANES; p++)
    out.at[p] = planes->at[p] +
                (size_t)tap_plane_lines((enum tap_plane)p, token, label) * tap_plane_bytes(format, (enum tap_plane)p);
  return out;
}

int tap_planes_hash(const struct tap_format *format, const struct tap_planes *planes, int64_t tokens, int64_t labels,
                    struct hash_text *out) {
  struct hash_state *hash;
  TRY(hash_begin(&hash));
  for (int p = 0; p < TAP_PLANES; p++)
    hash_more(hash, planes->at[p],
              (size_t)tap_plane_lines((enum tap_plane)p, tokens, labels) * tap_plane_bytes(format, (enum tap_plane)p));
  *out = hash_digest(hash);
  hash_end(&hash);
  return OK;
}

/* ---- identity ------------------------------------------------------------------------------------------- */

/* One fact of a format as text, and what to say where a store has another. */
struct fact {
  const char *name, *meaning;
  char text[40];
};

enum { FACTS = 11 };

static void list_facts(const struct tap_format *format, struct fact facts[FACTS]) {
  const char *act = format->act == DTYPE_BF16 ? "bf16" : "f32";
  bool pca = strcmp(format->kind, "pca") == 0;
  const struct fact list[FACTS] = {
      {.name = "backbone", .meaning = "of another backbone"},
      {.name = "data", .meaning = "of other data"},
      {.name = "kind", .meaning = "for another --downsample"},
      {.name = "layers", .meaning = "of another number of layers"},
      {.name = "hidden", .meaning = "of another hidden size"},
      {.name = "cols", .meaning = pca ? "for another --rank" : "for another --reduction-factor"},
      {.name = "window", .meaning = "for another --reduction-factor"},
      {.name = "act", .meaning = "of another --act"},
      {.name = "numbers", .meaning = "in another --tap-format"},
      {.name = "directions", .meaning = "for other --directions"},
      {.name = "compute", .meaning = "of another --backbone-compute"}};
  memcpy(facts, list, sizeof list);
  snprintf(facts[0].text, sizeof facts->text, "%s", format->backbone);
  snprintf(facts[1].text, sizeof facts->text, "%s", format->data);
  snprintf(facts[2].text, sizeof facts->text, "%s", format->kind);
  const int sizes[] = {format->layers, format->hidden, format->cols, format->window};
  for (int i = 0; i < 4; i++) snprintf(facts[3 + i].text, sizeof facts->text, "%d", sizes[i]);
  snprintf(facts[7].text, sizeof facts->text, "%s", act);
  snprintf(facts[10].text, sizeof facts->text, "%s", format->compute);
  snprintf(facts[9].text, sizeof facts->text, "%s", format->directions);
  snprintf(facts[8].text, sizeof facts->text, "%s", format->int8 ? "int8" : act);
}

int tap_format_write(struct h5_file *file, const struct tap_format *format) {
  struct fact facts[FACTS];
  list_facts(format, facts);
  for (int i = 0; i < FACTS; i++) TRY(h5_set_text(file, "/", facts[i].name, facts[i].text));
  TRY(h5_set_integer(file, "/", "first", format->first));
  TRY(h5_set_integer(file, "/", "taps", format->taps));
  return h5_set_text(file, "/", "writer", h5_libraries());
}

int tap_format_print(const struct tap_format *format, struct buffer *out) {
  struct fact facts[FACTS];
  list_facts(format, facts);
  for (int i = 0; i < FACTS; i++) TRY(buffer_print(out, "%s %s\n", facts[i].name, facts[i].text));
  return OK;
}

/* An attribute into a text that must have room for it. */
static int read_text(struct h5_file *file, const char *name, char *out, size_t size) {
  char *text;
  TRY(h5_get_text(file, "/", name, &text));
  int length = snprintf(out, size, "%s", text);
  free(text);
  return length >= 0 && (size_t)length < size ? OK : fail(ERR_INPUT, "%s: %s is too long", h5_path(file), name);
}

static int read_size(struct h5_file *file, const char *name, int *out) {
  char text[16], *end;
  TRY(read_text(file, name, text, sizeof text));
  long value = strtol(text, &end, 10);
  if (*end || end == text || value < 1 || value > 1 << 24)
    return fail(ERR_INPUT, "%s: %s is no size", h5_path(file), name);
  *out = (int)value;
  return OK;
}

static int read_range(struct h5_file *file, struct tap_format *out) {
  int64_t first, taps;
  TRY(h5_get_integer(file, "/", "first", &first));
  TRY(h5_get_integer(file, "/", "taps", &taps));
  if (first < 0 || taps < 1 || first > out->layers || taps > out->layers + 1 - first)
    return fail(ERR_INPUT, "%s: taps %lld to %lld of %d", h5_path(file), (long long)first, (long long)(first + taps),
                out->layers + 1);
  out->first = (int)first;
  out->taps = (int)taps;
  return OK;
}

int tap_format_read(struct h5_file *file, struct tap_format *out) {
  char act[16], numbers[16];
  *out = (struct tap_format){0};
  TRY(read_text(file, "backbone", out->backbone, sizeof out->backbone));
  TRY(read_text(file, "data", out->data, sizeof out->data));
  TRY(read_text(file, "kind", out->kind, sizeof out->kind));
  TRY(read_text(file, "directions", out->directions, sizeof out->directions));
  TRY(read_text(file, "compute", out->compute, sizeof out->compute));
  TRY(read_size(file, "layers", &out->layers));
  TRY(read_size(file, "hidden", &out->hidden));
  TRY(read_size(file, "cols", &out->cols));
  TRY(read_size(file, "window", &out->window));
  TRY(read_text(file, "act", act, sizeof act));
  TRY(read_text(file, "numbers", numbers, sizeof numbers));
  out->act = strcmp(act, "bf16") == 0 ? DTYPE_BF16 : DTYPE_F32;
  out->int8 = strcmp(numbers, "int8") == 0;
  return read_range(file, out);
}

int tap_format_check(struct h5_file *file, const struct tap_format *format) {
  struct fact facts[FACTS];
  list_facts(format, facts);
  for (int i = 0; i < FACTS; i++) {
    char *found;
    TRY(h5_get_text(file, "/", facts[i].name, &found));
    int status = OK;
    if (strcmp(found, facts[i].text) != 0)
      status = fail(ERR_INPUT, "%s: holds taps %s (%s %.32s, needed is %s): give another --taps folder", h5_path(file),
                    facts[i].meaning, facts[i].name, found, facts[i].text);
    free(found);
    TRY(status);
  }
  return OK;
}

/* ---- int8 ----------------------------------------------------------------------------------------------- */

/* A block with a number that is not finite has the scale NaN, and so comes back as NaNs: training stops at them. */
static void encode_block(const float *x, int count, int8_t *codes, float *scale) {
  float largest = 0;
  bool finite = true;
  for (int i = 0; i < count; i++) {
    float magnitude = x[i] < 0 ? -x[i] : x[i];
    finite &= magnitude <= FLT_MAX;
    largest = magnitude > largest ? magnitude : largest;
  }
  *scale = finite ? largest / 127 : NAN;
  bool normal = *scale >= FLT_MIN;
  float inverse = normal ? 127 / largest : 0;
  for (int i = 0; i < count; i++) {
    float scaled = normal ? x[i] * inverse : 0;
    codes[i] = (int8_t)(scaled < 0 ? scaled - 0.5f : scaled + 0.5f);
  }
}

static void load_block(enum dtype act, const void *x, size_t at, int count, float *out) {
  if (act == DTYPE_F32)
    memcpy(out, (const float *)x + at, (size_t)count * sizeof *out);
  else
    for (int i = 0; i < count; i++) out[i] = bf16_to_float(((const bf16 *)x)[at + (size_t)i]);
}

static void store_block(enum dtype act, const int8_t *codes, float scale, int count, void *x, size_t at) {
  if (act == DTYPE_F32)
    for (int i = 0; i < count; i++) ((float *)x)[at + (size_t)i] = (float)codes[i] * scale;
  else
    for (int i = 0; i < count; i++) ((bf16 *)x)[at + (size_t)i] = float_to_bf16((float)codes[i] * scale);
}

static int block_size(const struct tap_format *format, int first) {
  return format->cols - first < TAP_BLOCK ? format->cols - first : TAP_BLOCK;
}

void tap_encode(const struct tap_format *format, const void *taps, int64_t tokens, const struct tap_planes *planes) {
  float *scale = (float *)(void *)planes->at[TAP_PLANE_SCALES];
  size_t at = 0;
  for (int64_t tap = 0; tap < tokens * format->taps; tap++)
    for (int first = 0; first < format->cols; first += TAP_BLOCK) {
      float block[TAP_BLOCK];
      int count = block_size(format, first);
      load_block(format->act, taps, at, count, block);
      encode_block(block, count, (int8_t *)planes->at[TAP_PLANE_TAPS] + at, scale++);
      at += (size_t)count;
    }
}

void tap_decode(const struct tap_format *format, const struct tap_planes *planes, int64_t tokens, void *taps) {
  const float *scale = (const float *)(const void *)planes->at[TAP_PLANE_SCALES];
  size_t at = 0;
  for (int64_t tap = 0; tap < tokens * format->taps; tap++)
    for (int first = 0; first < format->cols; first += TAP_BLOCK) {
      int count = block_size(format, first);
      store_block(format->act, (const int8_t *)planes->at[TAP_PLANE_TAPS] + at, *scale++, count, taps, at);
      at += (size_t)count;
    }
}
