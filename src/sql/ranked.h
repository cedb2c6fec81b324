/* What table functions have in common that answer with rows of a collection, best first: a virtual
 * table whose arguments are hidden columns, which computes all rows when it is asked and then hands
 * them out. hybrid(), mmr() and knn_groups() are such. On the connection's thread. */
#ifndef MN_SQL_RANKED_H
#define MN_SQL_RANKED_H

#include <sqlite3.h>

#include "src/engine/engine.h"
#include "src/sql/session.h"

enum { RANKED_MOST_COLUMNS = 26 };

/* The rows of an answer. Each begins with its int64_t id. */
struct ranked_rows {
    void *rows;  /* [n], for sqlite3_free */
    size_t n;
    char *table; /* of a collection with text ids: its table, for sqlite3_free; else NULL */
};

/* A function; column 0 is the id, the last one before the arguments the rank from 1, which this
 * file hands out itself. */
struct ranked_function {
    const char *name, *usage;  /* "hybrid('docs', :text, :vector, 10)" */
    const char *const *columns; /* [n_columns] their names; arguments from first_argument on */
    const char *const *types;   /* [first_argument] that they are declared with; NULL: none */
    int n_columns, first_argument;
    int n_required;            /* arguments that must be given */
    int score;                 /* column by which the rows come, descending; -1: none does */
    int distance;              /* ascending; -1 */
    size_t row_bytes;
    /* args [n_columns]: NULL where an argument is not given or SQL NULL. rows is empty before, and
     * freed by the caller also after a failure. */
    mn_status (*fill)(struct session *s, mn_conn *conn, sqlite3_value **args,
                      struct ranked_rows *rows, mn_error *err);
    void (*result)(const void *row, int column, sqlite3_context *ctx); /* nothing: NULL */
    void (*fini_row)(void *row); /* or NULL */
};

int ranked_register(struct session *s, const struct ranked_function *f);

/* Arguments. `f` and the column name the place. MN_INVALID for a value of another type. */
MN_CHECKED mn_status ranked_text(const struct ranked_function *f, sqlite3_value **args, int column,
                                 const char **out, mn_error *err); /* NULL stays as it was */
MN_CHECKED mn_status ranked_number(const struct ranked_function *f, sqlite3_value **args,
                                   int column, double least, double most, double *out,
                                   mn_error *err);
MN_CHECKED mn_status ranked_whole(const struct ranked_function *f, sqlite3_value **args, int column,
                                  int64_t least, int64_t most, int64_t *out, mn_error *err);

/* The collection's entry, the vector of its type (args[vector], NULL: *query NULL) and, if where is
 * not NULL, the condition. query is for sqlite3_free, where for where_fini(). */
struct where;
MN_CHECKED mn_status ranked_begin(const struct ranked_function *f, mn_conn *conn,
                                  const char *collection, sqlite3_value *vector,
                                  const char *condition, struct catalog_entry *entry, void **query,
                                  struct where *where, mn_error *err);

#endif
