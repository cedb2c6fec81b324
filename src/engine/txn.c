/* Transactions: the caller's, and those that a single call makes for itself. */
#include <string.h>

#include "src/engine/cache.h"
#include "src/engine/engine.h"
#include "src/engine/fold.h"
#include "storage/sql.h"

#define CALL_SAVEPOINT "mneme_call"

mn_status txn_prepare(mn_conn *conn, mn_error *err)
{
    static const char *const sql[TXN_STMTS] = {[TXN_BEGIN_READ] = "BEGIN",
                                               [TXN_BEGIN_WRITE] = "BEGIN IMMEDIATE",
                                               [TXN_COMMIT] = "COMMIT",
                                               [TXN_ROLLBACK] = "ROLLBACK",
                                               /* never done: see undo() */
                                               [TXN_GIVE_UP] = "CREATE TABLE main.mneme_none(x)"};
    mn_status st = MN_OK;
    for (int i = 0; i < TXN_STMTS && st == MN_OK; i++)
        if (!conn->txn_stmts[i])
            st = sql_prepare(conn->sql, sql[i], &conn->txn_stmts[i], err);
    return st;
}

void txn_finalize(mn_conn *conn)
{
    for (int i = 0; i < TXN_STMTS; i++) {
        sqlite3_finalize(conn->txn_stmts[i]);
        conn->txn_stmts[i] = NULL;
    }
}

/* SQLite's code; SQLITE_OK when it was done. */
static int run(mn_conn *conn, enum txn_stmt which)
{
    if (!conn->txn_stmts[which] && txn_prepare(conn, NULL)) /* a hosted connection had a rest */
        return SQLITE_NOMEM;
    int rc = sqlite3_step(conn->txn_stmts[which]);
    sqlite3_reset(conn->txn_stmts[which]);
    return rc == SQLITE_DONE ? SQLITE_OK : rc;
}

/* After a write transaction ends, or part of it is undone, what was seen inside may be wrong. */
static void forget_own_writes(mn_conn *conn, bool undone)
{
    view_release(conn->db, conn->own_view);
    conn->own_view = NULL;
    if (undone)
        *conn->must_help = 0;
    if (undone && conn->schema_dirty)
        colls_forget(conn);
}

bool conn_may_be_dirty(const mn_conn *conn)
{
    return sqlite3_txn_state(conn->sql, "main") == SQLITE_TXN_WRITE;
}

/* Ends whatever transaction SQLite has open. The statement was prepared at connect, so that undoing
 * does not fail when memory is out; should it fail all the same, nothing else is done through the
 * connection before it has succeeded.
 *
 * While a statement of the application is interrupted, SQLite refuses every other one, ROLLBACK
 * too: a function's transaction would outlive the statement that called it. But a statement that
 * writes takes the transaction along as it is refused. */
static bool undo(mn_conn *conn)
{
    if (!sqlite3_get_autocommit(conn->sql) && run(conn, TXN_ROLLBACK) == SQLITE_INTERRUPT &&
        !sqlite3_get_autocommit(conn->sql)) {
        run(conn, TXN_GIVE_UP);
        if (!sqlite3_get_autocommit(conn->sql))
            run(conn, TXN_ROLLBACK);
    }
    conn->must_undo = !sqlite3_get_autocommit(conn->sql);
    return !conn->must_undo;
}

/* A failed statement may have ended the transaction (disk full, I/O error in the log). */
static mn_status check_alive(mn_conn *conn, mn_error *err)
{
    if (conn->must_undo && !undo(conn))
        return mn_fail(err, MN_NOMEM,
                       "%s: an earlier failure could not be undone yet; free memory, or disconnect",
                       conn->db->path);
    if (conn->txn == TXN_NONE || conn->txn == TXN_HOST || !sqlite3_get_autocommit(conn->sql))
        return MN_OK;
    conn->txn = TXN_NONE;
    forget_own_writes(conn, true);
    return mn_fail(err, MN_MISUSE,
                   "the transaction is gone: an earlier failure rolled it back; begin again");
}

static mn_status begin(mn_conn *conn, bool write, mn_error *err)
{
    if (write && (conn->db->opts.flags & MN_OPEN_READONLY))
        return mn_fail(err, MN_READONLY, "%s: was opened read-only", conn->db->path);
    int rc = run(conn, write ? TXN_BEGIN_WRITE : TXN_BEGIN_READ);
    if (rc == SQLITE_OK)
        return MN_OK;
    undo(conn); /* out of memory, it may have begun and say that it failed */
    if ((rc & 0xff) == SQLITE_BUSY && conn_tick(conn, err))
        return err ? err->code : conn_tick(conn, NULL);
    if ((rc & 0xff) == SQLITE_BUSY)
        return mn_fail(
            err, MN_BUSY,
            "%s: another connection has been writing for %u ms; try again, or raise the "
            "busy timeout",
            conn->db->path,
            conn->db->opts.busy_timeout_ms == MN_NO_WAIT ? 0 : conn->db->opts.busy_timeout_ms);
    return sql_fail(conn->sql, rc, err, write ? "begin a write" : "begin a read");
}

/* Fixes the snapshot: BEGIN alone does not. */
static mn_status fix_snapshot(mn_conn *conn, mn_error *err)
{
    int64_t ignored;
    if (!conn->schema_now) {
        mn_status st = sql_prepare(conn->sql, "PRAGMA schema_version", &conn->schema_now, err);
        if (st)
            return st;
    }
    return sql_stmt_int(conn->schema_now, 0, &ignored, err);
}

static mn_status commit(mn_conn *conn, mn_error *err)
{
    int rc = run(conn, TXN_COMMIT);
    if (rc == SQLITE_OK)
        return MN_OK;
    return sql_fail(conn->sql, rc, err, "commit");
}

/* ---- A call's own ---------------------------------------------------------------------------- */

mn_status scope_read(mn_conn *conn, mn_error *err)
{
    mn_status st = check_alive(conn, err);
    conn->scope = TXN_NONE;
    conn->savepoint = false;
    if (st || conn->txn != TXN_NONE)
        return st;
    st = begin(conn, false, err);
    if (st)
        return st;
    st = fix_snapshot(conn, err);
    if (st)
        undo(conn);
    else
        conn->scope = TXN_READ;
    return st;
}

mn_status scope_write(mn_conn *conn, mn_error *err)
{
    mn_status st = check_alive(conn, err);
    conn->scope = TXN_NONE;
    conn->savepoint = false;
    if (st)
        return st;
    if (conn->txn == TXN_READ)
        return mn_fail(err, MN_MISUSE,
                       "the transaction was begun for reading; commit it, then "
                       "begin one for writing");
    if (conn->txn == TXN_HOST && conn_may_be_dirty(conn))
        return MN_OK; /* the statement's own undoing covers what is written for it */
    /* Under a statement that only reads, SQLite would commit each of ours by itself. */
    if (conn->txn == TXN_WRITE || conn->txn == TXN_HOST) {
        st = sql_exec(conn->sql, "SAVEPOINT " CALL_SAVEPOINT, err);
        conn->savepoint = st == MN_OK;
        return st;
    }
    if (conn->iters)
        return mn_fail(err, MN_MISUSE,
                       "an iterator is open on this connection; close it, begin a "
                       "write transaction first, or write through another one");
    st = begin(conn, true, err);
    if (st == MN_OK)
        conn->scope = TXN_WRITE;
    return st;
}

static mn_status end_savepoint(mn_conn *conn, mn_status st, mn_error *err)
{
    conn->savepoint = false;
    if (sqlite3_get_autocommit(conn->sql)) {
        /* The failure took the caller's transaction along; his next call learns of it. */
        return st;
    }
    int rc = SQLITE_OK;
    if (st) {
        rc = sqlite3_exec(conn->sql, "ROLLBACK TO " CALL_SAVEPOINT, NULL, NULL, NULL);
        forget_own_writes(conn, true);
    }
    mn_status released = MN_OK;
    if (rc == SQLITE_OK)
        released = sql_exec(conn->sql, "RELEASE " CALL_SAVEPOINT, st ? NULL : err);
    if (rc != SQLITE_OK || released)
        undo(conn); /* rather no transaction than one with half of this call in it */
    return st ? st : released;
}

/* A call may do without what it had no memory for, an index say. But where it was SQLite that had
 * none, the transaction is gone, and what came after was read in another snapshot. */
static mn_status check_lost(mn_conn *conn, mn_error *err)
{
    if ((conn->scope == TXN_NONE && (conn->txn == TXN_NONE || conn->txn == TXN_HOST)) ||
        !sqlite3_get_autocommit(conn->sql))
        return MN_OK;
    return mn_fail(err, MN_NOMEM,
                   "%s: out of memory: SQLite gave up the snapshot of this call; free memory, "
                   "then call again",
                   conn->db->path);
}

mn_status scope_end(mn_conn *conn, mn_status st, mn_error *err)
{
    if (st == MN_OK)
        st = check_lost(conn, err);
    if (conn->savepoint)
        return end_savepoint(conn, st, err);
    enum txn scope = conn->scope;
    conn->scope = TXN_NONE;
    if (scope == TXN_NONE)
        return st;
    if (st == MN_OK)
        st = commit(conn, err);
    bool undone = st != MN_OK;
    if (undone)
        undo(conn);
    if (scope == TXN_WRITE) {
        forget_own_writes(conn, undone);
        conn->schema_dirty = false;
    }
    return st;
}

/* ---- The caller's ---------------------------------------------------------------------------- */

static mn_status begin_public(mn_conn *conn, bool write, mn_error *err)
{
    mn_status st = conn_enter(conn, err);
    if (st)
        return st;
    check_alive(conn, NULL); /* a transaction that a failure ended is no obstacle to a new one */
    if (conn->txn != TXN_NONE)
        st = mn_fail(err, MN_MISUSE, "a transaction is open; commit or roll it back first");
    else if (write && conn->iters)
        st = mn_fail(err, MN_MISUSE, "an iterator is open on this connection; close it first");
    else
        st = begin(conn, write, err);
    if (st == MN_OK && !write) {
        st = fix_snapshot(conn, err);
        if (st)
            undo(conn);
    }
    if (st == MN_OK)
        conn->txn = write ? TXN_WRITE : TXN_READ;
    return conn_leave(conn, st, err);
}

mn_status mn_begin_write(mn_conn *conn, mn_error *err)
{
    return begin_public(conn, true, err);
}

mn_status mn_begin_read(mn_conn *conn, mn_error *err)
{
    return begin_public(conn, false, err);
}

static void transaction_ended(mn_conn *conn, bool undone)
{
    conn->txn = TXN_NONE;
    forget_own_writes(conn, undone);
    conn->schema_dirty = false;
}

mn_status mn_commit(mn_conn *conn, mn_error *err)
{
    mn_status st = conn_enter(conn, err);
    if (st)
        return st;
    st = check_alive(conn, err);
    if (st == MN_OK && conn->txn == TXN_NONE)
        st = mn_fail(err, MN_MISUSE, "no transaction is open");
    if (st == MN_OK) {
        st = commit(conn, err);
        if (st != MN_OK && st != MN_BUSY)
            undo(conn);
        if (st != MN_BUSY)
            transaction_ended(conn, st != MN_OK);
        if (st == MN_OK) {
            conn_mend_schema(conn); /* searches inside the transaction could not */
            folder_help(conn);
        }
    }
    return conn_leave(conn, st, err);
}

mn_status mn_rollback(mn_conn *conn, mn_error *err)
{
    mn_status st = conn_enter(conn, err);
    if (st)
        return st;
    if (conn->txn == TXN_NONE) {
        st = mn_fail(err, MN_MISUSE, "no transaction is open");
    } else {
        if (!undo(conn))
            st = mn_fail(err, MN_NOMEM, "%s: out of memory; undone before the next call",
                         conn->db->path);
        transaction_ended(conn, true);
    }
    return conn_leave(conn, st, err);
}

/* SAVEPOINT, RELEASE, ROLLBACK TO with the caller's name under a prefix of ours. */
static mn_status savepoint_public(mn_conn *conn, const char *verb, const char *name, mn_error *err)
{
    mn_status st = conn_enter(conn, err);
    if (st)
        return st;
    st = check_alive(conn, err);
    if (st == MN_OK && (!name || !*name || strlen(name) > MN_MAX_NAME))
        st = mn_fail(err, MN_INVALID, "the savepoint's name is empty or longer than %u bytes",
                     MN_MAX_NAME);
    if (st == MN_OK && conn->txn != TXN_WRITE)
        st = mn_fail(err, MN_MISUSE, "savepoints need a write transaction; begin one");
    if (st == MN_OK) {
        st = sql_execf(conn->sql, err, "%s \"user %w\"", verb, name);
        if (st == MN_CORRUPT && strcmp(verb, "SAVEPOINT") != 0) {
            mn_error_clear(err);
            st = mn_fail(err, MN_NOTFOUND, "no savepoint '%s' in this transaction", name);
        }
    }
    if (st == MN_OK && strcmp(verb, "ROLLBACK TO") == 0)
        forget_own_writes(conn, true);
    return conn_leave(conn, st, err);
}

mn_status mn_savepoint(mn_conn *conn, const char *name, mn_error *err)
{
    return savepoint_public(conn, "SAVEPOINT", name, err);
}

mn_status mn_release(mn_conn *conn, const char *name, mn_error *err)
{
    return savepoint_public(conn, "RELEASE", name, err);
}

mn_status mn_rollback_to(mn_conn *conn, const char *name, mn_error *err)
{
    return savepoint_public(conn, "ROLLBACK TO", name, err);
}
