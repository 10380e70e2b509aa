/* Help, man page and completion, made from the table. */
#include <string.h>

#include "base/error.h"
#include "base/option_table.h"

enum { NAME_COLUMN = 34, LINE_WIDTH = 110 };

static const char statuses[][64] = {"0   done",
                                    "1   a file is missing, damaged, mismatched or not supported",
                                    "2   the command line or the config file is wrong",
                                    "3   the operating system or a library refused",
                                    "4   not enough memory",
                                    "5   a fault of this program",
                                    "6   a rank was lost: dead, too late or out of reach",
                                    "75  stopped by a signal, a checkpoint was saved: resume"};
enum { STATUS_COUNT = sizeof statuses / sizeof statuses[0] };

static const char closing[] =
    "Every command runs alone, under mpirun and under srun --mpi=pmix. Values: --name value or --name=value;\n"
    "switches: --name, --name on|off, --no-name. Command line over --config FILE over defaults.\n";

/* "--lr X" or "--[no-]resume" */
static int print_name(const struct option *option, struct buffer *out) {
  if (option->type == OPTION_SWITCH) return buffer_print(out, "--[no-]%s", option->name);
  return buffer_print(out, "--%s%s%s", option->name, option->value ? " " : "", option->value ? option->value : "");
}

/* "tokens, 2 to 100"; a maximum that nobody reaches is not shown. */
static int print_range(const struct option *option, struct buffer *out) {
  if (option->type != OPTION_INTEGER && option->type != OPTION_REAL) return OK;
  if (option->unit) TRY(buffer_print(out, "%s, ", option->unit));
  TRY(buffer_print(out, "%.8g", option->minimum));
  if (option->maximum >= 1e6)
    TRY(buffer_print(out, " or more"));
  else
    TRY(buffer_print(out, " to %.8g", option->maximum));
  return option->automatic ? buffer_print(out, ", or auto") : OK;
}

static int list_facts(const struct option *option, bool required, struct buffer *out) {
  for (int i = 0; option->choices && option->choices[i]; i++)
    TRY(buffer_print(out, "%s%s", i ? "|" : "", option->choices[i]));
  TRY(print_range(option, out));
  const char *separator = out->size ? "; " : "";
  if (required) TRY(buffer_print(out, "%srequired", separator));
  return option->initial ? buffer_print(out, "%sdefault %s", separator, option->initial) : OK;
}

/* " (tokens, 2 to 100; default 10)" */
static int print_facts(const struct option *option, bool required, struct buffer *out) {
  struct buffer facts = {0};
  int status = list_facts(option, required, &facts);
  if (status == OK && facts.size) status = buffer_print(out, " (%s)", facts.data);
  buffer_free(&facts);
  return status;
}

/* Appends the text word by word, in lines of LINE_WIDTH that start at NAME_COLUMN. */
static int print_wrapped(const char *text, struct buffer *out) {
  for (size_t column = NAME_COLUMN; *text;) {
    size_t size = strcspn(text, " ");
    if (column + size > LINE_WIDTH && column > NAME_COLUMN) {
      TRY(buffer_print(out, "\n%*s", NAME_COLUMN, ""));
      column = NAME_COLUMN;
    }
    if (column > NAME_COLUMN) TRY(buffer_append(out, " ", 1));
    TRY(buffer_append(out, text, size));
    text += size + strspn(text + size, " ");
    column += size + 1;
  }
  return buffer_append(out, "\n", 1);
}

static int describe(const struct option *option, enum command command, struct buffer *out) {
  TRY(buffer_print(out, "%s", option->help));
  return print_facts(option, option->required & IN(command), out);
}

static int print_option(const struct option *option, enum command command, struct buffer *out) {
  size_t start = out->size;
  TRY(buffer_append(out, "  ", 2));
  TRY(print_name(option, out));
  size_t used = out->size - start;
  if (used + 1 > NAME_COLUMN)
    TRY(buffer_print(out, "\n%*s", NAME_COLUMN, ""));
  else
    TRY(buffer_print(out, "%*s", (int)(NAME_COLUMN - used), ""));
  struct buffer text = {0};
  int status = describe(option, command, &text);
  if (status == OK) status = print_wrapped(text.data, out);
  buffer_free(&text);
  return status;
}

int help_command(enum command command, struct buffer *out) {
  const struct command_info *info = &command_table[command];
  const char *gap = info->arguments[0] ? " " : "";
  TRY(buffer_print(out, "qst-mpi %s [options]%s%s: %s\n", info->name, gap, info->arguments, info->summary));
  TRY(buffer_print(out, "example: %s\n", info->example));
  const char *group = "";
  for (int i = 0; i < option_count; i++) {
    const struct option *option = &option_table[i];
    if (!(option->commands & IN(command))) continue;
    if (strcmp(group, option->group) != 0) TRY(buffer_print(out, "\n%s\n", option->group));
    group = option->group;
    TRY(print_option(option, command, out));
  }
  return OK;
}

int help_program(struct buffer *out) {
  TRY(buffer_print(out, "qst-mpi %s: finetuning of 4-bit language models by a side network (QST), on MPI ranks\n\n",
                   QST_VERSION));
  TRY(buffer_print(out, "usage: qst-mpi COMMAND [options]\n"));
  for (int i = 0; i < COMMAND_COUNT; i++)
    TRY(buffer_print(out, "  %-10s %s\n", command_table[i].name, command_table[i].summary));
  TRY(buffer_print(out, "  %-10s %s\n\n", "help", "this; help COMMAND: the command's options (also COMMAND --help)"));
  TRY(buffer_print(out, "%s\nexit status\n", closing));
  for (int i = 0; i < STATUS_COUNT; i++) TRY(buffer_print(out, "  %s\n", statuses[i]));
  return OK;
}

/* ---- man page: roff, macros of man(7) ------------------------------------------------------------------- */

/* Text with what roff would take as its own escaped: backslashes, dashes, a dot or quote at the start of a line. */
static int print_roff(const char *text, struct buffer *out) {
  if (*text == '.' || *text == '\'') TRY(buffer_print(out, "\\&"));
  for (; *text; text++) {
    const char *put = *text == '\\' ? "\\e" : *text == '-' ? "\\-" : NULL;
    TRY(put ? buffer_append(out, put, 2) : buffer_append(out, text, 1));
  }
  return OK;
}

static int print_roff_line(const char *before, const char *text, struct buffer *out) {
  TRY(buffer_print(out, "%s", before));
  TRY(print_roff(text, out));
  return buffer_append(out, "\n", 1);
}

static int print_manual_option(const struct option *option, enum command command, struct buffer *out) {
  struct buffer text = {0};
  int status = print_name(option, &text);
  if (status == OK) status = print_roff_line(".TP\n.B ", text.data, out);
  buffer_clear(&text);
  if (status == OK) status = describe(option, command, &text);
  if (status == OK) status = print_roff_line("", text.data, out);
  buffer_free(&text);
  return status;
}

static int print_manual_command(enum command command, struct buffer *out) {
  const struct command_info *info = &command_table[command];
  TRY(buffer_print(out, ".SS qst\\-mpi %s [options] %s\n", info->name, info->arguments));
  TRY(print_roff_line("", info->summary, out));
  TRY(print_roff_line(".PP\nExample:\n.RS\n.B ", info->example, out));
  TRY(buffer_print(out, ".RE\n"));
  for (int i = 0; i < option_count; i++)
    if ((option_table[i].commands & IN(command)) && strcmp(option_table[i].group, "General") != 0)
      TRY(print_manual_option(&option_table[i], command, out));
  return OK;
}

int help_manual(struct buffer *out) {
  TRY(buffer_print(out, ".TH QST\\-MPI 1 \"\" \"qst\\-mpi %s\" \"User Commands\"\n", QST_VERSION));
  TRY(buffer_print(out, ".SH NAME\nqst\\-mpi \\- finetune 4\\-bit language models by a side network, on MPI ranks\n"));
  TRY(buffer_print(out, ".SH SYNOPSIS\n.B qst\\-mpi\n.I COMMAND\n[options]\n.SH DESCRIPTION\n"));
  TRY(print_roff_line("", closing, out));
  TRY(buffer_print(out, ".SH COMMANDS\n"));
  for (int i = 0; i < COMMAND_COUNT; i++) TRY(print_manual_command((enum command)i, out));
  TRY(buffer_print(out, ".SS Options of all commands\n"));
  for (int i = 0; i < option_count; i++)
    if (strcmp(option_table[i].group, "General") == 0) TRY(print_manual_option(&option_table[i], COMMAND_COUNT, out));
  TRY(buffer_print(out, ".SH EXIT STATUS\n.nf\n"));
  for (int i = 0; i < STATUS_COUNT; i++) TRY(print_roff_line("", statuses[i], out));
  return buffer_print(out, ".fi\n");
}

/* ---- completion for bash -------------------------------------------------------------------------------- */

static int print_choices(const struct option *option, struct buffer *out) {
  TRY(buffer_print(out, "    --%s) words=\"", option->name));
  for (int i = 0; option->choices[i]; i++) TRY(buffer_print(out, "%s%s", i ? " " : "", option->choices[i]));
  return buffer_print(out, "\" ;;\n");
}

static int print_words(enum command command, struct buffer *out) {
  TRY(buffer_print(out, "      %s) words=\"", command_name(command)));
  for (int i = 0; i < option_count; i++)
    if (option_table[i].commands & IN(command)) TRY(buffer_print(out, "--%s ", option_table[i].name));
  return buffer_print(out, "\" ;;\n");
}

int help_completion(struct buffer *out) {
  TRY(buffer_print(out, "_qst_mpi() {\n  local word=${COMP_WORDS[COMP_CWORD]} words=\n"));
  TRY(buffer_print(out, "  case ${COMP_WORDS[COMP_CWORD-1]} in\n"));
  for (int i = 0; i < option_count; i++)
    if (option_table[i].choices) TRY(print_choices(&option_table[i], out));
  TRY(buffer_print(out, "    *) case ${COMP_WORDS[1]} in\n"));
  for (int i = 0; i < COMMAND_COUNT; i++) TRY(print_words((enum command)i, out));
  TRY(buffer_print(out, "    esac ;;\n  esac\n  if ((COMP_CWORD == 1)); then words=\"help"));
  for (int i = 0; i < COMMAND_COUNT; i++) TRY(buffer_print(out, " %s", command_table[i].name));
  TRY(buffer_print(out, "\"; fi\n  mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$word\")\n}\n"));
  return buffer_print(out, "complete -o default -F _qst_mpi qst-mpi\n");
}
