/* How the rows of a statement are written: the output modes and their settings. Writes to stdout as
 * print.h knows it, or to where that is sent. Owner thread. */
#ifndef MN_SHELL_MODES_H
#define MN_SHELL_MODES_H

#include "src/shell/cells.h"

/* X(enumerator, word, help) */
#define OUTPUT_MODES(X)                                                                            \
    X(TABLE, "table", "a table with lines, for people; the default on a terminal")                 \
    X(BOX, "box", "the same as table")                                                             \
    X(COLUMN, "column", "aligned columns without lines")                                           \
    X(MARKDOWN, "markdown", "a Markdown table")                                                    \
    X(LINE, "line", "a value a line: name = value")                                                \
    X(LIST, "list", "values apart by |; the default into a pipe or file")                          \
    X(JSON, "json", "one array of objects; vectors as arrays, blobs as {\"$blob\": base64}")       \
    X(JSONL, "jsonl", "one object a line")                                                         \
    X(CSV, "csv", "RFC 4180")                                                                      \
    X(TSV, "tsv", "values apart by tabs; \\t, \\n and \\\\ for those in them")                     \
    X(QUOTE, "quote", "SQL literals apart by commas")                                              \
    X(INSERT, "insert", "INSERT statements")

enum mode {
#define X(name, word, help) MODE_##name,
    OUTPUT_MODES(X)
#undef X
        MODE_COUNT
};

const char *mode_name(enum mode mode);
const char *mode_help(enum mode mode);
bool mode_is_for_people(enum mode mode); /* a plan is drawn as a tree there */
bool mode_parse(const char *word, enum mode *out);

enum headers { HEADERS_AUTO, HEADERS_ON, HEADERS_OFF }; /* auto: as the mode likes it */

enum { WIDTHS_MOST = 64 };

struct modes {
    enum mode mode;
    enum headers headers;
    char null_value[64];
    char separator[16];         /* of list mode; "": | */
    char insert_table[128];     /* of insert mode */
    long limit;                 /* rows shown by a table; 0: all; -1: 40 on a terminal, else all */
    size_t widths[WIDTHS_MOST]; /* of columns; 0: as wide as its cells */
    bool expand;                /* \x: line mode, whatever else is set */
};

struct grid;

/* The rows of one statement on their way out. */
struct result {
    const struct modes *modes;
    enum mode mode;
    sqlite3_stmt *stmt;
    size_t n_columns;
    struct shape *shapes; /* [n_columns] */
    const char **names;   /* [n_columns], borrowed from the statement */
    uint64_t n_rows;
    struct grid *grid; /* modes that align */
    struct text line;
    size_t name_width; /* line mode */
};

/* `known` may be NULL. */
void result_begin(struct result *r, const struct modes *modes, sqlite3_stmt *stmt,
                  const struct collections *known);
void result_row(struct result *r);
/* Prints what was held back; `whole` is false after an error. Frees. */
void result_end(struct result *r, bool whole);

/* ---- Rows that are aligned: grid.c ----------------------------------------------------------- */

struct grid *grid_begin(const struct modes *modes, enum mode mode, sqlite3_stmt *stmt, size_t n);
void grid_cell(struct grid *g, const struct cell *c); /* row by row */
/* Prints the rest and frees; after an error (not fine) nothing if there was no row. */
void grid_end(struct grid *g, bool fine);

#endif
