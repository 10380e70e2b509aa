/* Options: where a value comes from, what is refused and with which words, and that printed options read back. */
#include <stdlib.h>

#include "base/option_table.h"
#include "base/options.h"
#include "check.h"
#include "scratch.h"

static struct options options;
static struct buffer text;

/* Parses a line of words separated by single spaces; the result is in `options` until the next call. */
static int parse(const char *line) {
  char copy[4096], *words[64] = {"qst-mpi"};
  int count = 1;
  snprintf(copy, sizeof copy, "%s", line);
  for (char *word = strtok(copy, " "); word; word = strtok(NULL, " ")) words[count++] = word;
  options_free(&options);
  return options_parse(count, words, &options, &text);
}

#define TRAIN "train --backbone B --data T --out R "

static void test_defaults(void) {
  CHECK_OK(parse(TRAIN));
  CHECK(options.command == COMMAND_TRAIN && text.size == 0);
  CHECK(strcmp(options.backbone, "B") == 0 && strcmp(options.out, "R") == 0 && !options.init && !options.side);
  CHECK(options.reduction_factor == 16 && options.rank == 16 && options.steps == 0 && options.lr == 0.001);
  CHECK(strcmp(options.downsample, "adapter") == 0 && options.epsilon == 1e-8 && !options.resume);
}

static void test_forms(void) {
  CHECK_OK(parse(TRAIN "--lr=3e-4 --steps 7 --schedule=linear --resume"));
  CHECK(options.lr == 3e-4 && options.steps == 7 && strcmp(options.schedule, "linear") == 0 && options.resume);
  CHECK_OK(parse(TRAIN "--resume on --no-resume"));
  CHECK(!options.resume);
  CHECK_OK(parse(TRAIN "--resume=off --quiet --lr 0.5 --lr 0.25"));
  CHECK(!options.resume && options.quiet && options.lr == 0.25);
  CHECK_OK(parse("quantize --model M --out B --double-quant off --format fp4"));
  CHECK(!options.double_quant && strcmp(options.format, "fp4") == 0);
  CHECK_OK(parse("inspect --json a --quiet b -- --c"));
  CHECK(options.json && options.quiet && options.argument_count == 3 && strcmp(options.arguments[2], "--c") == 0);
  CHECK_OK(parse("generate --backbone B --prompt=--x"));
  CHECK(strcmp(options.prompt, "--x") == 0);
}

static void test_names(void) {
  CHECK_FAILS(ERR_USAGE, "did you mean train?", parse("trian"));
  CHECK_FAILS(ERR_USAGE, "qst-mpi help lists", parse("wibble"));
  CHECK_FAILS(ERR_USAGE, "a command is needed", parse(""));
  CHECK_FAILS(ERR_USAGE, "--shedule: unknown option; did you mean schedule?", parse(TRAIN "--shedule linear"));
  CHECK_FAILS(ERR_USAGE, "did you mean micro-batch-tokens?", parse(TRAIN "--micro-batch 5"));
  CHECK_FAILS(ERR_USAGE, "see qst-mpi help train", parse(TRAIN "--xyzzy 5"));
  CHECK_FAILS(ERR_USAGE, "--steps: an option of train, plan, not of eval", parse("eval --steps 5"));
  CHECK_FAILS(ERR_USAGE, "of eval, generate, export, not of train", parse(TRAIN "--side S"));
  CHECK_FAILS(ERR_USAGE, "--mix: 'alhpa' is not one of residual, alpha, gate; did you mean alpha?",
              parse(TRAIN "--mix alhpa"));
  CHECK_FAILS(ERR_USAGE, "two dashes", parse(TRAIN "-x"));
  CHECK_FAILS(ERR_USAGE, "--no-lr: unknown option", parse(TRAIN "--no-lr"));
  const char *const names[] = {"alpha", "beta", "global-batch", NULL};
  CHECK(strcmp(nearest_name("ahpla", names), "alpha") == 0);
  CHECK(strcmp(nearest_name("global", names), "global-batch") == 0);
  CHECK(strcmp(nearest_name("btea", names), "beta") == 0);
  const char *const short_names[] = {"lr", NULL};
  CHECK(nearest_name("rl", short_names) == short_names[0]);
  CHECK(!nearest_name("x", names) && !nearest_name("", names) && !nearest_name("gamma-delta", names));
}

static void test_values(void) {
  CHECK_FAILS(ERR_USAGE, "--lr: needs a value", parse(TRAIN "--lr"));
  CHECK_FAILS(ERR_USAGE, "--lr: needs a value", parse(TRAIN "--lr --steps 5"));
  CHECK_FAILS(ERR_USAGE, "--init: needs a value: SIDE", parse(TRAIN "--init="));
  CHECK_FAILS(ERR_USAGE, "to 9007199254740991", parse(TRAIN "--seed -1"));
  CHECK_FAILS(ERR_USAGE, "'1x' is not a number", parse(TRAIN "--lr 1x"));
  CHECK_FAILS(ERR_USAGE, "is not a number", parse(TRAIN "--lr nan"));
  CHECK_FAILS(ERR_USAGE, "out of range", parse(TRAIN "--lr inf"));
  CHECK_FAILS(ERR_USAGE, "'-1' is out of range: 0 to 100", parse(TRAIN "--lr -1"));
  CHECK_FAILS(ERR_USAGE, "'1.5' is not a whole number", parse(TRAIN "--rank 1.5"));
  CHECK_FAILS(ERR_USAGE, "'0' is out of range: 1 to 65536", parse(TRAIN "--rank 0"));
  CHECK_FAILS(ERR_USAGE, "tokens", parse(TRAIN "--micro-batch-tokens 3"));
  CHECK_FAILS(ERR_USAGE, "out of range", parse(TRAIN "--rank 99999999999999999999999"));
  CHECK_FAILS(ERR_USAGE, "out of range", parse(TRAIN "--rank -99999999999999999999999"));
  CHECK_FAILS(ERR_USAGE, "neither on nor off", parse(TRAIN "--resume=maybe"));
  CHECK_FAILS(ERR_USAGE, "takes no value", parse(TRAIN "--no-resume=on"));
}

static void test_together(void) {
  CHECK_FAILS(ERR_USAGE, "--data FILE is missing", parse("train --backbone B --out R"));
  CHECK_FAILS(ERR_USAGE, "needs FILE", parse("inspect"));
  CHECK_FAILS(ERR_USAGE, "'stray': only options", parse(TRAIN "stray"));
  CHECK_FAILS(ERR_USAGE, "--steps and --epochs contradict", parse(TRAIN "--steps 3 --epochs 2"));
  CHECK_FAILS(ERR_USAGE, "--resume and --init contradict", parse(TRAIN "--resume --init S"));
  CHECK_OK(parse(TRAIN "--no-resume --init S"));
  CHECK_FAILS(ERR_USAGE, "--downsample maxpool and --rank", parse(TRAIN "--downsample maxpool --rank 8"));
  CHECK_FAILS(ERR_USAGE, "--prompt or --in is needed", parse("generate --backbone B"));
  CHECK_FAILS(ERR_USAGE, "--in makes no sense without --out", parse("generate --backbone B --in I"));
  CHECK_FAILS(ERR_USAGE, "--model and --backbone", parse("tokenize --in I --out O --model M --backbone B"));
}

static void test_config(void) {
  char *path = scratch_path("run.conf"), line[1024];
  static const char good[] = "# a run\n\nlr = 0.5\r\n  epochs=3\nschedule = \"linear\"\nout = a b";
  scratch_fill(path, good, strlen(good));
  snprintf(line, sizeof line, "train --config %s --lr 0.25 --backbone B --data T", path);
  CHECK_OK(parse(line));
  CHECK(options.lr == 0.25 && options.epochs == 3 && strcmp(options.schedule, "linear") == 0);
  CHECK(strcmp(options.out, "a b") == 0);
  snprintf(line, sizeof line, "train --config %s --steps 9 --backbone B --data T --out R", path);
  CHECK_OK(parse(line)); /* the command line's --steps puts the file's epochs out of force */
  CHECK(options.steps == 9 && options.epochs == 1 && strcmp(options.out, "R") == 0);
  static const struct {
    const char *content, *complaint;
  } bad[] = {{"lr = 1\nlrr = 2", "run.conf:2: lrr: unknown option; did you mean lr?"},
             {"\nlr", "run.conf:2: 'lr' is not of the form key = value"},
             {"lr = x", "run.conf:1: lr: 'x' is not a number"},
             {"config = x", "belongs on the command line"},
             {"temperature = 1", "temperature: an option of generate, not of train"},
             {"out = \"a", "closing quote"},
             {"out = \"a\" b", "closing quote"},
             {"out = \"\\q\"", "escape"},
             {"steps = 1\nepochs = 2", "contradict"}};
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
    scratch_fill(path, bad[i].content, strlen(bad[i].content));
    snprintf(line, sizeof line, TRAIN "--config %s", path);
    CHECK_FAILS(ERR_USAGE, bad[i].complaint, parse(line));
  }
  scratch_fill(path, "lr = 1\0\n", 8);
  CHECK_FAILS(ERR_USAGE, "not a text file", parse(line));
  CHECK_FAILS(ERR_INPUT, "nowhere.conf", parse(TRAIN "--config nowhere.conf"));
  free(path);
}

/* What was printed, defaults and all, is a config file that contradicts neither itself nor the command line. */
static void check_as_config(const struct buffer *printed) {
  char *path = scratch_path("printed.conf"), line[512];
  scratch_fill(path, printed->data, printed->size);
  snprintf(line, sizeof line, "train --config %s", path);
  CHECK_OK(parse(line));
  CHECK(options.lr == 0.1 && options.steps == 70 && options.epochs == 1 && options.resume);
  snprintf(line, sizeof line, "train --config %s --epochs 2 --no-resume --init S", path);
  CHECK_OK(parse(line));
  CHECK(options.epochs == 2 && options.steps == 0 && !options.resume && strcmp(options.init, "S") == 0);
  free(path);
}

/* All that changes from the default survives being printed and read back, odd texts included. */
static void test_round_trip(void) {
  char *words[] = {"qst-mpi", "train",    "--backbone", " b \"x\"\\ ", "--data",   "a\nb\t",
                   "--out",   "r=1 # no", "--lr",       "0.1",         "--seed",   "9007199254740991",
                   "--steps", "70",       "--clip",     "0.33333333",  "--resume", "--eval-data",
                   "'"};
  options_free(&options);
  CHECK_OK(options_parse(sizeof words / sizeof words[0], words, &options, &text));
  struct buffer first = {0}, second = {0};
  CHECK_OK(options_print(&options, false, &first));
  struct options again = {.command = COMMAND_TRAIN};
  CHECK_OK(options_read(&again, first.data, "stored"));
  CHECK_OK(options_print(&again, false, &second));
  CHECK(strcmp(first.data, second.data) == 0);
  CHECK(strcmp(again.backbone, words[3]) == 0 && strcmp(again.data, words[5]) == 0);
  CHECK(strcmp(again.out, words[7]) == 0 && again.lr == 0.1 && again.clip == 0.33333333 && again.resume);
  CHECK(again.seed == 9007199254740991 && strcmp(again.eval_data, "'") == 0);
  buffer_clear(&second);
  CHECK_OK(options_print(&options, true, &second));
  CHECK(strstr(second.data, "lr = 0.1\n") && strstr(second.data, "global-batch = 16\n"));
  CHECK(strstr(second.data, "epochs = 1\n") && strstr(second.data, "epsilon = 1e-08\n"));
  CHECK(strstr(first.data, "comm-timeout = 600\n"));
  CHECK(!strstr(second.data, "out") && !strstr(second.data, "threads") && !strstr(second.data, "resume"));
  CHECK_FAILS(ERR_USAGE, "stored:1: lrr", options_read(&again, "lrr = 1\n", "stored"));
  check_as_config(&first);
  options_free(&again);
  buffer_free(&first);
  buffer_free(&second);
}

static void test_help(void) {
  CHECK_OK(parse("help"));
  for (int i = 0; i < COMMAND_COUNT; i++) CHECK(strstr(text.data, command_name((enum command)i)));
  CHECK_OK(parse("train --backbone x --help"));
  CHECK(strstr(text.data, "--micro-batch-tokens N") && strstr(text.data, "default 2048") &&
        !strstr(text.data, "top-p"));
  CHECK_OK(parse("help generate"));
  CHECK(strstr(text.data, "--top-p P"));
  CHECK_OK(parse("help --man"));
  CHECK(strncmp(text.data, ".TH", 3) == 0);
  CHECK_OK(parse("help --completion"));
  CHECK(strstr(text.data, "complete "));
  CHECK_OK(parse("--version"));
  CHECK(strcmp(text.data, "qst-mpi " QST_VERSION "\n") == 0);
  CHECK_OK(parse("train --version"));
  CHECK_FAILS(ERR_USAGE, "did you mean train", parse("help tarin"));
}

/* A row of the table that nobody can use, or two of one name, is a fault of the table. */
static void test_table(void) {
  for (int i = 0; i < option_count; i++) {
    const struct option *option = &option_table[i];
    CHECK(option->name && option->help && option->group && option->commands);
    CHECK((option->required & ~option->commands) == 0);
    CHECK(option->type == OPTION_SWITCH || option->type == OPTION_WORD || option->value);
    for (int j = 0; j < i; j++) CHECK(strcmp(option->name, option_table[j].name) != 0);
  }
  for (int i = 0; i < rule_count; i++) {
    CHECK(option_find(rule_table[i].a, IN(rule_table[i].command)));
    CHECK(option_find(rule_table[i].b, IN(rule_table[i].command)));
  }
}

int main(void) {
  scratch_make();
  test_defaults();
  test_forms();
  test_names();
  test_values();
  test_together();
  test_config();
  test_round_trip();
  test_help();
  test_table();
  options_free(&options);
  buffer_free(&text);
  scratch_remove();
  return check_result();
}
