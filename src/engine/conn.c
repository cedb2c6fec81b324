/* Connections: connect and disconnect, entry and exit of each call, interrupts, deadlines. */
#include <string.h>
#include <time.h>

#include "src/engine/asker.h"
#include "src/engine/batch.h"
#include "src/engine/cache.h"
#include "src/engine/engine.h"
#include "src/engine/host.h"
#include "src/engine/iter.h"
#include "src/engine/stream.h"
#include "storage/sql.h"

enum { TICKS = 2000 }; /* SQLite virtual machine steps between two looks, some 20 us */

/* SQLite calls this in long statements: true ends them with SQLITE_INTERRUPT. */
static int on_sqlite_progress(void *ctx)
{
    return conn_tick(ctx, NULL) != MN_OK;
}

bool conn_wait(mn_conn *conn, int tries)
{
    uint32_t timeout_ms = conn->db->opts.busy_timeout_ms;
    uint64_t now = clock_us();
    if (conn->busy_since_us == 0)
        conn->busy_since_us = now;
    if (conn->no_wait || timeout_ms == MN_NO_WAIT ||
        now - conn->busy_since_us >= (uint64_t)timeout_ms * 1000)
        return false;
    if (conn_tick(conn, NULL))
        return false;
    long wait_us = tries < 4 ? 200L << tries : tries < 20 ? 5000 : 20000;
    nanosleep(&(struct timespec){.tv_nsec = wait_us * 1000}, NULL);
    return true;
}

/* SQLite calls this when a lock is taken. */
static int on_busy(void *ctx, int tries)
{
    return conn_wait(ctx, tries);
}

/* The last thing of a connection: the database may be closed from then on. */
static void conn_free(mn_conn *conn)
{
    mn_db *db = conn->db;
    bool counted = conn->counted;
    mn_free(db->alloc, conn);
    pthread_mutex_lock(&db->lock);
    db->conns -= counted ? 1 : 0;
    pthread_mutex_unlock(&db->lock);
}

mn_status mn_connect(mn_db *db, mn_conn **out, mn_error *err)
{
    return conn_open(db, true, out, err);
}

/* A connection without its SQLite handle; for conn_free. */
static mn_status conn_create(mn_db *db, bool counted, mn_conn **out, mn_error *err)
{
    mn_error_clear(err);
    if (!db || !out)
        return mn_fail(err, MN_MISUSE, "connect: no database, or no place for the connection");
    *out = NULL;
    if (db_forked(db))
        return mn_fail(err, MN_FORKED, "%s: was opened before the fork; open it after forking",
                       db->path);
    mn_conn *conn = mn_alloc_array(db->alloc, 1, sizeof *conn, MN_TAG_HANDLE);
    if (!conn)
        return mn_fail(err, MN_NOMEM, "%s: out of memory for a connection", db->path);
    conn->db = db;
    conn->schema = -1;
    conn->counted = counted;
    pthread_mutex_lock(&db->lock);
    bool first = counted && db->conns++ == 0;
    pthread_mutex_unlock(&db->lock);
    conn->page_cache = first ? FIRST_PAGE_CACHE : FURTHER_PAGE_CACHE;
    *out = conn;
    return MN_OK;
}

mn_status conn_open_hosted(mn_db *db, sqlite3 *sql, mn_conn **out, mn_error *err)
{
    mn_conn *conn;
    mn_status st = conn_create(db, true, &conn, err);
    if (out)
        *out = NULL;
    if (st)
        return st;
    conn->sql = sql;
    conn->hosted = true;
    st = batch_register(conn, err);
    if (st == MN_OK)
        st = stream_register(conn, err);
    if (st)
        conn_free(conn);
    else
        *out = conn;
    return st;
}

mn_status conn_open(mn_db *db, bool counted, mn_conn **out, mn_error *err)
{
    mn_conn *conn;
    mn_status st = conn_create(out ? db : NULL, counted, &conn, err);
    if (out)
        *out = NULL;
    if (st)
        return st;
    st = db_settle_wal(db, err);
    if (st == MN_OK)
        st = db_open_sqlite(db, conn->page_cache, &conn->sql, err);
    if (st == MN_OK)
        st = db_limit_wal(conn->sql, err);
    if (st == MN_OK)
        st = txn_prepare(conn, err);
    if (st == MN_OK)
        st = batch_register(conn, err);
    if (st == MN_OK)
        st = stream_register(conn, err);
    if (st) {
        txn_finalize(conn);
        sqlite3_close(conn->sql);
        conn_free(conn);
        return st;
    }
    sqlite3_progress_handler(conn->sql, TICKS, on_sqlite_progress, conn);
    sqlite3_busy_handler(conn->sql, on_busy, conn);
    *out = conn;
    return MN_OK;
}

void conn_rest(mn_conn *conn)
{
    colls_forget(conn);
    sqlite3_finalize(conn->schema_now);
    sqlite3_finalize(conn->poll);
    conn->schema_now = conn->poll = NULL;
    txn_finalize(conn);
}

void mn_disconnect(mn_conn *conn)
{
    if (!conn || db_forked(conn->db))
        return;
    mn_db *db = conn->db;
    while (conn->iters)
        mn_iter_close(conn->iters);
    conn_rest(conn);
    view_release(db, conn->own_view);
    askers_destroy(conn);
    mn_free(db->alloc, conn->room);
    if (!conn->hosted)
        sqlite3_close(conn->sql); /* rolls back what is open */
    conn_free(conn);
}

void mn_interrupt(mn_conn *conn)
{
    if (conn)
        atomic_store(&conn->interrupted, true);
}

void mn_set_progress(mn_conn *conn, mn_progress_fn fn, void *ctx)
{
    if (!conn)
        return;
    conn->progress = fn;
    conn->progress_ctx = ctx;
}

void mn_set_trainer(mn_conn *conn, mn_train_fn fn, void *ctx)
{
    if (!conn)
        return;
    conn->train = fn;
    conn->train_ctx = ctx;
}

mn_status conn_enter(mn_conn *conn, mn_error *err)
{
    mn_error_clear(err);
    if (!conn)
        return mn_fail(err, MN_MISUSE, "no connection");
    if (db_forked(conn->db))
        return mn_fail(err, MN_FORKED, "%s: was opened before the fork; open it after forking",
                       conn->db->path);
    if (atomic_exchange_explicit(&conn->in_call, true, memory_order_acquire))
        return mn_fail(err, MN_MISUSE,
                       "the connection is in a call: use one per thread, and none in a callback");
    atomic_store_explicit(&conn->interrupted, false, memory_order_relaxed);
    if (conn->hosted)
        host_look(conn);
    conn->deadline_us = 0;
    conn->busy_since_us = 0;
    conn->stage = NULL;
    conn->done = conn->total = 0;
    return MN_OK;
}

static mn_status deadline_passed(mn_error *err)
{
    return mn_fail(err, MN_DEADLINE, "the deadline passed; allow more time, or search fewer rows");
}

mn_status conn_leave(mn_conn *conn, mn_status st, mn_error *err)
{
    if (st == MN_INTERRUPTED && conn->deadline_us && clock_us() >= conn->deadline_us &&
        !atomic_load_explicit(&conn->interrupted, memory_order_relaxed)) {
        /* SQLite knows one word for both. */
        mn_error_clear(err);
        st = deadline_passed(err);
    } else if (st == MN_INTERRUPTED) {
        mn_error_clear(err);
        mn_fail(err, MN_INTERRUPTED, "interrupted");
    }
    atomic_store_explicit(&conn->in_call, false, memory_order_release);
    return st;
}

mn_status conn_tick_aside(const mn_conn *conn, mn_error *err)
{
    if (atomic_load_explicit(&conn->interrupted, memory_order_relaxed))
        return mn_fail(err, MN_INTERRUPTED, "interrupted");
    if (conn->deadline_us && clock_us() >= conn->deadline_us)
        return deadline_passed(err);
    return MN_OK;
}

mn_status conn_tick(mn_conn *conn, mn_error *err)
{
    if (conn->hosted && host_interrupted(conn))
        atomic_store_explicit(&conn->interrupted, true, memory_order_relaxed);
    mn_status st = conn_tick_aside(conn, err);
    if (st)
        return st;
    if (conn->progress && conn->stage &&
        !conn->progress(conn->progress_ctx, conn->stage, conn->done, conn->total)) {
        atomic_store_explicit(&conn->interrupted, true, memory_order_relaxed);
        return mn_fail(err, MN_INTERRUPTED, "interrupted by the progress callback");
    }
    return MN_OK;
}
