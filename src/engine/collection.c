/*
 * Collections as a connection sees them: loaded from the catalog at first use, with their
 * statements, and forgotten when the schema's version moves. The version is looked at in every
 * call, inside its snapshot.
 *
 * A version that Mneme itself did not leave means that a foreign hand changed the schema: unless
 * what it did can be told and left the change logs alone (catalog_logs_whole), triggers may have
 * been gone for a while. Until a writer has checked the change logs (catalog_reconcile), no
 * collection is "watched" and searches read the rows. A write does that first; a search does it
 * afterwards, if nobody else is writing.
 */
#include <inttypes.h>
#include <string.h>

#include "src/engine/cache.h"
#include "src/engine/engine.h"
#include "src/engine/fold.h"
#include "storage/extents.h"
#include "storage/sql.h"

static void coll_free(mn_conn *conn, struct coll *c)
{
    for (size_t i = 0; i < STMT_COUNT; i++)
        sqlite3_finalize(c->stmts[i]);
    sqlite3_free(c->attr_block);
    coll_json_fini(conn->db, c);
    mn_free(conn->db->alloc, c->attrs);
    mn_free(conn->db->alloc, c);
}

void colls_forget(mn_conn *conn)
{
    while (conn->colls) {
        struct coll *c = conn->colls;
        conn->colls = c->next;
        coll_free(conn, c);
    }
    conn->schema = -1;
}

/* ---- Statements ------------------------------------------------------------------------------ */

/* Writing a row. Parameters: 1 id, 2 text_id, 3 version, 4 payload, 5 vector, 6.. attributes; the
 * same numbers in INSERT and UPDATE. `many` takes the rows from the table mneme_put. A table that
 * Mneme did not make has neither text_id nor version nor payload. */
static char *insert_sql(const struct coll *c, bool many)
{
    const struct catalog_entry *e = &c->entry;
    bool text = e->id_kind == MN_ID_TEXT, own = !e->foreign;
    sqlite3_str *s = sqlite3_str_new(NULL);
    sqlite3_str_appendf(s, "INSERT INTO main.\"%w\"(\"%w\", %s%s\"%w\"", e->table, e->id_column,
                        text ? "text_id, " : "", own ? "version, payload, " : "", e->column);
    for (size_t i = 0; i < c->n_attrs; i++)
        sqlite3_str_appendf(s, ", \"%w\"", c->attrs[i]);
    if (many)
        sqlite3_str_appendf(s, ") SELECT id, %s%svector", text ? "text_id, " : "",
                            own ? "version, payload, " : "");
    else
        sqlite3_str_appendf(s, ") VALUES (?1, %s%s?5", text ? "?2, " : "", own ? "?3, ?4, " : "");
    for (size_t i = 0; i < c->n_attrs; i++)
        sqlite3_str_appendf(s, many ? ", a%d" : ", ?%d", many ? (int)i : 6 + (int)i);
    sqlite3_str_appendall(s, many ? " FROM mneme_put" : ")");
    return sqlite3_str_finish(s);
}

static char *update_sql(const struct coll *c)
{
    sqlite3_str *s = sqlite3_str_new(NULL);
    sqlite3_str_appendf(s, "UPDATE main.\"%w\" SET %s\"%w\" = ?5", c->entry.table,
                        c->entry.foreign ? "" : "version = ?3, payload = ?4, ", c->entry.column);
    for (size_t i = 0; i < c->n_attrs; i++)
        sqlite3_str_appendf(s, ", \"%w\" = ?%d", c->attrs[i], 6 + (int)i);
    sqlite3_str_appendf(s, " WHERE \"%w\" = ?1", c->entry.id_column);
    return sqlite3_str_finish(s);
}

/* An UPDATE in which a payload or vector of NULL was not given, nor an attribute whose second
 * parameter, after all the first ones, is not 1. */
static char *update_keep_sql(const struct coll *c)
{
    const char *column = c->entry.column;
    int n = (int)c->n_attrs;
    sqlite3_str *s = sqlite3_str_new(NULL);
    sqlite3_str_appendf(s, "UPDATE main.\"%w\" SET %s\"%w\" = coalesce(?5, \"%w\")", c->entry.table,
                        c->entry.foreign ? "" : "version = ?3, payload = coalesce(?4, payload), ",
                        column, column);
    for (int i = 0; i < n; i++)
        sqlite3_str_appendf(s, ", \"%w\" = iif(?%d, ?%d, \"%w\")", c->attrs[i], 6 + n + i, 6 + i,
                            c->attrs[i]);
    sqlite3_str_appendf(s, " WHERE \"%w\" = ?1", c->entry.id_column);
    return sqlite3_str_finish(s);
}

static char *select_row_sql(const struct coll *c, bool with_vector)
{
    char *columns = row_columns(c, with_vector);
    char *sql = columns ? sqlite3_mprintf("SELECT %s FROM main.\"%w\" WHERE \"%w\" = ?1", columns,
                                          c->entry.table, c->entry.id_column)
                        : NULL;
    sqlite3_free(columns);
    return sql;
}

static char *stmt_sql(const struct coll *c, enum coll_stmt_kind which)
{
    const char *table = c->entry.table, *column = c->entry.column, *id = c->entry.id_column;
    const char *version = c->entry.foreign ? "0" : "version";
    int64_t number = c->entry.table_number;
    switch (which) {
    case STMT_FIND_TEXT:
        return sqlite3_mprintf("SELECT id, version FROM main.\"%w\" WHERE text_id = ?1", table);
    case STMT_FIND_ID:
        return sqlite3_mprintf("SELECT \"%w\", %s FROM main.\"%w\" WHERE \"%w\" = ?1", id, version,
                               table, id);
    case STMT_INSERT:
        return insert_sql(c, false);
    case STMT_INSERT_MANY:
        return insert_sql(c, true);
    case STMT_UPDATE:
        return update_sql(c);
    case STMT_UPDATE_KEEP:
        return update_keep_sql(c);
    case STMT_DELETE:
        return sqlite3_mprintf("DELETE FROM main.\"%w\" WHERE \"%w\" = ?1", table, id);
    case STMT_GET:
        return select_row_sql(c, true);
    case STMT_GET_META:
        return select_row_sql(c, false);
    case STMT_GET_VECTOR:
        return sqlite3_mprintf("SELECT \"%w\" FROM main.\"%w\" WHERE \"%w\" = ?1", column, table,
                               id);
    case STMT_GET_RANGE:
        return sqlite3_mprintf("SELECT \"%w\", \"%w\" FROM main.\"%w\" WHERE \"%w\" BETWEEN ?1 "
                               "AND ?2 AND \"%w\" IS NOT NULL ORDER BY \"%w\"",
                               id, column, table, id, column, id);
    case STMT_SCAN:
        return sqlite3_mprintf("SELECT \"%w\", \"%w\" FROM main.\"%w\" WHERE \"%w\" IS NOT NULL "
                               "ORDER BY \"%w\"",
                               id, column, table, column, id);
    case STMT_STREAM:
        return sqlite3_mprintf("SELECT 1 FROM main.\"%w\" NOT INDEXED WHERE mneme_take(\"%w\", "
                               "\"%w\") ORDER BY \"%w\"",
                               table, id, column, id);
    case STMT_MAX_ID:
        return sqlite3_mprintf("SELECT max(\"%w\") FROM main.\"%w\"", id, table);
    case STMT_MAX_USED:
        return sqlite3_mprintf("SELECT max(ifnull((SELECT max(\"%w\") FROM main.\"%w\"), 0), "
                               "ifnull((SELECT seq FROM main.sqlite_sequence WHERE name = %Q "
                               "COLLATE NOCASE), 0))",
                               id, table, table);
    case STMT_LOG_HEAD:
        return changelog_sql_head(number);
    case STMT_LOG_AT:
        return changelog_sql_at(number);
    case STMT_LOG_SINCE:
        return changelog_sql_since(number);
    case STMT_LOG_NEXT:
        return changelog_sql_next(number, !c->entry.foreign);
    case STMT_LOG_FIRST:
        return changelog_sql_first(number);
    case STMT_LOG_TRIM:
        return changelog_sql_trim(number);
    case STMT_INDEX:
        return sqlite3_mprintf(
            "SELECT generation, seq, stamp FROM mneme_indexes WHERE collection = %lld",
            (long long)c->entry.number);
    default:
        return NULL;
    }
}

mn_status coll_stmt(mn_conn *conn, struct coll *c, enum coll_stmt_kind which, sqlite3_stmt **out,
                    mn_error *err)
{
    mn_status st = MN_OK;
    if (!c->stmts[which]) {
        char *sql = stmt_sql(c, which);
        st = sql ? sql_prepare(conn->sql, sql, &c->stmts[which], err)
                 : mn_fail(err, MN_NOMEM, "out of memory for a statement");
        sqlite3_free(sql);
    }
    *out = c->stmts[which];
    return st;
}

mn_status coll_head(mn_conn *conn, struct coll *c, struct log_position *out, mn_error *err)
{
    sqlite3_stmt *st;
    bool row;
    *out = (struct log_position){0};
    mn_status status = coll_stmt(conn, c, STMT_LOG_HEAD, &st, err);
    if (status == MN_OK)
        status = sql_step(st, &row, err);
    if (status)
        return status;
    if (row) {
        out->seq = sqlite3_column_int64(st, 0);
        out->stamp = sqlite3_column_int64(st, 1);
    }
    sqlite3_reset(st);
    if (out->seq - c->log_told > 2 * CHANGELOG_KEEP) { /* it may have to be trimmed */
        c->log_told = out->seq;
        folder_tell(conn->db, c->entry.name);
    }
    return MN_OK;
}

mn_status coll_log_follows(mn_conn *conn, struct coll *c, struct log_position at, bool *yes,
                           mn_error *err)
{
    sqlite3_stmt *st;
    bool row;
    *yes = false;
    mn_status status = coll_stmt(conn, c, STMT_LOG_AT, &st, err);
    if (status)
        return status;
    sqlite3_bind_int64(st, 1, at.seq);
    status = sql_step(st, &row, err);
    if (status)
        return status;
    *yes = row && sqlite3_column_int64(st, 0) == at.stamp;
    sqlite3_reset(st);
    return MN_OK;
}

mn_status coll_log_since(mn_conn *conn, struct coll *c, const char *caller, int64_t seq,
                         int64_t **ids, size_t *n, mn_error *err)
{
    struct mn_alloc *a = conn->db->alloc;
    sqlite3_stmt *st;
    size_t cap = 0;
    bool row = false;
    *ids = NULL;
    *n = 0;
    mn_status status = coll_stmt(conn, c, STMT_LOG_SINCE, &st, err);
    if (status)
        return status;
    sqlite3_bind_int64(st, 1, seq);
    while ((status = sql_step(st, &row, err)) == MN_OK && row) {
        if (*n == cap) {
            cap = cap ? 2 * cap : 64;
            int64_t *more = mn_realloc(a, *ids, cap * sizeof **ids, MN_TAG_PENDING);
            if (!more) {
                status =
                    mn_fail(err, MN_NOMEM, "%s: out of memory under the cap for %zu changed rows",
                            caller, cap);
                break;
            }
            *ids = more;
        }
        (*ids)[(*n)++] = sqlite3_column_int64(st, 0);
    }
    sqlite3_reset(st);
    if (status) {
        mn_free(a, *ids);
        *ids = NULL;
    }
    return status;
}

mn_status coll_attr(const struct coll *c, const char *name, size_t *out, mn_error *err)
{
    for (size_t i = 0; name && i < c->n_attrs; i++) {
        if (sqlite3_stricmp(c->attrs[i], name) == 0) {
            *out = i;
            return MN_OK;
        }
    }
    return mn_fail(err, MN_NOTFOUND,
                   "collection '%s' has no attribute '%s'; add it with mn_add_attribute",
                   c->entry.name, name ? name : "(null)");
}

/* ---- Loading --------------------------------------------------------------------------------- */

/* Says what is wrong with the table of a collection that was made over it. */
static mn_status fail_foreign(mn_conn *conn, const struct catalog_entry *e, const char *missing,
                              mn_error *err)
{
    const char *path = conn->db->path;
    if (!*e->id_column)
        return mn_fail(err, MN_CORRUPT,
                       "%s: collection '%s' is over table '%s', which is gone or has no INTEGER "
                       "PRIMARY KEY any more; make it again, or drop the collection",
                       path, e->name, e->table);
    return mn_fail(err, MN_CORRUPT,
                   "%s: collection '%s' needs column '%s' of table '%s', which has none of that "
                   "name any more; add it again, or drop the collection",
                   path, e->name, missing, e->table);
}

static mn_status table_is_there(mn_conn *conn, const struct catalog_entry *e, mn_error *err)
{
    bool fits = false;
    char missing[MN_MAX_NAME + 1];
    mn_status st = catalog_table_fits(conn->sql, e, &fits, missing, err);
    if (st || fits)
        return st;
    if (e->foreign)
        return fail_foreign(conn, e, missing, err);
    return mn_fail(err, MN_CORRUPT,
                   "%s: collection '%s' needs table '%s' with the columns id, version, payload "
                   "and '%s'; a foreign hand dropped, renamed or changed it: restore it, or drop "
                   "the collection",
                   conn->db->path, e->name, e->table, e->column);
}

static mn_status look_whether_watched(mn_conn *conn, struct coll *c, mn_error *err)
{
    struct catalog_log log;
    mn_db *db = conn->db;
    sqlite3 *asked = conn->hosted ? NULL : conn->sql, *own = NULL;
    mn_status st = catalog_log_of(conn->sql, &c->entry, &log, err);
    /* An application's handle has an authorizer of its own. */
    if (st == MN_OK && conn->hosted && !c->entry.foreign && db->keeper &&
        !conn_may_be_dirty(conn)) {
        st = db_open_sqlite(db, FURTHER_PAGE_CACHE, &own, err);
        asked = own;
    }
    if (st == MN_OK)
        st = changelog_watchable(conn->sql, asked, &log.table, c->entry.column, &c->watched, err);
    sqlite3_close(own);
    sqlite3_free(log.watched);
    return st;
}

static mn_status load_attributes(mn_conn *conn, struct coll *c, mn_error *err)
{
    mn_status st = catalog_attributes(conn->sql, &c->entry, &c->attr_block, &c->n_attrs, err);
    if (st)
        return st;
    c->attrs = mn_alloc_array(conn->db->alloc, c->n_attrs, sizeof *c->attrs, MN_TAG_HANDLE);
    if (!c->attrs)
        return mn_fail(err, MN_NOMEM, "collection '%s': out of memory", c->entry.name);
    const char *p = c->attr_block;
    for (size_t i = 0; i < c->n_attrs; i++, p += strlen(p) + 1)
        c->attrs[i] = p;
    return MN_OK;
}

static mn_status coll_load(mn_conn *conn, const char *name, bool trusted, struct coll **out,
                           mn_error *err)
{
    struct coll *c = mn_alloc_array(conn->db->alloc, 1, sizeof *c, MN_TAG_HANDLE);
    if (!c)
        return mn_fail(err, MN_NOMEM, "collection '%s': out of memory", name);
    int64_t tables = 0;
    mn_status st = catalog_find(conn->sql, name, &c->entry, err);
    if (st == MN_OK)
        st = sql_int(conn->sql,
                     "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = "
                     "'mneme_indexes'",
                     0, &tables, err);
    if (st == MN_OK)
        st = table_is_there(conn, &c->entry, err);
    if (st == MN_OK)
        st = load_attributes(conn, c, err);
    if (st == MN_OK && trusted)
        st = look_whether_watched(conn, c, err);
    if (st == MN_OK)
        st = catalog_computed(conn->sql, &c->entry, c->computed, err);
    c->vector_bytes = mn_vector_bytes(c->entry.dtype, c->entry.dim);
    if (st == MN_OK)
        st = coll_json_init(conn->db, c, err);
    if (st) {
        coll_free(conn, c);
        return st;
    }
    c->indexable = tables == 1 && c->entry.metric != MN_HAMMING;
    c->next = conn->colls;
    conn->colls = c;
    *out = c;
    return MN_OK;
}

static mn_status schema_version(mn_conn *conn, int64_t *out, mn_error *err)
{
    if (!conn->schema_now) {
        mn_status st = sql_prepare(conn->sql, "PRAGMA schema_version", &conn->schema_now, err);
        if (st)
            return st;
    }
    return sql_stmt_int(conn->schema_now, 0, out, err);
}

/* The database may be one that nobody created a collection in. */
static mn_status need_catalog(mn_conn *conn, const char *name, mn_error *err)
{
    mn_db *db = conn->db;
    enum catalog_state state = CATALOG_ABSENT;
    pthread_mutex_lock(&db->lock);
    bool has = db->has_catalog;
    pthread_mutex_unlock(&db->lock);
    if (has)
        return MN_OK;
    mn_status st = catalog_check(conn->sql, &state, err);
    if (st == MN_OK && state == CATALOG_ABSENT)
        return mn_fail(err, MN_NOTFOUND,
                       "%s: no collection '%s': the database has none yet; create it first",
                       db->path, name);
    if (st == MN_OK && !conn_may_be_dirty(conn)) { /* an uncommitted one may go again */
        pthread_mutex_lock(&db->lock);
        db->has_catalog = true;
        pthread_mutex_unlock(&db->lock);
    }
    return st;
}

/* Inside a statement of the application only if that is to change the schema anyway. */
static bool may_change_schema(const mn_conn *conn)
{
    return conn->scope == TXN_WRITE || conn->txn == TXN_WRITE ||
           (conn->txn == TXN_HOST && conn->schema_dirty);
}

/* The schema moved since this connection looked: is the change logs' word still good? */
static mn_status settle_schema(mn_conn *conn, mn_error *err)
{
    int64_t now = 0, ours = -1;
    colls_forget(conn);
    conn->trusted = false;
    mn_status st = catalog_schema(conn->sql, &now, &ours, err);
    if (st)
        return st;
    bool may = may_change_schema(conn);
    conn->trusted = now == ours;
    if (!conn->trusted)
        st = catalog_logs_whole(conn->sql, &conn->trusted, err);
    if (st)
        return st;
    if (now != ours && may) {
        if (!conn->trusted)
            db_log(conn->db, MN_LOG_WARN, "schema",
                   "%s: the schema was changed by another program; change logs were checked",
                   conn->db->path);
        st = catalog_reconcile(conn->sql, err);
        conn->schema_dirty = true;
        if (st == MN_OK)
            st = schema_version(conn, &now, err);
        conn->trusted = st == MN_OK;
    }
    /* The number of an uncommitted change may come again for another one. */
    bool passing = conn->hosted && conn_may_be_dirty(conn);
    conn->schema = st == MN_OK && !passing ? now : -1;
    conn->schema_lags = st == MN_OK && conn->trusted && now != ours && !may;
    return st;
}

/* Looks whether the schema moved. */
static mn_status look_at_schema(mn_conn *conn, mn_error *err)
{
    int64_t now = 0;
    mn_status st = schema_version(conn, &now, err);
    bool moved = now != conn->schema || (conn->schema_lags && may_change_schema(conn));
    return st == MN_OK && moved ? settle_schema(conn, err) : st;
}

mn_status coll_get(mn_conn *conn, const char *name, struct coll **out, mn_error *err)
{
    *out = NULL;
    if (!name || !*name)
        return mn_fail(err, MN_INVALID, "the collection's name is empty");
    mn_status st = need_catalog(conn, name, err);
    if (st == MN_OK)
        st = look_at_schema(conn, err);
    if (st)
        return st;
    for (struct coll *c = conn->colls; c; c = c->next) {
        if (sqlite3_stricmp(c->entry.name, name) == 0) {
            *out = c;
            return MN_OK;
        }
    }
    return coll_load(conn, name, conn->trusted, out, err);
}

static bool may_write_schema(const mn_conn *conn)
{
    return conn->schema >= 0 && conn->txn == TXN_NONE && !conn->iters &&
           !(conn->db->opts.flags & MN_OPEN_READONLY);
}

/* Whether a look at the schema has found it changed, and something may be done about it. */
static bool may_mend(const mn_conn *conn)
{
    return !conn->trusted && may_write_schema(conn);
}

void conn_mend_schema(mn_conn *conn)
{
    mn_error err = {0};
    if (!may_mend(conn))
        return;
    conn->no_wait = true;
    mn_status st = scope_write(conn, &err);
    conn->no_wait = false;
    if (st)
        return; /* somebody writes: he, or the next search, does it */
    st = scope_end(conn, settle_schema(conn, &err), &err);
    if (st)
        db_log(conn->db, MN_LOG_WARN, "schema", "change logs could not be checked: %s",
               err.message);
    colls_forget(conn);
}

mn_status conn_trust_schema(mn_conn *conn, const char *name, mn_error *err)
{
    struct coll *c;
    mn_status st = scope_read(conn, err);
    if (st == MN_OK)
        st = scope_end(conn, coll_get(conn, name, &c, err), err);
    /* A lag costs searches nothing, but names that moved are only followed until they are written
     * down: the triggers that lead to them may go. */
    if (st || !(may_mend(conn) || (conn->schema_lags && may_write_schema(conn))))
        return st;
    st = scope_write(conn, err);
    if (st == MN_OK)
        st = scope_end(conn, settle_schema(conn, err), err);
    colls_forget(conn);
    return st;
}

/* ---- Public ---------------------------------------------------------------------------------- */

/* A database's first collection: its page size is chosen for it, and write-ahead logging is
 * switched on. Neither can be done inside a transaction. */
static mn_status prepare_database(mn_conn *conn, const mn_collection_opts *opts, mn_error *err)
{
    enum catalog_state state = CATALOG_ABSENT;
    int64_t pages = 0;
    bool was;
    mn_status st = catalog_check(conn->sql, &state, err);
    if (st || state == CATALOG_PRESENT)
        return st;
    if (conn->db->opts.flags & MN_OPEN_READONLY)
        return mn_fail(err, MN_READONLY, "%s: was opened read-only", conn->db->path);
    if (conn->hosted) /* inside a transaction it is switched to WAL afterwards: host_use_wal */
        return conn->txn == TXN_NONE && conn->db->keeper
                   ? db_use_wal(conn->db, conn->db->keeper, &was, err)
                   : MN_OK;
    if (conn->txn != TXN_NONE)
        return mn_fail(err, MN_MISUSE,
                       "%s: the first collection of a database cannot be created inside a "
                       "transaction; create it before",
                       conn->db->path);
    st = sql_int(conn->sql, "PRAGMA page_count", 0, &pages, err);
    if (st == MN_OK && pages == 0)
        st = sql_execf(conn->sql, err, "PRAGMA page_size = %u",
                       catalog_page_bytes(mn_vector_bytes(opts->dtype, opts->dim)));
    if (st == MN_OK)
        st = db_use_wal(conn->db, conn->sql, &was, err);
    return st ? st : db_limit_wal(conn->sql, err);
}

/* A write scope for a change of the schema, which SQLite refuses under an open statement. */
static mn_status scope_schema(mn_conn *conn, mn_error *err)
{
    if (conn->iters)
        return mn_fail(err, MN_MISUSE, "an iterator is open on this connection; close it first");
    return scope_write(conn, err);
}

/* Inside the scope: the catalog may have been made by another process meanwhile. */
static mn_status ensure_catalog(mn_conn *conn, mn_error *err)
{
    enum catalog_state state = CATALOG_ABSENT;
    mn_status st = catalog_check(conn->sql, &state, err);
    if (st == MN_OK && state == CATALOG_ABSENT)
        return catalog_init(conn->sql, err);
    /* What a foreign hand did must not pass for part of the change that follows. */
    return st ? st : look_at_schema(conn, err);
}

mn_status mn_create(mn_conn *conn, const char *name, const mn_collection_opts *opts, mn_error *err)
{
    static const mn_collection_opts none = {0};
    mn_status st = conn_enter(conn, err);
    if (st)
        return st;
    if (!opts)
        opts = &none;
    st = catalog_check_opts(name, opts, err); /* before they choose the page size */
    if (st == MN_OK)
        st = prepare_database(conn, opts, err);
    if (st == MN_OK)
        st = scope_schema(conn, err);
    if (st == MN_OK) {
        conn->schema_dirty = true;
        st = ensure_catalog(conn, err);
        if (st == MN_OK)
            st = catalog_create(conn->sql, name, opts, err);
        st = scope_end(conn, st, err);
    }
    return conn_leave(conn, st, err);
}

mn_status coll_change_schema(mn_conn *conn, mn_status (*change)(sqlite3 *, void *, mn_error *),
                             void *ctx, mn_error *err)
{
    mn_status st = conn_enter(conn, err);
    if (st)
        return st;
    st = scope_schema(conn, err);
    if (st == MN_OK) {
        conn->schema_dirty = true;
        st = ensure_catalog(conn, err);
        colls_forget(conn);
        if (st == MN_OK)
            st = change(conn->sql, ctx, err);
        if (st == MN_OK)
            st = catalog_schema_keep(conn->sql, err);
        st = scope_end(conn, st, err);
    }
    return conn_leave(conn, st, err);
}

/* Both renames. */
static mn_status rename_by(mn_conn *conn, const char *name, const char *to,
                           mn_status (*by)(sqlite3 *, struct catalog_entry *, const char *,
                                           mn_error *),
                           mn_error *err)
{
    struct catalog_entry e;
    mn_status st = conn_enter(conn, err);
    if (st)
        return st;
    st = scope_schema(conn, err);
    if (st == MN_OK) {
        conn->schema_dirty = true;
        st = ensure_catalog(conn, err);
        if (st == MN_OK)
            st = catalog_find(conn->sql, name, &e, err);
        colls_forget(conn); /* its statements would hold the table */
        if (st == MN_OK)
            st = by(conn->sql, &e, to, err);
        st = scope_end(conn, st, err);
        if (st == MN_OK)
            cache_forget(conn->db, e.number); /* the index in memory knows its collection by name */
    }
    return conn_leave(conn, st, err);
}

mn_status coll_rename(mn_conn *conn, const char *name, const char *to, mn_error *err)
{
    return rename_by(conn, name, to, catalog_rename, err);
}

mn_status coll_rename_table(mn_conn *conn, const char *name, const char *to, mn_error *err)
{
    return rename_by(conn, name, to, catalog_rename_table, err);
}

/* The index's row and extents; its blocks come back with the next fold. */
static mn_status forget_index(mn_conn *conn, const struct catalog_entry *e, mn_error *err)
{
    int64_t tables = 0;
    mn_status st = sql_int(conn->sql,
                           "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name IN "
                           "('mneme_indexes', 'mneme_extents')",
                           0, &tables, err);
    if (st || tables < 2)
        return st;
    st = sql_execf(conn->sql, err, "DELETE FROM mneme_indexes WHERE collection = %lld",
                   (long long)e->number);
    return st ? st : extents_drop_collection(conn->sql, (uint32_t)e->number, err);
}

mn_status mn_drop(mn_conn *conn, const char *name, mn_error *err)
{
    struct catalog_entry e;
    mn_status st = conn_enter(conn, err);
    if (st)
        return st;
    st = scope_schema(conn, err);
    if (st == MN_OK) {
        st = name ? need_catalog(conn, name, err)
                  : mn_fail(err, MN_INVALID, "the collection's name is empty");
        if (st == MN_OK)
            st = look_at_schema(conn, err);
        if (st == MN_OK)
            st = catalog_find(conn->sql, name, &e, err);
        if (st == MN_OK) {
            conn->schema_dirty = true;
            colls_forget(conn); /* its statements would hold the table */
            st = forget_index(conn, &e, err);
            if (st == MN_OK)
                st = catalog_drop(conn->sql, &e, err);
        }
        st = scope_end(conn, st, err);
        if (st == MN_OK)
            cache_forget(conn->db, e.number);
    }
    return conn_leave(conn, st, err);
}

/* Pointers to the names, then the names themselves: `from` holds them one behind the other, and may
 * be NULL if there is none. */
static const char **names_block(struct mn_alloc *a, const char *from, size_t n)
{
    size_t bytes = 0;
    for (size_t i = 0; i < n; i++)
        bytes += strlen(from + bytes) + 1;
    const char **names = result_alloc(a, n * sizeof *names + bytes, 1);
    if (!names)
        return NULL;
    char *p = (char *)(names + n);
    if (n)
        memcpy(p, from, bytes);
    for (size_t i = 0; i < n; i++, p += strlen(p) + 1)
        names[i] = p;
    return names;
}

mn_status mn_attributes(mn_conn *conn, const char *name, const char ***out, size_t *n,
                        mn_error *err)
{
    struct coll *c;
    if (out)
        *out = NULL;
    if (n)
        *n = 0;
    mn_status st = conn_enter(conn, err);
    if (st)
        return st;
    st = out && n ? scope_read(conn, err)
                  : mn_fail(err, MN_INVALID, "attributes: no place for the names and their number");
    if (st)
        return conn_leave(conn, st, err);
    st = coll_get(conn, name, &c, err);
    if (st == MN_OK) {
        *out = names_block(conn->db->alloc, c->attr_block, c->n_attrs);
        *n = c->n_attrs;
        if (!*out)
            st = mn_fail(err, MN_NOMEM, "attributes: out of memory under the cap");
    }
    st = scope_end(conn, st, err);
    if (st) {
        mn_free_result(*out);
        *out = NULL;
        *n = 0;
    }
    return conn_leave(conn, st, err);
}

mn_status mn_add_attribute(mn_conn *conn, const char *name, const char *attribute, mn_error *err)
{
    struct coll *c;
    mn_status st = conn_enter(conn, err);
    if (st)
        return st;
    st = scope_schema(conn, err);
    if (st == MN_OK) {
        st = coll_get(conn, name, &c, err);
        if (st == MN_OK) {
            struct catalog_entry e = c->entry;
            conn->schema_dirty = true;
            colls_forget(conn);
            st = catalog_add_attribute(conn->sql, &e, attribute, err);
        }
        st = scope_end(conn, st, err);
    }
    return conn_leave(conn, st, err);
}

static mn_status fill_info(mn_conn *conn, const struct catalog_entry *e, mn_collection_info *out,
                           mn_error *err)
{
    char *names = NULL;
    size_t n = 0;
    memset(out, 0, sizeof *out);
    memcpy(out->name, e->name, sizeof out->name);
    memcpy(out->table, e->table, sizeof out->table);
    memcpy(out->column, e->column, sizeof out->column);
    memcpy(out->id_column, e->id_column, sizeof out->id_column);
    out->foreign = e->foreign;
    out->dim = e->dim;
    out->dtype = e->dtype;
    out->metric = e->metric;
    out->id_kind = e->id_kind;
    out->rerank = e->rerank;
    out->bits = e->bits;
    out->recall = e->recall > 0 ? e->recall : DEFAULT_RECALL;
    mn_status st = catalog_attributes(conn->sql, e, &names, &n, err);
    if (st)
        return st;
    out->n_attributes = (uint32_t)n;
    size_t used = 0, cap = sizeof out->attributes;
    const char *p = names;
    for (size_t i = 0; i < n; i++, p += strlen(p) + 1) {
        size_t len = strlen(p);
        if (used + len + 5 > cap) { /* the name, a comma, "..." and a NUL must fit */
            memcpy(out->attributes + used, "...", 4);
            break;
        }
        if (i)
            out->attributes[used++] = ',';
        memcpy(out->attributes + used, p, len + 1);
        used += len;
    }
    sqlite3_free(names);
    return MN_OK;
}

mn_status mn_info(mn_conn *conn, const char *name, mn_collection_info *out, mn_error *err)
{
    struct coll *c;
    mn_status st = conn_enter(conn, err);
    if (st)
        return st;
    st = out ? scope_read(conn, err) : mn_fail(err, MN_INVALID, "info: no place for it");
    if (st == MN_OK) {
        st = coll_get(conn, name, &c, err);
        if (st == MN_OK)
            st = fill_info(conn, &c->entry, out, err);
        st = scope_end(conn, st, err);
    }
    return conn_leave(conn, st, err);
}

struct list {
    mn_conn *conn;
    struct catalog_entry *entries;
    size_t n, cap;
};

static mn_status list_one(void *ctx, const struct catalog_entry *e, mn_error *err)
{
    struct list *l = ctx;
    if (l->n == l->cap) {
        size_t cap = l->cap ? 2 * l->cap : 16;
        struct catalog_entry *more =
            mn_realloc(l->conn->db->alloc, l->entries, cap * sizeof *more, MN_TAG_ROWS);
        if (!more)
            return mn_fail(err, MN_NOMEM, "list: out of memory under the cap");
        l->entries = more;
        l->cap = cap;
    }
    l->entries[l->n++] = *e;
    return MN_OK;
}

mn_status mn_list(mn_conn *conn, mn_collection_info **out, size_t *n, mn_error *err)
{
    enum catalog_state state;
    struct list l = {.conn = conn};
    if (out)
        *out = NULL;
    if (n)
        *n = 0;
    mn_status st = conn_enter(conn, err);
    if (st)
        return st;
    if (!out || !n) {
        st = mn_fail(err, MN_INVALID, "list: no place for the array and its length");
        return conn_leave(conn, st, err);
    }
    st = scope_read(conn, err);
    if (st == MN_OK) {
        st = catalog_check(conn->sql, &state, err);
        if (st == MN_OK && state == CATALOG_PRESENT)
            st = catalog_walk(conn->sql, list_one, &l, err);
        if (st == MN_OK && !(*out = result_alloc(conn->db->alloc, l.n, sizeof **out)))
            st = mn_fail(err, MN_NOMEM, "list: out of memory under the cap");
        for (size_t i = 0; i < l.n && st == MN_OK; i++)
            st = fill_info(conn, &l.entries[i], &(*out)[i], err);
        st = scope_end(conn, st, err);
    }
    mn_free(conn->db->alloc, l.entries);
    if (st) {
        mn_free_result(*out);
        *out = NULL;
    } else {
        *n = l.n;
    }
    return conn_leave(conn, st, err);
}
