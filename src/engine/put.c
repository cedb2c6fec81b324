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
#include "src/engine/batch.h"
#include "src/engine/engine.h"
#include "src/engine/fold.h"
#include "storage/base/utf8.h"
#include "storage/sql.h"

/* Log entries are trimmed each time the sequence passes a multiple of this. */
enum { TRIM_STEP = 8192 };

enum { LOG_MAX = 2000000 }; /* entries kept for an index that is not folded */

enum {
    RUN_BYTES = 1 << 20,  /* rows of one statement; SQLite holds them in memory meanwhile */
    MAX_BYTES = 500 << 20 /* of a text or blob; SQLite's own limit is 1,000,000,000 for a row */
};

struct put {
    mn_conn *conn;
    struct coll *c;
    const mn_row *rows;
    size_t n;
    const mn_put_opts *opts;
    int64_t max_id;  /* greatest id in the table; 0 at least, so that assigned ids start at 1 */
    int64_t version; /* of the next row written */
    char *converted; /* one vector, for from_f32 */
    const mn_value **values; /* [n_attrs] of the row that get_row gave last */
    int64_t *ids;            /* [n] integer ids of the rows, in order */
    size_t first;            /* row that the running statement begins with */
    size_t located;          /* rows before this one have been looked up */
    bool located_found;      /* whether the last of them was there */
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

/* What can be said of the rows before the first is looked up. */
static mn_status check_rows(const struct put *p, mn_error *err)
{
    bool text = p->c->entry.id_kind == MN_ID_TEXT;
    bool automatic = !text && p->n && p->rows[0].id == MN_AUTO_ID;
    char what[48];
    mn_status st = MN_OK;
    for (size_t i = 0; i < p->n && st == MN_OK; i++) {
        const mn_row *r = &p->rows[i];
        snprintf(what, sizeof what, "put: row %zu", i);
        if (r->n_attrs && !r->attrs)
            st = mn_fail(err, MN_INVALID, "%s: %zu attributes at NULL", what, r->n_attrs);
        else if (text)
            st = text_id_check(r->text_id, what, err);
        else if (r->text_id)
            st = mn_fail(err, MN_INVALID, "%s has a text id, but collection '%s' has integer ids",
                         what, p->c->entry.name);
        else if (p->c->entry.foreign && r->payload)
            st =
                mn_fail(err, MN_INVALID,
                        "%s has a payload, but collection '%s' is over table '%s', which has none; "
                        "name a column of it as an attribute",
                        what, p->c->entry.name, p->c->entry.table);
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

static mn_status check_value(const mn_value *v, const char *name, size_t row, mn_error *err)
{
    bool bytes = v->type == MN_TEXT || v->type == MN_BLOB;
    if (v->type < MN_NULL || v->type > MN_BLOB)
        return mn_fail(err, MN_INVALID, "put: row %zu: attribute '%s' has type %d, which is none",
                       row, name, (int)v->type);
    if (v->type == MN_REAL && isnan(v->real))
        return mn_fail(err, MN_INVALID,
                       "put: row %zu: attribute '%s' is NaN, which SQLite cannot store", row, name);
    if (bytes && !v->data && v->len)
        return mn_fail(err, MN_INVALID, "put: row %zu: attribute '%s' has %zu bytes at NULL", row,
                       name, v->len);
    if (bytes && v->len > MAX_BYTES)
        return mn_fail(err, MN_INVALID,
                       "put: row %zu: attribute '%s' has %zu bytes; at most %d are allowed", row,
                       name, v->len, MAX_BYTES);
    return v->type == MN_TEXT && v->len ? check_text(v->data, v->len, name, row, err) : MN_OK;
}

/* The row's attributes in the collection's order, into p->values. */
static mn_status get_attrs(struct put *p, size_t row, mn_error *err)
{
    const mn_row *r = &p->rows[row];
    const struct coll *c = p->c;
    memset(p->values, 0, c->n_attrs * sizeof *p->values);
    for (size_t i = 0; i < r->n_attrs; i++) {
        const mn_attr *a = &r->attrs[i];
        size_t at = i;
        mn_status st = MN_OK;
        if (i >= c->n_attrs || !a->name || strcmp(a->name, c->attrs[i]) != 0)
            st = coll_attr(c, a->name, &at, err);
        if (st) {
            mn_error_context(err, "put: row %zu: ", row);
            return st;
        }
        if (p->values[at])
            return mn_fail(err, MN_INVALID, "put: row %zu: attribute '%s' is given twice", row,
                           a->name);
        p->values[at] = &a->value;
        st = check_value(&a->value, a->name, row, err);
        if (st)
            return st;
    }
    return MN_OK;
}

static mn_status get_vector(struct put *p, size_t row, const void **out, mn_error *err)
{
    const struct catalog_entry *e = &p->c->entry;
    const void *vector = p->rows[row].vector;
    char what[48];
    mn_status st = MN_OK;
    *out = NULL;
    if (!vector)
        return MN_OK;
    snprintf(what, sizeof what, "put: row %zu", row);
    if (p->opts->from_f32) {
        st = convert_f32(p->conn->db->kernels, e->dtype, e->dim, vector, p->converted, what, err);
        vector = p->converted;
    }
    if (st == MN_OK)
        st = scan_check_vector(e->dtype, e->metric, e->dim, vector, what, err);
    *out = vector;
    return st;
}

static mn_status get_payload(const struct put *p, size_t row, size_t *len, mn_error *err)
{
    const mn_row *r = &p->rows[row];
    *len = 0;
    if (!r->payload)
        return MN_OK;
    *len = r->payload_len == SIZE_MAX ? strlen(r->payload) : r->payload_len;
    if (*len > MAX_BYTES)
        return mn_fail(err, MN_INVALID,
                       "put: row %zu: the payload has %zu bytes; at most %d are allowed", row, *len,
                       MAX_BYTES);
    return check_text(r->payload, *len, "payload", row, err);
}

/* Row `first + i` of the call as it goes to SQLite: a batch's get function. */
static mn_status get_row(void *ctx, size_t i, struct batch_row *out, mn_error *err)
{
    struct put *p = ctx;
    size_t row = p->first + i;
    *out = (struct batch_row){.id = p->ids[row],
                              .text_id = p->rows[row].text_id,
                              .version = p->version + (int64_t)i,
                              .payload = p->rows[row].payload,
                              .vector_bytes = p->c->vector_bytes,
                              .attrs = p->values,
                              .n_attrs = p->c->n_attrs};
    mn_status st = get_payload(p, row, &out->payload_len, err);
    if (st == MN_OK)
        st = get_vector(p, row, &out->vector, err);
    return st ? st : get_attrs(p, row, err);
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

static void bind_value(sqlite3_stmt *st, int at, const mn_value *v)
{
    switch (v ? v->type : MN_NULL) {
    case MN_INTEGER:
        sqlite3_bind_int64(st, at, v->integer);
        break;
    case MN_REAL:
        sqlite3_bind_double(st, at, v->real);
        break;
    case MN_TEXT:
        sqlite3_bind_text64(st, at, v->data ? v->data : "", v->len, SQLITE_STATIC, SQLITE_UTF8);
        break;
    case MN_BLOB:
        sqlite3_bind_blob64(st, at, v->data ? v->data : "", v->len, SQLITE_STATIC);
        break;
    default:
        sqlite3_bind_null(st, at);
    }
}

/* Binds by the numbers of insert_sql() in collection.c, and behind them those of update_keep_sql().
 * Lengths were checked; nothing is copied, so nothing can fail. */
static void bind_row(sqlite3_stmt *st, const struct batch_row *row, bool insert, bool keep)
{
    sqlite3_bind_int64(st, 1, row->id);
    if (insert && row->text_id)
        sqlite3_bind_text(st, 2, row->text_id, -1, SQLITE_STATIC);
    sqlite3_bind_int64(st, 3, row->version);
    if (row->payload)
        sqlite3_bind_text64(st, 4, row->payload, row->payload_len, SQLITE_STATIC, SQLITE_UTF8);
    else
        sqlite3_bind_null(st, 4);
    if (row->vector)
        sqlite3_bind_blob64(st, 5, row->vector, row->vector_bytes, SQLITE_STATIC);
    else
        sqlite3_bind_null(st, 5);
    for (size_t i = 0; i < row->n_attrs; i++)
        bind_value(st, 6 + (int)i, row->attrs[i]);
    for (size_t i = 0; keep && i < row->n_attrs; i++)
        sqlite3_bind_int(st, 6 + (int)(row->n_attrs + i), row->attrs[i] != NULL);
}

/* Writes row p->first by a statement of its own. */
static mn_status put_one(struct put *p, bool insert, mn_error *err)
{
    sqlite3_stmt *st;
    struct batch_row row;
    bool keep = !insert && p->opts->keep_rest;
    enum coll_stmt_kind kind = insert ? STMT_INSERT : keep ? STMT_UPDATE_KEEP : STMT_UPDATE;
    mn_status status = coll_stmt(p->conn, p->c, kind, &st, err);
    if (status == MN_OK)
        status = get_row(p, 0, &row, err);
    if (status)
        return status;
    bind_row(st, &row, insert, keep);
    status = sql_run(st, err);
    sqlite3_reset(st);
    sqlite3_clear_bindings(st); /* they point into the caller's memory */
    if (status)
        mn_error_context(err, "put: row %zu: ", p->first);
    return status;
}

/* Inserts rows p->first to p->first + n in one statement. */
static mn_status put_many(struct put *p, size_t n, mn_error *err)
{
    sqlite3_stmt *st;
    mn_error own;
    struct batch batch = {.n = n, .get = get_row, .ctx = p, .err = err ? err : &own};
    mn_status status = coll_stmt(p->conn, p->c, STMT_INSERT_MANY, &st, err);
    if (status)
        return status;
    mn_error_clear(batch.err);
    p->conn->batch = &batch;
    mn_error sqlite = {0};
    status = sql_run(st, &sqlite);
    sqlite3_reset(st);
    p->conn->batch = NULL;
    if (status == MN_OK || batch.status)
        return batch.status; /* a row's own sentence says more than SQLite's about it */
    if (err)
        *err = sqlite;
    mn_error_context(err, "put: rows %zu to %zu: ", p->first, p->first + n - 1);
    return status;
}

/* Bytes of a row that the one statement keeps in memory; about. */
static size_t row_bytes(const struct put *p, size_t row)
{
    const mn_row *r = &p->rows[row];
    size_t bytes = p->c->vector_bytes + 64;
    bytes += r->payload ? r->payload_len == SIZE_MAX ? strlen(r->payload) : r->payload_len : 0;
    for (size_t i = 0; i < r->n_attrs; i++)
        bytes += r->attrs[i].value.len;
    return bytes;
}

/* Writes some rows from `first` on: one that is replaced, or a run of new ones. *end is the first
 * row not written. */
static mn_status put_run(struct put *p, size_t first, size_t *end, mn_error *err)
{
    bool found = false;
    int64_t version = 0;
    size_t bytes = 0, i = first;
    for (; i < p->n && bytes < RUN_BYTES; i++) {
        mn_status st = p->located > i ? MN_OK : locate(p, i, &p->ids[i], &found, &version, err);
        if (st == MN_OK && p->located <= i)
            st = check_condition(p, i, p->ids[i], found, version, err);
        if (st)
            return st;
        if (p->located > i)
            found = p->located_found;
        p->located = i + 1;
        p->located_found = found;
        if (found)
            break;
        bytes += row_bytes(p, i);
    }
    size_t n = i - first; /* new rows before one that is there, or the end */
    p->first = first;
    mn_status st = n > 1 ? put_many(p, n, err) : put_one(p, n == 1, err);
    if (n == 0)
        n = 1;
    p->version += (int64_t)n;
    *end = first + n;
    return st;
}

/* ---- The call -------------------------------------------------------------------------------- */

static mn_status log_next(mn_conn *conn, struct coll *c, int64_t *out, mn_error *err)
{
    sqlite3_stmt *st;
    mn_status status = coll_stmt(conn, c, STMT_LOG_NEXT, &st, err);
    return status ? status : sql_stmt_int(st, 0, out, err);
}

/* Rows of one table may stand in the indexes of several collections. */
static mn_status tell_folder(mn_conn *conn, const struct coll *c, mn_error *err)
{
    sqlite3_stmt *st = NULL;
    bool row = false;
    if (!folder_may_run(conn->db))
        return MN_OK;
    folder_tell(conn->db, c->entry.name);
    mn_status status =
        sql_preparef(conn->sql, &st, err,
                     "SELECT c.name FROM mneme_indexes i JOIN mneme_collections c ON c.number = "
                     "i.collection WHERE c.table_number = %lld AND c.number <> %lld",
                     (long long)c->entry.table_number, (long long)c->entry.number);
    while (status == MN_OK && (status = sql_step(st, &row, err)) == MN_OK && row)
        folder_tell(conn->db, (const char *)sqlite3_column_text(st, 0));
    sqlite3_finalize(st);
    return status;
}

/* The oldest position that an index of the table's collections still has to be folded from, and
 * whose it is. */
static mn_status oldest_index(mn_conn *conn, const struct coll *c, int64_t otherwise, int64_t *out,
                              char name[MN_MAX_NAME + 1], mn_error *err)
{
    sqlite3_stmt *st = NULL;
    bool row = false;
    *out = otherwise;
    *name = 0;
    if (!c->indexable)
        return MN_OK;
    mn_status status =
        sql_preparef(conn->sql, &st, err,
                     "SELECT min(i.seq), c.name FROM mneme_indexes i JOIN "
                     "mneme_collections c ON c.number = i.collection WHERE c.table_number = %lld",
                     (long long)c->entry.table_number);
    if (status == MN_OK)
        status = sql_step(st, &row, err);
    if (status == MN_OK && row && sqlite3_column_type(st, 0) == SQLITE_INTEGER) {
        *out = sqlite3_column_int64(st, 0);
        snprintf(name, MN_MAX_NAME + 1, "%s", (const char *)sqlite3_column_text(st, 1));
    }
    sqlite3_finalize(st);
    return status;
}

/* Deletes entries that nobody needs, up to 65,536 of them; `floor` is the oldest index's position.
 */
static mn_status trim_entries(mn_conn *conn, struct coll *c, int64_t after, int64_t floor,
                              mn_error *err)
{
    sqlite3_stmt *st;
    if (after <= CHANGELOG_KEEP)
        return MN_OK;
    mn_status status = coll_stmt(conn, c, STMT_LOG_TRIM, &st, err);
    if (status)
        return status;
    int64_t end = after - CHANGELOG_KEEP;
    if (end >= floor)
        end = floor - 1; /* the entry at the index's position stays: it is what it follows from */
    if (end < after - LOG_MAX)
        end = after - LOG_MAX; /* nobody has folded for so long: that index will be built anew */
    sqlite3_bind_int64(st, 1, end);
    return sql_run(st, err);
}

static mn_status trim_log(mn_conn *conn, struct coll *c, int64_t before, int64_t after,
                          mn_error *err)
{
    int64_t floor = 0, due = conn->db->limits.fold_pending, max = conn->db->limits.pending_max;
    int64_t step = max < TRIM_STEP ? max : TRIM_STEP;
    mn_status status = MN_OK;
    if (before / due != after / due && c->indexable)
        status = tell_folder(conn, c, err);
    if (status || before / step == after / step)
        return status;
    char oldest[MN_MAX_NAME + 1];
    status = oldest_index(conn, c, after, &floor, oldest, err);
    if (status == MN_OK && after - floor > max)
        memcpy(conn->must_help, oldest, sizeof oldest);
    return status ? status : trim_entries(conn, c, after, floor, err);
}

mn_status coll_trim_log(mn_conn *conn, struct coll *c, mn_error *err)
{
    int64_t after = 0, floor = 0;
    char oldest[MN_MAX_NAME + 1];
    mn_status st = log_next(conn, c, &after, err);
    if (st == MN_OK)
        st = oldest_index(conn, c, after, &floor, oldest, err);
    return st ? st : trim_entries(conn, c, after, floor, err);
}

mn_status coll_log_is_long(mn_conn *conn, struct coll *c, bool *yes, mn_error *err)
{
    sqlite3_stmt *st;
    int64_t first = 0, last = 0;
    *yes = false;
    mn_status status = coll_stmt(conn, c, STMT_LOG_FIRST, &st, err);
    if (status == MN_OK)
        status = sql_stmt_int(st, 0, &first, err);
    if (status == MN_OK)
        status = log_next(conn, c, &last, err);
    *yes = last - first > CHANGELOG_KEEP + TRIM_STEP;
    return status;
}

static mn_status no_versions(const char *call, const struct coll *c, mn_error *err)
{
    return mn_fail(err, MN_INVALID,
                   "%s: collection '%s' is over table '%s', whose rows have no version to compare",
                   call, c->entry.name, c->entry.table);
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
        status = coll_stmt(p->conn, p->c, p->c->entry.foreign ? STMT_MAX_USED : STMT_MAX_ID, &st,
                           err);
    if (status == MN_OK)
        status = sql_stmt_int(st, 0, &p->max_id, err);
    if (p->max_id < 0)
        p->max_id = 0;
    p->version = before + 1;
    for (size_t i = 0; i < p->n && status == MN_OK;) {
        status = put_run(p, i, &i, err);
        p->conn->done = i;
        if (status == MN_OK)
            status = conn_tick(p->conn, err);
    }
    if (status == MN_OK)
        status = log_next(p->conn, p->c, &after, err);
    if (status)
        return status;
    if (p->opts->versions && p->c->entry.foreign) {
        memset(p->opts->versions, 0, p->n * sizeof *p->opts->versions);
    } else if (p->opts->versions) {
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
    if (st == MN_OK && *p.c->computed)
        st = mn_fail(err, MN_INVALID,
                     "put: collection '%s' needs column '%s' of table '%s', which is computed from "
                     "others; write those by SQL",
                     name, p.c->computed, p.c->entry.table);
    if (st == MN_OK && opts->mode == MN_PUT_IF_VERSION && p.c->entry.foreign)
        st = no_versions("put", p.c, err);
    if (st == MN_OK)
        st = check_rows(&p, err);
    if (st)
        return st;
    p.ids = mn_alloc_array(a, n, sizeof *p.ids, MN_TAG_ROWS);
    p.values = mn_alloc_array(a, p.c->n_attrs, sizeof *p.values, MN_TAG_ROWS);
    p.converted = mn_alloc(a, p.c->vector_bytes, MN_TAG_ROWS);
    if (!p.ids || !p.values || !p.converted)
        st = mn_fail(err, MN_NOMEM, "put: out of memory under the cap for %zu rows; put fewer", n);
    if (st == MN_OK)
        st = put_rows(&p, err);
    if (st == MN_OK && opts->ids)
        memcpy(opts->ids, p.ids, n * sizeof *p.ids);
    mn_free(a, p.ids);
    mn_free(a, p.values);
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
    if (st == MN_OK)
        folder_help(conn);
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
    if (st == MN_OK && version && c->entry.foreign)
        st = no_versions("delete", c, err);
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
    if (st == MN_OK)
        folder_help(conn);
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
