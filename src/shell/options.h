/* One parser for the options and arguments of every command, driven by the tables that also write
 * `--help`. Opens nothing, knows no command by name. Owner thread. */
#ifndef MN_SHELL_OPTIONS_H
#define MN_SHELL_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What an option's value is, and the type of its field in the command's struct.
 * A zero field means "not given", except for the two that say so themselves. */
enum option_kind {
    OPTION_FLAG,    /* bool */
    OPTION_TEXT,    /* const char * */
    OPTION_LIST,    /* struct option_list: may be given many times */
    OPTION_COUNT,   /* uint64_t, within min .. max */
    OPTION_INTEGER, /* struct option_integer */
    OPTION_REAL,    /* struct option_real, within min .. max if max > min */
    OPTION_SIZE,    /* uint64_t, bytes */
    OPTION_TIME,    /* uint64_t, microseconds */
    OPTION_CHOICE   /* int: 1 + the index in choices */
};

struct option_list {
    const char **items; /* [n]; borrowed from argv */
    size_t n;
};

struct option_integer {
    bool given;
    int64_t value;
};

struct option_real {
    bool given;
    double value;
};

struct option {
    const char *name; /* without "--"; NULL ends a table */
    char letter;      /* its short form, or 0 */
    enum option_kind kind;
    size_t field;        /* offset in the command's struct */
    const char *value;   /* what --help calls the value */
    const char *help;    /* one or two sentences */
    const char *choices; /* OPTION_CHOICE: "l2|ip|cosine" */
    double min, max;
};

/* Fields that every command's struct begins with. */
struct common {
    bool help, quiet;
    uint64_t memory;  /* bytes */
    uint64_t timeout; /* microseconds */
    uint64_t threads;
};

struct command {
    const char *name;
    const char *arguments; /* "DB COLLECTION [FILE]", "DB ID..." */
    const char *summary;   /* one line */
    const char *about;     /* paragraphs, each wrapped at 80 columns by its author */
    const char *examples;  /* lines */
    const struct option *options;
    size_t size; /* of its struct, which begins with struct common */
    /* `given` is the struct; `args` holds [n] arguments, as many as `arguments` allows. Returns
     * the exit code. */
    int (*run)(const struct command *self, const void *given, char **args, size_t n);
};

/* Reads argv[0 .. argc), the words after the command's name, into `given` (zeroed, of
 * command->size bytes) and args[argc]. Returns 0, or the exit code to end with after having said
 * why on stderr. --help sets common.help and skips the checks of arguments. */
int options_parse(const struct command *command, int argc, char **argv, void *given, char **args,
                  size_t *n_args);
void options_free(const struct command *command, void *given);

/* The command's complete help, to stdout. */
void options_help(const struct command *command);

/* The candidate nearest to `word`, or NULL if none is near. `candidates` is [n]. */
const char *nearest_word(const char *word, const char *const *candidates, size_t n);

/* The index of word in "a|b|c", or -1. */
int choice_index(const char *choices, const char *word);

#endif
