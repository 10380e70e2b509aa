/* Writes a small random model in Hugging Face's layout, for trying the commands where no published model can be had:
 *
 *   cc -O2 -o tiny_model tiny_model.c -lm && ./tiny_model FOLDER
 *
 * LLaMA architecture, 4 layers, hidden size 256, one token for each byte and two special tokens of ChatML; weights from a
 * fixed seed, fp32. It knows nothing, so nothing it says means anything. */
#include <errno.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { LAYERS = 4, HIDDEN = 256, HEADS = 4, KV_HEADS = 2, FEED_FORWARD = 512, VOCABULARY = 258 };
enum { HEAD_DIM = HIDDEN / HEADS, TENSORS_A_LAYER = 9, TENSOR_COUNT = 2 + LAYERS * TENSORS_A_LAYER };

struct tensor {
  char name[80];
  int rows, cols; /* cols 0: a vector of ones (a norm) */
};

static size_t elements(const struct tensor *tensor) {
  return (size_t)tensor->rows * (size_t)(tensor->cols ? tensor->cols : 1);
}

static void list_tensors(struct tensor *tensors) {
  static const struct {
    const char *name;
    int rows, cols;
  } parts[TENSORS_A_LAYER] = {
      {"input_layernorm", HIDDEN, 0},
      {"post_attention_layernorm", HIDDEN, 0},
      {"self_attn.q_proj", HEADS * HEAD_DIM, HIDDEN},
      {"self_attn.k_proj", KV_HEADS * HEAD_DIM, HIDDEN},
      {"self_attn.v_proj", KV_HEADS * HEAD_DIM, HIDDEN},
      {"self_attn.o_proj", HIDDEN, HEADS * HEAD_DIM},
      {"mlp.gate_proj", FEED_FORWARD, HIDDEN},
      {"mlp.up_proj", FEED_FORWARD, HIDDEN},
      {"mlp.down_proj", HIDDEN, FEED_FORWARD},
  };
  *tensors++ = (struct tensor){"model.embed_tokens.weight", VOCABULARY, HIDDEN};
  *tensors++ = (struct tensor){"model.norm.weight", HIDDEN, 0};
  for (int layer = 0; layer < LAYERS; layer++) {
    for (int i = 0; i < TENSORS_A_LAYER; i++, tensors++) {
      snprintf(tensors->name, sizeof tensors->name, "model.layers.%d.%s.weight", layer, parts[i].name);
      tensors->rows = parts[i].rows;
      tensors->cols = parts[i].cols;
    }
  }
}

/* Xorshift64* (Vigna 2016); four uniform numbers added up are normal enough here. */
static uint64_t state = 0x9e3779b97f4a7c15u;

static double uniform(void) {
  state ^= state >> 12;
  state ^= state << 25;
  state ^= state >> 27;
  return (double)((state * 0x2545f4914f6cdd1du) >> 11) * 0x1p-53 - 0.5;
}

static float weight(int cols) {
  return (float)((uniform() + uniform() + uniform() + uniform()) * sqrt(3.0 / cols));
}

static void write_header(FILE *file, const struct tensor *tensors) {
  char header[TENSOR_COUNT * 200];
  size_t used = 0, offset = 0;
  for (int i = 0; i < TENSOR_COUNT; i++) {
    size_t end = offset + 4 * elements(&tensors[i]);
    char shape[32];
    snprintf(shape, sizeof shape, tensors[i].cols ? "%d,%d" : "%d", tensors[i].rows, tensors[i].cols);
    used += (size_t)snprintf(header + used, sizeof header - used,
                             "%c\"%s\":{\"dtype\":\"F32\",\"shape\":[%s],\"data_offsets\":[%zu,%zu]}", i ? ',' : '{',
                             tensors[i].name, shape, offset, end);
    offset = end;
  }
  used += (size_t)snprintf(header + used, sizeof header - used, "}");
  while (used % 8) header[used++] = ' ';
  for (int i = 0; i < 8; i++) fputc((int)((uint64_t)used >> (8 * i) & 0xff), file);
  fwrite(header, 1, used, file);
}

static void write_weights(FILE *file) {
  struct tensor tensors[TENSOR_COUNT];
  list_tensors(tensors);
  write_header(file, tensors);
  for (int i = 0; i < TENSOR_COUNT; i++) {
    for (size_t n = elements(&tensors[i]); n > 0; n--) {
      float value = tensors[i].cols ? weight(tensors[i].cols) : 1.0f;
      fwrite(&value, sizeof value, 1, file);
    }
  }
}

static void write_config(FILE *file) {
  fprintf(file,
          "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"hidden_size\": %d, "
          "\"num_hidden_layers\": %d, \"num_attention_heads\": %d, \"num_key_value_heads\": %d, "
          "\"intermediate_size\": %d, \"vocab_size\": %d, \"max_position_embeddings\": 2048, \"rms_norm_eps\": 1e-05, "
          "\"rope_theta\": 10000.0, \"hidden_act\": \"silu\", \"tie_word_embeddings\": true, \"bos_token_id\": 256, "
          "\"eos_token_id\": 257, \"torch_dtype\": \"float32\"}\n",
          HIDDEN, LAYERS, HEADS, KV_HEADS, FEED_FORWARD, VOCABULARY);
}

/* GPT-2's printable stand-in for a byte. */
static int stand_in(int byte) {
  int next = 256;
  for (int b = 0; b < 256; b++) {
    int printable = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
    int character = printable ? b : next++;
    if (b == byte) return character;
  }
  return 0;
}

static void write_tokenizer(FILE *file) {
  static const char *const special[] = {"<|im_start|>", "<|im_end|>"};
  fprintf(file, "{\"version\": \"1.0\", \"truncation\": null, \"padding\": null, \"added_tokens\": [");
  for (int i = 0; i < 2; i++)
    fprintf(file,
            "%s{\"id\": %d, \"content\": \"%s\", \"single_word\": false, \"lstrip\": false, \"rstrip\": false, "
            "\"normalized\": false, \"special\": true}",
            i ? ", " : "", 256 + i, special[i]);
  fprintf(
      file,
      "], \"normalizer\": null, \"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false, "
      "\"trim_offsets\": true, \"use_regex\": true}, \"post_processor\": null, \"decoder\": {\"type\": \"ByteLevel\", "
      "\"add_prefix_space\": false, \"trim_offsets\": true, \"use_regex\": true}, \"model\": {\"type\": \"BPE\", "
      "\"dropout\": null, \"unk_token\": null, \"continuing_subword_prefix\": null, \"end_of_word_suffix\": null, "
      "\"fuse_unk\": false, \"byte_fallback\": false, \"ignore_merges\": false, \"vocab\": {");
  for (int byte = 0; byte < 256; byte++) fprintf(file, "\"\\u%04x\": %d, ", stand_in(byte), byte);
  fprintf(file, "\"%s\": 256, \"%s\": 257}, \"merges\": []}}\n", special[0], special[1]);
}

static int write_file(const char *folder, const char *name, void (*content)(FILE *)) {
  char path[4096];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  FILE *file = fopen(path, "wb");
  if (file) content(file);
  int bad = !file || ferror(file);
  if (file && fclose(file) != 0) bad = 1;
  if (bad) fprintf(stderr, "%s: %s\n", path, strerror(errno));
  return bad;
}

int main(int count, char **words) {
  if (count != 2) {
    fprintf(stderr, "usage: tiny_model FOLDER\n");
    return 2;
  }
  if (mkdir(words[1], 0777) != 0 && errno != EEXIST) {
    fprintf(stderr, "%s: %s\n", words[1], strerror(errno));
    return 1;
  }
  return write_file(words[1], "config.json", write_config) || write_file(words[1], "tokenizer.json", write_tokenizer) ||
         write_file(words[1], "model.safetensors", write_weights);
}
