/* Small helpers over SQLite's API: statements in, mn_status and sentences out. Knows no table.
 * As thread-safe as the connection it is given: one thread at a time. */
#ifndef MN_STORAGE_SQL_H
#define MN_STORAGE_SQL_H

#include <sqlite3.h>

#include "mneme.h"

/* Turns SQLite's failure `rc` on `db` into a status, with SQLite's own message behind the
 * file's name and `what` (NULL: nothing).
 * SQLITE_INTERRUPT becomes MN_INTERRUPTED; the engine refines that to MN_DEADLINE. */
mn_status sql_fail(sqlite3 *db, int rc, mn_error *err, const char *what);

mn_status sql_exec(sqlite3 *db, const char *sql, mn_error *err);

/* As sql_exec for a text made by sqlite3_mprintf's rules (%w in double quotes, %Q). */
mn_status sql_execf(sqlite3 *db, mn_error *err, const char *format, ...);

/* *out is for sqlite3_finalize; it is prepared to be kept. */
mn_status sql_prepare(sqlite3 *db, const char *sql, sqlite3_stmt **out, mn_error *err);
mn_status sql_preparef(sqlite3 *db, sqlite3_stmt **out, mn_error *err, const char *format, ...);

/* Steps once: *row says whether there is a row. The statement is reset on failure. */
mn_status sql_step(sqlite3_stmt *st, bool *row, mn_error *err);

/* Steps a statement that returns no row, then resets it. */
mn_status sql_run(sqlite3_stmt *st, mn_error *err);

/* The first column of the first row as an integer, `otherwise` without a row or for NULL. */
mn_status sql_int(sqlite3 *db, const char *sql, int64_t otherwise, int64_t *out, mn_error *err);

/* The same for a kept statement with its parameters bound; resets it. */
mn_status sql_stmt_int(sqlite3_stmt *st, int64_t otherwise, int64_t *out, mn_error *err);

#endif
