/*
 * Mneme in SQL: what the loadable extension mneme.so brings, on a connection that the program has
 * opened itself; for programs whose SQLite cannot load extensions.
 *
 *     sqlite3 *db;
 *     char *message = NULL;
 *     sqlite3_open("app.db", &db);
 *     if (mn_sql_register(db, &message) != SQLITE_OK) {
 *         fprintf(stderr, "%s\n", message);
 *         sqlite3_free(message);
 *     }
 *     sqlite3_exec(db, "SELECT mneme_version()", ...);
 *
 * What there is then is shown in docs/sql.md.
 */
#ifndef MNEME_SQL_H
#define MNEME_SQL_H

#include "mneme.h"

#ifdef __cplusplus
extern "C" {
#endif

struct sqlite3;

/*
 * Registers the virtual table module, table functions and functions on `db`, whose main database
 * they work on; the file is opened when the first of them wants it. Registering twice does nothing
 * the second time. The connection stays the program's: its transactions, busy handler and threading
 * mode hold for them too. sqlite3_close() takes everything away again.
 *
 * Returns SQLITE_OK or another result code of SQLite's, with a sentence in *message for
 * sqlite3_free (message may be NULL): another version of Mneme is registered on the connection, or
 * SQLite is older than 3.38. Since 0.1.
 */
MN_API int mn_sql_register(struct sqlite3 *db, char **message);

#ifdef __cplusplus
}
#endif

#endif
