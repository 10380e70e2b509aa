/* The commands, and which of their options belong together. */
#include "base/option_table.h"

const struct command_info command_table[COMMAND_COUNT] = {
    [COMMAND_QUANTIZE] = {.name = "quantize",
                          .arguments = "",
                          .summary = "make a 4-bit backbone file of a published model",
                          .example = "qst-mpi quantize --model SmolLM2-135M-Instruct.gguf --out backbone.h5"},
    [COMMAND_TOKENIZE] = {.name = "tokenize",
                          .arguments = "",
                          .summary = "make a token file of rows of JSON",
                          .example = "qst-mpi tokenize --backbone backbone.h5 --in train.jsonl --out train.h5"},
    [COMMAND_TRAIN] = {.name = "train",
                       .arguments = "",
                       .summary = "finetune: train a side network beside the frozen backbone",
                       .example = "mpirun -n 2 qst-mpi train --backbone backbone.h5 --data train.h5 --out run"},
    [COMMAND_EVAL] = {.name = "eval",
                      .arguments = "",
                      .summary = "loss, perplexity and exact match on held-out rows",
                      .example = "qst-mpi eval --backbone backbone.h5 --side run --data test.h5"},
    [COMMAND_GENERATE] = {.name = "generate",
                          .arguments = "",
                          .summary = "answer a prompt or a file of prompts",
                          .example = "qst-mpi generate --backbone backbone.h5 --side run --prompt \"Hello\""},
    [COMMAND_EXPORT] = {.name = "export",
                        .arguments = "",
                        .summary = "write a side network as safetensors under the reference implementation's names",
                        .example = "qst-mpi export --side run --out side.safetensors"},
    [COMMAND_INSPECT] = {.name = "inspect",
                         .arguments = "FILE...",
                         .least_arguments = 1,
                         .most_arguments = 1 << 20,
                         .summary = "say what files hold, where they come from and whether they are whole",
                         .example = "qst-mpi inspect backbone.h5"},
    [COMMAND_REPORT] = {.name = "report",
                        .arguments = "RUN...",
                        .least_arguments = 1,
                        .most_arguments = 1 << 20,
                        .summary = "draw runs as one HTML page and a picture, side by side",
                        .example = "qst-mpi report run another-run --out report"},
    [COMMAND_TAPS] = {.name = "taps",
                      .arguments = "",
                      .summary = "fill a tap store without training, or check the rows it has",
                      .example = "mpirun -n 2 qst-mpi taps --backbone backbone.h5 --data train.h5 --taps store"},
};

const struct option_rule rule_table[] = {
    {COMMAND_QUANTIZE, RULE_EXCLUDES, "format", "bf16", "double-quant"},
    {COMMAND_TOKENIZE, RULE_EXCLUDES, "model", NULL, "backbone"},
    {COMMAND_TRAIN, RULE_EXCLUDES, "steps", NULL, "epochs"},
    {COMMAND_TRAIN, RULE_EXCLUDES, "resume", "on", "init"},
    {COMMAND_TRAIN, RULE_EXCLUDES, "downsample", "linear", "rank"},
    {COMMAND_TRAIN, RULE_EXCLUDES, "downsample", "maxpool", "rank"},
    {COMMAND_TRAIN, RULE_EXCLUDES, "downsample", "avgpool", "rank"},
    {COMMAND_TRAIN, RULE_NEEDS, "tap-format", NULL, "taps"},
    {COMMAND_TRAIN, RULE_NEEDS, "eval-every", NULL, "eval-data"},
    {COMMAND_GENERATE, RULE_EXCLUDES, "prompt", NULL, "in"},
    {COMMAND_GENERATE, RULE_ONE_OF, "prompt", NULL, "in"},
    {COMMAND_GENERATE, RULE_NEEDS, "in", NULL, "out"},
    {COMMAND_GENERATE, RULE_NEEDS, "out", NULL, "in"},
    {COMMAND_GENERATE, RULE_NEEDS, "top-p", NULL, "temperature"},
};
const int rule_count = sizeof rule_table / sizeof rule_table[0];

const char *command_name(enum command command) {
  return command_table[command].name;
}
