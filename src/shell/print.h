/* What reaches the screen: stdout that notices a reader who left, tables with aligned columns, JSON
 * and CSV, colours only where they are wanted. Knows no database. Owner thread. */
#ifndef MN_SHELL_PRINT_H
#define MN_SHELL_PRINT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* ---- Text being built ----------------------------------------------------------------------- */

struct text {
    char *data; /* always terminated once something was added; NULL before */
    size_t len, cap;
};

void text_add(struct text *t, const char *bytes, size_t n);
void text_puts(struct text *t, const char *s);
__attribute__((format(printf, 2, 3))) void text_printf(struct text *t, const char *format, ...);
void text_clear(struct text *t); /* keeps the memory */
void text_free(struct text *t);

/* ---- stdout --------------------------------------------------------------------------------- */

/* Looks at terminals, NO_COLOR and TERM, and lets a closed pipe be an error instead of a signal. */
void out_init(void);

__attribute__((format(printf, 1, 2))) void out_printf(const char *format, ...);
void out_write(const void *bytes, size_t n);
/* Data: as it is, but a terminal is shown what would steer it, apart from line ends and tabs. */
void out_data(const char *bytes, size_t n);
void out_heading(const char *title); /* an empty line, then "Title:" in bold */
void out_flush(void);

/* False when nobody reads any more, or the disk behind it is full: time to stop. */
bool out_fine(void);

/* Flushes. 0; or 0 too for a reader who left, who wants no more; or the code of an error that was
 * reported. */
int out_finish(void);

/* Sends all that follows to `file`, which is no terminal, until out_restore: that flushes, leaves
 * the file open and returns 0 or the errno of the first write that failed. */
void out_redirect(FILE *file);
int out_restore(void);

bool out_is_terminal(void);
bool err_is_terminal(void); /* and one that can move its cursor */
size_t out_columns(void);   /* width of the terminal; 0: no terminal */
size_t out_lines(void);     /* its height; 0: no terminal */
size_t err_columns(void);

/* Escape sequences, or "" where colours are not wanted. */
enum colour { COLOUR_NONE, COLOUR_BOLD, COLOUR_DIM, COLOUR_RED };
const char *out_colour(enum colour c);
const char *err_colour(enum colour c);

/* ---- Cells ---------------------------------------------------------------------------------- */

/* Columns that the UTF-8 text takes on a terminal. */
size_t text_width(const char *s, size_t n);

/* Appends text for a person: control characters and broken UTF-8 as \xNN or \n, so that nothing
 * reaches the terminal raw; cut to `most` columns with "…" (0: whole). */
void text_visible(struct text *t, const char *s, size_t n, size_t most);

/* JSON string with its quotes; broken UTF-8 becomes U+FFFD. */
void text_json(struct text *t, const char *s, size_t n);

/* CSV field: quoted if it must be. */
void text_csv(struct text *t, const char *s, size_t n);

/* Shortest decimal form that reads back as the same number. Infinite and NaN: "null". */
void text_real(struct text *t, double x);
void text_float(struct text *t, float x);

/* ---- Tables --------------------------------------------------------------------------------- */

enum { TABLE_MOST_COLUMNS = 64, TABLE_MOST_OPTIONAL = 12 /* shown */ };

struct table {
    size_t n_columns, n_rows;
    struct {
        const char *name; /* borrowed */
        bool right;       /* numbers */
        bool optional;    /* not shown if all its cells are empty */
        size_t width;     /* set by table_print; 0: not shown */
    } columns[TABLE_MOST_COLUMNS];
    char **cells; /* [n_rows][n_columns] */
    size_t n_cells, cap_cells;
};

/* `right`: numbers, aligned to the right. */
void table_column_add(struct table *t, const char *name, bool right);
void table_column_optional(struct table *t, const char *name);
void table_cell(struct table *t, const char *s, size_t n,
                size_t most); /* row by row; see text_visible */
__attribute__((format(printf, 2, 3))) void table_cellf(struct table *t, const char *format, ...);

/* Prints to stdout; lines wider than the terminal lose the end of their last column. */
void table_print(struct table *t);
void table_clear(struct table *t); /* keeps the columns */
void table_free(struct table *t);

#endif
