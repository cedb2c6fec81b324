/*
 * A session's life. It is made when Mneme is registered on a connection and lives until SQLite has
 * closed that: each module and function holds it, and lets go in its destructor.
 *
 * SQLite refuses to close a connection with statements that are not finalized, before it tells any
 * module. But it disconnects all virtual tables before it looks: so there is one, mneme_guard, that
 * is connected whenever the engine or a table may have statements, and whose disconnection
 * finalizes them. (A table's own disconnection would come too late: a statement that writes its
 * rows and fires a trigger which asks the table holds it.)
 */
#include "src/sql/session.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "src/engine/fold.h"
#include "src/engine/host.h"
#include "storage/base/error.h"
#include "storage/sql.h"

struct session {
    sqlite3 *sql;
    mn_conn *conn; /* NULL: not wanted yet */
    unsigned refs;
    unsigned depth;             /* of session_enter */
    bool guarded;               /* mneme_guard is connected */
    struct table *tables;       /* see session_tables() */
    bool settled;               /* in write-ahead logging, as far as is known */
    mn_search_stats last;       /* of the running search, where one explains */
    struct searches *explained; /* mneme_explain()'s; NULL */
};

struct session *session_create(sqlite3 *sql)
{
    struct session *s = sqlite3_malloc(sizeof *s);
    if (s)
        *s = (struct session){.sql = sql, .refs = 1};
    return s;
}

struct session *session_hold(struct session *s)
{
    s->refs++;
    return s;
}

void session_release(void *arg)
{
    struct session *s = arg;
    if (!s || --s->refs)
        return;
    host_close(s->conn);
    sqlite3_free(s);
}

sqlite3 *session_sql(const struct session *s)
{
    return s->sql;
}

struct searches *session_explain(struct session *s, struct searches *all)
{
    struct searches *before = s->explained;
    s->explained = all;
    return before;
}

struct table **session_tables(struct session *s)
{
    return &s->tables;
}

mn_search_stats *session_stats(struct session *s)
{
    return s->explained ? &s->last : NULL;
}

void session_searched(struct session *s)
{
    if (!s->explained)
        return;
    mn_search_stats *to = &s->explained->sum, *from = &s->last;
    s->explained->n++;
    to->rows_scanned += from->rows_scanned;
    to->rows_pending += from->rows_pending;
    to->rows_checked += from->rows_checked;
    to->probed += from->probed;
    to->codes += from->codes;
    to->reranked += from->reranked;
    to->reads += from->reads;
    to->parts_read += from->parts_read;
    to->part_bytes += from->part_bytes;
    to->codes_skipped += from->codes_skipped;
    to->postings_skipped += from->postings_skipped;
    to->wall_us += from->wall_us;
    to->cpu_us += from->cpu_us;
    to->plan = from->plan;
    to->matches = from->matches;
}

/* ---- The guard ------------------------------------------------------------------------------- */

struct guard {
    sqlite3_vtab base;
    struct session *s;
};

static int guard_connect(sqlite3 *sql, void *aux, int argc, const char *const *argv,
                         sqlite3_vtab **out, char **message)
{
    (void)argc;
    (void)argv;
    (void)message;
    struct guard *g = sqlite3_malloc(sizeof *g);
    int rc = g ? sqlite3_declare_vtab(sql, "CREATE TABLE x(none)") : SQLITE_NOMEM;
    if (rc != SQLITE_OK) {
        sqlite3_free(g);
        return rc;
    }
    *g = (struct guard){.s = aux};
    g->s->guarded = true;
    *out = &g->base;
    return SQLITE_OK;
}

static int guard_disconnect(sqlite3_vtab *base)
{
    struct guard *g = (struct guard *)base;
    g->s->guarded = false;
    tables_rest(g->s);
    if (g->s->conn)
        conn_rest(g->s->conn);
    sqlite3_free(g);
    return SQLITE_OK;
}

static int guard_best_index(sqlite3_vtab *base, sqlite3_index_info *info)
{
    (void)base;
    (void)info;
    return SQLITE_OK;
}

static int guard_open(sqlite3_vtab *base, sqlite3_vtab_cursor **out)
{
    (void)base;
    *out = sqlite3_malloc(sizeof **out);
    return *out ? SQLITE_OK : SQLITE_NOMEM;
}

static int guard_close(sqlite3_vtab_cursor *c)
{
    sqlite3_free(c);
    return SQLITE_OK;
}

static int guard_filter(sqlite3_vtab_cursor *c, int number, const char *text, int argc,
                        sqlite3_value **argv)
{
    (void)c;
    (void)number;
    (void)text;
    (void)argc;
    (void)argv;
    return SQLITE_OK;
}

static int guard_next(sqlite3_vtab_cursor *c)
{
    (void)c;
    return SQLITE_OK;
}

static int guard_eof(sqlite3_vtab_cursor *c)
{
    (void)c;
    return 1;
}

static int guard_column(sqlite3_vtab_cursor *c, sqlite3_context *ctx, int column)
{
    (void)c;
    (void)ctx;
    (void)column;
    return SQLITE_OK;
}

static int guard_rowid(sqlite3_vtab_cursor *c, sqlite3_int64 *out)
{
    (void)c;
    *out = 0;
    return SQLITE_OK;
}

int session_register(struct session *s)
{
    static const sqlite3_module module = {.iVersion = 1,
                                          .xConnect = guard_connect,
                                          .xDisconnect = guard_disconnect,
                                          .xBestIndex = guard_best_index,
                                          .xOpen = guard_open,
                                          .xClose = guard_close,
                                          .xFilter = guard_filter,
                                          .xNext = guard_next,
                                          .xEof = guard_eof,
                                          .xColumn = guard_column,
                                          .xRowid = guard_rowid};
    return sqlite3_create_module_v2(s->sql, "mneme_guard", &module, session_hold(s),
                                    session_release);
}

/* ---- The engine's connection ----------------------------------------------------------------- */

int session_guard(struct session *s)
{
    sqlite3_stmt *st = NULL;
    int rc = SQLITE_OK;
    if (!s->guarded)
        rc = sqlite3_prepare_v2(s->sql, "SELECT 1 FROM mneme_guard", -1, &st, NULL);
    sqlite3_finalize(st);
    return rc;
}

static mn_status ready(struct session *s, mn_error *err)
{
    int rc = session_guard(s);
    if (rc != SQLITE_OK)
        return mn_fail(err, rc == SQLITE_NOMEM ? MN_NOMEM : MN_MISUSE, "mneme: %s",
                       sqlite3_errmsg(s->sql));
    return s->conn ? MN_OK : host_open(s->sql, NULL, &s->conn, err);
}

mn_status session_begin(struct session *s, const mn_open_opts *opts, mn_error *err)
{
    if (s->conn)
        return mn_fail(err, MN_MISUSE,
                       "mneme_open: the database is in use on this connection already; call it "
                       "first");
    return host_open(s->sql, opts, &s->conn, err);
}

mn_status session_enter(struct session *s, mn_conn **out, mn_error *err)
{
    *out = NULL;
    mn_error_clear(err);
    mn_status st = ready(s, err);
    if (st)
        return st;
    s->depth++;
    host_inside(s->conn, true);
    *out = s->conn;
    return MN_OK;
}

void session_leave(struct session *s)
{
    if (--s->depth == 0)
        host_inside(s->conn, false);
}

mn_status session_call(struct session *s, mn_conn **out, mn_error *err)
{
    *out = NULL;
    mn_error_clear(err);
    mn_status st = ready(s, err);
    if (st)
        return st;
    session_settle(s);
    host_look(s->conn); /* for those who go below the public interface */
    *out = s->conn;
    return MN_OK;
}

/* A connection aside is not the one that the application interrupts: it asks that. */
static bool aside_goes_on(void *conn, const char *stage, uint64_t done, uint64_t total)
{
    (void)stage;
    (void)done;
    (void)total;
    return !host_interrupted(conn);
}

mn_status session_aside(struct session *s, mn_conn **out, mn_error *err)
{
    *out = NULL;
    mn_error_clear(err);
    mn_status st = ready(s, err);
    if (st)
        return st;
    if (!s->conn->db->keeper)
        return mn_fail(err, MN_INVALID,
                       "a database in memory has no index and no files; this is not for it");
    if (sqlite3_txn_state(s->sql, "main") == SQLITE_TXN_WRITE)
        return mn_fail(err, MN_MISUSE,
                       "the transaction that is open on this connection has written, and nobody "
                       "can write beside it: COMMIT first");
    session_settle(s);
    st = mn_connect(s->conn->db, out, err);
    if (st == MN_OK)
        mn_set_progress(*out, aside_goes_on, s->conn);
    return st;
}

void session_tell(struct session *s, const char *collection)
{
    if (s->conn)
        folder_tell(s->conn->db, collection);
}

void session_settle(struct session *s)
{
    bool did = false;
    if (s->settled)
        return;
    mn_error err = {0};
    if (ready(s, &err))
        return;
    bool free = sqlite3_txn_state(s->sql, "main") == SQLITE_TXN_NONE;
    bool done = host_use_wal(s->conn, &did, &err) == MN_OK && free;
    pthread_mutex_lock(&s->conn->db->lock);
    s->settled = done && s->conn->db->has_catalog && !s->conn->db->late_wal;
    pthread_mutex_unlock(&s->conn->db->lock);
    if (did)
        db_log(s->conn->db, MN_LOG_WARN, "open",
               "%s: was in rollback-journal mode, switched to WAL", s->conn->db->path);
}

void session_settle_early(struct session *s)
{
    sqlite3_stmt *st = NULL;
    if (s->settled || sqlite3_txn_state(s->sql, "main") != SQLITE_TXN_NONE)
        return;
    bool other =
        sqlite3_prepare_v2(s->sql, "PRAGMA main.journal_mode", -1, &st, NULL) == SQLITE_OK &&
        sqlite3_step(st) == SQLITE_ROW &&
        sqlite3_stricmp((const char *)sqlite3_column_text(st, 0), "wal") != 0;
    sqlite3_finalize(st);
    if (other)
        session_settle(s);
}

/* ---- Errors ---------------------------------------------------------------------------------- */

int session_code(mn_status st)
{
    switch (st) {
    case MN_OK:
        return SQLITE_OK;
    case MN_BUSY:
        return SQLITE_BUSY;
    case MN_NOMEM:
        return SQLITE_NOMEM;
    case MN_IO:
        return SQLITE_IOERR;
    case MN_FULL:
        return SQLITE_FULL;
    case MN_CORRUPT:
        return SQLITE_CORRUPT_VTAB;
    case MN_READONLY:
        return SQLITE_READONLY;
    case MN_INTERRUPTED:
    case MN_DEADLINE:
        return SQLITE_INTERRUPT;
    default:
        return SQLITE_ERROR;
    }
}

void session_fail(sqlite3_context *ctx, mn_status st, const mn_error *err)
{
    sqlite3_result_error(ctx, err->message, -1);
    sqlite3_result_error_code(ctx, session_code(st)); /* keeps the sentence */
}

int session_refuse(sqlite3_vtab *t, mn_status st, const mn_error *err)
{
    sqlite3_free(t->zErrMsg);
    t->zErrMsg = sqlite3_mprintf("%s", err->message);
    return session_code(st);
}
