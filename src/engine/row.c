/* Rows between SQLite's columns and mn_row: SELECT lists, reading, naming, handing out. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "src/engine/engine.h"
#include "src/engine/iter.h"
#include "src/engine/json_vector.h"
#include "storage/base/utf8.h"
#include "storage/sql.h"

char *row_columns(const struct coll *c, bool with_vector)
{
    const struct catalog_entry *e = &c->entry;
    sqlite3_str *s = sqlite3_str_new(NULL);
    sqlite3_str_appendf(s, "\"%w\", %s, %s", e->id_column,
                        e->id_kind == MN_ID_TEXT ? "text_id" : "NULL",
                        e->foreign ? "0" : "version");
    for (size_t i = 0; i < c->n_attrs; i++)
        sqlite3_str_appendf(s, ", \"%w\"", c->attrs[i]);
    sqlite3_str_appendall(s, e->foreign ? ", NULL" : ", payload");
    if (with_vector)
        sqlite3_str_appendf(s, ", \"%w\"", c->entry.column);
    return sqlite3_str_finish(s);
}

mn_value row_value(sqlite3_stmt *st, int column)
{
    mn_value v = {0};
    switch (sqlite3_column_type(st, column)) {
    case SQLITE_INTEGER:
        v.type = MN_INTEGER;
        v.integer = sqlite3_column_int64(st, column);
        break;
    case SQLITE_FLOAT:
        v.type = MN_REAL;
        v.real = sqlite3_column_double(st, column);
        break;
    case SQLITE_TEXT:
        v.type = MN_TEXT;
        v.data = sqlite3_column_text(st, column);
        v.len = (size_t)sqlite3_column_bytes(st, column);
        break;
    case SQLITE_BLOB:
        v.type = MN_BLOB;
        v.data = sqlite3_column_blob(st, column);
        v.len = (size_t)sqlite3_column_bytes(st, column);
        break;
    default:
        break;
    }
    return v;
}

mn_status row_read(const mn_db *db, const struct coll *c, sqlite3_stmt *st, bool with_vector,
                   mn_row *row, mn_attr *attrs, mn_error *err)
{
    int column = 3;
    *row = (mn_row){.id = sqlite3_column_int64(st, 0),
                    .text_id = (const char *)sqlite3_column_text(st, 1),
                    .version = sqlite3_column_int64(st, 2),
                    .attrs = attrs,
                    .n_attrs = c->n_attrs};
    for (size_t i = 0; i < c->n_attrs; i++, column++)
        attrs[i] = (mn_attr){.name = c->attrs[i], .value = row_value(st, column)};
    row->payload = (const char *)sqlite3_column_text(st, column);
    row->payload_len = (size_t)sqlite3_column_bytes(st, column);
    column++;
    if (!with_vector)
        return MN_OK;
    struct row_vector v;
    row_vector_at(db, c, st, column, &v);
    row->vector = v.bytes;
    if (v.bad && !c->entry.foreign)
        return mn_fail(err, MN_CORRUPT,
                       "collection '%s', row %" PRId64
                       ": the vector has %d bytes, not %zu: another "
                       "program wrote it; put or delete the row",
                       c->entry.name, row->id, sqlite3_column_bytes(st, column), c->vector_bytes);
    return MN_OK;
}

mn_status text_id_check(const char *text_id, const char *what, mn_error *err)
{
    if (!text_id || !*text_id)
        return mn_fail(err, MN_INVALID, "%s: the text id is missing or empty", what);
    size_t n = strnlen(text_id, MN_MAX_TEXT_ID + 1);
    if (n > MN_MAX_TEXT_ID)
        return mn_fail(err, MN_INVALID, "%s: the text id '%.40s...' is longer than %u bytes", what,
                       text_id, MN_MAX_TEXT_ID);
    size_t bad = utf8_check(text_id, n);
    if (bad < n)
        return mn_fail(err, MN_INVALID, "%s: the text id is no valid UTF-8 at byte %zu", what, bad);
    return MN_OK;
}

mn_status row_resolve(mn_conn *conn, struct coll *c, const mn_id *id, size_t position, int64_t *out,
                      bool *found, int64_t *version, mn_error *err)
{
    bool text = c->entry.id_kind == MN_ID_TEXT && id->text_id;
    sqlite3_stmt *st;
    mn_status status = MN_OK;
    char what[64];
    *found = false;
    snprintf(what, sizeof what, "id %zu of the call", position);
    if (id->text_id && !text)
        return mn_fail(err, MN_INVALID,
                       "%s is a text, '%.60s', but collection '%s' has integer ids", what,
                       id->text_id, c->entry.name);
    if (text)
        status = text_id_check(id->text_id, what, err);
    if (status == MN_OK)
        status = coll_stmt(conn, c, text ? STMT_FIND_TEXT : STMT_FIND_ID, &st, err);
    if (status)
        return status;
    if (text)
        sqlite3_bind_text(st, 1, id->text_id, -1, SQLITE_STATIC);
    else
        sqlite3_bind_int64(st, 1, id->id);
    status = sql_step(st, found, err);
    if (status)
        return status;
    if (*found) {
        *out = sqlite3_column_int64(st, 0);
        *version = sqlite3_column_int64(st, 1);
    }
    sqlite3_reset(st);
    sqlite3_clear_bindings(st);
    return MN_OK;
}

/* ---- Rows handed out ------------------------------------------------------------------------- */

/* One handed-out row lies in one block of memory: attributes, then the bytes that they, the ids and
 * the payload point to, then the vector. Attribute names are in mn_rows, which may outlive the
 * connection's own. */
struct mn_rows {
    struct mn_alloc *alloc;
    size_t n;
    mn_row **rows; /* [n]; NULL: no such row */
    char *names;   /* the attribute names, one behind the other */
    size_t n_attrs;
};

static size_t round_up(size_t n)
{
    return (n + 63) / 64 * 64;
}

static void *copy_to(char **at, const void *from, size_t n)
{
    void *to = *at;
    if (n)
        memcpy(to, from, n);
    (*at)[n] = '\0';
    *at += n + 1;
    return to;
}

static size_t value_bytes(const mn_value *v)
{
    return v->type == MN_TEXT || v->type == MN_BLOB ? v->len + 1 : 0;
}

/* A copy of `from` that owns all it points to, but for attribute names, which are `names`. */
static mn_row *row_dup(struct mn_alloc *a, const mn_row *from, const char *names,
                       size_t vector_bytes)
{
    size_t head = round_up(sizeof(mn_row) + from->n_attrs * sizeof(mn_attr));
    size_t bytes = head + (from->vector ? round_up(vector_bytes) : 0);
    bytes += from->text_id ? strlen(from->text_id) + 1 : 0;
    bytes += from->payload ? from->payload_len + 1 : 0;
    for (size_t i = 0; i < from->n_attrs; i++)
        bytes += value_bytes(&from->attrs[i].value);
    char *base = mn_alloc(a, bytes + 1, MN_TAG_ROWS);
    if (!base)
        return NULL;
    mn_row *row = (mn_row *)(void *)base;
    mn_attr *attrs = (mn_attr *)(void *)(base + sizeof *row);
    char *at = base + head;
    *row = *from;
    row->attrs = attrs;
    if (from->vector) {
        memcpy(at, from->vector, vector_bytes);
        row->vector = at;
        at += round_up(vector_bytes);
    }
    if (from->text_id)
        row->text_id = copy_to(&at, from->text_id, strlen(from->text_id));
    if (from->payload)
        row->payload = copy_to(&at, from->payload, from->payload_len);
    for (size_t i = 0; i < from->n_attrs; i++, names += strlen(names) + 1) {
        attrs[i] = from->attrs[i];
        attrs[i].name = names;
        if (value_bytes(&attrs[i].value))
            attrs[i].value.data = copy_to(&at, from->attrs[i].value.data, attrs[i].value.len);
    }
    return row;
}

static char *names_dup(struct mn_alloc *a, const struct coll *c)
{
    size_t bytes = 1;
    for (size_t i = 0; i < c->n_attrs; i++)
        bytes += strlen(c->attrs[i]) + 1;
    char *names = mn_alloc(a, bytes, MN_TAG_ROWS), *at = names;
    for (size_t i = 0; names && i < c->n_attrs; i++)
        copy_to(&at, c->attrs[i], strlen(c->attrs[i]));
    return names;
}

void mn_rows_free(mn_rows *rows)
{
    if (!rows)
        return;
    for (size_t i = 0; rows->rows && i < rows->n; i++)
        mn_free(rows->alloc, rows->rows[i]);
    mn_free(rows->alloc, rows->rows);
    mn_free(rows->alloc, rows->names);
    mn_free(rows->alloc, rows);
}

static mn_rows *rows_create(struct mn_alloc *a, const struct coll *c, size_t n)
{
    mn_rows *rows = mn_alloc_array(a, 1, sizeof *rows, MN_TAG_ROWS);
    if (!rows)
        return NULL;
    rows->alloc = a;
    rows->n = n;
    rows->rows = mn_alloc_array(a, n, sizeof *rows->rows, MN_TAG_ROWS);
    rows->names = names_dup(a, c);
    if (!rows->rows || !rows->names) {
        mn_rows_free(rows);
        return NULL;
    }
    return rows;
}

size_t mn_rows_count(const mn_rows *rows)
{
    return rows ? rows->n : 0;
}

const mn_row *mn_rows_at(const mn_rows *rows, size_t i)
{
    return rows && i < rows->n ? rows->rows[i] : NULL;
}

const mn_value *mn_row_attr(const mn_row *row, const char *attribute)
{
    for (size_t i = 0; row && attribute && i < row->n_attrs; i++)
        if (sqlite3_stricmp(row->attrs[i].name, attribute) == 0)
            return &row->attrs[i].value;
    return NULL;
}

/* ---- Get ------------------------------------------------------------------------------------- */

/* A call of mn_get or mn_get_meta. */
struct get {
    mn_conn *conn;
    struct coll *c;
    bool with_vector;
    mn_attr *attrs; /* [c->n_attrs] of the row being read */
    mn_rows *rows;
};

static mn_status get_one(struct get *g, const mn_id *id, size_t position, mn_error *err)
{
    sqlite3_stmt *st;
    bool found = false;
    int64_t number = 0, version = 0;
    mn_row row;
    mn_rows *rows = g->rows;
    mn_status status = row_resolve(g->conn, g->c, id, position, &number, &found, &version, err);
    if (status || !found)
        return status;
    status = coll_stmt(g->conn, g->c, g->with_vector ? STMT_GET : STMT_GET_META, &st, err);
    if (status)
        return status;
    sqlite3_bind_int64(st, 1, number);
    status = sql_step(st, &found, err);
    if (status || !found)
        return status;
    status = row_read(g->conn->db, g->c, st, g->with_vector, &row, g->attrs, err);
    if (status == MN_OK) {
        rows->rows[position] = row_dup(rows->alloc, &row, rows->names, g->c->vector_bytes);
        if (!rows->rows[position])
            status = mn_fail(err, MN_NOMEM,
                             "get: out of memory under the cap at row %zu of %zu; ask for fewer",
                             position, rows->n);
    }
    sqlite3_reset(st);
    return status;
}

static mn_status get_rows(struct get *g, const char *name, const mn_id *ids, size_t n,
                          mn_rows **out, mn_error *err)
{
    struct mn_alloc *a = g->conn->db->alloc;
    mn_status st = coll_get(g->conn, name, &g->c, err);
    if (st)
        return st;
    g->attrs = mn_alloc_array(a, g->c->n_attrs, sizeof *g->attrs, MN_TAG_ROWS);
    g->rows = g->attrs ? rows_create(a, g->c, n) : NULL;
    if (!g->rows)
        st = mn_fail(err, MN_NOMEM, "get: out of memory under the cap for %zu rows; ask for fewer",
                     n);
    for (size_t i = 0; i < n && st == MN_OK; i++)
        st = get_one(g, &ids[i], i, err);
    mn_free(a, g->attrs);
    if (st)
        mn_rows_free(g->rows);
    else
        *out = g->rows;
    return st;
}

static mn_status get_public(mn_conn *conn, const char *name, const mn_id *ids, size_t n,
                            bool with_vector, mn_rows **out, mn_error *err)
{
    struct get g = {.conn = conn, .with_vector = with_vector};
    if (out)
        *out = NULL;
    mn_status st = conn_enter(conn, err);
    if (st)
        return st;
    if (!out || (n && !ids)) {
        st = mn_fail(err, MN_INVALID, "get: no ids, or no place for the rows");
        return conn_leave(conn, st, err);
    }
    st = scope_read(conn, err);
    if (st == MN_OK) {
        st = get_rows(&g, name, ids, n, out, err);
        st = scope_end(conn, st, err);
        if (st) {
            mn_rows_free(*out);
            *out = NULL;
        }
    }
    return conn_leave(conn, st, err);
}

mn_status mn_get(mn_conn *conn, const char *name, const mn_id *ids, size_t n, mn_rows **out,
                 mn_error *err)
{
    return get_public(conn, name, ids, n, true, out, err);
}

mn_status mn_get_meta(mn_conn *conn, const char *name, const mn_id *ids, size_t n, mn_rows **out,
                      mn_error *err)
{
    return get_public(conn, name, ids, n, false, out, err);
}

/* ---- Iterate --------------------------------------------------------------------------------- */

mn_status mn_iter_open(mn_conn *conn, const char *name, int64_t first, mn_iter **out, mn_error *err)
{
    struct coll *c;
    char *columns = NULL;
    mn_iter *it = NULL;
    if (out)
        *out = NULL;
    mn_status st = conn_enter(conn, err);
    if (st)
        return st;
    st = out ? scope_read(conn, err) : mn_fail(err, MN_INVALID, "iterate: no place for it");
    if (st)
        return conn_leave(conn, st, err);
    st = coll_get(conn, name, &c, err);
    if (st == MN_OK) {
        struct mn_alloc *a = conn->db->alloc;
        it = mn_alloc_array(a, 1, sizeof *it, MN_TAG_HANDLE);
        if (it) {
            it->conn = conn;
            it->names = names_dup(a, c);
            it->attr_names = mn_alloc_array(a, c->n_attrs, sizeof *it->attr_names, MN_TAG_ROWS);
            it->attrs = mn_alloc_array(a, c->n_attrs, sizeof *it->attrs, MN_TAG_ROWS);
        }
        columns = row_columns(c, true);
        if (!it || !it->names || !it->attr_names || !it->attrs || !columns)
            st = mn_fail(err, MN_NOMEM, "iterate: out of memory");
    }
    if (st == MN_OK) {
        /* The iterator outlives what the connection knows of the collection: it keeps its own. */
        it->coll = *c;
        const char *p = it->names;
        for (size_t i = 0; i < c->n_attrs; i++, p += strlen(p) + 1)
            it->attr_names[i] = p;
        it->coll.attrs = it->attr_names;
        st = coll_json_init(conn->db, &it->coll, err);
    }
    if (st == MN_OK)
        st = sql_preparef(conn->sql, &it->st, err,
                          "SELECT %s FROM main.\"%w\" WHERE \"%w\" >= ?1 ORDER BY \"%w\"", columns,
                          c->entry.table, c->entry.id_column, c->entry.id_column);
    if (st == MN_OK) {
        /* The first step comes before the scope ends, so that the statement keeps the snapshot. */
        sqlite3_bind_int64(it->st, 1, first);
        st = sql_step(it->st, &it->ahead, err);
    }
    sqlite3_free(columns);
    if (st == MN_OK) {
        it->next = conn->iters;
        conn->iters = it;
        *out = it;
        it = NULL;
    }
    st = scope_end(conn, st, err);
    iter_free(it);
    if (st && *out) {
        conn->iters = (*out)->next;
        iter_free(*out);
        *out = NULL;
    }
    return conn_leave(conn, st, err);
}

mn_status mn_iter_next(mn_iter *it, const mn_row **row, mn_error *err)
{
    if (row)
        *row = NULL;
    if (!it || !row) {
        mn_error_clear(err);
        return mn_fail(err, MN_MISUSE, "iterate: no iterator, or no place for the row");
    }
    mn_conn *conn = it->conn;
    mn_status st = conn_enter(conn, err);
    if (st)
        return st;
    if (it->ended)
        return conn_leave(conn, MN_OK, err);
    if (!it->ahead)
        st = sql_step(it->st, &it->ahead, err);
    if (st == MN_OK && !it->ahead)
        it->ended = true;
    if (st == MN_OK && it->ahead) {
        st = row_read(conn->db, &it->coll, it->st, true, &it->row, it->attrs, err);
        if (st == MN_OK)
            *row = &it->row;
    }
    it->ahead = false;
    if (st)
        it->ended = true;
    return conn_leave(conn, st, err);
}

void iter_free(mn_iter *it)
{
    if (!it)
        return;
    struct mn_alloc *a = it->conn->db->alloc;
    sqlite3_finalize(it->st);
    coll_json_fini(it->conn->db, &it->coll);
    mn_free(a, it->names);
    mn_free(a, it->attr_names);
    mn_free(a, it->attrs);
    mn_free(a, it);
}

void mn_iter_close(mn_iter *it)
{
    if (!it || db_forked(it->conn->db))
        return;
    mn_iter **p = &it->conn->iters;
    while (*p && *p != it)
        p = &(*p)->next;
    if (*p)
        *p = it->next;
    iter_free(it);
}

/* ---- The vector alone ------------------------------------------------------------------------ */

mn_status coll_json_init(mn_db *db, struct coll *c, mn_error *err)
{
    c->json = NULL;
    c->json_wide = NULL;
    if (!c->entry.foreign)
        return MN_OK;
    c->json = mn_alloc(db->alloc, c->vector_bytes, MN_TAG_HANDLE);
    c->json_wide = mn_alloc_array(db->alloc, c->entry.dim, sizeof *c->json_wide, MN_TAG_HANDLE);
    if (c->json && c->json_wide)
        return MN_OK;
    coll_json_fini(db, c);
    return mn_fail(err, MN_NOMEM, "collection '%s': out of memory", c->entry.name);
}

void coll_json_fini(mn_db *db, struct coll *c)
{
    mn_free(db->alloc, c->json);
    mn_free(db->alloc, c->json_wide);
    c->json = NULL;
    c->json_wide = NULL;
}

const void *row_vector_json(const mn_db *db, const struct coll *c, const void *text, size_t n)
{
    const struct catalog_entry *e = &c->entry;
    bool good = c->json && text &&
                json_vector(db->kernels, e->dtype, e->dim, text, n, c->json_wide, c->json);
    return good ? c->json : NULL;
}

void row_vector_at(const mn_db *db, const struct coll *c, sqlite3_stmt *st, int column,
                   struct row_vector *out)
{
    int type = sqlite3_column_type(st, column);
    *out = (struct row_vector){.st = st};
    if (type == SQLITE_BLOB && (size_t)sqlite3_column_bytes(st, column) == c->vector_bytes) {
        out->bytes = sqlite3_column_blob(st, column);
    } else if (type == SQLITE_TEXT && c->json) {
        const void *text = sqlite3_column_text(st, column);
        out->nomem = !text;
        out->bytes = row_vector_json(db, c, text, (size_t)sqlite3_column_bytes(st, column));
    }
    out->bad = !out->bytes && type != SQLITE_NULL;
}

mn_status row_vector_get(mn_conn *conn, struct coll *c, int64_t id, struct row_vector *out,
                         mn_error *err)
{
    sqlite3_stmt *st;
    bool row;
    *out = (struct row_vector){0};
    mn_status status = coll_stmt(conn, c, STMT_GET_VECTOR, &st, err);
    if (status)
        return status;
    sqlite3_bind_int64(st, 1, id);
    status = sql_step(st, &row, err);
    if (status == MN_OK && row)
        row_vector_at(conn->db, c, st, 0, out);
    out->st = st;
    if (status == MN_OK && out->nomem) {
        sqlite3_reset(st);
        status = mn_fail(err, MN_NOMEM, "collection '%s', row %" PRId64 ": out of memory",
                         c->entry.name, id);
    }
    return status;
}

void row_vector_end(struct row_vector *v)
{
    sqlite3_reset(v->st);
}
