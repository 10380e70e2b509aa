#include <limits.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/backbone_parts.h"

static const char *const format_names[] = {[WEIGHT_NF4] = "nf4", [WEIGHT_FP4] = "fp4", [WEIGHT_BF16] = "bf16"};
static const char *const scaling_names[] = {[ROPE_PLAIN] = "plain", [ROPE_LINEAR] = "linear", [ROPE_LLAMA3] = "llama3"};

const char *weight_format_name(enum weight_format format) {
  return format_names[format];
}

/* The fields of struct model_config that are plain numbers; architecture, rope_scaling and eos are written beside. */
enum kind { INTEGER, NUMBER, SINGLE, BOOLEAN };

static const struct field {
  const char *name;
  enum kind kind;
  size_t offset;
} fields[] = {
    {"layers", INTEGER, offsetof(struct model_config, layers)},
    {"hidden", INTEGER, offsetof(struct model_config, hidden)},
    {"heads", INTEGER, offsetof(struct model_config, heads)},
    {"kv_heads", INTEGER, offsetof(struct model_config, kv_heads)},
    {"head_dim", INTEGER, offsetof(struct model_config, head_dim)},
    {"feed_forward", INTEGER, offsetof(struct model_config, feed_forward)},
    {"vocabulary", INTEGER, offsetof(struct model_config, vocabulary)},
    {"max_positions", INTEGER, offsetof(struct model_config, max_positions)},
    {"norm_epsilon", SINGLE, offsetof(struct model_config, norm_epsilon)},
    {"rope_theta", NUMBER, offsetof(struct model_config, rope_theta)},
    {"rope_factor", NUMBER, offsetof(struct model_config, rope_factor)},
    {"rope_low_frequency", NUMBER, offsetof(struct model_config, rope_low_frequency)},
    {"rope_high_frequency", NUMBER, offsetof(struct model_config, rope_high_frequency)},
    {"rope_original_positions", INTEGER, offsetof(struct model_config, rope_original_positions)},
    {"tied_head", BOOLEAN, offsetof(struct model_config, tied_head)},
    {"attention_bias", BOOLEAN, offsetof(struct model_config, attention_bias)},
    {"bos", INTEGER, offsetof(struct model_config, bos)},
    {"pad", INTEGER, offsetof(struct model_config, pad)},
    {"eos_count", INTEGER, offsetof(struct model_config, eos_count)},
};
enum { FIELD_COUNT = sizeof fields / sizeof *fields };

static double get_field(const struct model_config *config, const struct field *field) {
  const char *at = (const char *)config + field->offset;
  switch (field->kind) {
    case INTEGER:
      return *(const int32_t *)at;
    case NUMBER:
      return *(const double *)at;
    case SINGLE:
      return *(const float *)at;
    case BOOLEAN:
      return *(const bool *)at;
  }
  return 0;
}

static int write_field(struct h5_file *file, const struct model_config *config, const struct field *field) {
  double value = get_field(config, field);
  if (field->kind == INTEGER || field->kind == BOOLEAN)
    return h5_set_integer(file, "/config", field->name, (int64_t)value);
  return h5_set_number(file, "/config", field->name, value);
}

static int read_integer(struct h5_file *file, const char *name, int32_t *out) {
  int64_t value;
  TRY(h5_get_integer(file, "/config", name, &value));
  if (value < INT32_MIN || value > INT32_MAX)
    return fail(ERR_INPUT, "%s: %s of /config is out of range", h5_path(file), name);
  *out = (int32_t)value;
  return OK;
}

static int read_field(struct h5_file *file, struct model_config *config, const struct field *field) {
  char *at = (char *)config + field->offset;
  int32_t integer = 0;
  double number = 0;
  if (field->kind == INTEGER || field->kind == BOOLEAN)
    TRY(read_integer(file, field->name, &integer));
  else
    TRY(h5_get_number(file, "/config", field->name, &number));
  switch (field->kind) {
    case INTEGER:
      *(int32_t *)at = integer;
      break;
    case NUMBER:
      *(double *)at = number;
      break;
    case SINGLE:
      *(float *)at = (float)number;
      break;
    case BOOLEAN:
      *(bool *)at = integer != 0;
      break;
  }
  return OK;
}

/* The place of a text attribute in a list of names. */
static int read_choice(struct h5_file *file, const char *object, const char *name, const char *const *names, int count,
                       int *out) {
  char *text;
  TRY(h5_get_text(file, object, name, &text));
  for (*out = 0; *out < count && strcmp(text, names[*out]) != 0;) ++*out;
  free(text);
  return *out < count ? OK : fail(ERR_INPUT, "%s: %s has a value this version does not know", h5_path(file), name);
}

static int write_eos(struct h5_file *file, const struct model_config *config) {
  for (int i = 0; i < config->eos_count; i++) {
    char name[16];
    snprintf(name, sizeof name, "eos_%d", i);
    TRY(h5_set_integer(file, "/config", name, config->eos[i]));
  }
  return OK;
}

static int read_eos(struct h5_file *file, struct model_config *config) {
  if (config->eos_count < 0 || config->eos_count > MODEL_MAX_EOS)
    return fail(ERR_INPUT, "%s: eos_count of /config is out of range", h5_path(file));
  for (int i = 0; i < config->eos_count; i++) {
    char name[16];
    snprintf(name, sizeof name, "eos_%d", i);
    TRY(read_integer(file, name, &config->eos[i]));
  }
  return OK;
}

int backbone_shape_write(struct h5_file *file, const struct backbone_shape *shape) {
  const struct model_config *config = &shape->config;
  TRY(h5_set_text(file, "/", "weight_format", format_names[shape->format]));
  TRY(h5_set_integer(file, "/", "double_quantized", shape->double_quantized));
  TRY(h5_set_text(file, "/config", "architecture", config->architecture));
  TRY(h5_set_text(file, "/config", "rope_scaling", scaling_names[config->rope_scaling]));
  for (int i = 0; i < FIELD_COUNT; i++) TRY(write_field(file, config, &fields[i]));
  return write_eos(file, config);
}

static int read_architecture(struct h5_file *file, struct model_config *config) {
  char *text;
  TRY(h5_get_text(file, "/config", "architecture", &text));
  snprintf(config->architecture, sizeof config->architecture, "%s", text);
  free(text);
  return OK;
}

int backbone_shape_read(struct h5_file *file, struct backbone_shape *out) {
  *out = (struct backbone_shape){0};
  struct model_config *config = &out->config;
  int format, scaling;
  int64_t double_quantized;
  TRY(read_choice(file, "/", "weight_format", format_names, 3, &format));
  TRY(h5_get_integer(file, "/", "double_quantized", &double_quantized));
  out->format = (enum weight_format)format;
  out->double_quantized = double_quantized != 0;
  if (out->format == WEIGHT_BF16 && out->double_quantized)
    return fail(ERR_INPUT, "%s: bf16 weights cannot be double-quantized", h5_path(file));
  TRY(read_architecture(file, config));
  TRY(read_choice(file, "/config", "rope_scaling", scaling_names, 3, &scaling));
  config->rope_scaling = (enum rope_scaling)scaling;
  for (int i = 0; i < FIELD_COUNT; i++) TRY(read_field(file, config, &fields[i]));
  TRY(read_eos(file, config));
  return fail_at(model_config_check(config), "%s", h5_path(file));
}

int backbone_shape_print(const struct backbone_shape *shape, struct buffer *out) {
  const struct model_config *config = &shape->config;
  TRY(buffer_print(out, "weight_format = %s\ndouble_quantized = %d\n", format_names[shape->format],
                   shape->double_quantized));
  TRY(buffer_print(out, "architecture = %s\nrope_scaling = %s\n", config->architecture,
                   scaling_names[config->rope_scaling]));
  for (int i = 0; i < FIELD_COUNT; i++)
    TRY(buffer_print(out, "%s = %.17g\n", fields[i].name, get_field(config, &fields[i])));
  for (int i = 0; i < config->eos_count; i++) TRY(buffer_print(out, "eos_%d = %d\n", i, config->eos[i]));
  return OK;
}
