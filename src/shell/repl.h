/* The SQL shell: one open database, its settings, where its input comes from. Owner thread; only
 * the signal handler runs beside it. */
#ifndef MN_SHELL_REPL_H
#define MN_SHELL_REPL_H

#include <sqlite3.h>

#include "src/shell/modes.h"
#include "src/shell/params.h"
#include "src/shell/shell.h"

struct editor;

/* Lines of one source of input: a file, a text, or the person at the terminal. */
struct input {
    const char *name; /* for messages, "script.sql"; NULL: none is said */
    FILE *file;       /* NULL: text, or the editor */
    const char *text; /* what is left of it */
    bool terminal;    /* the editor asks */
    uint64_t line;    /* number of the last line read */
    char *buffer;     /* of getline */
    size_t cap, len; /* of its line */
};

/* Where the text of a statement came from. */
struct place {
    const char *name; /* as struct input's */
    uint64_t line;    /* of the statement's first byte */
};

struct settings {
    struct modes modes;
    bool timer, echo, progress, safe, readonly;
    int bail;           /* 1, 0; -1: scripts stop at the first error, a person goes on */
    uint64_t memory_bytes, threads, timeout_ms; /* 0: the library's default */
};

struct repl {
    sqlite3 *db;
    mn_db *engine; /* the file again, for the program's commands; NULL: not wanted yet */
    char *path;    /* as given */
    struct settings set;
    struct collections known; /* of db */
    struct params params;
    struct text last;      /* the last statement, for .watch and .explain */
    struct editor *editor; /* NULL without a person */
    bool person;           /* the outermost input is a terminal */
    bool quit;
    int exit_code; /* of .exit N; else EXIT_FOUND once something failed */
    bool failed;
    unsigned depth; /* of .read */
    FILE *output;   /* .output, .once; NULL: stdout */
    char *output_name;
    bool output_once;
};

/* ---- repl.c --------------------------------------------------------------------------------- */

/* Each returns 0, or an exit code after having said why. */
int repl_open(struct repl *r, const char *path, bool must_exist);
void repl_close(struct repl *r);
int repl_read(struct repl *r, struct input *in); /* to its end; closes nothing */
int repl_read_file(struct repl *r, const char *path);
int repl_text(struct repl *r, const char *name, const char *text);
int repl_main(int argc, char **argv); /* the words after `mneme`; main.c calls it */

/* The database's file, for the program's commands; NULL in memory. */
const char *repl_file(const struct repl *r);
int repl_engine(struct repl *r); /* opens r->engine, by the shell's options */

/* `.NAME is off with -safe`, if it is: then an exit code. */
int repl_unsafe(struct repl *r, const char *what);

/* ---- statement.c ---------------------------------------------------------------------------- */

/* Runs each statement of sql; stops at the first that fails. */
int statements_run(struct repl *r, const char *sql, size_t len, struct place place);

/* EXPLAIN QUERY PLAN as a tree; mneme_explain(), which runs the statement. */
int statement_explain(struct repl *r, const char *sql, struct place place);
int statement_analyze(struct repl *r, const char *sql);

/* ---- complaint.c ---------------------------------------------------------------------------- */

/* Says what the connection's last error is, with the statement, the place and a hint. `offset` is
 * where in sql[len] the failed statement starts. Returns EXIT_ERROR or EXIT_INTERRUPTED. */
int complain(struct repl *r, const char *sql, size_t len, size_t offset, struct place place);

/* ---- dots.c --------------------------------------------------------------------------------- */

/* A line that begins with . or \ */
int dot_run(struct repl *r, const char *line, struct place place);

/* Sends output to a file, or back to stdout with NULL. */
int output_set(struct repl *r, const char *path, bool once);
/* After a statement: ends .once. */
int output_turn(struct repl *r);

#endif
