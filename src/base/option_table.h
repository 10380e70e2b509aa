/**
 * @file option_table.h
 * The table of options and commands: one place for the parser, the help, the man page, the completion and the checks.
 */
#ifndef QST_BASE_OPTION_TABLE_H
#define QST_BASE_OPTION_TABLE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/options.h"

enum option_type {
  OPTION_TEXT,    /**< char *, owned by struct options */
  OPTION_INTEGER, /**< int64_t */
  OPTION_REAL,    /**< double */
  OPTION_SWITCH,  /**< bool */
  OPTION_WORD     /**< has no field: --config, --help, --version */
};

/** The bit of a command in the masks below. */
#define IN(command) (1u << (command))

struct option {
  const char *name;           /**< without the dashes */
  const char *group;          /**< heading in the help */
  const char *help;           /**< one sentence, no full stop */
  const char *value;          /**< what stands for the value in the help: FILE, N, … */
  const char *unit;           /**< of numbers; NULL: none */
  const char *initial;        /**< the default, as a user would write it; NULL: none */
  const char *const *choices; /**< NULL-terminated; NULL: any text */
  double minimum, maximum;    /**< of numbers, both included */
  size_t offset;              /**< in struct options */
  enum option_type type;
  unsigned commands; /**< which know it */
  unsigned required; /**< which cannot do without */
  bool numbers;      /**< changes the numbers of a training run */
  bool own;          /**< may differ between the ranks of a job */
  bool automatic;    /**< an integer that may be "auto", which is kept as OPTION_AUTO */
};

struct command_info {
  const char *name, *arguments, *summary, *example;
  int least_arguments, most_arguments;
};

enum rule_kind {
  RULE_EXCLUDES, /**< a (or a = a_value) and b contradict each other */
  RULE_NEEDS,    /**< a makes no sense without b */
  RULE_ONE_OF    /**< a or b must be given */
};

struct option_rule {
  enum command command;
  enum rule_kind kind;
  const char *a, *a_value, *b;
};

enum { OPTION_LIMIT = 96 }; /**< more than the table has rows */

extern const struct option option_table[];
extern const int option_count;
extern const struct command_info command_table[COMMAND_COUNT];
extern const struct option_rule rule_table[];
extern const int rule_count;

/** The row of this name among the options of these commands, or NULL. */
const struct option *option_find(const char *name, unsigned commands);

/** Texts made from the table. */
int help_program(struct buffer *out);
int help_command(enum command command, struct buffer *out);
int help_manual(struct buffer *out);     /**< roff, section 1 */
int help_completion(struct buffer *out); /**< bash */

#endif
