/* Looking after a database: statistics, verify, backup. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "index/scan.h"
#include "src/engine/cache.h"
#include "src/engine/engine.h"
#include "src/engine/fold.h"
#include "src/engine/ivf.h"
#include "src/engine/ivf_heal.h"
#include "src/engine/ivf_store.h"
#include "src/engine/ivf_verify.h"
#include "storage/sql.h"

/* ---- Statistics ------------------------------------------------------------------------------ */

static uint64_t file_bytes(const char *path, const char *suffix)
{
    char *whole = NULL;
    struct stat st;
    uint64_t bytes = 0;
    if (asprintf(&whole, "%s%s", path, suffix) >= 0 && stat(whole, &st) == 0)
        bytes = (uint64_t)st.st_size;
    free(whole);
    return bytes;
}

static uint64_t counter(const _Atomic uint64_t *c)
{
    return atomic_load_explicit(c, memory_order_relaxed);
}

mn_status mn_stats(mn_conn *conn, mn_stats_info *out, mn_error *err)
{
    int64_t page = 0;
    mn_status st = conn_enter(conn, err);
    if (st)
        return st;
    if (!out) {
        st = mn_fail(err, MN_INVALID, "stats: no place for them");
        return conn_leave(conn, st, err);
    }
    mn_db *db = conn->db;
    memset(out, 0, sizeof *out);
    st = sql_int(conn->sql, "PRAGMA page_size", 0, &page, err);
    out->page_bytes = (uint64_t)page;
    out->memory_used = mn_alloc_used(db->alloc);
    out->memory_peak = mn_alloc_peak(db->alloc);
    out->memory_cap = mn_alloc_cap(db->alloc);
    out->cache_bytes = mn_alloc_used_by(db->alloc, MN_TAG_CACHE);
    if (!db->vfs) {
        out->db_bytes = file_bytes(db->path, "");
        out->wal_bytes = file_bytes(db->path, "-wal");
    }
    pthread_mutex_lock(&db->lock);
    out->connections = db->conns;
    pthread_mutex_unlock(&db->lock);
    out->searches = counter(&db->count.searches);
    out->cache_loads = counter(&db->count.loads);
    out->cache_catchups = counter(&db->count.catchups);
    out->cache_evictions = counter(&db->count.evictions);
    out->streamed_searches = counter(&db->count.streamed);
    return conn_leave(conn, st, err);
}

/* Vectors of a table that was there: values of any kind may stand beside them. */
static mn_status count_vectors(mn_conn *conn, struct coll *c, uint64_t *n, mn_error *err)
{
    sqlite3_stmt *st;
    bool row = false;
    *n = 0;
    mn_status status = coll_stmt(conn, c, STMT_SCAN, &st, err);
    while (status == MN_OK && (status = sql_step(st, &row, err)) == MN_OK && row) {
        struct row_vector v;
        row_vector_at(conn->db, c, st, 1, &v);
        *n += v.bytes != NULL;
        if (++conn->done % 4096 == 0)
            status = conn_tick(conn, err);
    }
    if (status == MN_OK)
        sqlite3_reset(st);
    return status;
}

static mn_status count_rows(mn_conn *conn, struct coll *c, mn_collection_stats *out, mn_error *err)
{
    sqlite3_stmt *st = NULL;
    bool row;
    mn_status status = sql_preparef(conn->sql, &st, err,
                                    "SELECT count(*), count(\"%w\"), (SELECT count(*) FROM "
                                    "mneme_log_%lld), (SELECT max(seq) FROM mneme_log_%lld) FROM "
                                    "main.\"%w\"",
                                    c->entry.column, (long long)c->entry.table_number,
                                    (long long)c->entry.table_number, c->entry.table);
    if (status == MN_OK)
        status = sql_step(st, &row, err);
    if (status == MN_OK) {
        out->rows = (uint64_t)sqlite3_column_int64(st, 0);
        out->vectors = (uint64_t)sqlite3_column_int64(st, 1);
        out->log_entries = (uint64_t)sqlite3_column_int64(st, 2);
        out->last_version = sqlite3_column_int64(st, 3);
        out->cached_rows = cache_rows(conn->db, c->entry.number);
    }
    sqlite3_finalize(st);
    if (status == MN_OK && c->entry.foreign)
        status = count_vectors(conn, c, &out->vectors, err);
    out->vector_bytes = out->vectors * c->vector_bytes;
    return status;
}

mn_status mn_collection_stats_get(mn_conn *conn, const char *name, mn_collection_stats *out,
                                  mn_error *err)
{
    struct coll *c;
    mn_status st = conn_enter(conn, err);
    if (st)
        return st;
    if (!out) {
        st = mn_fail(err, MN_INVALID, "collection stats: no place for them");
        return conn_leave(conn, st, err);
    }
    memset(out, 0, sizeof *out);
    conn->stage = "count";
    st = scope_read(conn, err);
    if (st == MN_OK) {
        st = coll_get(conn, name, &c, err);
        if (st == MN_OK)
            st = count_rows(conn, c, out, err);
        st = scope_end(conn, st, err);
    }
    return conn_leave(conn, st, err);
}

static void describe_index(const struct ivf *x, mn_index_info *out)
{
    out->exists = true;
    out->generation = x->generation;
    out->rows = x->rows;
    out->postings = x->core->n_lists;
    out->bits = x->core->rabitq->bits;
    out->vectors_in_memory = ivf_warm(x);
    out->memory_bytes = ivf_bytes(x);
    out->codes_in_memory = ivf_codes_here(x);
    out->recall_most = x->tuning.n_k ? (double)x->tuning.most[0] : 0;
}

mn_status mn_index_stats(mn_conn *conn, const char *name, mn_index_info *out, mn_error *err)
{
    struct coll *c;
    struct view *v = NULL;
    uint64_t pending = 0;
    mn_status st = conn_enter(conn, err);
    if (st)
        return st;
    memset(out, 0, sizeof *out);
    st = scope_read(conn, err);
    if (st == MN_OK) {
        st = coll_get(conn, name, &c, err);
        if (st == MN_OK)
            st = cache_indexed(conn, c, &v, &pending, err);
        if (st == MN_OK && v) {
            describe_index(view_base(v), out);
            out->pending = pending + view_base(v)->ahead;
            out->sidecar_bytes = file_bytes(conn->db->path, "-mneme");
            out->missing = heal_has_gaps(view_base(v)) ? heal_lost_rows(view_base(v)) : 0;
        }
        if (st == MN_OK && !v) {
            struct ivf_place place;
            st = ivf_where(conn, c, &place, err);
            out->unusable = st == MN_OK && place.there;
        }
        out->lost = counter(&conn->db->count.lost);
        out->healed = counter(&conn->db->count.healed);
        view_release(conn->db, v);
        st = scope_end(conn, st, err);
    }
    return conn_leave(conn, st, err);
}

/* ---- Verify ---------------------------------------------------------------------------------- */

enum { MAX_INTEGRITY = 100, MAX_ROW_FINDINGS = 1000 };

struct verify {
    mn_conn *conn;
    mn_finding_fn fn;
    void *ctx;
    uint64_t findings;
    struct catalog_entry *entries; /* [n]; dim 0: cannot be read, as was reported */
    size_t n, cap;
};

__attribute__((format(printf, 3, 4))) static void report(struct verify *v, const char *where,
                                                         const char *format, ...)
{
    char what[512];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    v->findings++;
    if (v->fn)
        v->fn(v->ctx, where, what);
}

/* A failure of one check is a finding, not the end; interrupts and missing memory do end it. */
static mn_status as_finding(struct verify *v, const char *where, mn_status st, mn_error *err)
{
    if (st == MN_OK || st == MN_INTERRUPTED || st == MN_NOMEM || st == MN_DEADLINE)
        return st;
    report(v, where, "%s", err->message);
    mn_error_clear(err);
    return MN_OK;
}

static mn_status verify_sqlite(struct verify *v, mn_error *err)
{
    sqlite3_stmt *st = NULL;
    bool row = false;
    mn_status status =
        sql_preparef(v->conn->sql, &st, err, "PRAGMA integrity_check(%d)", MAX_INTEGRITY);
    while (status == MN_OK && (status = sql_step(st, &row, err)) == MN_OK && row) {
        const char *says = (const char *)sqlite3_column_text(st, 0);
        if (says && strcmp(says, "ok") != 0)
            report(v, "database", "%s", says);
    }
    sqlite3_finalize(st);
    return as_finding(v, "database", status, err);
}

static mn_status collect(void *ctx, const struct catalog_entry *e, mn_error *err)
{
    struct verify *v = ctx;
    if (v->n == v->cap) {
        size_t cap = v->cap ? 2 * v->cap : 16;
        struct catalog_entry *more =
            mn_realloc(v->conn->db->alloc, v->entries, cap * sizeof *more, MN_TAG_ROWS);
        if (!more)
            return mn_fail(err, MN_NOMEM, "verify: out of memory under the cap");
        v->entries = more;
        v->cap = cap;
    }
    v->entries[v->n++] = *e;
    return MN_OK;
}

/* Triggers and log of the table below one collection, and how many vectors there are to read. */
static mn_status verify_log(struct verify *v, struct catalog_entry *e, mn_error *err)
{
    bool intact = false, row = false;
    struct coll *c;
    sqlite3_stmt *st = NULL;
    int64_t wrong = 0;
    mn_status status = coll_get(v->conn, e->name, &c, err);
    if (status) {
        e->dim = 0;
        return as_finding(v, e->name, status, err);
    }
    long long number = (long long)c->entry.table_number;
    struct catalog_log log;
    status = catalog_log_of(v->conn->sql, &c->entry, &log, err);
    if (status == MN_OK)
        status = changelog_check(v->conn->sql, &log.table, &intact, err);
    sqlite3_free(log.watched);
    const char *version = c->entry.foreign ? "0" : "version";
    if (status == MN_OK && !intact)
        report(v, c->entry.table,
               "the triggers that keep the change log are not as they must be; the next write "
               "through Mneme mends them");
    if (status == MN_OK)
        status = sql_preparef(
            v->conn->sql, &st, err,
            "SELECT total(typeof(%s) <> 'integer' OR %s > (SELECT seq FROM "
            "sqlite_sequence WHERE name = 'mneme_log_%lld')), count(\"%w\") FROM main.\"%w\"",
            version, version, number, c->entry.column, c->entry.table);
    if (status == MN_OK)
        status = sql_step(st, &row, err);
    if (status == MN_OK && row) {
        wrong = sqlite3_column_int64(st, 0);
        v->conn->total += (uint64_t)sqlite3_column_int64(st, 1);
    }
    sqlite3_finalize(st);
    if (status == MN_OK && intact && wrong)
        report(v, c->entry.table, "%" PRId64 " rows have a version that was never given out",
               wrong);
    return as_finding(v, c->entry.table, status, err);
}

/* One row of the scan: its vector must be one that mn_put would have taken. */
static void verify_vector(struct verify *v, const struct coll *c, sqlite3_stmt *st, uint64_t *bad)
{
    mn_error e = {0};
    char where[MN_MAX_NAME + 40], what[64];
    int64_t id = sqlite3_column_int64(st, 0);
    struct row_vector row;
    row_vector_at(v->conn->db, c, st, 1, &row);
    snprintf(what, sizeof what, "vector");
    if (row.bytes && scan_check_vector(c->entry.dtype, c->entry.metric, c->entry.dim, row.bytes,
                                       what, &e) == MN_OK)
        return;
    if (++*bad > MAX_ROW_FINDINGS) {
        v->findings++;
        return;
    }
    snprintf(where, sizeof where, "%s, row %" PRId64, c->entry.name, id);
    if (row.bytes)
        report(v, where, "%s", e.message);
    else if (c->entry.foreign)
        report(v, where, "the value is neither a blob of %zu bytes nor a JSON array of %u numbers",
               c->vector_bytes, c->entry.dim);
    else
        report(v, where, "the vector has %d bytes, not %zu", sqlite3_column_bytes(st, 1),
               c->vector_bytes);
}

static mn_status verify_rows(struct verify *v, const struct catalog_entry *e, mn_error *err)
{
    struct coll *c;
    sqlite3_stmt *st;
    bool row = false;
    uint64_t bad = 0;
    if (e->dim == 0)
        return MN_OK;
    mn_status status = coll_get(v->conn, e->name, &c, err);
    if (status == MN_OK)
        status = coll_stmt(v->conn, c, STMT_SCAN, &st, err);
    if (status)
        return as_finding(v, e->name, status, err);
    while ((status = sql_step(st, &row, err)) == MN_OK && row) {
        verify_vector(v, c, st, &bad);
        if (++v->conn->done % 4096 == 0 && (status = conn_tick(v->conn, err)))
            break;
    }
    sqlite3_reset(st);
    if (bad > MAX_ROW_FINDINGS)
        report(v, c->entry.name, "%" PRIu64 " further rows without a valid vector",
               bad - MAX_ROW_FINDINGS);
    return as_finding(v, c->entry.name, status, err);
}

struct index_findings {
    struct verify *v;
    const char *collection;
};

static void index_finding(void *ctx, const char *what)
{
    const struct index_findings *to = ctx;
    report(to->v, to->collection, "%s", what);
}

static mn_status verify_index(struct verify *v, const struct catalog_entry *e, mn_error *err)
{
    struct coll *c;
    struct index_findings to = {v, e->name};
    mn_status st = coll_get(v->conn, e->name, &c, err);
    if (st == MN_OK)
        st = ivf_verify(v->conn, c, index_finding, &to, err);
    return as_finding(v, e->name, st, err);
}

static mn_status verify_all(struct verify *v, mn_error *err)
{
    enum catalog_state state = CATALOG_ABSENT;
    mn_status st = verify_sqlite(v, err);
    if (st == MN_OK)
        st = as_finding(v, "catalog", catalog_check(v->conn->sql, &state, err), err);
    if (st || state == CATALOG_ABSENT)
        return st;
    st = as_finding(v, "catalog", catalog_walk(v->conn->sql, collect, v, err), err);
    for (size_t i = 0; i < v->n && st == MN_OK; i++)
        st = verify_log(v, &v->entries[i], err);
    for (size_t i = 0; i < v->n && st == MN_OK; i++)
        st = verify_rows(v, &v->entries[i], err);
    for (size_t i = 0; i < v->n && st == MN_OK; i++)
        st = verify_index(v, &v->entries[i], err);
    return st;
}

mn_status mn_verify(mn_conn *conn, mn_finding_fn fn, void *ctx, uint64_t *findings, mn_error *err)
{
    mn_error own;
    struct verify v = {.conn = conn, .fn = fn, .ctx = ctx};
    if (!err)
        err = &own; /* findings need the sentences */
    mn_status st = conn_enter(conn, err);
    if (st)
        return st;
    conn->stage = "verify";
    st = scope_read(conn, err);
    if (st == MN_OK)
        st = scope_end(conn, verify_all(&v, err), err);
    mn_free(conn->db->alloc, v.entries);
    if (findings)
        *findings = v.findings;
    return conn_leave(conn, st, err);
}

/* ---- Backup ---------------------------------------------------------------------------------- */

enum { BACKUP_PAGES = 256 }; /* copied between two looks at interrupts */

static char *folder_of(const char *path) /* for free() */
{
    const char *slash = strrchr(path, '/');
    return slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
}

/* Said before SQLite tries, which names a temporary file and another reason. */
static mn_status check_folder(const char *path, mn_error *err)
{
    mn_status st = MN_OK;
    char *folder = folder_of(path);
    if (!folder)
        return mn_fail(err, MN_NOMEM, "backup: out of memory");
    if (access(folder, W_OK | X_OK) != 0)
        st = mn_fail_os(err, errno == ENOENT || errno == ENOTDIR ? MN_NOTFOUND : MN_READONLY, errno,
                        "%s: cannot be made in its folder; make it, change its permissions or name "
                        "another",
                        path);
    free(folder);
    return st;
}

/* The folder of `path`, flushed, so that a new name in it survives power loss. */
static mn_status sync_folder(const char *path, mn_error *err)
{
    char *folder = folder_of(path);
    if (!folder)
        return mn_fail(err, MN_NOMEM, "backup: out of memory");
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int os = fd < 0 || fsync(fd) ? errno : 0;
    if (fd >= 0)
        close(fd);
    mn_status st = os ? mn_fail_os(err, MN_IO, os, "%s: cannot flush the folder", folder) : MN_OK;
    free(folder);
    return st;
}

/* Copies within the open read scope: one snapshot, whoever writes meanwhile. */
static mn_status copy_pages(mn_conn *conn, sqlite3 *to, mn_error *err)
{
    sqlite3_backup *b = sqlite3_backup_init(to, "main", conn->sql, "main");
    if (!b)
        return sql_fail(to, sqlite3_extended_errcode(to), err, "backup");
    int rc;
    mn_status st = MN_OK;
    do {
        rc = sqlite3_backup_step(b, BACKUP_PAGES);
        conn->total = (uint64_t)sqlite3_backup_pagecount(b);
        conn->done = conn->total - (uint64_t)sqlite3_backup_remaining(b);
        st = conn_tick(conn, err);
    } while (st == MN_OK && rc == SQLITE_OK);
    int finish = sqlite3_backup_finish(b);
    if (st == MN_OK && rc != SQLITE_DONE)
        st = sql_fail(to, rc, err, "backup");
    if (st == MN_OK && finish != SQLITE_OK)
        st = sql_fail(to, finish, err, "backup");
    return st;
}

static mn_status write_copy(mn_conn *conn, const char *path, mn_error *err)
{
    sqlite3 *to = NULL;
    int rc = sqlite3_open_v2(
        path, &to, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_EXRESCODE, NULL);
    mn_status st = rc == SQLITE_OK ? MN_OK : sql_fail(to, rc, err, "backup");
    if (st)
        mn_error_context(err, "%s: ", path);
    /* One flush at the end, by closing, is enough: nobody sees the file before. */
    if (st == MN_OK)
        st = sql_exec(to, "PRAGMA synchronous = FULL; PRAGMA journal_mode = MEMORY", err);
    if (st == MN_OK)
        st = copy_pages(conn, to, err);
    sqlite3_close(to);
    return st;
}

static mn_status backup_to(mn_conn *conn, const char *path, mn_error *err)
{
    char *tmp = NULL;
    if (asprintf(&tmp, "%s.tmp-%ld", path, (long)getpid()) < 0)
        return mn_fail(err, MN_NOMEM, "backup: out of memory");
    unlink(tmp);
    mn_status st = scope_read(conn, err);
    if (st == MN_OK)
        st = scope_end(conn, write_copy(conn, tmp, err), err);
    /* link() and not rename(): a file that appeared meanwhile is not replaced. */
    if (st == MN_OK && link(tmp, path) != 0)
        st = errno == EEXIST
                 ? mn_fail(err, MN_EXISTS, "%s: is there already; name another file", path)
                 : mn_fail_os(err, MN_IO, errno, "%s: cannot give the copy its name", path);
    unlink(tmp);
    if (st == MN_OK)
        st = sync_folder(path, err);
    free(tmp);
    return st;
}

mn_status mn_backup(mn_conn *conn, const char *path, mn_error *err)
{
    struct stat there;
    mn_status st = conn_enter(conn, err);
    if (st)
        return st;
    conn->stage = "backup";
    if (!path || !*path)
        st = mn_fail(err, MN_INVALID, "backup: the path is empty");
    else if (lstat(path, &there) == 0)
        st = mn_fail(err, MN_EXISTS, "%s: is there already; name another file", path);
    else if (conn->txn == TXN_WRITE)
        st = mn_fail(err, MN_MISUSE, "backup: a write transaction is open; commit it first");
    else
        st = check_folder(path, err);
    if (st == MN_OK)
        st = backup_to(conn, path, err);
    return conn_leave(conn, st, err);
}
