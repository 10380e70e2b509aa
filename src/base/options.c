#include "base/options.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "base/option_table.h"
#include "base/option_words.h"

enum { CONFIG_LIMIT = 1 << 20, TEXT_LIMIT = 1 << 20, SHOWN = 80 };

/** Where an option's value comes from; the stronger has the larger number. */
enum source { SOURCE_DEFAULT, SOURCE_CONFIG, SOURCE_COMMAND_LINE };

struct parser {
  struct options *out;
  enum source source;              /**< of the words being read */
  enum source given[OPTION_LIMIT]; /**< by option */
  const char *config;
  bool help, version;
};

/* ---- values --------------------------------------------------------------------------------------------- */

static void *field(const struct options *options, const struct option *option) {
  return (char *)options + option->offset;
}

static int copy_text(const char *text, char **out) {
  char *copy = strdup(text);
  if (!copy) return fail(ERR_MEMORY, "not enough memory for an option");
  free(*out);
  *out = copy;
  return OK;
}

static int fail_choice(const struct option *option, const char *text) {
  char list[256] = "";
  for (size_t used = 0, i = 0; option->choices[i] && used < sizeof list; i++)
    used += (size_t)snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "", option->choices[i]);
  const char *near = nearest_name(text, option->choices);
  if (near) return fail(ERR_USAGE, "'%.*s' is not one of %s; did you mean %s?", SHOWN, text, list, near);
  return fail(ERR_USAGE, "'%.*s' is not one of %s", SHOWN, text, list);
}

static int set_text(const struct option *option, const char *text, char **out) {
  if (!text[0]) return fail(ERR_USAGE, "needs a value: %s", option->value);
  if (strlen(text) > TEXT_LIMIT) return fail(ERR_USAGE, "a value of more than %d bytes", TEXT_LIMIT);
  if (!option->choices) return copy_text(text, out);
  for (int i = 0; option->choices[i]; i++)
    if (strcmp(option->choices[i], text) == 0) return copy_text(text, out);
  return fail_choice(option, text);
}

static int check_range(const struct option *option, const char *text, double number) {
  if (number >= option->minimum && number <= option->maximum) return OK;
  return fail(ERR_USAGE, "'%.*s' is out of range: %.16g to %.16g%s%s", SHOWN, text, option->minimum, option->maximum,
              option->unit ? " " : "", option->unit ? option->unit : "");
}

static int set_integer(const struct option *option, const char *text, int64_t *out) {
  char *end;
  *out = OPTION_AUTO;
  if (option->automatic && strcmp(text, "auto") == 0) return OK;
  long long number = strtoll(text, &end, 10);
  if (end == text || *end) return fail(ERR_USAGE, "'%.*s' is not a whole number", SHOWN, text);
  TRY(check_range(option, text, (double)number));
  *out = number;
  return OK;
}

static int set_real(const struct option *option, const char *text, double *out) {
  char *end;
  double number = strtod(text, &end);
  if (end == text || *end || isnan(number)) return fail(ERR_USAGE, "'%.*s' is not a number", SHOWN, text);
  TRY(check_range(option, text, number));
  *out = number;
  return OK;
}

/* on | off, or -1 for another word. */
static int switch_value(const char *text) {
  if (strcmp(text, "on") == 0) return 1;
  return strcmp(text, "off") == 0 ? 0 : -1;
}

static int set_switch(const char *text, bool *out) {
  int value = switch_value(text);
  if (value < 0) return fail(ERR_USAGE, "'%.*s' is neither on nor off", SHOWN, text);
  *out = value;
  return OK;
}

static int set_value(struct options *options, const struct option *option, const char *text) {
  switch (option->type) {
    case OPTION_TEXT:
      return set_text(option, text, field(options, option));
    case OPTION_INTEGER:
      return set_integer(option, text, field(options, option));
    case OPTION_REAL:
      return set_real(option, text, field(options, option));
    case OPTION_SWITCH:
      return set_switch(text, field(options, option));
    case OPTION_WORD:
      break;
  }
  return fail(ERR_INTERNAL, "%s has no field", option->name);
}

static int set_default(struct options *options, const struct option *option) {
  if (option->initial) return fail_at(set_value(options, option, option->initial), "default of %s", option->name);
  if (option->type == OPTION_TEXT) {
    char **text = field(options, option);
    free(*text);
    *text = NULL;
  }
  return OK;
}

static int set_defaults(struct options *options) {
  for (int i = 0; i < option_count; i++)
    if (option_table[i].type != OPTION_WORD) TRY(set_default(options, &option_table[i]));
  return OK;
}

int options_start(struct options *out, enum command command) {
  *out = (struct options){.command = command};
  return set_defaults(out);
}

static int set_given(struct parser *parser, const struct option *option, const char *text) {
  enum source *given = &parser->given[option - option_table];
  if (*given > parser->source) return OK;
  TRY(set_value(parser->out, option, text));
  *given = parser->source;
  return OK;
}

/* ---- names ---------------------------------------------------------------------------------------------- */

static int fail_other_command(const char *name, enum command command) {
  char list[128] = "";
  size_t used = 0;
  for (int i = 0; i < COMMAND_COUNT && used < sizeof list; i++)
    if (option_find(name, IN(i)))
      used += (size_t)snprintf(list + used, sizeof list - used, "%s%s", used ? ", " : "", command_table[i].name);
  return fail(ERR_USAGE, "an option of %s, not of %s", list, command_name(command));
}

static int fail_unknown(const char *name, enum command command) {
  if (option_find(name, IN(COMMAND_COUNT) - 1)) return fail_other_command(name, command);
  const char *names[OPTION_LIMIT + 1] = {NULL};
  for (int i = 0, count = 0; i < option_count; i++)
    if (option_table[i].commands & IN(command)) names[count++] = option_table[i].name;
  const char *near = nearest_name(name, names);
  if (near) return fail(ERR_USAGE, "unknown option; did you mean %s?", near);
  return fail(ERR_USAGE, "unknown option; see qst-mpi help %s", command_name(command));
}

static int find_option(const char *name, enum command command, const struct option **out) {
  *out = option_find(name, IN(command));
  return *out ? OK : fail_unknown(name, command);
}

/* ---- key = value lines ---------------------------------------------------------------------------------- */

static char *strip(char *text) {
  text += strspn(text, " \t\r");
  size_t size = strlen(text);
  while (size > 0 && strchr(" \t\r", text[size - 1])) size--;
  text[size] = 0;
  return text;
}

static int read_line(struct parser *parser, char *line) {
  line = strip(line);
  if (line[0] == 0 || line[0] == '#') return OK;
  char *equals = strchr(line, '=');
  if (!equals) return fail(ERR_USAGE, "'%.*s' is not of the form key = value", SHOWN, line);
  *equals = 0;
  char *key = strip(line), *value = strip(equals + 1);
  const struct option *option;
  int status = word_unquote(value);
  if (status == OK) status = find_option(key, parser->out->command, &option);
  if (status == OK && option->type == OPTION_WORD) status = fail(ERR_USAGE, "belongs on the command line");
  if (status == OK) status = set_given(parser, option, value);
  return fail_at(status, "%.*s", SHOWN, key);
}

static int read_lines(struct parser *parser, char *text, const char *where) {
  int number = 0;
  for (char *line = text; line;) {
    char *end = strchr(line, '\n');
    if (end) *end = 0;
    TRY(fail_at(read_line(parser, line), "%s:%d", where, ++number));
    line = end ? end + 1 : NULL;
  }
  return OK;
}

int options_read(struct options *options, const char *lines, const char *where) {
  struct parser parser = {.out = options, .source = SOURCE_CONFIG};
  char *copy = strdup(lines);
  if (!copy) return fail(ERR_MEMORY, "not enough memory for options");
  int status = read_lines(&parser, copy, where);
  free(copy);
  return status;
}

static int read_config(struct parser *parser) {
  struct buffer text = {0};
  int status = file_read(parser->config, CONFIG_LIMIT, &text);
  if (status == OK && strlen(text.data) != text.size)
    status = fail(ERR_USAGE, "%s: is not a text file", parser->config);
  if (status == OK) {
    parser->source = SOURCE_CONFIG;
    status = read_lines(parser, text.data, parser->config);
  }
  buffer_free(&text);
  return status;
}

/* A number as short as it can be and still read back the same; 600, not 6e+02. */
static int print_real(double number, struct buffer *out) {
  char text[32];
  if (fabs(number) < 1e15 && number == floor(number)) return buffer_print(out, "%.0f", number);
  for (int digits = 1; digits <= 17; digits++) {
    snprintf(text, sizeof text, "%.*g", digits, number);
    if (strtod(text, NULL) == number) break;
  }
  return buffer_print(out, "%s", text);
}

static int print_value(const struct options *options, const struct option *option, struct buffer *out) {
  const void *value = field(options, option);
  switch (option->type) {
    case OPTION_TEXT:
      return word_quote(*(char *const *)value, out);
    case OPTION_INTEGER:
      if (option->automatic && *(const int64_t *)value == OPTION_AUTO) return buffer_print(out, "auto");
      return buffer_print(out, "%lld", (long long)*(const int64_t *)value);
    case OPTION_REAL:
      return print_real(*(const double *)value, out);
    case OPTION_SWITCH:
      return buffer_print(out, "%s", *(const bool *)value ? "on" : "off");
    case OPTION_WORD:
      break;
  }
  return OK;
}

int options_print(const struct options *options, bool only_numbers, struct buffer *out) {
  for (int i = 0; i < option_count; i++) {
    const struct option *option = &option_table[i];
    if (!(option->commands & IN(options->command)) || option->type == OPTION_WORD) continue;
    if (only_numbers && !option->numbers) continue;
    if (option->type == OPTION_TEXT && !*(char **)field(options, option)) continue;
    TRY(buffer_print(out, "%s = ", option->name));
    TRY(print_value(options, option, out));
    TRY(buffer_append(out, "\n", 1));
  }
  return OK;
}

int options_print_shared(const struct options *options, struct buffer *out) {
  for (int i = 0; i < option_count; i++) {
    const struct option *option = &option_table[i];
    if (!(option->commands & IN(options->command)) || option->type == OPTION_WORD || option->own) continue;
    TRY(buffer_print(out, "%s = ", option->name));
    if (option->type == OPTION_TEXT && !option->choices)
      TRY(buffer_print(out, "%s", *(char **)field(options, option) ? "(given)" : "(not given)"));
    else
      TRY(print_value(options, option, out));
    TRY(buffer_append(out, "\n", 1));
  }
  return OK;
}

/* ---- the command line ----------------------------------------------------------------------------------- */

/* `value`: what followed "=", or NULL; `next`: the word after, or NULL. *used: `next` was the value. */
static int read_option(struct parser *parser, const char *name, const char *value, const char *next, bool *used) {
  const struct option *option = option_find(name, IN(parser->out->command));
  bool negated = !option && strncmp(name, "no-", 3) == 0;
  if (negated) option = option_find(name + 3, IN(parser->out->command));
  if (!option || (negated && option->type != OPTION_SWITCH)) return fail_unknown(name, parser->out->command);
  bool is_word = option->type == OPTION_WORD && !option->value;
  if ((is_word || negated) && value) return fail(ERR_USAGE, "takes no value");
  if (is_word) {
    *(strcmp(name, "help") == 0 ? &parser->help : &parser->version) = true;
    return OK;
  }
  if (negated) return set_given(parser, option, "off");
  bool bare = option->type == OPTION_SWITCH && !value && (!next || switch_value(next) < 0);
  if (bare) return set_given(parser, option, "on");
  if (!value && (!next || strncmp(next, "--", 2) == 0)) return fail(ERR_USAGE, "needs a value: %s", option->value);
  *used = !value;
  if (!value) value = next;
  if (option->type == OPTION_WORD) return parser->config = value, OK;
  return set_given(parser, option, value);
}

static int read_word(struct parser *parser, const char *word, const char *next, bool *used) {
  if (strcmp(word, "-h") == 0) word = "--help";
  if (strncmp(word, "--", 2) != 0) return fail(ERR_USAGE, "%.*s: options start with two dashes", SHOWN, word);
  const char *equals = strchr(word, '=');
  size_t size = equals ? (size_t)(equals - word) : strlen(word);
  char name[SHOWN + 1];
  snprintf(name, sizeof name, "%.*s", (int)(size < sizeof name ? size - 2 : sizeof name - 1), word + 2);
  return fail_at(read_option(parser, name, equals ? equals + 1 : NULL, next, used), "--%s", name);
}

static int read_words(struct parser *parser, int count, char **words) {
  struct options *out = parser->out;
  TRY(memory_array(&out->arguments, (size_t)count + 1, sizeof *out->arguments));
  bool options_over = false;
  for (int i = 0; i < count; i++) {
    bool is_option = !options_over && words[i][0] == '-' && words[i][1] != 0, used = false;
    if (is_option && strcmp(words[i], "--") == 0) {
      options_over = true;
    } else if (is_option) {
      TRY(read_word(parser, words[i], i + 1 < count ? words[i + 1] : NULL, &used));
      i += used;
    } else {
      TRY(copy_text(words[i], &out->arguments[out->argument_count++]));
    }
  }
  return OK;
}

/* ---- what belongs together ------------------------------------------------------------------------------ */

static bool has_value(const struct options *options, const struct option *option, const char *value) {
  struct buffer text = {0};
  bool same = print_value(options, option, &text) == OK && strcmp(text.data, value) == 0;
  buffer_free(&text);
  return same;
}

/* Where an option was given. A config file may list all of them, as that of a run does: a default in it says nothing. */
static enum source source_of(const struct parser *parser, const char *name) {
  const struct option *option = option_find(name, IN(parser->out->command));
  enum source source = parser->given[option - option_table];
  bool says_nothing = source == SOURCE_CONFIG && option->initial && has_value(parser->out, option, option->initial);
  return says_nothing ? SOURCE_DEFAULT : source;
}

static bool rule_applies(const struct parser *parser, const struct option_rule *rule) {
  return !rule->a_value || has_value(parser->out, option_find(rule->a, IN(rule->command)), rule->a_value);
}

/* Of two options that exclude each other the one from the command line stands, the config file's is forgotten. */
static int forget(struct parser *parser, const char *name) {
  const struct option *option = option_find(name, IN(parser->out->command));
  parser->given[option - option_table] = SOURCE_DEFAULT;
  return set_default(parser->out, option);
}

static int check_excludes(struct parser *parser, const struct option_rule *rule) {
  enum source a = source_of(parser, rule->a), b = source_of(parser, rule->b);
  if (!a || !b || !rule_applies(parser, rule)) return OK;
  if (a != b) return forget(parser, a > b ? rule->b : rule->a);
  bool shows_value = rule->a_value && strcmp(rule->a_value, "on") != 0;
  return fail(ERR_USAGE, "--%s%s%s and --%s contradict each other: leave one out", rule->a, shows_value ? " " : "",
              shows_value ? rule->a_value : "", rule->b);
}

static int check_rule(struct parser *parser, const struct option_rule *rule) {
  bool a = source_of(parser, rule->a), b = source_of(parser, rule->b);
  switch (rule->kind) {
    case RULE_EXCLUDES:
      return check_excludes(parser, rule);
    case RULE_NEEDS:
      return !a || b ? OK : fail(ERR_USAGE, "--%s makes no sense without --%s", rule->a, rule->b);
    case RULE_ONE_OF:
      return a || b ? OK : fail(ERR_USAGE, "--%s or --%s is needed", rule->a, rule->b);
  }
  return OK;
}

static int check_required(const struct parser *parser) {
  for (int i = 0; i < option_count; i++) {
    const struct option *option = &option_table[i];
    if ((option->required & IN(parser->out->command)) && !parser->given[i])
      return fail(ERR_USAGE, "--%s %s is missing: %s", option->name, option->value, option->help);
  }
  return OK;
}

static int check_arguments(const struct options *options) {
  const struct command_info *info = &command_table[options->command];
  if (options->argument_count < info->least_arguments) return fail(ERR_USAGE, "needs %s", info->arguments);
  if (options->argument_count <= info->most_arguments) return OK;
  return fail(ERR_USAGE, "'%.*s': only options are expected here; see qst-mpi help %s", SHOWN,
              options->arguments[info->most_arguments], info->name);
}

static int check_all(struct parser *parser) {
  TRY(check_required(parser));
  for (int i = 0; i < rule_count; i++)
    if (rule_table[i].command == parser->out->command) TRY(check_rule(parser, &rule_table[i]));
  return check_arguments(parser->out);
}

/* ---- commands ------------------------------------------------------------------------------------------- */

static int find_command(const char *word, enum command *out) {
  const char *names[COMMAND_COUNT + 2] = {NULL};
  for (int i = 0; i < COMMAND_COUNT; i++) {
    names[i] = command_table[i].name;
    if (strcmp(names[i], word) == 0) return *out = (enum command)i, OK;
  }
  names[COMMAND_COUNT] = "help";
  const char *near = nearest_name(word, names);
  if (near) return fail(ERR_USAGE, "'%.*s': unknown command; did you mean %s?", SHOWN, word, near);
  return fail(ERR_USAGE, "'%.*s': unknown command; qst-mpi help lists them", SHOWN, word);
}

/* help [COMMAND | --man | --completion] */
static int print_help(const char *topic, struct buffer *text) {
  if (!topic || strcmp(topic, "help") == 0 || strcmp(topic, "--help") == 0) return help_program(text);
  if (strcmp(topic, "--man") == 0) return help_manual(text);
  if (strcmp(topic, "--completion") == 0) return help_completion(text);
  enum command command;
  TRY(find_command(topic, &command));
  return help_command(command, text);
}

static bool is_one_of(const char *word, const char *a, const char *b, const char *c) {
  return strcmp(word, a) == 0 || strcmp(word, b) == 0 || strcmp(word, c) == 0;
}

static int print_version(struct buffer *text) {
  return buffer_print(text, "qst-mpi %s\n", QST_VERSION);
}

int options_parse(int count, char **words, struct options *out, struct buffer *text) {
  *out = (struct options){0};
  buffer_clear(text);
  if (count < 2) return fail(ERR_USAGE, "a command is needed; qst-mpi help lists them");
  if (is_one_of(words[1], "help", "--help", "-h")) return print_help(count > 2 ? words[2] : NULL, text);
  if (is_one_of(words[1], "--version", "version", "-V")) return print_version(text);
  TRY(find_command(words[1], &out->command));
  TRY(set_defaults(out));
  struct parser parser = {.out = out, .source = SOURCE_COMMAND_LINE};
  TRY(read_words(&parser, count - 2, words + 2));
  if (parser.help) return help_command(out->command, text);
  if (parser.version) return print_version(text);
  if (parser.config) TRY(read_config(&parser));
  return check_all(&parser);
}

void options_free(struct options *options) {
  for (int i = 0; i < option_count; i++) {
    if (option_table[i].type != OPTION_TEXT) continue;
    char **text = field(options, &option_table[i]);
    free(*text);
  }
  for (int i = 0; i < options->argument_count; i++) free(options->arguments[i]);
  free(options->arguments);
  *options = (struct options){0};
}
