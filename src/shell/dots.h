/* The dot commands: a table, and functions in dots_*.c by subject. Owner thread. */
#ifndef MN_SHELL_DOTS_H
#define MN_SHELL_DOTS_H

#include "src/shell/repl.h"

struct dot_args {
    char **words; /* [n] the command's own name first; terminated by NULL */
    size_t n;
    const char *rest; /* the line after the name, as typed */
    struct place place;
};

/* 0 or an exit code after saying why. */
typedef int (*dot_fn)(struct repl *r, const struct dot_args *a);

enum dot_needs {
    DOT_ANY = 0,
    DOT_FILES = 1,  /* reaches other files or programs: off with -safe */
    DOT_PROGRAM = 2 /* a command of the program, on the database's file */
};

enum dot_completes {
    COMPLETES_NOTHING,
    COMPLETES_TABLES,
    COMPLETES_FILES,
    COMPLETES_MODES,
    COMPLETES_ON_OFF,
    COMPLETES_DOTS,
    COMPLETES_SQL
};

struct dot {
    const char *name; /* without its dot */
    const char *arguments, *help;
    dot_fn run;
    size_t least, most; /* words after the name */
    unsigned needs;
    enum dot_completes completes;
};

extern const struct dot dots[]; /* [dots_count()] by name */
size_t dots_count(void);
const struct dot *dot_find(const char *name);

/* "on", "off", "1", "0", ...: 0, or an exit code after saying what is wanted. */
int on_off(const struct dot_args *a, bool *out);
int bad_usage(const struct dot_args *a);

#define DOT_FUNCTIONS(X)                                                                           \
    X(backup)                                                                                      \
    X(bail)                                                                                        \
    X(cd) X(databases) X(dump) X(echo) X(edit) X(exit) X(explain) X(export) X(headers) X(help)     \
        X(import) X(indexes) X(limit) X(load) X(mode) X(near) X(nullvalue) X(once) X(open)         \
            X(output) X(param) X(print) X(program) X(progress) X(quit) X(read) X(schema)           \
                X(separator) X(shell) X(show) X(tables) X(timeout) X(timer) X(watch) X(width)      \
                    X(expand) X(describe)
#define X(name) int dot_##name(struct repl *r, const struct dot_args *a);
DOT_FUNCTIONS(X)
#undef X

/* dump.c: SQL that makes the database, or the tables like `pattern`, anew. */
int dump_write(struct repl *r, const char *pattern);

/* table_import.c: rows of a file into a table, made if it is absent. */
struct table_import {
    const char *path, *table;
    int format;                                  /* enum format_kind */
    const char *vector_column, *id_column, *ids; /* or NULL */
    bool partial, replace, quiet;
};
int table_import(struct repl *r, const struct table_import *what);

#endif
