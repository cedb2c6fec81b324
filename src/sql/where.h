/* Conditions written as SQL text, for table functions: what the engine can check inside a search,
 * and otherwise the ids of the rows for which SQLite finds them true. */
#ifndef MN_SQL_WHERE_H
#define MN_SQL_WHERE_H

#include "src/engine/engine.h"

struct where {
    mn_condition *conditions; /* [n]; NULL: none, or ids */
    char **names;             /* [n] of their attributes: the collection may be loaded anew */
    size_t n;
    mn_value *values;         /* of the conditions */
    sqlite3_value **kept;     /* [n_values], what they point into */
    size_t n_values;
    int64_t *ids;             /* [n_ids]: the rows that match; NULL: conditions say it */
    size_t n_ids;
};

/*
 * Reads `text`, an expression over the columns of the collection's table, as it may stand behind
 * WHERE. Comparisons with literals, BETWEEN, IN, IS NULL and json_contains() on the collection's
 * attributes, joined by AND, are conditions; for any other expression SQLite reads the table, in
 * the running statement's snapshot, and the ids are kept. NULL or blank: no condition.
 * Fails with MN_INVALID (SQLite's sentence about the expression), MN_NOMEM.
 */
mn_status where_read(mn_conn *conn, struct coll *c, const char *text, struct where *out,
                     mn_error *err);
void where_fini(struct where *w);

#endif
