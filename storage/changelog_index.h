/* What a unique index is over, as conditions in SQL: which rows would REPLACE remove for a row NEW?
 * For changelog.c, and for full text (src/sql/fts.c). */
#ifndef MN_STORAGE_CHANGELOG_INDEX_H
#define MN_STORAGE_CHANGELOG_INDEX_H

#include <sqlite3.h>
#include <stdbool.h>

#include "mneme.h"

/* Appends the conditions of all unique indexes of table `name`, joined by OR; *n counts them.
 * *plain is false if one of them has an expression over the key or the rowid, whose value nobody
 * knows before the row is there. */
mn_status changelog_append_conflicts(sqlite3 *db, const char *name, sqlite3_str *out, int *n,
                                     bool *plain, mn_error *err);

/* Appends ` OF "a", "b"`: the columns whose change may meet a unique index; nothing if that is not
 * simply those of the indexes. */
mn_status changelog_append_unique(sqlite3 *db, const char *name, sqlite3_str *out, mn_error *err);

#endif
