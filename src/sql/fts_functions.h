/* Full text of collections: from a collection's name to the table that fts.h wants. */
#ifndef MN_SQL_FTS_FUNCTIONS_H
#define MN_SQL_FTS_FUNCTIONS_H

#include "src/engine/engine.h"
#include "src/sql/fts.h"

/* The collection as the catalog has it: its table, that one's key. */
MN_CHECKED mn_status fts_table_of(mn_conn *conn, const char *collection, struct catalog_entry *out,
                                  mn_error *err);

/* Makes the full text over the collection's table, called TABLE_fts. */
MN_CHECKED mn_status fts_make_over(mn_conn *conn, const char *collection,
                                   const struct fts_options *o, mn_error *err);

/* Removes the full text over a table. */
MN_CHECKED mn_status fts_drop_over(mn_conn *conn, const char *table, mn_error *err);

/* Compares the full text of each collection's table with the table, word by word, unless the
 * database is read-only; *findings goes up by one for each that is out of step. */
MN_CHECKED mn_status fts_verify(mn_conn *conn, mn_finding_fn finding, void *ctx, uint64_t *findings,
                                mn_error *err);

#endif
