/**
 * @file options.h
 * Every option of every command, in one table (options.c): it gives the parser, --help, the man page, the config file
 * and the start-up banner. Command line over config file over defaults.
 */
#ifndef QST_BASE_OPTIONS_H
#define QST_BASE_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/memory.h"

enum { OPTION_AUTO = 0 }; /**< of integers that may be "auto" */

enum command {
  COMMAND_QUANTIZE,
  COMMAND_TOKENIZE,
  COMMAND_TRAIN,
  COMMAND_EVAL,
  COMMAND_GENERATE,
  COMMAND_EXPORT,
  COMMAND_INSPECT,
  COMMAND_REPORT,
  COMMAND_TAPS,
  COMMAND_CALIBRATE,
  COMMAND_PLAN,
  COMMAND_COUNT
};

/** Texts are NULL when not given and without a default; they live as long as the struct. */
struct options {
  enum command command;
  char **arguments; /**< what is left after the options: FILE, RUN … */
  int argument_count;

  /* files */
  char *model, *out, *in, *backbone, *side, *data, *eval_data, *taps;
  /* quantize */
  char *format; /**< nf4 | fp4 | bf16 */
  bool double_quant;
  /* rows */
  char *template_name;
  int64_t max_tokens;
  bool train_on_prompt;
  /* side network */
  int64_t reduction_factor, rank, side_heads; /**< side_heads 0: the backbone's */
  char *downsample, *mix, *init;
  char *directions;
  int64_t calibration_tokens;
  /* training */
  int64_t steps; /**< 0: by epochs */
  double epochs;
  int64_t global_batch; /**< samples a step */
  int64_t micro_batch_tokens;
  double lr, weight_decay, clip, beta1, beta2, epsilon;
  char *schedule; /**< constant | linear | cosine */
  int64_t warmup_steps;
  int64_t seed;
  int64_t save_every, keep, eval_every; /**< steps; 0 = only at the end (save), never before the end (eval) */
  double time_limit;                    /**< minutes; 0: the Slurm job's */
  bool resume;
  char *tap_format; /**< exact | int8 */
  char *tap_cache;
  bool prune;
  int64_t limit_mb; /**< 0: none */
  /* generation */
  char *prompt;
  double temperature, top_p;
  int64_t max_new_tokens, batch; /**< batch: sequences decoded together */
  bool json;
  int64_t limit; /**< rows used at most; 0 = all */
  /* plan */
  char *model_shape, *gpu, *calibration, *measured;
  int64_t nodes, gpus_per_node;
  double link; /**< Gbit/s of a node's network; 0: as usual for the GPU */
  int64_t rows, row_tokens;
  double label_share;
  bool sweep;
  /* machine */
  char *device, *cpu_isa, *gpu_isa, *act, *backbone_compute; /**< backbone_compute: bf16 | fp8 */
  int64_t pipeline_stages;
  char *reduction; /**< exact | fast | fast-bf16 */
  bool shard_optimizer, recompute, run_ahead;
  double gpu_memory; /**< GB; 0: all of it */
  char *placement;   /**< stages | replicas */
  char *trace;
  int64_t threads;
  double comm_timeout; /**< seconds */
  bool quiet;
};

#define QST_VERSION "0.1.0"

/** Parses "COMMAND [options] [arguments]" (words[0] is the program). For --help, --version and `help` it fills `text` with
 *  what is to be printed instead of running a command; otherwise `text` stays empty. ERR_USAGE names the nearest valid
 *  word for what it does not know, options another command has, values out of range, what is required and missing, what
 *  contradicts each other. Reads --config FILE: "key = value" lines, keys as the options without "--", lines that start
 *  with # are comments, a value may stand in double quotes with \n, \t, \r, \" and \\ in it. Where the command line
 *  and the config file contradict each other, the command line holds. `out` is to be freed after success and after failure. */
int options_parse(int count, char **words, struct options *out, struct buffer *text);
/** The defaults of a command, as if nothing had been given; required ones stay empty. */
int options_start(struct options *out, enum command command);
void options_free(struct options *options);

/** "key = value" lines of the command's options: all of them, or only those that change the numbers of a training run
 *  (no paths, no machine settings). Parsing the result as a config file gives the same options. */
int options_print(const struct options *options, bool only_numbers, struct buffer *out);

/** What all ranks of a job must have in common, a line an option: its value, of names (a path may be another on each node)
 *  whether there is one. */
int options_print_shared(const struct options *options, struct buffer *out);

/** Takes the values of those "key = value" lines into `options` (for settings stored in our own files). `where` is put
 *  in front of errors. Keys unknown to the command are errors. */
int options_read(struct options *options, const char *lines, const char *where);

const char *command_name(enum command command);
/** The name in `names` (NULL-terminated) closest to `word` by edit distance, or NULL when none is near. A name that
 *  starts with `word` (three letters or more) counts as near. */
const char *nearest_name(const char *word, const char *const *names);

#endif
