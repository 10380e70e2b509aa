/* Models as Hugging Face and llama.cpp write them (tests/fixtures/make_formats.py): every tensor's values bit for bit, whole
 * and in pieces of rows, and the configuration; then what must be refused. */
#include <sys/stat.h>

#include "base/file.h"
#include "io/model_source.h"
#include "scratch.h"
#include "tensor_list.h"

static void check_pieces(struct model_source *source, const struct listed_tensor *want, const float *whole) {
  float *piece;
  CHECK_OK(memory_array(&piece, (size_t)(want->rows * want->cols), sizeof *piece));
  for (int64_t first = 0, count; first < want->rows; first += count) {
    count = want->rows - first < 5 ? want->rows - first : 5;
    CHECK_OK(model_source_read(source, want->name, first, count, piece));
    CHECK(memcmp(piece, whole + first * want->cols, (size_t)(count * want->cols) * sizeof *piece) == 0);
  }
  free(piece);
}

static void check_tensor(void *context, const struct listed_tensor *want) {
  struct model_source *source = context;
  struct tensor_shape shape;
  float *values;
  CHECK(model_source_has(source, want->name));
  CHECK_OK(model_source_shape(source, want->name, &shape));
  CHECK(shape.rows == want->rows && shape.cols == want->cols);
  CHECK_OK(memory_array(&values, (size_t)(want->rows * want->cols), sizeof *values));
  CHECK_OK(model_source_read(source, want->name, 0, want->rows, values));
  tensor_list_check(want, values);
  check_pieces(source, want, values);
  free(values);
}

static struct model_config check_model(const char *name, const char *file, int tensors) {
  char path[128];
  struct model_source *source;
  struct model_config config = {0};
  struct buffer description = {0};
  struct tensor_shape shape;
  snprintf(path, sizeof path, "tests/fixtures/formats/%s", file);
  CHECK_OK(model_source_open(&source, path));
  if (!source) return config;
  CHECK(tensor_list_each(name, check_tensor, source) == tensors);
  CHECK(!model_source_has(source, "model.layers.2.mlp.up_proj.weight"));
  CHECK_FAILS(ERR_INPUT, "no tensor", model_source_shape(source, "model.layers.02.mlp.up_proj.weight", &shape));
  CHECK_OK(model_source_describe(source, &description));
  CHECK(description.size > 40 && strchr(description.data, '\n'));
  config = *model_source_config(source);
  buffer_free(&description);
  model_source_close(&source);
  return config;
}

static void check_folders(void) {
  struct model_config llama = check_model("llama-f32", "llama-f32", 21);
  CHECK(strcmp(llama.architecture, "llama") == 0 && !llama.tied_head && !llama.attention_bias);
  CHECK(llama.rope_scaling == ROPE_LLAMA3 && llama.rope_factor == 32 && llama.rope_original_positions == 8192);
  CHECK(llama.rope_theta == 500000 && llama.rope_low_frequency == 1 && llama.rope_high_frequency == 4);
  CHECK(llama.bos == 1 && llama.eos_count == 1 && llama.eos[0] == 2 && llama.pad == -1);
  struct model_config qwen2 = check_model("qwen2-f16", "qwen2-f16", 26);
  CHECK(strcmp(qwen2.architecture, "qwen2") == 0 && qwen2.tied_head && qwen2.attention_bias);
  struct model_config opt = check_model("opt-bf16", "opt-bf16", 36);
  CHECK(strcmp(opt.architecture, "opt") == 0 && opt.tied_head && opt.attention_bias && opt.max_positions == 64);
  CHECK(opt.bos == 2 && opt.pad == 1 && opt.eos_count == 1 && opt.eos[0] == 2);
  struct model_config mistral = check_model("mistral-bf16", "mistral-bf16", 21);
  CHECK(strcmp(mistral.architecture, "mistral") == 0 && mistral.head_dim == 16 && mistral.rope_scaling == ROPE_PLAIN);
}

static void check_gguf(void) {
  struct model_config llama = check_model("llama", "llama.gguf", 20);
  CHECK(llama.tied_head && llama.heads == 2 && llama.kv_heads == 1 && llama.head_dim == 32 && llama.vocabulary == 40);
  CHECK(llama.rope_scaling == ROPE_LLAMA3 && llama.rope_factor == 8 && llama.rope_original_positions == 8192);
  CHECK(llama.rope_theta == 500000 && llama.eos_count == 2 && llama.eos[1] == 3 && llama.bos == 1 && llama.pad == -1);
  CHECK(llama.layers == 2 && llama.hidden == 64 && llama.feed_forward == 64 && llama.max_positions == 64);
  struct model_config qwen2 = check_model("qwen2", "qwen2.gguf", 27);
  CHECK(!qwen2.tied_head && qwen2.attention_bias && qwen2.rope_scaling == ROPE_PLAIN);
}

/* ---- a folder's tokenizer ---- */

static void copy_file(const char *from, const char *name) {
  struct buffer whole = {0};
  char *path = scratch_path(name);
  CHECK_OK(file_read(from, 1 << 24, &whole));
  scratch_fill(path, whole.data, whole.size);
  free(path);
  buffer_free(&whole);
}

static void write_text(const char *name, const char *text) {
  char *path = scratch_path(name);
  scratch_fill(path, text, strlen(text));
  free(path);
}

static void check_settings(const char *wanted) {
  struct model_source *source;
  struct tokenizer *tokenizer = NULL;
  CHECK_OK(model_source_open(&source, scratch_folder));
  if (!source) return;
  CHECK_OK(model_source_tokenizer(source, &tokenizer));
  CHECK(tokenizer && tokenizer_bos(tokenizer) == 1);
  const char *found = tokenizer ? tokenizer_chat_template(tokenizer) : NULL;
  CHECK(found && strcmp(found, wanted) == 0);
  tokenizer_destroy(&tokenizer);
  model_source_close(&source);
}

/* The chat template among the settings or in a file of its own, beside what transformers writes for "as long as you like". */
static void check_tokenizer_files(void) {
  copy_file("tests/fixtures/formats/opt-bf16/config.json", "config.json");
  copy_file("tests/fixtures/formats/opt-bf16/model.safetensors", "model.safetensors");
  write_text("tokenizer.json", "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"</s>\":1},\"merges\":[]}}");
  write_text("tokenizer_config.json",
             "{\"bos_token\":\"</s>\",\"chat_template\":\"one\","
             "\"model_max_length\":1000000000000000019884624838656}");
  check_settings("one");
  write_text("chat_template.jinja", "two");
  check_settings("two");
  scratch_walk("", 1);
}

/* ---- what must be refused ---- */

/* A copy of a file with `find` replaced by `put` (same length or not) at its first place. */
static void edit_file(const char *from, const char *name, const char *find, const char *put) {
  struct buffer whole = {0}, edited = {0};
  char *path = scratch_path(name);
  CHECK_OK(file_read(from, 1 << 24, &whole));
  char *place = memmem(whole.data, whole.size, find, strlen(find));
  CHECK(place != NULL);
  size_t before = place ? (size_t)(place - whole.data) : 0, after = before + strlen(find);
  CHECK_OK(buffer_append(&edited, whole.data, before));
  CHECK_OK(buffer_append(&edited, put, strlen(put)));
  CHECK_OK(buffer_append(&edited, whole.data + after, whole.size - after));
  scratch_fill(path, edited.data, edited.size);
  free(path);
  buffer_free(&edited);
  buffer_free(&whole);
}

static int open_model(const char *path) {
  struct model_source *source;
  int status = model_source_open(&source, path);
  if (status == OK) model_source_close(&source);
  return status;
}

#define FOLDER "tests/fixtures/formats/"

/* ---- OPT: names with and without "model." ---- */

/* Takes "model." off the names in the header of a safetensors file, which stays as long: spaces follow it. */
static void strip_names(char *header, size_t size) {
  static const char whole[] = "\"model.decoder.";
  size_t cut = strlen("model."), left = size;
  for (char *at = header; (at = memmem(at, left, whole, strlen(whole))); left = size - (size_t)(at - header)) {
    size_t rest = size - (size_t)(++at - header) - cut;
    memmove(at, at + cut, rest);
    memset(at + rest, ' ', cut);
  }
}

static void write_bare(const char *name) {
  struct buffer whole = {0};
  char *path = scratch_path(name);
  uint64_t size = 0;
  CHECK_OK(file_read(FOLDER "opt-bf16/model.safetensors", 1 << 24, &whole));
  if (whole.size > sizeof size) memcpy(&size, whole.data, sizeof size);
  strip_names(whole.data + sizeof size, size);
  CHECK(memmem(whole.data, whole.size, "\"decoder.embed", 14) && !memmem(whole.data, whole.size, "model.dec", 9));
  scratch_fill(path, whole.data, whole.size);
  free(path);
  buffer_free(&whole);
}

static void check_bare(void) {
  struct model_source *source;
  copy_file(FOLDER "opt-bf16/config.json", "config.json");
  write_bare("model.safetensors");
  CHECK_OK(model_source_open(&source, scratch_folder));
  CHECK(source && tensor_list_each("opt-bf16", check_tensor, source) == 36);
  model_source_close(&source);
  edit_file(FOLDER "opt-bf16/config.json", "config.json", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1");
  CHECK_FAILS(ERR_INPUT, "\"decoder.layers.1.", open_model(scratch_folder));
  edit_file(FOLDER "opt-bf16/config.json", "config.json", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3");
  CHECK_FAILS(ERR_INPUT, "layers.2.self_attn.q_proj.weight\" is missing", open_model(scratch_folder));
  scratch_walk("", 1);
}

static void check_bad_opt(void) {
  static const char weights[] = FOLDER "opt-bf16/model.safetensors", name[] = "model.safetensors";
  copy_file(FOLDER "opt-bf16/config.json", "config.json");
  copy_file(FOLDER "opt-bf16/model.safetensors", "pytorch_model.bin");
  CHECK_FAILS(ERR_INPUT, "save_pretrained()", open_model(scratch_folder));
  edit_file(weights, name, "embed_positions", "embed_positionz");
  CHECK_FAILS(ERR_INPUT, "\"model.decoder.embed_positions.weight\" is missing", open_model(scratch_folder));
  edit_file(weights, name, "1.fc1.bias", "1.fcx.bias");
  CHECK_FAILS(ERR_INPUT, "layers.1.fc1.bias\" is missing", open_model(scratch_folder));
  edit_file(weights, name, "model.decoder.final_layer_norm.bias", "model.decoder.final_layer_norm.bxas");
  CHECK_FAILS(ERR_INPUT, "decoder.final_layer_norm.bias\" is missing", open_model(scratch_folder));
  copy_file(weights, name);
  CHECK_OK(open_model(scratch_folder));
  edit_file(FOLDER "opt-bf16/config.json", "config.json", "\"max_position_embeddings\": 64",
            "\"max_position_embeddings\": 66");
  CHECK_FAILS(ERR_INPUT, "is 66 x 32, but the configuration asks for 68 x 32", open_model(scratch_folder));
  edit_file(FOLDER "opt-bf16/config.json", "config.json", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1");
  CHECK_FAILS(ERR_INPUT, "is no part of the architecture opt with 1 layers", open_model(scratch_folder));
  edit_file(FOLDER "opt-bf16/config.json", "config.json", "\"tie_word_embeddings\": true",
            "\"tie_word_embeddings\": false");
  CHECK_FAILS(ERR_INPUT, "lm_head.weight\" is missing", open_model(scratch_folder));
  scratch_walk("", 1);
}

static void check_bad_folders(void) {
  CHECK_FAILS(ERR_INPUT, "No such file", open_model("/nowhere/model"));
  CHECK_FAILS(ERR_INPUT, "give a folder", open_model("tests/fixtures/formats/llama-f32/model.safetensors"));
  CHECK_FAILS(ERR_INPUT, "no config.json", open_model(scratch_folder));
  copy_file(FOLDER "llama-f32/config.json", "config.json");
  CHECK_FAILS(ERR_INPUT, "neither model.safetensors", open_model(scratch_folder));
  copy_file(FOLDER "qwen2-f16/model.safetensors", "model.safetensors");
  CHECK_FAILS(ERR_INPUT, "lm_head.weight\" is missing", open_model(scratch_folder));
  copy_file(FOLDER "llama-f32/model.safetensors", "model.safetensors");
  CHECK_OK(open_model(scratch_folder));
  edit_file(FOLDER "llama-f32/config.json", "config.json", "\"intermediate_size\": 64", "\"intermediate_size\": 65");
  CHECK_FAILS(ERR_INPUT, "is 64 x 32, but the configuration asks for 65 x 32", open_model(scratch_folder));
  edit_file(FOLDER "llama-f32/config.json", "config.json", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3");
  CHECK_FAILS(ERR_INPUT, "model.layers.2.", open_model(scratch_folder));
  edit_file(FOLDER "llama-f32/config.json", "config.json", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1");
  CHECK_FAILS(ERR_INPUT, "is no part of the architecture llama with 1 layers", open_model(scratch_folder));
  edit_file(FOLDER "llama-f32/config.json", "config.json", "\"llama\"", "\"gpt2\"");
  CHECK_FAILS(ERR_INPUT, "known are llama, mistral, qwen2 and opt", open_model(scratch_folder));
  edit_file(FOLDER "llama-f32/config.json", "config.json", "{", "[");
  CHECK_FAILS(ERR_INPUT, "config.json: not valid JSON", open_model(scratch_folder));
  scratch_walk("", 1);
}

static void check_bad_index(void) {
  static const char index[] = "model.safetensors.index.json";
  copy_file(FOLDER "mistral-bf16/config.json", "config.json");
  copy_file(FOLDER "mistral-bf16/model.safetensors.index.json", index);
  copy_file(FOLDER "mistral-bf16/model-00001-of-00003.safetensors", "model-00001-of-00003.safetensors");
  copy_file(FOLDER "mistral-bf16/model-00002-of-00003.safetensors", "model-00002-of-00003.safetensors");
  CHECK_FAILS(ERR_INPUT, "model-00003-of-00003.safetensors: No such file", open_model(scratch_folder));
  copy_file(FOLDER "mistral-bf16/model-00003-of-00003.safetensors", "model-00003-of-00003.safetensors");
  CHECK_OK(open_model(scratch_folder));
  edit_file(FOLDER "mistral-bf16/model.safetensors.index.json", index, "model-00001-of", "../../../etc/x");
  CHECK_FAILS(ERR_INPUT, "no safetensors file of this folder", open_model(scratch_folder));
  edit_file(FOLDER "mistral-bf16/model.safetensors.index.json", index, "model-00001-of", "model-00002-of");
  CHECK_FAILS(ERR_INPUT, "but it is not", open_model(scratch_folder));
  edit_file(FOLDER "mistral-bf16/model.safetensors.index.json", index, "weight_map", "weight_mop");
  CHECK_FAILS(ERR_INPUT, "no weight_map", open_model(scratch_folder));
  copy_file(FOLDER "llama-f32/model.safetensors", "model-00003-of-00003.safetensors");
  copy_file(FOLDER "mistral-bf16/model.safetensors.index.json", index);
  CHECK(open_model(scratch_folder) == ERR_INPUT);
  scratch_walk("", 1);
}

static void check_bad_gguf(void) {
  char *path = scratch_path("x.gguf");
  edit_file(FOLDER "llama.gguf", "x.gguf", "blk.1.ffn_up.weight", "blk.2.ffn_up.weight");
  CHECK_FAILS(ERR_INPUT, "up_proj.weight\" is missing", open_model(path));
  edit_file(FOLDER "llama.gguf", "x.gguf", "rope_freqs.weight", "rope_frexs.weight");
  CHECK_FAILS(ERR_INPUT, "rope_frexs.weight\" is no part", open_model(path));
  edit_file(FOLDER "llama.gguf", "x.gguf", "llama", "lxxma");
  CHECK_FAILS(ERR_INPUT, "\"lxxma\" is not supported; known are", open_model(path));
  edit_file(FOLDER "llama.gguf", "x.gguf", "llama.block_count", "llama.block_xount");
  CHECK_FAILS(ERR_INPUT, "\"llama.block_count\" is missing", open_model(path));
  edit_file(FOLDER "llama.gguf", "x.gguf", "rope.freq_base", "rope.xxxx_base"); /* the default base fits no divisors */
  CHECK_FAILS(ERR_INPUT, "not LLaMA 3's", open_model(path));
  scratch_walk("", 1);
  free(path);
}

int main(void) {
  scratch_make();
  check_folders();
  check_gguf();
  check_tokenizer_files();
  check_bare();
  check_bad_opt();
  check_bad_folders();
  check_bad_index();
  check_bad_gguf();
  scratch_remove();
  return check_result();
}
