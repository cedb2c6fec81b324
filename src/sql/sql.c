#include "src/sql/sql.h"

#include <string.h>

#include "mneme_sql.h"
#include "src/sql/table.h"
#include "src/sql/vec.h"

enum { OLDEST = 3038000 }; /* sqlite3_vtab_in() and sqlite3_vtab_rhs_value() */

int sql_register_functions(struct session *s, const struct sql_function *functions, size_t n)
{
    int rc = SQLITE_OK;
    for (size_t i = 0; i < n && rc == SQLITE_OK; i++)
        rc = sqlite3_create_function_v2(session_sql(s), functions[i].name, functions[i].n_args,
                                        SQLITE_UTF8 | functions[i].flags, session_hold(s),
                                        functions[i].call, NULL, NULL, session_release);
    return rc;
}

static void call_version(sqlite3_context *ctx, int n, sqlite3_value **args)
{
    (void)n;
    (void)args;
    sqlite3_result_text(ctx, mn_version(), -1, SQLITE_STATIC);
}

/* The version that is registered on the connection already, for sqlite3_free; NULL: none. */
static char *registered(sqlite3 *db)
{
    sqlite3_stmt *st = NULL;
    char *version = NULL;
    if (sqlite3_prepare_v2(db, "SELECT mneme_version()", -1, &st, NULL) == SQLITE_OK &&
        sqlite3_step(st) == SQLITE_ROW)
        version = sqlite3_mprintf("%s", (const char *)sqlite3_column_text(st, 0));
    sqlite3_finalize(st);
    return version;
}

static int register_all(sqlite3 *db)
{
    static const struct sql_function version = {
        "mneme_version", 0, SQLITE_DETERMINISTIC | SQLITE_INNOCUOUS, call_version};
    struct session *s = session_create(db);
    if (!s)
        return SQLITE_NOMEM;
    int rc = session_register(s);
    if (rc == SQLITE_OK)
        rc = vec_register(db);
    if (rc == SQLITE_OK)
        rc = table_register(s);
    if (rc == SQLITE_OK)
        rc = functions_register(s);
    if (rc == SQLITE_OK)
        rc = open_register(s);
    if (rc == SQLITE_OK)
        rc = explain_register(s);
    if (rc == SQLITE_OK)
        rc = recall_register(s);
    if (rc == SQLITE_OK)
        rc = index_register(s);
    if (rc == SQLITE_OK)
        rc = knn_register(s);
    if (rc == SQLITE_OK)
        rc = fts_register(s);
    if (rc == SQLITE_OK)
        rc = hybrid_register(s);
    if (rc == SQLITE_OK)
        rc = mmr_register(s);
    if (rc == SQLITE_OK) /* last: it says that the others are there */
        rc = sql_register_functions(s, &version, 1);
    session_release(s);
    return rc;
}

/* Takes the sentence over, if anybody wants it. */
static int refuse(char **message, int rc, char *sentence)
{
    if (message)
        *message = sentence;
    else
        sqlite3_free(sentence);
    return rc;
}

int mn_sql_register(sqlite3 *db, char **message)
{
    if (message)
        *message = NULL;
    if (sqlite3_libversion_number() < OLDEST)
        return refuse(
            message, SQLITE_ERROR,
            sqlite3_mprintf("mneme: needs SQLite 3.38 or newer; this is %s", sqlite3_libversion()));
    char *version = registered(db);
    if (version) {
        bool same = strcmp(version, mn_version()) == 0;
        char *sentence =
            same ? NULL
                 : sqlite3_mprintf("mneme: version %s is registered on this connection already; "
                                   "this is %s: load one of them only",
                                   version, mn_version());
        sqlite3_free(version);
        return same ? SQLITE_OK : refuse(message, SQLITE_ERROR, sentence);
    }
    int rc = register_all(db);
    if (rc == SQLITE_BUSY) /* of sqlite3_create_function(), as in SELECT load_extension(...) */
        return refuse(message, rc,
                      sqlite3_mprintf("mneme: functions of the same names are there "
                                      "(sqlite-vec's?), and cannot be replaced while a statement "
                                      "runs: load Mneme first, or by .load or "
                                      "sqlite3_load_extension()"));
    if (rc != SQLITE_OK)
        return refuse(message, rc, sqlite3_mprintf("mneme: %s", sqlite3_errstr(rc)));
    return SQLITE_OK;
}
