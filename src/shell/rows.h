/* Rows of an open collection for the screen: their attributes' names, ids from the command line,
 * cells and JSON members. */
#ifndef MN_SHELL_ROWS_H
#define MN_SHELL_ROWS_H

#include "src/shell/print.h"
#include "src/shell/shell.h"

struct names {
    const char **items; /* [n] */
    size_t n;
};

/* The attributes of a collection in the order of its table. Freed before the session is closed. */
int names_load(struct names *names, struct session *s, const char *collection);
void names_free(struct names *names);

/* Ids as typed, to be read by mn_get and mn_delete. */
struct id_list {
    mn_id *items; /* [n] */
    size_t n;
    char **lines; /* [n_lines] texts of a file, which the ids borrow */
    size_t n_lines;
};

/* Takes args[n] and, if `from` is not NULL, the lines of that file ("-": standard input). */
int ids_load(struct id_list *ids, const mn_collection_info *info, char **args, size_t n,
             const char *from);
void ids_free(struct id_list *ids);

/* One id as typed. 0, or the exit code after saying that it is none. */
int id_parse(const mn_collection_info *info, const char *word, mn_id *out);

/* "'king'" or "17", for messages; returns out. */
const char *id_quote(const mn_id *id, char *out, size_t size);

void row_id_json(struct text *t, const mn_row *row);
void row_id_show(struct text *t, const mn_row *row);

/* ,"text":"...","attributes":{...}: what the row has; nothing for what it has not. */
void row_members_json(struct text *t, const mn_row *row);

/* Reads up to *n rows, by ids [*n], with their vectors or without; fewer, in *n, if so many do not
 * fit the memory cap. *out is for mn_rows_free. 0 or the exit code. */
int rows_get(struct session *s, const char *collection, const mn_id *ids, size_t *n, bool vectors,
             mn_rows **out);

/* Optional columns for attributes (cells cut to 24 columns) and payload (48). `row` may be NULL. */
void row_columns_add(const struct names *names, struct table *t);
void row_cells_add(const struct names *names, struct table *t, const mn_row *row);

#endif
