/*
 * Why: with a statement for each row, SQLite keeps a journal of the pages before each of them,
 * since triggers fire and constraints may fail: 1 KiB pieces, some 24 KB a row at pages of 8 KiB,
 * 200 KB at 64 KiB. One statement for the batch keeps the few pages once. 3.2 to 2.5 us a row of
 * 512 bytes against a journal in a file, 4.8 against one in memory.
 */
#include "src/engine/batch.h"

#include "storage/sql.h"

enum { COLUMN_ID, COLUMN_TEXT_ID, COLUMN_VERSION, COLUMN_PAYLOAD, COLUMN_VECTOR, COLUMN_ATTR };

struct table {
    sqlite3_vtab base;
    mn_conn *conn;
};

struct cursor {
    sqlite3_vtab_cursor base;
    struct batch *batch;
    size_t i;
    struct batch_row row;
};

static int on_connect(sqlite3 *db, void *aux, int argc, const char *const *argv, sqlite3_vtab **out,
                      char **message)
{
    (void)argc;
    (void)argv;
    (void)message;
    sqlite3_str *sql = sqlite3_str_new(db);
    sqlite3_str_appendall(sql, "CREATE TABLE x(id, text_id, version, payload, vector");
    for (unsigned i = 0; i < MN_MAX_ATTRIBUTES; i++)
        sqlite3_str_appendf(sql, ", a%u", i);
    sqlite3_str_appendall(sql, ")");
    char *text = sqlite3_str_finish(sql);
    struct table *t = sqlite3_malloc(sizeof *t);
    int rc = text && t ? sqlite3_declare_vtab(db, text) : SQLITE_NOMEM;
    sqlite3_free(text);
    if (rc != SQLITE_OK) {
        sqlite3_free(t);
        return rc;
    }
    *t = (struct table){.conn = aux};
    *out = &t->base;
    return SQLITE_OK;
}

static int on_disconnect(sqlite3_vtab *t)
{
    sqlite3_free(t);
    return SQLITE_OK;
}

static int on_best_index(sqlite3_vtab *t, sqlite3_index_info *info)
{
    (void)t;
    info->estimatedCost = 1000;
    info->estimatedRows = 1000;
    return SQLITE_OK;
}

static int on_open(sqlite3_vtab *t, sqlite3_vtab_cursor **out)
{
    struct cursor *c = sqlite3_malloc(sizeof *c);
    if (!c)
        return SQLITE_NOMEM;
    *c = (struct cursor){.batch = ((struct table *)t)->conn->batch};
    *out = &c->base;
    return SQLITE_OK;
}

static int on_close(sqlite3_vtab_cursor *c)
{
    sqlite3_free(c);
    return SQLITE_OK;
}

/* Makes the row at the cursor current. */
static int fetch(struct cursor *c)
{
    struct batch *b = c->batch;
    if (!b || c->i >= b->n)
        return SQLITE_OK;
    b->status = b->get(b->ctx, c->i, &c->row, b->err);
    return b->status == MN_OK ? SQLITE_OK : SQLITE_ERROR;
}

static int on_filter(sqlite3_vtab_cursor *base, int number, const char *text, int argc,
                     sqlite3_value **argv)
{
    struct cursor *c = (struct cursor *)base;
    (void)number;
    (void)text;
    (void)argc;
    (void)argv;
    c->i = 0;
    return fetch(c);
}

static int on_next(sqlite3_vtab_cursor *base)
{
    struct cursor *c = (struct cursor *)base;
    c->i++;
    return fetch(c);
}

static int on_eof(sqlite3_vtab_cursor *base)
{
    struct cursor *c = (struct cursor *)base;
    return !c->batch || c->i >= c->batch->n;
}

static void result_value(sqlite3_context *ctx, const mn_value *v)
{
    switch (v ? v->type : MN_NULL) {
    case MN_INTEGER:
        sqlite3_result_int64(ctx, v->integer);
        break;
    case MN_REAL:
        sqlite3_result_double(ctx, v->real);
        break;
    case MN_TEXT:
        sqlite3_result_text64(ctx, v->data ? v->data : "", v->len, SQLITE_STATIC, SQLITE_UTF8);
        break;
    case MN_BLOB:
        sqlite3_result_blob64(ctx, v->data ? v->data : "", v->len, SQLITE_STATIC);
        break;
    default:
        sqlite3_result_null(ctx);
    }
}

static int on_column(sqlite3_vtab_cursor *base, sqlite3_context *ctx, int column)
{
    const struct batch_row *row = &((struct cursor *)base)->row;
    switch (column) {
    case COLUMN_ID:
        sqlite3_result_int64(ctx, row->id);
        break;
    case COLUMN_TEXT_ID:
        sqlite3_result_text(ctx, row->text_id, -1, SQLITE_STATIC);
        break;
    case COLUMN_VERSION:
        sqlite3_result_int64(ctx, row->version);
        break;
    case COLUMN_PAYLOAD:
        if (row->payload)
            sqlite3_result_text64(ctx, row->payload, row->payload_len, SQLITE_STATIC, SQLITE_UTF8);
        break;
    case COLUMN_VECTOR:
        if (row->vector)
            sqlite3_result_blob64(ctx, row->vector, row->vector_bytes, SQLITE_STATIC);
        break;
    default:
        if ((size_t)(column - COLUMN_ATTR) < row->n_attrs)
            result_value(ctx, row->attrs[column - COLUMN_ATTR]);
    }
    return SQLITE_OK;
}

static int on_rowid(sqlite3_vtab_cursor *base, sqlite3_int64 *out)
{
    *out = (sqlite3_int64)((struct cursor *)base)->i;
    return SQLITE_OK;
}

mn_status batch_register(mn_conn *conn, mn_error *err)
{
    /* Without xCreate: a table that is simply there and that nobody can create. */
    static const sqlite3_module module = {.iVersion = 1,
                                          .xConnect = on_connect,
                                          .xDisconnect = on_disconnect,
                                          .xBestIndex = on_best_index,
                                          .xOpen = on_open,
                                          .xClose = on_close,
                                          .xFilter = on_filter,
                                          .xNext = on_next,
                                          .xEof = on_eof,
                                          .xColumn = on_column,
                                          .xRowid = on_rowid};
    int rc = sqlite3_create_module(conn->sql, "mneme_put", &module, conn);
    return rc == SQLITE_OK ? MN_OK : sql_fail(conn->sql, rc, err, "connect");
}
