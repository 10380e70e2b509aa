/**
 * @file t16-backbone-file.c
 * The backbone file: what is written is read back in every weight format, the digest names the model and nothing else,
 * missing and misshapen parts, damage.
 */
// RUN ranks=1 args=""
#include <hdf5.h>

#include "damage.h"
#include "io/backbone_file.h"

enum { VOCABULARY = 12, HIDDEN = 8, LAYERS = 2, POSITIONS = 64 };

static struct model_config sample_config(bool tied, bool biased) {
  return (struct model_config){.architecture = "llama",
                               .layers = LAYERS,
                               .hidden = HIDDEN,
                               .heads = 2,
                               .kv_heads = 1,
                               .head_dim = 4,
                               .feed_forward = 24,
                               .vocabulary = VOCABULARY,
                               .max_positions = POSITIONS,
                               .norm_epsilon = 1e-5f,
                               .rope_theta = 1e5,
                               .rope_scaling = ROPE_LLAMA3,
                               .rope_factor = 8,
                               .rope_low_frequency = 1,
                               .rope_high_frequency = 4,
                               .rope_original_positions = 32,
                               .tied_head = tied,
                               .attention_bias = biased,
                               .bos = 1,
                               .pad = -1,
                               .eos = {2, 5},
                               .eos_count = 2};
}

static struct model_config sample_opt(bool tied) {
  return (struct model_config){.architecture = "opt",
                               .layers = LAYERS,
                               .hidden = HIDDEN,
                               .heads = 2,
                               .kv_heads = 2,
                               .head_dim = 4,
                               .feed_forward = 24,
                               .vocabulary = VOCABULARY,
                               .max_positions = POSITIONS,
                               .norm_epsilon = 1e-5f,
                               .tied_head = tied,
                               .attention_bias = true,
                               .bos = 2,
                               .pad = 1,
                               .eos = {2, 5},
                               .eos_count = 2};
}

/* Bytes that differ from part to part. */
static void fill(void *out, size_t size, unsigned seed) {
  unsigned char *bytes = out;
  for (size_t i = 0; i < size; i++) bytes[i] = (unsigned char)(seed * 31 + i * 7);
}

static struct matrix make_matrix(const struct model_config *config, enum backbone_matrix which,
                                 enum weight_format format, bool double_quantized) {
  struct matrix m = {.format = format, .double_quantized = double_quantized};
  backbone_matrix_shape(config, which, &m.rows, &m.cols);
  CHECK_OK(memory_array(&m.codes, matrix_code_bytes(&m), 1));
  CHECK_OK(memory_array(&m.scales, matrix_blocks(&m), 4));
  CHECK_OK(memory_array(&m.scale_codes, matrix_blocks(&m), 1));
  CHECK_OK(memory_array(&m.scale_scales, matrix_scale_blocks(&m), 4));
  return m;
}

static void fill_matrix(struct matrix *m, unsigned seed) {
  fill(m->codes, matrix_code_bytes(m), seed);
  fill(m->scales, 4 * matrix_blocks(m), seed + 1);
  fill(m->scale_codes, matrix_blocks(m), seed + 2);
  fill(m->scale_scales, 4 * matrix_scale_blocks(m), seed + 3);
  m->scale_mean = (float)seed / 3;
}

static void free_matrix(struct matrix *m) {
  free(m->codes);
  free(m->scales);
  free(m->scale_codes);
  free(m->scale_scales);
}

static int write_layer(struct backbone_writer *writer, const struct model_config *config, enum weight_format format,
                       bool double_quantized, int layer) {
  for (int which = 0; which < VECTOR_COUNT; which++) {
    float vector[64];
    fill(vector, sizeof vector, (unsigned)(layer * 100 + which));
    TRY(backbone_writer_vector(writer, layer, (enum backbone_vector)which, vector));
  }
  for (int which = 0; which < MATRIX_COUNT; which++) {
    struct matrix m = make_matrix(config, (enum backbone_matrix)which, format, double_quantized);
    fill_matrix(&m, (unsigned)(layer * 10 + which));
    int status = backbone_writer_matrix(writer, layer, (enum backbone_matrix)which, &m);
    free_matrix(&m);
    TRY(status);
  }
  return OK;
}

static int write_table(struct backbone_writer *writer, enum backbone_table table, int rows, int piece) {
  bf16 values[POSITIONS * HIDDEN];
  fill(values, sizeof values, 50u + table);
  for (int row = 0; row < rows; row += piece)
    TRY(backbone_writer_rows(writer, table, piece, values + (ptrdiff_t)row * HIDDEN));
  return OK;
}

static int write_all(struct backbone_writer *writer, const struct model_config *config, enum weight_format format,
                     bool double_quantized) {
  TRY(write_table(writer, TABLE_EMBEDDING, VOCABULARY, 4));
  TRY(write_table(writer, TABLE_POSITIONS, backbone_table_rows(config, TABLE_POSITIONS), 16));
  for (int layer = 0; layer < LAYERS; layer++) TRY(write_layer(writer, config, format, double_quantized, layer));
  for (int which = 0; which < FINAL_COUNT; which++) {
    float final[HIDDEN];
    fill(final, sizeof final, 60u + (unsigned)which);
    TRY(backbone_writer_final(writer, (enum backbone_final)which, final));
  }
  return write_table(writer, TABLE_HEAD, config->tied_head ? 0 : VOCABULARY, VOCABULARY);
}

static int write_sample(const char *path, const struct model_config *config, enum weight_format format,
                        bool double_quantized, const char *source) {
  struct backbone_writer *writer;
  TRY(backbone_writer_create(&writer, path, config, format, double_quantized, source));
  int status = write_all(writer, config, format, double_quantized);
  if (status == OK) return backbone_writer_publish(&writer);
  backbone_writer_close(&writer);
  return status;
}

static int read_layer(struct backbone_file *file, int layer) {
  const struct model_config *config = backbone_file_config(file);
  for (int which = 0; which < VECTOR_COUNT; which++) {
    float got[64] = {0}, want[64];
    fill(want, sizeof want, (unsigned)(layer * 100 + which));
    TRY(backbone_file_vector(file, layer, (enum backbone_vector)which, got));
    CHECK(memcmp(got, want, 4 * (size_t)backbone_vector_size(config, (enum backbone_vector)which)) == 0);
  }
  for (int which = 0; which < MATRIX_COUNT; which++) {
    enum weight_format format = backbone_file_format(file);
    bool twice = backbone_file_double_quantized(file);
    struct matrix got = make_matrix(config, (enum backbone_matrix)which, format, twice);
    struct matrix want = make_matrix(config, (enum backbone_matrix)which, format, twice);
    fill_matrix(&want, (unsigned)(layer * 10 + which));
    int status = backbone_file_matrix(file, layer, (enum backbone_matrix)which, &got);
    if (status == OK) {
      CHECK(memcmp(got.codes, want.codes, matrix_code_bytes(&got)) == 0);
      if (format != WEIGHT_BF16 && !twice) CHECK(memcmp(got.scales, want.scales, 4 * matrix_blocks(&got)) == 0);
      if (twice) CHECK(memcmp(got.scale_codes, want.scale_codes, matrix_blocks(&got)) == 0);
      if (twice) CHECK(memcmp(got.scale_scales, want.scale_scales, 4 * matrix_scale_blocks(&got)) == 0);
      if (twice && got.rows > 0) CHECK(got.scale_mean == want.scale_mean);
    }
    free_matrix(&got);
    free_matrix(&want);
    TRY(status);
  }
  return OK;
}

/* `written`: as which table it was written. A table that the model has not leaves the buffer alone. */
static int read_table(struct backbone_file *file, enum backbone_table table, enum backbone_table written) {
  bf16 got[POSITIONS * HIDDEN] = {0}, want[POSITIONS * HIDDEN] = {0};
  size_t rows = (size_t)backbone_table_rows(backbone_file_config(file), written);
  fill(want, rows * HIDDEN * sizeof *want, 50u + written);
  TRY(backbone_file_table(file, table, got));
  CHECK(memcmp(got, want, sizeof got) == 0);
  return OK;
}

static int read_final(struct backbone_file *file, enum backbone_final which) {
  float got[HIDDEN] = {0}, want[HIDDEN] = {0};
  fill(want, 4 * (size_t)backbone_final_size(backbone_file_config(file), which), 60u + which);
  TRY(backbone_file_final(file, which, got));
  CHECK(memcmp(got, want, sizeof got) == 0);
  return OK;
}

static int read_parts(struct backbone_file *file) {
  struct tokenizer *tokenizer;
  TRY(read_table(file, TABLE_EMBEDDING, TABLE_EMBEDDING));
  TRY(read_table(file, TABLE_POSITIONS, TABLE_POSITIONS));
  for (int layer = 0; layer < LAYERS; layer++) TRY(read_layer(file, layer));
  for (int which = 0; which < FINAL_COUNT; which++) TRY(read_final(file, (enum backbone_final)which));
  TRY(read_table(file, TABLE_HEAD, backbone_file_config(file)->tied_head ? TABLE_EMBEDDING : TABLE_HEAD));
  TRY(backbone_file_tokenizer(file, &tokenizer));
  CHECK(tokenizer == NULL);
  return OK;
}

static int read_sample(const char *path) {
  struct backbone_file *file;
  TRY(backbone_file_open(&file, path));
  int status = read_parts(file);
  backbone_file_close(&file);
  return status;
}

static void digest_of(const char *path, char out[33]) {
  struct backbone_file *file;
  CHECK_OK(backbone_file_open(&file, path));
  snprintf(out, 33, "%s", file ? backbone_file_digest(file) : "");
  backbone_file_close(&file);
}

static void test_round_trip(void) {
  static const struct {
    bool tied, biased, twice;
    enum weight_format format;
  } cases[] = {{true, false, true, WEIGHT_NF4}, {false, true, false, WEIGHT_FP4}, {false, false, false, WEIGHT_BF16}};
  char *path = scratch_path("backbone.h5"), *again = scratch_path("again.h5");
  for (size_t i = 0; i < 3; i++) {
    struct model_config config = sample_config(cases[i].tied, cases[i].biased);
    CHECK_OK(write_sample(path, &config, cases[i].format, cases[i].twice, "here"));
    CHECK_OK(read_sample(path));
    CHECK_OK(write_sample(again, &config, cases[i].format, cases[i].twice, "here"));
    CHECK(same_bytes(path, again));
    struct backbone_file *file;
    CHECK_OK(backbone_file_open(&file, path));
    const struct model_config *got = backbone_file_config(file);
    CHECK(strcmp(got->architecture, "llama") == 0 && got->feed_forward == 24 && got->norm_epsilon == 1e-5f);
    CHECK(got->rope_theta == 1e5 && got->rope_scaling == ROPE_LLAMA3 && got->rope_original_positions == 32);
    CHECK(got->tied_head == cases[i].tied && got->attention_bias == cases[i].biased && got->pad == -1);
    CHECK(got->eos_count == 2 && got->eos[1] == 5);
    backbone_file_close(&file);
  }
  free(path);
  free(again);
}

static bool file_has(const char *path, const char *part) {
  struct h5_file *h5 = NULL;
  CHECK_OK(h5_open(&h5, path, "qst-backbone", 1));
  bool has = h5 && h5_has(h5, part);
  h5_close(&h5);
  return has;
}

/* Of parts that a model has not, a file has no empty ones. */
static void test_absent_parts(void) {
  char *path = scratch_path("backbone.h5");
  struct model_config llama = sample_config(true, false), opt = sample_opt(true);
  CHECK_OK(write_sample(path, &llama, WEIGHT_NF4, true, ""));
  CHECK(file_has(path, "/layers/000/gate_proj/codes") && !file_has(path, "/layers/000/q_bias"));
  CHECK(!file_has(path, "/layers/000/input_norm_bias") && !file_has(path, "/layers/000/up_bias"));
  CHECK(file_has(path, "/final_norm") && !file_has(path, "/final_norm_bias") && !file_has(path, "/positions"));
  CHECK_OK(write_sample(path, &opt, WEIGHT_NF4, true, ""));
  CHECK(file_has(path, "/layers/000/up_proj/codes") && !file_has(path, "/layers/000/gate_proj/codes"));
  CHECK(file_has(path, "/positions") && file_has(path, "/final_norm_bias") && !file_has(path, "/head"));
  free(path);
}

static void test_opt(void) {
  static const enum weight_format formats[] = {WEIGHT_NF4, WEIGHT_FP4, WEIGHT_BF16};
  char *path = scratch_path("backbone.h5");
  for (size_t i = 0; i < 3; i++) {
    struct model_config config = sample_opt(i > 0);
    struct backbone_file *file = NULL;
    CHECK_OK(write_sample(path, &config, formats[i], i == 0, "here"));
    CHECK_OK(read_sample(path));
    CHECK_OK(backbone_file_open(&file, path));
    const struct model_config *got = file ? backbone_file_config(file) : &config;
    CHECK(strcmp(got->architecture, "opt") == 0 && got->rope_theta == 0 && got->rope_scaling == ROPE_PLAIN);
    CHECK(got->tied_head == (i > 0) && got->max_positions == POSITIONS && got->pad == 1);
    backbone_file_close(&file);
  }
  free(path);
}

static void test_digest(void) {
  char *path = scratch_path("backbone.h5");
  char first[33], same[33], other[33];
  struct model_config config = sample_config(true, false);
  CHECK_OK(write_sample(path, &config, WEIGHT_NF4, true, "here"));
  digest_of(path, first);
  CHECK_OK(write_sample(path, &config, WEIGHT_NF4, true, "there"));
  digest_of(path, same);
  config.rope_theta = 1e4;
  CHECK_OK(write_sample(path, &config, WEIGHT_NF4, true, "here"));
  digest_of(path, other);
  CHECK(strcmp(first, same) == 0 && strcmp(first, other) != 0);
  free(path);
}

static void test_wrong_uses(void) {
  char *path = scratch_path("incomplete.h5");
  struct model_config config = sample_config(true, false);
  struct backbone_writer *writer;
  float norm[HIDDEN] = {0};
  CHECK_OK(backbone_writer_create(&writer, path, &config, WEIGHT_NF4, true, ""));
  CHECK_OK(backbone_writer_final(writer, FINAL_NORM, norm));
  CHECK_FAILS(ERR_INTERNAL, "/embedding was not given", backbone_writer_publish(&writer));
  CHECK(writer == NULL && access(path, F_OK) != 0 && scratch_count("incomplete") == 0);
  struct model_config opt = sample_opt(true);
  CHECK_OK(backbone_writer_create(&writer, path, &opt, WEIGHT_NF4, true, ""));
  CHECK_OK(write_table(writer, TABLE_EMBEDDING, VOCABULARY, VOCABULARY));
  CHECK_FAILS(ERR_INTERNAL, "/positions was not given", backbone_writer_publish(&writer));
  CHECK_FAILS(ERR_SYSTEM, "No such file", write_sample("/nowhere/b.h5", &config, WEIGHT_NF4, true, ""));
  CHECK_OK(write_sample(path, &config, WEIGHT_NF4, true, ""));
  CHECK_FAILS(ERR_INPUT, "is a qst-backbone file", h5_open(&(struct h5_file *){NULL}, path, "qst-tokens", 1));
  free(path);
}

/* Files that HDF5 finds no fault with: an attribute of /config changed, a dataset gone. */
static void set_config(const char *path, const char *name, int64_t value) {
  hid_t file = H5Fopen(path, H5F_ACC_RDWR, H5P_DEFAULT);
  hid_t space = H5Screate(H5S_SCALAR), config = H5Gopen2(file, "/config", H5P_DEFAULT);
  H5Adelete(config, name);
  hid_t attribute = H5Acreate2(config, name, H5T_STD_I64LE, space, H5P_DEFAULT, H5P_DEFAULT);
  CHECK(H5Awrite(attribute, H5T_NATIVE_INT64, &value) >= 0);
  H5Aclose(attribute);
  H5Gclose(config);
  H5Sclose(space);
  H5Fclose(file);
}

static void set_architecture(const char *path, const char *text) {
  hid_t file = H5Fopen(path, H5F_ACC_RDWR, H5P_DEFAULT), type = H5Tcopy(H5T_C_S1);
  hid_t space = H5Screate(H5S_SCALAR), config = H5Gopen2(file, "/config", H5P_DEFAULT);
  H5Tset_size(type, strlen(text));
  H5Tset_strpad(type, H5T_STR_NULLPAD);
  H5Adelete(config, "architecture");
  hid_t attribute = H5Acreate2(config, "architecture", type, space, H5P_DEFAULT, H5P_DEFAULT);
  CHECK(H5Awrite(attribute, type, text) >= 0);
  H5Aclose(attribute);
  H5Gclose(config);
  H5Sclose(space);
  H5Tclose(type);
  H5Fclose(file);
}

static void remove_part(const char *path, const char *name) {
  hid_t file = H5Fopen(path, H5F_ACC_RDWR, H5P_DEFAULT);
  CHECK(H5Ldelete(file, name, H5P_DEFAULT) >= 0);
  H5Fclose(file);
}

static void test_architectures(void) {
  static const char *const parts[] = {"/positions", "/final_norm_bias", "/layers/001/down_bias",
                                      "/layers/000/input_norm_bias"};
  char *path = scratch_path("backbone.h5"), message[64];
  struct model_config opt = sample_opt(true), llama = sample_config(true, false);
  struct backbone_file *file;
  CHECK_OK(write_sample(path, &llama, WEIGHT_NF4, true, ""));
  set_architecture(path, "opt");
  CHECK_FAILS(ERR_INPUT, "backbone.h5: attention_bias is false", backbone_file_open(&file, path));
  set_architecture(path, "a later architecture");
  CHECK_FAILS(ERR_INPUT, "backbone.h5: the architecture \"a later archite\" is not supported; known are",
              backbone_file_open(&file, path));
  CHECK_OK(write_sample(path, &opt, WEIGHT_NF4, true, ""));
  set_architecture(path, "llama");
  CHECK_FAILS(ERR_INPUT, "RoPE base is 0", backbone_file_open(&file, path));
  for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
    CHECK_OK(write_sample(path, &opt, WEIGHT_NF4, true, ""));
    remove_part(path, parts[i]);
    snprintf(message, sizeof message, "has no %s", parts[i]);
    CHECK_FAILS(ERR_INPUT, message, backbone_file_open(&file, path));
  }
  CHECK_OK(write_sample(path, &opt, WEIGHT_NF4, true, ""));
  set_config(path, "max_positions", POSITIONS + 1);
  CHECK_FAILS(ERR_INPUT, "/positions is u16 [64, 8], its configuration says u16 [65, 8]",
              backbone_file_open(&file, path));
  free(path);
}

static void test_contradictions(void) {
  static const struct {
    const char *name, *message;
    int64_t value, right;
  } cases[] = {{"feed_forward", "gate_proj/codes is u8 [96, 0], its configuration says u8 [128, 0]", 32, 24},
               {"layers", "has no /layers/002", 3, LAYERS},
               {"layers", "the number of layers is -1", -1, LAYERS},
               {"layers", "out of range", INT64_MAX, LAYERS},
               {"vocabulary", "/embedding is u16", 13, VOCABULARY},
               {"tied_head", "has no /head", 0, 1},
               {"eos_count", "eos_count", 9, 2}};
  char *path = scratch_path("backbone.h5");
  struct model_config config = sample_config(true, false);
  struct backbone_file *file;
  CHECK_OK(write_sample(path, &config, WEIGHT_NF4, true, ""));
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    set_config(path, cases[i].name, cases[i].value);
    CHECK_FAILS(ERR_INPUT, cases[i].message, backbone_file_open(&file, path));
    CHECK(file == NULL);
    set_config(path, cases[i].name, cases[i].right);
  }
  CHECK_OK(read_sample(path));
  remove_part(path, "/layers/001/v_proj/scale_codes");
  CHECK_FAILS(ERR_INPUT, "has no /layers/001/v_proj/scale_codes", backbone_file_open(&file, path));
  free(path);
}

static void test_damage(void) {
  char *path = scratch_path("backbone.h5");
  struct model_config config = sample_config(true, false);
  CHECK_OK(write_sample(path, &config, WEIGHT_NF4, true, "here"));
  damage_bits(path, 211, read_sample);
  damage_length(path, read_sample);
  free(path);
}

int main(void) {
  scratch_make();
  test_round_trip();
  test_opt();
  test_absent_parts();
  test_digest();
  test_wrong_uses();
  test_contradictions();
  test_architectures();
  test_damage();
  scratch_remove();
  return check_result();
}
