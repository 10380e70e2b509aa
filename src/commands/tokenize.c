/* tokenize --model DIR|FILE.gguf | --backbone B.h5 --in X.jsonl --out T.h5: rows of JSON become tokens and labels. Rank 0
 * reads blocks of lines, its threads tokenize them, and the rows are appended in the order of the file. */
#include <errno.h>
#include <libgen.h>
#include <limits.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/threads.h"
#include "commands/commands.h"
#include "io/backbone_file.h"
#include "io/chat.h"
#include "io/model_source.h"
#include "io/token_file.h"

enum { BLOCK_LINES = 1024, MAX_LINE = 256 << 20 };

struct line {
  char *text;
  size_t size, capacity;
  int64_t number; /**< in the file, from 1 */
  struct chat_row row;
};

struct job {
  const struct options *options;
  struct tokenizer *tokenizer; /**< NULL: only rows with input_ids */
  int32_t vocabulary;          /**< 0: not known; the largest id decides */
  struct chat_options chat;
  FILE *input;
  struct hash_state *hash; /**< of the whole input */
  int64_t lines_read;
  struct line lines[BLOCK_LINES];
  int line_count;
  struct token_file out;
  size_t token_capacity, row_capacity;
  int64_t longest, empty, unlabelled;
};

/* ---- the model's tokenizer ---- */

static void note_model(struct job *job, const struct model_config *config) {
  job->vocabulary = config->vocabulary;
  if (job->chat.max_tokens <= config->max_positions) return;
  job->chat.max_tokens = config->max_positions;
  log_note("tokenize  rows have at most %d tokens, the positions that the model knows", config->max_positions);
}

static int open_model(struct job *job, const char *path) {
  struct model_source *source;
  TRY(model_source_open(&source, path));
  note_model(job, model_source_config(source));
  int status = model_source_tokenizer(source, &job->tokenizer);
  model_source_close(&source);
  return status;
}

static int open_backbone(struct job *job, const char *path) {
  struct backbone_file *file;
  TRY(backbone_file_open(&file, path));
  note_model(job, backbone_file_config(file));
  int status = backbone_file_tokenizer(file, &job->tokenizer);
  backbone_file_close(&file);
  return status;
}

static int note_tokenizer(struct job *job) {
  struct buffer image = {0};
  int status = tokenizer_save(job->tokenizer, &image);
  if (status == OK)
    snprintf(job->out.tokenizer, sizeof job->out.tokenizer, "%s", hash_bytes(image.data, image.size).hex);
  buffer_free(&image);
  return status;
}

static int open_tokenizer(struct job *job) {
  if (job->options->model) TRY(open_model(job, job->options->model));
  if (job->options->backbone) TRY(open_backbone(job, job->options->backbone));
  return job->tokenizer ? note_tokenizer(job) : OK;
}

/* ---- reading ---- */

static int read_line(struct job *job, struct line *line, bool *got) {
  ssize_t size = getline(&line->text, &line->capacity, job->input);
  *got = size > 0;
  if (size < 0 && !feof(job->input)) return fail(ERR_INPUT, "%s: %s", job->options->in, strerror(errno));
  if (size < 0) return OK;
  line->size = (size_t)size;
  line->number = ++job->lines_read;
  if (line->size > MAX_LINE)
    return fail(ERR_INPUT, "%s line %lld: longer than %d MB", job->options->in, (long long)line->number,
                MAX_LINE >> 20);
  hash_more(job->hash, line->text, line->size);
  return OK;
}

static bool is_blank(const struct line *line) {
  return strspn(line->text, " \t\r\n") == line->size;
}

static int read_block(struct job *job) {
  int64_t most = job->options->limit > 0 ? job->options->limit - job->out.rows - job->empty : INT64_MAX;
  bool got = true;
  for (job->line_count = 0; got && job->line_count < BLOCK_LINES && job->line_count < most;) {
    struct line *line = &job->lines[job->line_count];
    TRY(read_line(job, line, &got));
    job->line_count += got && !is_blank(line);
  }
  return OK;
}

/* ---- tokenizing ---- */

static int tokenize_line(const struct job *job, struct line *line) {
  int32_t vocabulary = job->vocabulary ? job->vocabulary : INT32_MAX;
  chat_row_clear(&line->row);
  return fail_at(chat_row_parse(job->tokenizer, line->text, line->size, &job->chat, vocabulary, &line->row),
                 "%s line %lld", job->options->in, (long long)line->number);
}

/* Messages are per thread: that of the first line that failed is kept and recorded again. */
static int tokenize_block(struct job *job) {
  int failed = INT_MAX, status = OK;
  char message[ERROR_LINE] = "";
#pragma omp parallel for schedule(dynamic, 8)
  for (int i = 0; i < job->line_count; i++) {
    int line_status = tokenize_line(job, &job->lines[i]);
    if (line_status == OK) continue;
#pragma omp critical
    if (i < failed) {
      failed = i;
      status = line_status;
      snprintf(message, sizeof message, "%s", fail_message());
    }
  }
  if (status != OK) fail_record("%s", message);
  return status;
}

/* ---- collecting ---- */

static int grow(void *array, size_t *capacity, size_t needed, size_t size) {
  void *old;
  memcpy(&old, array, sizeof old);
  void *longer = realloc(old, *capacity * size);
  if (!longer) return fail(ERR_MEMORY, "not enough memory for %zu tokens", needed);
  memcpy(array, &longer, sizeof longer);
  return OK;
}

static int reserve(struct job *job, size_t tokens) {
  struct token_file *out = &job->out;
  size_t total = (size_t)out->total + tokens, rows = (size_t)out->rows + 2;
  if (total > job->token_capacity || !out->tokens) {
    while (job->token_capacity < total || !job->token_capacity)
      job->token_capacity = job->token_capacity ? 2 * job->token_capacity : 1 << 16;
    TRY(grow(&out->tokens, &job->token_capacity, total, sizeof *out->tokens));
    TRY(grow(&out->labels, &job->token_capacity, total, sizeof *out->labels));
  }
  if (rows <= job->row_capacity) return OK;
  job->row_capacity = job->row_capacity ? 2 * job->row_capacity : 1 << 12;
  TRY(grow(&out->offsets, &job->row_capacity, rows, sizeof *out->offsets));
  return grow(&out->completions, &job->row_capacity, rows, sizeof *out->completions);
}

static void count_labels(struct job *job, const struct chat_row *row) {
  int64_t labels = 0;
  for (size_t i = 1; i < row->labels.size; i++) labels += row->labels.ids[i] != LABEL_NONE;
  job->out.label_tokens += labels;
  job->unlabelled += labels == 0;
}

static int append(struct job *job, const struct chat_row *row) {
  struct token_file *out = &job->out;
  size_t size = row->tokens.size;
  if (size == 0) {
    job->empty++;
    return OK;
  }
  TRY(reserve(job, size));
  memcpy(out->tokens + out->total, row->tokens.ids, size * sizeof *out->tokens);
  memcpy(out->labels + out->total, row->labels.ids, size * sizeof *out->labels);
  for (size_t i = 0; job->options->model == NULL && job->options->backbone == NULL && i < size; i++)
    if (row->tokens.ids[i] >= out->vocabulary) out->vocabulary = row->tokens.ids[i] + 1;
  out->completions[out->rows] = row->completion;
  out->offsets[out->rows] = out->total;
  out->total += (int64_t)size;
  out->offsets[++out->rows] = out->total;
  out->truncated += row->truncated;
  if ((int64_t)size > job->longest) job->longest = (int64_t)size;
  count_labels(job, row);
  return OK;
}

/* ---- beginning and end ---- */

static int begin(struct job *job) {
  const struct options *options = job->options;
  TRY(chat_template_parse(options->template_name, &job->chat.format));
  job->chat.max_tokens = (int)options->max_tokens;
  job->chat.train_on_prompt = options->train_on_prompt;
  snprintf(job->out.template_name, sizeof job->out.template_name, "%s", options->template_name);
  TRY(file_try(options->out));
  TRY(open_tokenizer(job));
  job->out.vocabulary = job->vocabulary;
  TRY(hash_begin(&job->hash));
  job->input = fopen(options->in, "r");
  return job->input ? OK : fail(ERR_INPUT, "%s: %s", options->in, strerror(errno));
}

static int tokenize_all(struct job *job) {
  for (;;) {
    TRY(read_block(job));
    TRY(tokenize_block(job));
    for (int i = 0; i < job->line_count; i++) TRY(append(job, &job->lines[i].row));
    if (job->line_count < BLOCK_LINES) break;
    log_progress("tokenize  %lld rows, %lld tokens", (long long)job->out.rows, (long long)job->out.total);
  }
  if (job->out.rows == 0) return fail(ERR_INPUT, "%s: has no rows", job->options->in);
  return OK;
}

/* The name of the JSONL without its folder, cut to fit, and the hash of what was read of it. */
static int note_source(struct job *job) {
  char *path = strdup(job->options->in);
  if (!path) return fail(ERR_MEMORY, "not enough memory for a path");
  snprintf(job->out.source, sizeof job->out.source, "%.30s %s", basename(path), hash_digest(job->hash).hex);
  free(path);
  return OK;
}

static void summarize(const struct job *job) {
  const struct token_file *out = &job->out;
  log_note("tokenize  %lld rows, %lld tokens, %lld label tokens; longest row %lld, mean %.0f; %lld truncated to %d",
           (long long)out->rows, (long long)out->total, (long long)out->label_tokens, (long long)job->longest,
           (double)out->total / (double)out->rows, (long long)out->truncated, job->chat.max_tokens);
  if (out->truncated)
    log_warning("%lld of %lld rows were longer than %d tokens and are cut: --max-tokens N allows more",
                (long long)out->truncated, (long long)out->rows, job->chat.max_tokens);
  if (job->empty) log_warning("%lld rows without any text were left out", (long long)job->empty);
  if (job->unlabelled)
    log_warning("%lld rows have no token to learn from (no answer within --max-tokens)", (long long)job->unlabelled);
  log_note("next      qst-mpi train --backbone %s --data %s --out RUN",
           job->options->backbone ? job->options->backbone : "BACKBONE.h5", job->options->out);
}

static int run(struct job *job) {
  TRY(begin(job));
  TRY(tokenize_all(job));
  TRY(note_source(job));
  TRY(token_file_write(job->options->out, &job->out));
  summarize(job);
  return OK;
}

static void free_job(struct job *job) {
  for (int i = 0; i < BLOCK_LINES; i++) {
    free(job->lines[i].text);
    chat_row_free(&job->lines[i].row);
  }
  if (job->input) fclose(job->input);
  if (job->hash) hash_end(&job->hash);
  if (job->tokenizer) tokenizer_destroy(&job->tokenizer);
  token_file_free(&job->out);
  free(job);
}

static int start(const struct options *options) {
  struct job *job;
  TRY(memory_array(&job, 1, sizeof *job));
  job->options = options;
  int status = run(job);
  free_job(job);
  return status;
}

int command_tokenize(const struct options *options, struct comm *comm) {
  omp_set_num_threads(options->threads > 0 ? (int)options->threads : threads_of_rank(1));
  return comm_agree(comm, comm->rank == 0 ? start(options) : OK);
}
