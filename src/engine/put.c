/*
 * Writing rows: put and delete.
 *
 * A row's version is the number of its newest entry in the change log, which a trigger writes. The
 * writer holds the database, so it knows the numbers that come next and writes them with the rows;
 * if a trigger of the user's own writes rows too, the prediction is off, the trigger mends the
 * stored versions, and what is reported to the caller is read back.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "index/scan.h"
#include "src/engine/engine.h"
#include "storage/base/utf8.h"
#include "storage/sql.h"

/* Log entries are trimmed each time the sequence passes a multiple of this. */
enum { TRIM_SHIFT = 13 };

struct put {
    mn_conn *conn;
    struct coll *c;
    const mn_row *rows;
    size_t n;
    const mn_put_opts *opts;
    int64_t max_id;  /* greatest id in the table; 0 at least, so that assigned ids start at 1 */
    int64_t version; /* of the next row written */
    char *converted; /* one vector, for from_f32 */
    size_t *seen;    /* [n_attrs] number + 1 of the row that gave the attribute last */
    int64_t *ids;    /* [n] integer ids of the rows written, in order */
};

/* ---- Checks ---------------------------------------------------------------------------------- */

static int by_integer(const void *a, const void *b)
{
    const mn_row *x = *(const mn_row *const *)a, *y = *(const mn_row *const *)b;
    return x->id < y->id ? -1 : x->id > y->id ? 1 : (x > y) - (x < y);
}

static int by_text(const void *a, const void *b)
{
    const mn_row *x = *(const mn_row *const *)a, *y = *(const mn_row *const *)b;
    int d = strcmp(x->text_id, y->text_id);
    return d ? d : (x > y) - (x < y);
}

static bool ascending(const mn_row *rows, size_t n)
{
    for (size_t i = 1; i < n; i++)
        if (rows[i].id <= rows[i - 1].id)
            return false;
    return true;
}

/* An id that stands twice in the call: which of the two rows should count? */
static mn_status check_twice(const struct put *p, mn_error *err)
{
    bool text = p->c->entry.id_kind == MN_ID_TEXT;
    if (p->n < 2 || (!text && (p->rows[0].id == MN_AUTO_ID || ascending(p->rows, p->n))))
        return MN_OK;
    struct mn_alloc *a = p->conn->db->alloc;
    const mn_row **sorted = mn_alloc_array(a, p->n, sizeof *sorted, MN_TAG_ROWS);
    if (!sorted)
        return mn_fail(err, MN_NOMEM, "put: out of memory under the cap for %zu rows; put fewer",
                       p->n);
    for (size_t i = 0; i < p->n; i++)
        sorted[i] = &p->rows[i];
    qsort(sorted, p->n, sizeof *sorted, text ? by_text : by_integer);
    mn_status st = MN_OK;
    for (size_t i = 1; i < p->n && st == MN_OK; i++) {
        const mn_row *x = sorted[i - 1], *y = sorted[i];
        if (text && strcmp(x->text_id, y->text_id) == 0)
            st = mn_fail(err, MN_INVALID, "put: the id '%.60s' stands twice, in rows %td and %td",
                         x->text_id, x - p->rows, y - p->rows);
        else if (!text && x->id == y->id)
            st = mn_fail(err, MN_INVALID,
                         "put: the id %" PRId64 " stands twice, in rows %td and %td", x->id,
                         x - p->rows, y - p->rows);
    }
    mn_free(a, sorted);
    return st;
}

static mn_status check_ids(const struct put *p, mn_error *err)
{
    bool text = p->c->entry.id_kind == MN_ID_TEXT;
    bool automatic = !text && p->n && p->rows[0].id == MN_AUTO_ID;
    char what[48];
    mn_status st = MN_OK;
    for (size_t i = 0; i < p->n && st == MN_OK; i++) {
        const mn_row *r = &p->rows[i];
        snprintf(what, sizeof what, "put: row %zu", i);
        if (text)
            st = text_id_check(r->text_id, what, err);
        else if (r->text_id)
            st = mn_fail(err, MN_INVALID, "%s has a text id, but collection '%s' has integer ids",
                         what, p->c->entry.name);
        else if ((r->id == MN_AUTO_ID) != automatic)
            st = mn_fail(err, MN_INVALID,
                         "%s: some rows have an id and some want one assigned; put them in two "
                         "calls",
                         what);
        else if (automatic && p->opts->mode == MN_PUT_IF_VERSION)
            st = mn_fail(err, MN_INVALID, "%s: a row to be replaced needs its id", what);
    }
    return st ? st : check_twice(p, err);
}

static mn_status check_text(const char *text, size_t n, const char *what, size_t row, mn_error *err)
{
    size_t bad = utf8_check(text, n);
    if (bad == n)
        return MN_OK;
    return mn_fail(err, MN_INVALID,
                   "put: row %zu: the %s is no valid UTF-8 at byte %zu; store "
                   "other bytes as a blob attribute",
                   row, what, bad);
}

/* ---- One row --------------------------------------------------------------------------------- */

static mn_status bind_value(sqlite3_stmt *st, int at, const mn_value *v, const char *name,
                            size_t row, mn_error *err)
{
    mn_status status = MN_OK;
    switch (v->type) {
    case MN_NULL:
        sqlite3_bind_null(st, at);
        return MN_OK;
    case MN_INTEGER:
        sqlite3_bind_int64(st, at, v->integer);
        return MN_OK;
    case MN_REAL:
        if (isnan(v->real))
            return mn_fail(err, MN_INVALID,
                           "put: row %zu: attribute '%s' is NaN, which SQLite cannot store", row,
                           name);
        sqlite3_bind_double(st, at, v->real);
        return MN_OK;
    case MN_TEXT:
    case MN_BLOB:
        if (!v->data && v->len)
            return mn_fail(err, MN_INVALID, "put: row %zu: attribute '%s' has %zu bytes at NULL",
                           row, name, v->len);
        if (v->type == MN_TEXT && v->len)
            status = check_text(v->data, v->len, name, row, err);
        if (status)
            return status;
        int rc = v->type == MN_TEXT
                     ? sqlite3_bind_text64(st, at, v->data ? v->data : "", v->len, SQLITE_STATIC,
                                           SQLITE_UTF8)
                     : sqlite3_bind_blob64(st, at, v->data ? v->data : "", v->len, SQLITE_STATIC);
        return rc == SQLITE_OK ? MN_OK : sql_fail(sqlite3_db_handle(st), rc, err, "put: attribute");
    default:
        return mn_fail(err, MN_INVALID, "put: row %zu: attribute '%s' has type %d, which is none",
                       row, name, (int)v->type);
    }
}

enum { FIRST_ATTR = 6 }; /* parameter of the first attribute; see write_sql() in collection.c */

static mn_status bind_attrs(struct put *p, sqlite3_stmt *st, size_t row, mn_error *err)
{
    const mn_row *r = &p->rows[row];
    const struct coll *c = p->c;
    for (size_t i = 0; i < c->n_attrs && r->n_attrs < c->n_attrs; i++)
        sqlite3_bind_null(st, FIRST_ATTR + (int)i);
    for (size_t i = 0; i < r->n_attrs; i++) {
        const mn_attr *a = &r->attrs[i];
        size_t at = i;
        mn_status status = MN_OK;
        if (i >= c->n_attrs || !a->name || strcmp(a->name, c->attrs[i]) != 0)
            status = coll_attr(c, a->name, &at, err);
        if (status) {
            mn_error_context(err, "put: row %zu: ", row);
            return status;
        }
        if (p->seen[at] == row + 1)
            return mn_fail(err, MN_INVALID, "put: row %zu: attribute '%s' is given twice", row,
                           a->name);
        p->seen[at] = row + 1;
        status = bind_value(st, FIRST_ATTR + (int)at, &a->value, a->name, row, err);
        if (status)
            return status;
    }
    return MN_OK;
}

static mn_status bind_vector(struct put *p, sqlite3_stmt *st, size_t row, mn_error *err)
{
    const struct catalog_entry *e = &p->c->entry;
    const void *vector = p->rows[row].vector;
    char what[48];
    mn_status status = MN_OK;
    if (!vector) {
        sqlite3_bind_null(st, 5);
        return MN_OK;
    }
    snprintf(what, sizeof what, "put: row %zu", row);
    if (p->opts->from_f32) {
        status =
            convert_f32(p->conn->db->kernels, e->dtype, e->dim, vector, p->converted, what, err);
        vector = p->converted;
    }
    if (status == MN_OK)
        status = scan_check_vector(e->dtype, e->metric, e->dim, vector, what, err);
    if (status == MN_OK)
        sqlite3_bind_blob64(st, 5, vector, p->c->vector_bytes, SQLITE_STATIC);
    return status;
}

static mn_status bind_payload(struct put *p, sqlite3_stmt *st, size_t row, mn_error *err)
{
    const mn_row *r = &p->rows[row];
    if (!r->payload) {
        sqlite3_bind_null(st, 4);
        return MN_OK;
    }
    size_t len = r->payload_len == SIZE_MAX ? strlen(r->payload) : r->payload_len;
    mn_status status = check_text(r->payload, len, "payload", row, err);
    if (status)
        return status;
    int rc = sqlite3_bind_text64(st, 4, r->payload, len, SQLITE_STATIC, SQLITE_UTF8);
    return rc == SQLITE_OK ? MN_OK : sql_fail(p->conn->sql, rc, err, "put: payload");
}

/* Whether the row is there, and under which integer id it is or will be written. */
static mn_status locate(struct put *p, size_t row, int64_t *id, bool *found, int64_t *version,
                        mn_error *err)
{
    const mn_row *r = &p->rows[row];
    bool text = p->c->entry.id_kind == MN_ID_TEXT;
    mn_status st = MN_OK;
    *found = false;
    *id = r->id;
    bool given = !text && r->id != MN_AUTO_ID;
    if (text || (given && r->id <= p->max_id)) {
        mn_id name = {.id = r->id, .text_id = text ? r->text_id : NULL};
        st = row_resolve(p->conn, p->c, &name, row, id, found, version, err);
    }
    if (st || *found)
        return st;
    if (!given) {
        if (p->max_id == INT64_MAX)
            return mn_fail(err, MN_FULL,
                           "put: row %zu: the greatest integer id is taken; no higher "
                           "one can be assigned",
                           row);
        *id = p->max_id + 1;
    }
    if (*id > p->max_id)
        p->max_id = *id;
    return MN_OK;
}

static mn_status check_condition(const struct put *p, size_t row, int64_t id, bool found,
                                 int64_t version, mn_error *err)
{
    const mn_row *r = &p->rows[row];
    const char *coll = p->c->entry.name;
    if (p->opts->mode == MN_PUT_IF_ABSENT && found)
        return mn_fail(
            err, MN_CONFLICT,
            "put: row %zu: collection '%s' has id %" PRId64 "%s%s already, version %" PRId64, row,
            coll, id, r->text_id ? ", " : "", r->text_id ? r->text_id : "", version);
    if (p->opts->mode == MN_PUT_IF_VERSION && !found)
        return mn_fail(err, MN_CONFLICT,
                       "put: row %zu: collection '%s' has no such row; version %" PRId64
                       " was expected",
                       row, coll, r->version);
    if (p->opts->mode == MN_PUT_IF_VERSION && version != r->version)
        return mn_fail(err, MN_CONFLICT,
                       "put: row %zu: id %" PRId64 " in '%s' has version %" PRId64 ", not %" PRId64
                       "; read it again",
                       row, id, coll, version, r->version);
    return MN_OK;
}

static mn_status put_row(struct put *p, size_t row, mn_error *err)
{
    sqlite3_stmt *st;
    bool found;
    int64_t id = 0, version = 0;
    mn_status status = locate(p, row, &id, &found, &version, err);
    if (status == MN_OK)
        status = check_condition(p, row, id, found, version, err);
    if (status == MN_OK)
        status = coll_stmt(p->conn, p->c, found ? STMT_UPDATE : STMT_INSERT, &st, err);
    if (status)
        return status;
    sqlite3_bind_int64(st, 1, id);
    if (!found && p->c->entry.id_kind == MN_ID_TEXT)
        sqlite3_bind_text(st, 2, p->rows[row].text_id, -1, SQLITE_STATIC);
    sqlite3_bind_int64(st, 3, p->version);
    status = bind_payload(p, st, row, err);
    if (status == MN_OK)
        status = bind_vector(p, st, row, err);
    if (status == MN_OK)
        status = bind_attrs(p, st, row, err);
    if (status == MN_OK) {
        status = sql_run(st, err);
        if (status)
            mn_error_context(err, "put: row %zu: ", row);
    }
    p->ids[row] = id;
    p->version++;
    return status;
}

/* ---- The call -------------------------------------------------------------------------------- */

static mn_status log_next(mn_conn *conn, struct coll *c, int64_t *out, mn_error *err)
{
    sqlite3_stmt *st;
    mn_status status = coll_stmt(conn, c, STMT_LOG_NEXT, &st, err);
    return status ? status : sql_stmt_int(st, 0, out, err);
}

static mn_status trim_log(mn_conn *conn, struct coll *c, int64_t before, int64_t after,
                          mn_error *err)
{
    sqlite3_stmt *st;
    if (before >> TRIM_SHIFT == after >> TRIM_SHIFT || after <= CHANGELOG_KEEP)
        return MN_OK;
    mn_status status = coll_stmt(conn, c, STMT_LOG_TRIM, &st, err);
    if (status)
        return status;
    sqlite3_bind_int64(st, 1, after - CHANGELOG_KEEP);
    return sql_run(st, err);
}

/* The versions as stored, where other triggers made the prediction wrong. */
static mn_status read_versions(struct put *p, mn_error *err)
{
    sqlite3_stmt *st;
    mn_status status = coll_stmt(p->conn, p->c, STMT_FIND_ID, &st, err);
    for (size_t i = 0; i < p->n && status == MN_OK; i++) {
        bool row;
        sqlite3_bind_int64(st, 1, p->ids[i]);
        status = sql_step(st, &row, err);
        if (status == MN_OK)
            p->opts->versions[i] = row ? sqlite3_column_int64(st, 1) : 0;
        if (status == MN_OK)
            sqlite3_reset(st);
    }
    return status;
}

static mn_status put_rows(struct put *p, mn_error *err)
{
    sqlite3_stmt *st;
    int64_t before = 0, after = 0;
    mn_status status = log_next(p->conn, p->c, &before, err);
    if (status == MN_OK)
        status = coll_stmt(p->conn, p->c, STMT_MAX_ID, &st, err);
    if (status == MN_OK)
        status = sql_stmt_int(st, 0, &p->max_id, err);
    if (p->max_id < 0)
        p->max_id = 0;
    p->version = before + 1;
    for (size_t i = 0; i < p->n && status == MN_OK; i++) {
        status = put_row(p, i, err);
        if (status == MN_OK && i % 256 == 255) {
            p->conn->done = i + 1;
            status = conn_tick(p->conn, err);
        }
    }
    if (status == MN_OK)
        status = log_next(p->conn, p->c, &after, err);
    if (status)
        return status;
    if (p->opts->versions) {
        for (size_t i = 0; i < p->n; i++)
            p->opts->versions[i] = before + 1 + (int64_t)i;
        if (after != before + (int64_t)p->n)
            status = read_versions(p, err);
    }
    return status ? status : trim_log(p->conn, p->c, before, after, err);
}

static mn_status put_checked(mn_conn *conn, const char *name, const mn_row *rows, size_t n,
                             const mn_put_opts *opts, mn_error *err)
{
    struct mn_alloc *a = conn->db->alloc;
    struct put p = {.conn = conn, .rows = rows, .n = n, .opts = opts};
    mn_status st = coll_get(conn, name, &p.c, err);
    if (st == MN_OK && opts->from_f32 && p.c->entry.dtype == MN_BIT)
        st = mn_fail(err, MN_INVALID,
                     "put: collection '%s' holds bit vectors, which are not made "
                     "from f32; quantise them first",
                     name);
    if (st == MN_OK)
        st = check_ids(&p, err);
    if (st)
        return st;
    p.ids = mn_alloc_array(a, n, sizeof *p.ids, MN_TAG_ROWS);
    p.seen = mn_alloc_array(a, p.c->n_attrs, sizeof *p.seen, MN_TAG_ROWS);
    p.converted = mn_alloc(a, p.c->vector_bytes, MN_TAG_ROWS);
    if (!p.ids || !p.seen || !p.converted)
        st = mn_fail(err, MN_NOMEM, "put: out of memory under the cap for %zu rows; put fewer", n);
    if (st == MN_OK)
        st = put_rows(&p, err);
    if (st == MN_OK && opts->ids)
        memcpy(opts->ids, p.ids, n * sizeof *p.ids);
    for (int which = STMT_INSERT; which <= STMT_UPDATE; which++) {
        if (p.c->stmts[which]) {
            sqlite3_reset(p.c->stmts[which]);
            sqlite3_clear_bindings(p.c->stmts[which]); /* they point into the caller's memory */
        }
    }
    mn_free(a, p.ids);
    mn_free(a, p.seen);
    mn_free(a, p.converted);
    return st;
}

mn_status mn_put(mn_conn *conn, const char *name, const mn_row *rows, size_t n,
                 const mn_put_opts *opts, mn_error *err)
{
    static const mn_put_opts none = {0};
    mn_status st = conn_enter(conn, err);
    if (st)
        return st;
    if (!opts)
        opts = &none;
    conn->stage = "put";
    conn->total = n;
    if (n && !rows)
        st = mn_fail(err, MN_INVALID, "put: no rows");
    else if (opts->mode > MN_PUT_IF_VERSION)
        st = mn_fail(err, MN_INVALID, "put: %d is no mode", (int)opts->mode);
    else
        st = scope_write(conn, err);
    if (st == MN_OK)
        st = scope_end(conn, put_checked(conn, name, rows, n, opts, err), err);
    return conn_leave(conn, st, err);
}

/* ---- Delete ---------------------------------------------------------------------------------- */

static mn_status delete_one(mn_conn *conn, struct coll *c, const mn_id *id, size_t position,
                            const int64_t *version, uint64_t *deleted, mn_error *err)
{
    sqlite3_stmt *st;
    bool found;
    int64_t number = 0, has = 0;
    mn_status status = row_resolve(conn, c, id, position, &number, &found, &has, err);
    if (status)
        return status;
    if (version && !found)
        return mn_fail(err, MN_CONFLICT, "delete: collection '%s' has no such row", c->entry.name);
    if (version && has != *version)
        return mn_fail(err, MN_CONFLICT,
                       "delete: id %" PRId64 " in '%s' has version %" PRId64 ", not %" PRId64
                       "; read it again",
                       number, c->entry.name, has, *version);
    if (!found)
        return MN_OK;
    status = coll_stmt(conn, c, STMT_DELETE, &st, err);
    if (status)
        return status;
    sqlite3_bind_int64(st, 1, number);
    status = sql_run(st, err);
    if (status == MN_OK)
        ++*deleted;
    return status;
}

static mn_status delete_all(mn_conn *conn, const char *name, const mn_id *ids, size_t n,
                            const int64_t *version, uint64_t *deleted, mn_error *err)
{
    struct coll *c;
    int64_t before = 0, after = 0;
    mn_status st = coll_get(conn, name, &c, err);
    if (st == MN_OK)
        st = log_next(conn, c, &before, err);
    for (size_t i = 0; i < n && st == MN_OK; i++) {
        st = delete_one(conn, c, &ids[i], i, version, deleted, err);
        if (st == MN_OK && i % 256 == 255) {
            conn->done = i + 1;
            st = conn_tick(conn, err);
        }
    }
    if (st == MN_OK)
        st = log_next(conn, c, &after, err);
    return st ? st : trim_log(conn, c, before, after, err);
}

static mn_status delete_public(mn_conn *conn, const char *name, const mn_id *ids, size_t n,
                               const int64_t *version, uint64_t *deleted, mn_error *err)
{
    uint64_t count = 0;
    mn_status st = conn_enter(conn, err);
    if (st)
        return st;
    conn->stage = "delete";
    conn->total = n;
    if (n && !ids)
        st = mn_fail(err, MN_INVALID, "delete: no ids");
    else
        st = scope_write(conn, err);
    if (st == MN_OK)
        st = scope_end(conn, delete_all(conn, name, ids, n, version, &count, err), err);
    if (deleted)
        *deleted = st == MN_OK ? count : 0;
    return conn_leave(conn, st, err);
}

mn_status mn_delete(mn_conn *conn, const char *name, const mn_id *ids, size_t n, uint64_t *deleted,
                    mn_error *err)
{
    return delete_public(conn, name, ids, n, NULL, deleted, err);
}

mn_status mn_delete_if_version(mn_conn *conn, const char *name, const mn_id *id, int64_t version,
                               mn_error *err)
{
    return delete_public(conn, name, id, 1, &version, NULL, err);
}
