/* The change log: which rows of a table changed, in which order, whoever changed them. Triggers
 * write it, so that a plain SQLite client keeps it too. Knows no vectors. Each call runs inside
 * the caller's transaction on the caller's connection. The format stands in changelog.c. */
#ifndef MN_STORAGE_CHANGELOG_H
#define MN_STORAGE_CHANGELOG_H

#include <sqlite3.h>

#include "mneme.h"

/* Entries that a writer leaves in the log; a reader further behind reads all rows anew. */
enum { CHANGELOG_KEEP = 65536 };

/* A place in a table's history. Two equal positions mean equal content: seq alone is not enough,
 * because a restored backup may count up to the same number along another history. */
struct log_position {
    int64_t seq;   /* of the newest entry; 0: nothing was ever logged */
    int64_t stamp; /* random number in that entry */
};

/* A table whose changes are logged. */
struct changelog_table {
    int64_t number;
    const char *name;
    const char *key; /* its INTEGER PRIMARY KEY, as it stands in SQL: id, or "a key" in quotes */
    const char *watched; /* the columns whose change counts, quoted, joined by ", "; "": all; NULL:
                            a table of Mneme's own, all but `version`, which the triggers set */
};

/* Creates log table and triggers, anew where they are there. */
mn_status changelog_create(sqlite3 *db, const struct changelog_table *t, mn_error *err);
mn_status changelog_drop(sqlite3 *db, int64_t table, mn_error *err);

/* Sets *intact to whether log table and every trigger stand exactly as they must, given the
 * table's columns and unique indexes as they are now. */
mn_status changelog_check(sqlite3 *db, const struct changelog_table *t, bool *intact,
                          mn_error *err);

/* Makes the triggers anew and forgets all entries but a fresh one, so that nobody who followed
 * the log takes what he holds for current. */
mn_status changelog_restart(sqlite3 *db, const struct changelog_table *t, mn_error *err);

/* *watchable: every change of `column` and of which rows there are is logged. Not so with a unique
 * index over an expression of the key (a row that REPLACE removes for it is not), nor where a
 * trigger of the user's writes into the table from inside one of ours: such rows must be read each
 * time. */
mn_status changelog_watchable(sqlite3 *db, sqlite3 *asked, const struct changelog_table *t,
                              const char *column, bool *watchable, mn_error *err);

/* SQL texts (for sqlite3_free) of the statements that follow a log; NULL when out of memory. */
char *changelog_sql_head(int64_t table);  /* -> seq, stamp of the newest entry */
char *changelog_sql_at(int64_t table);    /* ?1 seq -> stamp */
char *changelog_sql_since(int64_t table); /* ?1 seq -> distinct ids ascending, changed after it */
/* -> the last sequence number given out; `versions`: of a table of Mneme's own */
char *changelog_sql_next(int64_t table, bool versions);
char *changelog_sql_first(int64_t table); /* -> seq of the oldest entry */
char *changelog_sql_trim(int64_t table);  /* ?1 seq: deletes up to it, 65,536 entries at most */

#endif
