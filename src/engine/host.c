/*
 * Hosted connections.
 *
 * The handle is the application's: its transactions, busy handler, page cache and progress handler
 * are its business. A call comes in one of three situations, told apart at its entry:
 *
 *   a statement runs (`inside`, or SQLite says that one has a transaction): it has its snapshot,
 *     and its own undoing covers what fails. The call begins nothing and ends nothing: SQLite
 *     refuses savepoints while a statement writes. (Where it only reads, a call that writes is a
 *     savepoint, which is a transaction then);
 *   the application has begun a transaction: as after mn_begin_write;
 *   neither: the call begins and ends a transaction of its own, as on any connection.
 *
 * What the connection has cached of an uncommitted state is checked against the change log at each
 * use (cache.c), so that nobody need tell it of a rollback.
 */
#include "src/engine/host.h"

#include <string.h>

#include "storage/base/error.h"
#include "storage/sql.h"

enum { POLL_US = 2000 };

mn_status host_open(sqlite3 *sql, const mn_open_opts *opts, mn_conn **out, mn_error *err)
{
    mn_db *db = NULL;
    *out = NULL;
    mn_status st = db_open_hosted(sql, opts, &db, err);
    if (st)
        return st;
    st = conn_open_hosted(db, sql, out, err);
    if (st)
        mn_close(db, NULL);
    return st;
}

void host_close(mn_conn *conn)
{
    if (!conn)
        return;
    mn_db *db = conn->db;
    mn_disconnect(conn);
    mn_close(db, NULL);
}

void host_inside(mn_conn *conn, bool inside)
{
    bool begins = inside && !conn->inside;
    conn->inside = inside;
    if (begins) /* not every use is a whole call of the public interface */
        host_look(conn);
}

void host_look(mn_conn *conn)
{
    bool statement = conn->inside || (sqlite3_get_autocommit(conn->sql) &&
                                      sqlite3_txn_state(conn->sql, "main") != SQLITE_TXN_NONE);
    conn->txn = statement ? TXN_HOST : sqlite3_get_autocommit(conn->sql) ? TXN_NONE : TXN_WRITE;
    conn->scope = TXN_NONE;
    conn->polled_us = 0;
    if (conn->schema_dirty) /* what became of it, the application knows */
        colls_forget(conn);
    conn->schema_dirty = false;
}

mn_status host_use_wal(mn_conn *conn, bool *did, mn_error *err)
{
    enum catalog_state state = CATALOG_ABSENT;
    bool was = true;
    *did = false;
    mn_db *db = conn->db;
    if (!db->keeper || (db->opts.flags & MN_OPEN_READONLY) ||
        sqlite3_txn_state(conn->sql, "main") != SQLITE_TXN_NONE)
        return MN_OK;
    mn_status st = catalog_check(db->keeper, &state, err);
    if (st == MN_OK && state == CATALOG_PRESENT)
        st = db_use_wal(db, db->keeper, &was, err);
    *did = st == MN_OK && !was;
    return st;
}

bool host_interrupted(mn_conn *conn)
{
    uint64_t now = clock_us();
    if (now - conn->polled_us < POLL_US)
        return false;
    conn->polled_us = now;
    if (!conn->poll && sql_prepare(conn->sql, "SELECT 1", &conn->poll, NULL))
        return false;
    int rc = sqlite3_step(conn->poll);
    sqlite3_reset(conn->poll);
    return rc == SQLITE_INTERRUPT;
}
