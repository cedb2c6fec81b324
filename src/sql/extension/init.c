/* The entry of mneme.so, which is all that it exports. */
#include <sqlite3ext.h>

#include "mneme_sql.h"

SQLITE_EXTENSION_INIT1

/* SQLite looks for the name that the file's name gives: mneme.so, libmneme.so. */
__attribute__((visibility("default"))) int sqlite3_mneme_init(sqlite3 *db, char **message,
                                                              const sqlite3_api_routines *api);

enum { BUSY_TIMEOUT_MS = 5000 };

/* The thread that folds writes now and then, as another connection would: a connection that waits
 * for nobody would fail then. Left as it is if the program has set one; a program with a busy
 * handler of its own sets it after loading. */
static void wait_for_others(sqlite3 *db)
{
    sqlite3_stmt *st = NULL;
    int timeout_ms = 1;
    if (sqlite3_prepare_v2(db, "PRAGMA busy_timeout", -1, &st, NULL) == SQLITE_OK &&
        sqlite3_step(st) == SQLITE_ROW)
        timeout_ms = sqlite3_column_int(st, 0);
    sqlite3_finalize(st);
    if (timeout_ms == 0)
        sqlite3_busy_timeout(db, BUSY_TIMEOUT_MS);
}

int sqlite3_mneme_init(sqlite3 *db, char **message, const sqlite3_api_routines *api)
{
    SQLITE_EXTENSION_INIT2(api)
    int rc = mn_sql_register(db, message);
    if (rc == SQLITE_OK)
        wait_for_others(db);
    /* It must stay: it has threads that fold, and caches that other connections share. */
    return rc == SQLITE_OK ? SQLITE_OK_LOAD_PERMANENTLY : rc;
}
